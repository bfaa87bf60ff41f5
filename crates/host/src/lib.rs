//! VFIO on bare metal: IOMMU, boot loader, modules, initramfs, and which driver holds a card.

pub mod checks;
pub mod cruft;
mod facts;
mod loader;
mod observe;
mod plan;

pub use checks::CHECKS;
pub use facts::{
    Appliance, Boot, CardState, Conf, DiskUse, Distro, Facts, Held, InitTool, Initramfs, Iommu, Kernel, Listed, Loader,
    ModprobeLine, NetUse, Place, Target, Usage, Want, Written, is_vfio,
};
pub use observe::observe;
pub use plan::{busy, files, plan, verify};

use model::{Presence, Seen};

/// Whether this machine has a host floor: a kernel on the metal.
pub fn presence(facts: &Facts) -> Presence {
    match &facts.place {
        Place::Guest { .. } => {
            Presence::NotHere("this machine is itself a guest: its IOMMU belongs to its host".into())
        }
        Place::Unknown(why) => Presence::Unknown(why.clone()),
        Place::Metal => {
            let mut says = match &facts.distro.proxmox {
                Seen::Is(version) if !version.is_empty() => format!("Proxmox VE {version}"),
                Seen::Is(_) => "Proxmox VE".to_owned(),
                _ if !facts.distro.pretty.is_empty() => facts.distro.pretty.clone(),
                _ => "bare metal".to_owned(),
            };
            if let Some(release) = facts.kernel.release.get() {
                says += &format!(", kernel {release}");
            }
            says += &match facts.wanted.len() {
                0 => ", no card is meant for a VM".to_owned(),
                1 => ", 1 card is meant for a VM".to_owned(),
                n => format!(", {n} cards are meant for VMs"),
            };
            Presence::Here(says)
        }
    }
}
