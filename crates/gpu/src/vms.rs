//! Running virtual machines and the host functions that they were started with.

use machine::{Machine, MachineExt as _};
use model::{Bdf, Seen};

use crate::processes::Processes;

const PVE_RUN: &str = "/run/qemu-server";

/// The VMs that run, each with what names its devices: command-line arguments, or Proxmox VE's configuration where
/// the command line cannot be seen.
pub(crate) struct Vms {
    all: Vec<Vm>,
}

struct Vm {
    label: String,
    arguments: Vec<String>,
    /// Addresses from `hostpciN` lines; function-less ones mean the whole slot.
    configured: Vec<String>,
}

impl Vms {
    pub(crate) fn new(machine: &dyn Machine, processes: &Processes<'_>) -> Self {
        let mut all = Vec::new();
        let mut seen = Vec::new();
        for pid in processes.pids() {
            let arguments = processes.command(*pid);
            if !arguments.iter().any(|argument| argument.contains("vfio") || argument.contains("/sys/bus/pci/devices/"))
            {
                continue;
            }
            if is_vmm(&arguments) {
                seen.push(*pid);
                all.push(Vm { label: label(&arguments, *pid), arguments, configured: Vec::new() });
            }
        }
        for name in machine.names(PVE_RUN) {
            let Some(id) = name.strip_suffix(".pid").filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())) else {
                continue;
            };
            let pid = machine.value(&format!("{PVE_RUN}/{name}")).is().and_then(|pid| pid.parse::<u32>().ok());
            if pid.is_some_and(|pid| seen.contains(&pid)) {
                continue;
            }
            // The file outlives a VM that crashed. A table without any process (a simulated tree) proves nothing.
            let ended = pid.is_some_and(|pid| machine.stat(&format!("/proc/{pid}")).is_absent());
            if ended && !processes.pids().is_empty() {
                continue;
            }
            all.extend(configured(machine, id));
        }
        Vms { all }
    }

    /// The labels of those that have this function.
    pub(crate) fn with(&self, bdf: Bdf) -> Vec<String> {
        let has = |vm: &&Vm| {
            vm.arguments.iter().any(|argument| gives(argument, bdf))
                || vm.configured.iter().any(|address| names(address, bdf))
        };
        self.all.iter().filter(has).map(|vm| vm.label.clone()).collect()
    }
}

/// `0000:26:00` (all functions), `26:00.0`.
fn names(address: &str, bdf: Bdf) -> bool {
    match address.parse::<Bdf>() {
        Ok(one) => one == bdf,
        Err(_) => format!("{address}.0").parse::<Bdf>().is_ok_and(|first| first.same_slot(&bdf)),
    }
}

/// A Proxmox VE virtual machine by its configuration.
fn configured(machine: &dyn Machine, id: &str) -> Option<Vm> {
    let text = machine.text(&format!("/etc/pve/qemu-server/{id}.conf")).is()?;
    // Sections below are snapshots and pending changes.
    let current = text.lines().take_while(|line| !line.starts_with('['));
    let pairs: Vec<(&str, &str)> = current.filter_map(|line| line.split_once(':')).collect();
    let name = pairs.iter().find(|(key, _)| *key == "name").map(|(_, name)| name.trim());
    let mut addresses = Vec::new();
    for (_, value) in pairs.iter().filter(|(key, _)| key.starts_with("hostpci")) {
        for part in value.trim().split(',') {
            match part.split_once('=') {
                None => addresses.extend(part.split(';').map(str::to_owned)),
                Some(("host", host)) => addresses.extend(host.split(';').map(str::to_owned)),
                Some(("mapping", mapping)) => addresses.extend(mapped(machine, mapping)),
                Some(_) => {}
            }
        }
    }
    let label = name.map_or_else(|| id.to_owned(), |name| format!("{id} ({name})"));
    Some(Vm { label, arguments: Vec::new(), configured: addresses })
}

/// A resource mapping's addresses on this node, from `/etc/pve/mapping/pci.cfg`.
fn mapped(machine: &dyn Machine, mapping: &str) -> Vec<String> {
    let Seen::Is(text) = machine.text("/etc/pve/mapping/pci.cfg") else { return Vec::new() };
    let host = machine.value("/proc/sys/kernel/hostname").is();
    let mut inside = false;
    let mut addresses = Vec::new();
    for line in text.lines() {
        if !line.starts_with([' ', '\t']) {
            inside = line.trim() == mapping;
            continue;
        }
        let Some(entry) = line.trim().strip_prefix("map ").filter(|_| inside) else { continue };
        let property = |key: &str| {
            entry
                .split(',')
                .find_map(|part| part.trim().split_once('=').filter(|(name, _)| *name == key))
                .map(|(_, v)| v)
        };
        // Another node's device of the same address is not ours.
        if host.as_deref().is_some_and(|host| property("node").is_some_and(|node| node != host)) {
            continue;
        }
        addresses.extend(property("path").into_iter().flat_map(|path| path.split(';')).map(str::to_owned));
    }
    addresses
}

/// QEMU, cloud-hypervisor or crosvm, by the program's name.
pub(crate) fn is_vmm(arguments: &[String]) -> bool {
    let program = arguments.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    program == "kvm" || program.starts_with("qemu") || program.starts_with("cloud-hypervisor") || program == "crosvm"
}

/// The argument after this one.
pub(crate) fn after<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == flag)?;
    arguments.get(at + 1).map(String::as_str)
}

/// True where a command line gives its VM a name or a number; an emulator that somebody tries by hand has neither.
pub(crate) fn is_named(arguments: &[String]) -> bool {
    named(arguments) != (None, None)
}

/// Number and name out of `-id 100 -name media,debug-threads=on` or libvirt's `-name guest=media,…`.
pub(crate) fn named(arguments: &[String]) -> (Option<String>, Option<String>) {
    let name = after(arguments, "-name").and_then(|text| {
        let named = text.split(',').find_map(|part| part.strip_prefix("guest="));
        named.or_else(|| text.split(',').next()).filter(|name| !name.is_empty())
    });
    (after(arguments, "-id").map(str::to_owned), name.map(str::to_owned))
}

/// "100 (media)".
pub(crate) fn label(arguments: &[String], pid: u32) -> String {
    match named(arguments) {
        (Some(id), Some(name)) => format!("{id} ({name})"),
        (Some(id), None) => id,
        (None, Some(name)) => name,
        (None, None) => format!("process {pid}"),
    }
}

/// True where an argument of a VMM's command line gives it this function: `vfio-pci,host=0000:26:00.0`, libvirt's
/// JSON form, or a sysfs path.
fn gives(argument: &str, bdf: Bdf) -> bool {
    let named = argument.contains("vfio") || argument.contains("/sys/bus/pci/devices/");
    let mut words = argument.split(|c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.'));
    named && words.any(|word| word.parse::<Bdf>() == Ok(bdf))
}
