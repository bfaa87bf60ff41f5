//! Names of cards: the system's PCI ID database, else our extract of it.

use formats::pciids::{self, Named, Wanted};
use machine::{Machine, MachineExt as _};
use model::PciId;

use crate::Card;

/// Debian and Arch; Fedora, SUSE; others.
const DATABASES: [&str; 3] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids", "/usr/share/pci.ids"];
const EXTRACT: &str = include_str!("../data/pci-extract.ids");

/// Fills the names of all cards by one pass over the database.
pub(crate) fn give(machine: &dyn Machine, cards: &mut [Card]) {
    let wanted: Vec<Wanted> = cards
        .iter()
        .map(|card| Wanted {
            vendor: card.identity.id.vendor,
            device: card.identity.id.device,
            subsystem: card.identity.subsystem.map(|id| (id.vendor, id.device)),
        })
        .collect();
    if wanted.is_empty() {
        return;
    }
    let system = DATABASES.iter().filter(|path| machine.exists(path)).find_map(|path| machine.read(path).is());
    let system = system.map(|bytes| pciids::find(&bytes, &wanted)).unwrap_or_default();
    let ours = pciids::find(EXTRACT.as_bytes(), &wanted);
    for (at, card) in cards.iter_mut().enumerate() {
        let first = system.get(at).cloned().unwrap_or_default();
        let second = ours.get(at).cloned().unwrap_or_default();
        name(card, first, second);
    }
}

/// A device's name by our own extract alone: "GP108 [GeForce GT 1030]".
pub fn name_of(id: PciId) -> Option<String> {
    let wanted = [Wanted { vendor: id.vendor, device: id.device, subsystem: None }];
    pciids::find(EXTRACT.as_bytes(), &wanted).into_iter().next()?.device
}

fn name(card: &mut Card, first: Named, second: Named) {
    let id = card.identity.id;
    card.vendor_name = first.vendor.or(second.vendor).unwrap_or_else(|| format!("Vendor {:04x}", id.vendor));
    card.device_name = first.device.or(second.device).unwrap_or_else(|| format!("Device {:04x}", id.device));
    // As lspci has it: the maker, and the board's own name where the database knows it.
    card.subsystem_name = card.identity.subsystem.and_then(|board| {
        let maker = first.subvendor.or(second.subvendor)?;
        Some(match first.board.or(second.board) {
            Some(name) => format!("{maker} {name}"),
            None => format!("{maker} Device {:04x}", board.device),
        })
    });
}

/// A display class in words, as the PCI code and ID assignment specification names it.
pub(crate) fn class_name(class: u32) -> String {
    match class >> 8 {
        0x0300 => "VGA compatible controller",
        0x0301 => "XGA compatible controller",
        0x0302 => "3D controller",
        _ => "Display controller",
    }
    .into()
}
