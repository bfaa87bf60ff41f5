//! A PCI device id's chip and generation. The list is data, made by `data/refresh-chips.sh`; its head says of what.

use model::PciId;
use serde::Serialize;

use crate::Arch;

const CHIPS: &str = include_str!("../data/chips.txt");

/// The chip on a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Chip {
    /// "GP108".
    pub name: &'static str,
    pub arch: Arch,
}

/// `None`: not NVIDIA's, older than Tesla, or newer than the list.
pub fn of(id: PciId) -> Option<Chip> {
    if id.vendor != PciId::NVIDIA {
        return None;
    }
    let wanted = format!("{:04x}", id.device);
    all().find_map(|(chip, mut ids)| ids.any(|id| id == wanted).then_some(chip))
}

/// Each line: the chip, and its device ids as four hexadecimal digits.
fn all() -> impl Iterator<Item = (Chip, impl Iterator<Item = &'static str>)> {
    CHIPS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut words = line.split(' ');
        let chip = Chip { name: words.next()?, arch: Arch::named(words.next()?)? };
        Some((chip, words))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn nvidia(device: u16) -> PciId {
        PciId { vendor: PciId::NVIDIA, device }
    }

    #[test]
    fn a_card_is_known_by_its_id() {
        assert_eq!(of(nvidia(0x1d01)), Some(Chip { name: "GP108", arch: Arch::Pascal }));
        assert_eq!(of(nvidia(0x2330)), Some(Chip { name: "GH100", arch: Arch::Hopper }));
        assert_eq!(of(nvidia(0x2b85)), Some(Chip { name: "GB202", arch: Arch::Blackwell }));
    }

    #[test]
    fn what_is_not_in_the_list_is_unknown() {
        // beside the GT 1030, older than Tesla, its sound, and another maker's with the same number
        for id in [nvidia(0x1d00), nvidia(0x0020), nvidia(0x0fb8), PciId { vendor: 0x1002, device: 0x1d01 }] {
            assert_eq!(of(id), None, "{id}");
        }
    }

    #[test]
    fn every_line_is_a_chip_with_ids_and_no_id_has_two() {
        let lines = CHIPS.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(all().count(), lines, "a line without a known generation");
        let mut seen = BTreeSet::new();
        for (chip, ids) in all() {
            let before = seen.len();
            for id in ids {
                assert!(id.len() == 4 && u16::from_str_radix(id, 16).is_ok(), "{chip:?}: {id:?}");
                assert!(seen.insert(id), "{chip:?}: {id} twice");
            }
            assert!(seen.len() > before, "{chip:?} has no id");
        }
        assert!(seen.len() > 1000);
    }
}
