//! Reads the hypervisors' definitions and the QEMU processes. Only reads.

mod host;
mod libvirt;
mod procs;
mod pve;
mod vars;

use gpu::Inventory;
use machine::{Kind, Machine, MachineExt};
use model::{Reason, Seen, Source};

use crate::{Facts, HostMemory, Running, Vm};

/// Everything this floor's checks and planner need.
pub fn observe(machine: &dyn Machine, gpus: &Inventory) -> Facts {
    let procs = procs::observe(machine);
    let mut unread: Vec<(Source, Reason)> = Vec::new();
    let mut vms: Vec<Vm> = Vec::new();
    let mappings = pve::mappings(machine);
    let node = pve::observe(machine);
    if let Seen::Is(node) = &node {
        let known = mappings.get().map(Vec::as_slice).unwrap_or_default();
        pve::vms(machine, node, known, gpus, &procs, &mut vms, &mut unread);
    }
    // Proxmox VE's API speaks of its own VMs: libvirt's are no part of the question.
    let libvirt = if machine.kind() == Kind::Remote { Seen::Absent } else { libvirt::observe(machine) };
    if libvirt.is_there() {
        libvirt::vms(machine, &procs, &mut vms, &mut unread);
    }
    let owned: Vec<u32> = vms
        .iter()
        .filter_map(|vm| match &vm.running {
            Running::Yes { pid, .. } => Some(*pid),
            _ => None,
        })
        .collect();
    let loose = procs.list.iter().filter(|(pid, _)| !owned.contains(pid)).cloned().collect();
    let host = host::observe(machine, &vms);
    Facts {
        live: matches!(machine.kind(), Kind::Live | Kind::Remote),
        pve: node,
        libvirt,
        vms,
        unread,
        loose,
        mappings,
        memory: memory(machine),
        host,
        cpu_vendor: cpu_field(machine, "vendor_id"),
        phys_bits: cpu_field(machine, "address sizes")
            .and_then(|sizes| Seen::from(sizes.split_whitespace().next().and_then(|bits| bits.parse().ok()))),
        gpus: gpus.clone(),
    }
}

fn memory(machine: &dyn Machine) -> HostMemory {
    let meminfo = machine.text("/proc/meminfo");
    let field = |name: &str| {
        meminfo.as_ref().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Seen::from(line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map(|kib| kib / 1024))
        })
    };
    let arc = machine.text("/proc/spl/kstat/zfs/arcstats").and_then(|text| {
        let value = |name: &str| {
            let mut fields = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let found = fields.find(|fields| fields.first() == Some(&name));
            found.and_then(|fields| fields.last().and_then(|last| last.parse::<u64>().ok()))
        };
        Seen::from(value("size").zip(value("c_min")).map(|(size, least)| size.saturating_sub(least) >> 20))
    });
    HostMemory { total: field("MemTotal"), available: field("MemAvailable"), arc }
}

/// A field of the first processor in /proc/cpuinfo.
fn cpu_field(machine: &dyn Machine, name: &str) -> Seen<String> {
    machine.text("/proc/cpuinfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with(name));
        Seen::from(line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()))
    })
}
