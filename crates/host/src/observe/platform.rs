//! What firmware and chipset say of the whole machine, and of each display function what its own files say.

use std::collections::BTreeMap;

use gpu::{Card, Inventory};
use machine::{Machine, MachineExt};
use model::{Bdf, Fact, Seen, Source};

use crate::facts::{CardState, Platform};

pub(super) fn observe(machine: &dyn Machine, gpus: &Inventory) -> Platform {
    // A tree without /sys says nothing of how it would be booted.
    let efi = match machine.list("/sys/firmware") {
        Seen::Is(_) => match machine.stat("/sys/firmware/efi") {
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
            there => Seen::Is(there.is_there()),
        },
        Seen::Absent => Seen::Absent,
        Seen::Unreadable(reason) => Seen::Unreadable(reason),
    };
    Platform {
        efi,
        cpu_bits: cpu_bits(machine),
        iommu_bits: iommu_bits(machine),
        noiommu: machine.value_fact("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"),
        cards: gpus.cards.iter().map(|card| (card.identity.bdf, state(machine, card))).collect::<BTreeMap<_, _>>(),
    }
}

/// "address sizes : 39 bits physical, 48 bits virtual"
fn cpu_bits(machine: &dyn Machine) -> Seen<u32> {
    machine.text("/proc/cpuinfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("address sizes"));
        let number = line.and_then(|line| line.split(':').nth(1)?.split_whitespace().next()?.parse().ok());
        Seen::from(number)
    })
}

/// The narrowest Intel unit: MGAW, bits 16 to 21 of the capability register, plus one (VT-d specification, 11.4.2).
fn iommu_bits(machine: &dyn Machine) -> Fact<u32> {
    const UNITS: &str = "/sys/class/iommu";
    let mut found = Fact::new(Seen::Absent, Source::file(UNITS));
    for unit in machine.names(UNITS).into_iter().filter(|unit| unit.starts_with("dmar")) {
        let path = format!("{UNITS}/{unit}/intel-iommu/cap");
        let bits = machine.value(&path).and_then(|text| {
            let cap = u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
            Seen::from(cap.map(|cap| (cap >> 16 & 0x3f) as u32 + 1))
        });
        let narrower = match (&bits, &found.value) {
            (Seen::Is(bits), Seen::Is(least)) => bits < least,
            (Seen::Absent, _) => false,
            _ => true,
        };
        if narrower {
            found = Fact::new(bits, Source::file(path));
        }
    }
    found
}

fn state(machine: &dyn Machine, card: &Card) -> CardState {
    let bdf: Bdf = card.identity.bdf;
    let at = |name: &str| format!("/sys/bus/pci/devices/{bdf}/{name}");
    // A card that sleeps is woken by a read of its configuration space, which this file makes.
    let awake = !card.power.get().is_some_and(|state| state.starts_with("D3"));
    let resize = |bar: u8| machine.value(&at(&format!("resource{bar}_resize")));
    let mut sizes = BTreeMap::new();
    for bar in card.bars.iter().filter(|_| awake) {
        if let Seen::Is(text) = resize(bar.index)
            && let Ok(bits) = u64::from_str_radix(text.trim_start_matches("0x"), 16)
        {
            sizes.insert(bar.index, bits);
        }
    }
    let errors = |name: &str| {
        machine.text(&at(name)).and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("TOTAL_ERR_"));
            Seen::from(line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()))
        })
    };
    let virtuals = machine.number(&at("sriov_numvfs")).get().is_some_and(|count| *count > 0);
    let shared = ["mdev_supported_types", "nvidia/creatable_vgpu_types"].into_iter().find(|n| machine.exists(&at(n)));
    CardState {
        sizes,
        corrected: errors("aer_dev_correctable"),
        fatal: errors("aer_dev_fatal"),
        vgpu: shared.or(virtuals.then_some("sriov_numvfs")).map(|name| Source::file(at(name))),
    }
}
