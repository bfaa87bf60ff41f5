//! NVIDIA's generations from a card's name and number.

use model::PciId;

use crate::{Arch, Card, chips};

/// By the chip's name, else by the device id, else by what NVML says. `None`: not NVIDIA's, or older than Tesla.
pub(crate) fn of(card: &Card) -> Option<Arch> {
    if card.identity.id.vendor != PciId::NVIDIA {
        return None;
    }
    let nvml = card.nvml.as_ref().and_then(|gpu| gpu.architecture.get());
    by_chip(&card.device_name)
        .or_else(|| chips::of(card.identity.id).map(|chip| chip.arch))
        .or_else(|| nvml.and_then(|name| Arch::named(name)))
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

impl Arch {
    /// As NVML and the PCI ID database's chips call it, in any case: "pascal", "Ada Lovelace".
    pub fn named(name: &str) -> Option<Self> {
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
}
