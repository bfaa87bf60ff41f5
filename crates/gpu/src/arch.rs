//! NVIDIA's generations from a card's name and number.

use model::PciId;

use crate::{Arch, Card};

/// Runs of device ids; its head says where they come from.
const GENERATIONS: &str = include_str!("../data/generations.txt");

/// By the chip's name, else by the device id, else by what NVML says. `None`: not NVIDIA's, or older than Tesla.
pub(crate) fn of(card: &Card) -> Option<Arch> {
    if card.identity.id.vendor != PciId::NVIDIA {
        return None;
    }
    let nvml = card.nvml.as_ref().and_then(|gpu| gpu.architecture.get());
    by_chip(&card.device_name)
        .or_else(|| by_id(card.identity.id.device))
        .or_else(|| nvml.and_then(|name| by_name(name)))
}

/// "GP108 [GeForce GT 1030]", "AD102GL [L40S]".
fn by_chip(name: &str) -> Option<Arch> {
    let chip = name.split([' ', '[']).next()?;
    let letters = chip.find(|c: char| !c.is_ascii_uppercase())?;
    let (family, rest) = chip.split_at(letters);
    let number: u32 = rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()?;
    Some(match (family, number) {
        ("GF", _) => Arch::Fermi,
        ("GK", _) => Arch::Kepler,
        ("GM", _) => Arch::Maxwell,
        ("GP", _) => Arch::Pascal,
        ("GV", _) => Arch::Volta,
        ("TU", _) => Arch::Turing,
        ("GA", _) => Arch::Ampere,
        ("AD", _) => Arch::Ada,
        ("GH", _) => Arch::Hopper,
        ("GB", _) => Arch::Blackwell,
        ("GT", _) | ("G", 80..) => Arch::Tesla,
        _ => return None,
    })
}

fn by_id(device: u16) -> Option<Arch> {
    GENERATIONS.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let first = u16::from_str_radix(words.next()?, 16).ok()?;
        let last = u16::from_str_radix(words.next()?, 16).ok()?;
        (first..=last).contains(&device).then(|| by_name(words.next()?)).flatten()
    })
}

fn by_name(name: &str) -> Option<Arch> {
    Some(match name.trim().to_ascii_lowercase().as_str() {
        "tesla" => Arch::Tesla,
        "fermi" => Arch::Fermi,
        "kepler" => Arch::Kepler,
        "maxwell" => Arch::Maxwell,
        "pascal" => Arch::Pascal,
        "volta" => Arch::Volta,
        "turing" => Arch::Turing,
        "ampere" => Arch::Ampere,
        "ada" | "ada lovelace" => Arch::Ada,
        "hopper" => Arch::Hopper,
        "blackwell" => Arch::Blackwell,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_chip_by_its_name() {
        for (name, arch) in [
            ("GP108 [GeForce GT 1030]", Some(Arch::Pascal)),
            ("GH100 [H100 SXM5 80GB]", Some(Arch::Hopper)),
            ("AD102GL [L40S]", Some(Arch::Ada)),
            ("GT218 [GeForce 210]", Some(Arch::Tesla)),
            ("G92 [GeForce 9800 GT]", Some(Arch::Tesla)),
            ("G72 [GeForce 7300 LE]", None),
            ("NV44 [GeForce 6200]", None),
            ("Device 1d01", None),
            ("", None),
        ] {
            assert_eq!(by_chip(name), arch, "{name}");
        }
    }

    #[test]
    fn knows_a_card_by_its_id_where_no_name_is() {
        for (id, arch) in [
            (0x1d01, Some(Arch::Pascal)),
            (0x2330, Some(Arch::Hopper)),
            (0x2b85, Some(Arch::Blackwell)),
            (0x2204, Some(Arch::Ampere)),
            (0x1eb8, Some(Arch::Turing)),
            (0x0020, None),
        ] {
            assert_eq!(by_id(id), arch, "{id:04x}");
        }
    }

    #[test]
    fn every_line_of_the_table_is_a_range_with_a_generation() {
        let mut last = 0;
        for line in GENERATIONS.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [first, end, name] = words.as_slice() else { panic!("{line}") };
            let (first, end) = (u32::from_str_radix(first, 16).expect(line), u32::from_str_radix(end, 16).expect(line));
            assert!(first > last && end >= first, "{line}: out of order");
            assert!(by_name(name).is_some(), "{line}");
            last = end;
        }
        assert!(last > 0x2fff);
    }
}
