//! What a VM's guest is told of where its cards sit on this host: what it should be told, and what its definition says.

use formats::hint::{Hint, Lanes, PREFIX, is_name};
use gpu::{Card, Speed};
use model::Bdf;

use crate::{Facts, Setting, Vm, VmKind};

/// The hints of these cards, by address. `port`: behind which of the guest's root ports it finds a card; asked only for
/// twins, which identity alone does not tell apart.
pub(crate) fn hints(facts: &Facts, cards: &[&Card], named: bool, port: &dyn Fn(&Card) -> Option<Bdf>) -> Vec<Hint> {
    let mut cards = cards.to_vec();
    cards.sort_by_key(|card| card.identity.bdf);
    cards.dedup_by_key(|card| card.identity.bdf);
    let kind = |card: &Card| (card.identity.id, card.identity.subsystem);
    let twin = |card: &Card| cards.iter().filter(|other| kind(other) == kind(card)).count() > 1;
    let host = facts.host.name.get().filter(|name| named && is_name(name));
    let hint = |card: &&Card| Hint {
        id: card.identity.id,
        board: card.identity.subsystem,
        port: if twin(card) { port(card) } else { None },
        pci: card.identity.bdf,
        slot: card.slot.get().filter(|slot| is_name(slot)).cloned(),
        numa: card.numa.and_then(|node| u32::try_from(node).ok()),
        max: card.link.get().and_then(|link| lanes(link.max)),
        now: card.link.get().and_then(|link| lanes(link.now)),
        host: host.cloned(),
    };
    cards.iter().map(hint).collect()
}

/// What stands in the definition, where it says the same; else what is to stand there.
pub(crate) fn texts(there: &[Setting<String>], wanted: &[Hint]) -> Vec<String> {
    if same(there, wanted) {
        return there.iter().map(|one| one.value.clone()).collect();
    }
    wanted.iter().map(Hint::to_string).collect()
}

/// True where the definition says all of this and nothing else.
pub(crate) fn same(there: &[Setting<String>], wanted: &[Hint]) -> bool {
    let agrees = |(one, wanted): (&Setting<String>, &Hint)| Hint::parse(&one.value).is_ok_and(|one| one.agrees(wanted));
    there.len() == wanted.len() && there.iter().zip(wanted).all(agrees)
}

/// What the guest of a VM should be told by its definition as it is.
pub(crate) fn of_vm(facts: &Facts, vm: &Vm, named: bool) -> Vec<Hint> {
    hints(facts, &facts.cards_of(vm), named, &|card| port(vm, card))
}

/// The guest's root port of a card, where the definition says it.
fn port(vm: &Vm, card: &Card) -> Option<Bdf> {
    match vm.kind {
        VmKind::Proxmox => {
            let mut lines = vm.given.iter().filter(|given| given.pcie && given.functions.contains(&card.identity.bdf));
            pve_port(&lines.next()?.key)
        }
        VmKind::Libvirt => libvirt_port(vm.domain.as_ref()?, card.identity.bdf),
    }
}

/// The root port of a `hostpciN` line with `pcie=1` on q35: the first four are functions of 1c, the others of 10 and 11.
/// Source: qemu-server, pve-q35-4.0.cfg and PCI.pm (print_pcie_addr, print_pcie_root_port).
pub(crate) fn pve_port(key: &str) -> Option<Bdf> {
    let index: u8 = key.strip_prefix("hostpci")?.parse().ok()?;
    match index {
        0..4 => Some(Bdf::new(0, 0, 0x1c, index)),
        4..12 => Some(Bdf::new(0, 0, 0x10, index - 4)),
        12..16 => Some(Bdf::new(0, 0, 0x11, index - 12)),
        _ => None,
    }
}

pub(crate) fn libvirt_port(domain: &formats::domxml::Domain, source: Bdf) -> Option<Bdf> {
    let (bus, _, _) = domain.hostdevs.iter().find(|one| one.source == source)?.guest?;
    let (slot, function) = domain.port_at(bus)?;
    let (slot, function) = (u8::try_from(slot).ok()?, u8::try_from(function).ok()?);
    (slot < 32 && function < 8).then(|| Bdf::new(0, 0, slot, function))
}

/// A definition's hints, with their line.
pub(crate) fn settings(texts: Vec<String>, line: Option<u32>) -> Vec<Setting<String>> {
    let ours = texts.into_iter().filter(|text| text.starts_with(PREFIX));
    ours.map(|value| Setting { value, line }).collect()
}

fn lanes(speed: Speed) -> Option<Lanes> {
    let known = speed.gts_x10 > 0 && speed.gts_x10 < 10_000 && (1..=32).contains(&speed.lanes);
    known.then_some(Lanes { gts_x10: speed.gts_x10, lanes: speed.lanes })
}
