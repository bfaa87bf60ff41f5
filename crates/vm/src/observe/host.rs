//! What of the host decides whether a VM with a card starts: CPU, IOMMU width, huge pages, NUMA, limits, ROM files.

use std::collections::BTreeMap;

use formats::pveconf::sections;
use machine::{Machine, MachineExt};
use model::Seen;

use super::cpu_field;
use crate::{Host, HugePages, Vm};

const NODES: &str = "/sys/devices/system/node";
const UNITS: &str = "/sys/class/iommu";

pub fn observe(machine: &dyn Machine, vms: &[Vm]) -> Host {
    let flags = cpu_field(machine, "flags");
    let flag = |names: &[&str]| flags.as_ref().map(|flags| flags.split_whitespace().any(|flag| names.contains(&flag)));
    let mut roms = BTreeMap::new();
    for path in vms.iter().flat_map(|vm| &vm.given).filter_map(|given| given.romfile.as_ref()) {
        match machine.stat(path) {
            Seen::Is(_) => drop(roms.insert(path.clone(), true)),
            Seen::Absent => drop(roms.insert(path.clone(), false)),
            Seen::Unreadable(_) => {}
        }
    }
    let ha = machine.text("/etc/pve/ha/resources.cfg").is().unwrap_or_default();
    let ha = sections(&ha).into_iter().filter(|one| one.kind == "vm").map(|one| (one.id, one.line)).collect();
    let nodes = machine.names(NODES).into_iter().filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok());
    let mut nodes: Vec<u32> = nodes.collect();
    nodes.sort_unstable();
    let name = match machine.value("/proc/sys/kernel/hostname") {
        Seen::Is(name) => Seen::Is(name),
        _ => machine.value("/etc/hostname"),
    };
    Host {
        name,
        virtualization: flag(&["vmx", "svm"]),
        gib_pages: flag(&["pdpe1gb"]),
        iommu_bits: iommu_bits(machine),
        hugepages: nodes.iter().flat_map(|node| hugepages(machine, *node)).collect(),
        nodes: nodes
            .iter()
            .map(|node| {
                let cpus = machine.value(&format!("{NODES}/node{node}/cpulist")).is().unwrap_or_default();
                (*node, crate::numbers(&cpus))
            })
            .collect(),
        dma_entries: machine
            .number("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
            .and_then(|limit| Seen::from(u64::try_from(limit).ok())),
        kernel: machine.value("/proc/sys/kernel/osrelease"),
        qemu_server: machine
            .text("/var/lib/dpkg/status")
            .and_then(|text| Seen::from(formats::dpkg::installed(&text, "qemu-server"))),
        roms,
        ha,
    }
}

fn hugepages(machine: &dyn Machine, node: u32) -> Vec<HugePages> {
    let dir = format!("{NODES}/node{node}/hugepages");
    let sizes = machine.names(&dir).into_iter().filter_map(|name| {
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = |file: &str| {
            machine.number(&format!("{dir}/{name}/{file}")).is().and_then(|count| u64::try_from(count).ok())
        };
        Some(HugePages { node, kib, total: count("nr_hugepages")?, free: count("free_hugepages")? })
    });
    sizes.collect()
}

/// MGAW, bits 16 to 21 of VT-d's capability register, is the width less one.
fn iommu_bits(machine: &dyn Machine) -> Seen<(u32, String)> {
    let units = match machine.list(UNITS) {
        Seen::Is(units) => units,
        Seen::Absent => return Seen::Absent,
        Seen::Unreadable(reason) => return Seen::Unreadable(reason),
    };
    let widths = units.iter().filter_map(|unit| {
        let path = format!("{UNITS}/{unit}/intel-iommu/cap");
        let cap = machine.value(&path).is()?;
        let cap = u64::from_str_radix(cap.trim_start_matches("0x"), 16).ok()?;
        u32::try_from((cap >> 16) & 0x3f).ok().map(|bits| (bits + 1, path))
    });
    Seen::from(widths.min())
}
