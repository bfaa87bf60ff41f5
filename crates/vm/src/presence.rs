//! Whether this machine has the VM floor.

use model::{Presence, Seen};

use crate::{Facts, VmKind};

/// In one line, which hypervisor is here and how many VMs it defines.
pub fn presence(facts: &Facts) -> Presence {
    let count = |kind: VmKind| {
        let vms = facts.vms.iter().filter(|vm| vm.kind == kind).count();
        format!("{vms} VM{}", if vms == 1 { "" } else { "s" })
    };
    let mut parts = Vec::new();
    if let Seen::Is(pve) = &facts.pve {
        let version = pve.version.get().map(|version| version.split('-').next().unwrap_or_default());
        let name = version.map_or("Proxmox VE".to_owned(), |version| format!("Proxmox VE {version}"));
        parts.push(format!("{name}, {}", count(VmKind::Proxmox)));
    }
    if facts.libvirt.is_there() {
        parts.push(format!("libvirt, {}", count(VmKind::Libvirt)));
    }
    if !facts.loose.is_empty() {
        let many = facts.loose.len();
        parts.push(format!("{many} QEMU process{} started by hand", if many == 1 { "" } else { "es" }));
    }
    if !parts.is_empty() {
        return Presence::Here(parts.join("; "));
    }
    match (&facts.pve, &facts.libvirt) {
        (Seen::Unreadable(reason), _) => Presence::Unknown(format!("/etc/pve: {reason}")),
        (_, Seen::Unreadable(reason)) => Presence::Unknown(format!("/etc/libvirt: {reason}")),
        _ => Presence::NotHere("no hypervisor is installed here".into()),
    }
}
