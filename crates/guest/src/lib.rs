//! The driver floor: where NVIDIA's driver is to run, inside a guest or on bare metal. Which branch, which modules,
//! nouveau out of the way, Secure Boot, the device nodes, and a library that fits the kernel module.

mod advice;
mod by_file;
pub mod checks;
pub mod mig;
pub mod observe;
mod plan;
mod verify;
mod ways;

pub use checks::CHECKS;
pub use observe::{Facts, observe};
pub use plan::{NOUVEAU_FILE, SOURCES_FILE, UVM_FILE, plan};
pub use verify::verify;

use model::{Presence, Seen};

/// Whether NVIDIA's driver is to run on this machine.
pub fn presence(facts: &Facts) -> Presence {
    if let Seen::Unreadable(reason) = &facts.looked {
        return Presence::Unknown(format!("the PCI devices could not be listed: {reason}"));
    }
    let place = match &facts.vm.value {
        Seen::Is(true) => "a VM",
        Seen::Is(false) => "bare metal",
        _ => "this machine",
    };
    if facts.cards.is_empty() {
        return match facts.traces() {
            Some(trace) => Presence::Here(format!("{place} without an NVIDIA card, though {trace}")),
            None => Presence::NotHere("no NVIDIA card is visible on this machine".into()),
        };
    }
    if facts.usable().next().is_none() {
        return Presence::NotHere("every NVIDIA card here is held for a VM by vfio-pci".into());
    }
    if !facts.here() {
        let host = facts.hypervisor.get().map_or("bare metal".to_owned(), |host| format!("{host} on bare metal"));
        return Presence::NotHere(format!("this is {host}, and nothing on it uses NVIDIA's driver"));
    }
    let cards: Vec<String> =
        facts.usable().map(|card| format!("{} at {}", card.short_name(), card.identity.bdf.short())).collect();
    let driver = match &facts.driver.kernel {
        Seen::Is(version) => format!("driver {version}"),
        _ => "no NVIDIA driver running".into(),
    };
    let iommu = match (&facts.vm.value, &facts.iommu.value) {
        (Seen::Is(true), Seen::Absent) => "; no IOMMU in here, and none is needed: the host translates for its guest",
        _ => "",
    };
    let told: Vec<String> =
        facts.places.iter().map(|(bdf, hint)| format!("{} is {}", bdf.short(), hint.place())).collect();
    let told = if told.is_empty() { String::new() } else { format!("; on the host {}", told.join("; ")) };
    Presence::Here(format!("{place}, {}, {driver}{iommu}{told}", cards.join(", ")))
}
