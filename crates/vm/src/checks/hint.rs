//! Whether a guest is still told the truth about where its cards sit.

use formats::hint::Hint;
use model::{Check, Fix, Source, Trouble};

use super::{Says, about, join, restart};
use crate::{Facts, Vm, hint};

pub(super) const HINT_STALE: Check<Facts> = Check {
    about: about(
        "vm/hint-stale",
        "what a VM's guest is told of its cards' places is still so",
        "The definition of a VM may tell its guest where its cards sit on the host (thruway vm plan --hint: address, slot, \
         NUMA node, link), as OEM strings of SMBIOS. Inside a VM the PCI tree is flat and numa_node is -1, so this is all that \
         the guest knows, and labels of its cluster's node are made from it. The text does not follow a card into another \
         slot, nor the firmware when it numbers buses anew: then the guest is told the former place.",
        "DSP0134 (SMBIOS), OEM Strings (type 11); QEMU -smbios type=11; libvirt formatdomain, oemStrings",
    ),
    run: |facts| {
        join(facts, facts.vms.iter().filter(|vm| !vm.template && !vm.hints.is_empty()).map(|vm| told(facts, vm)))
    },
};

fn told(facts: &Facts, vm: &Vm) -> Says {
    // a tree without /sys has no cards, and that says nothing of them
    if !facts.gpus.looked.is_there() {
        return Says::Skip;
    }
    if let Some(reason) = facts.cards_of(vm).iter().find_map(|card| card.slot.unreadable()) {
        return Says::Unknown(reason.clone(), "/sys/bus/pci/slots".into());
    }
    let read: Vec<Option<Hint>> = vm.hints.iter().map(|one| Hint::parse(&one.value).ok()).collect();
    let named = read.iter().flatten().any(|hint| hint.host.is_some());
    let truth = hint::of_vm(facts, vm, named);
    if hint::same(&vm.hints, &truth) {
        return Says::Well;
    }
    let odd = |one: &Option<Hint>| one.as_ref().is_none_or(|one| !truth.iter().any(|true_one| one.agrees(true_one)));
    let old: Vec<String> = read
        .iter()
        .filter(|one| odd(one))
        .map(|one| one.as_ref().map_or("a text that is no hint".to_owned(), Hint::place))
        .collect();
    let says = match (old.is_empty(), truth.as_slice()) {
        (true, _) => format!("the guest of {} is not told of all its cards' places", vm.title()),
        (false, []) => format!("the guest of {} is told of a card that it has not: {}", vm.title(), old.join("; ")),
        (false, _) => format!("the guest of {} is told a place that is not its card's: {}", vm.title(), old.join("; ")),
    };
    let mut trouble = Trouble::new(says);
    for one in &vm.hints {
        trouble = trouble.seen(vm.source(one.line), one.value.clone());
    }
    for hint in &truth {
        trouble = trouble.seen(Source::file(format!("/sys/bus/pci/devices/{}", hint.pci)), hint.place());
    }
    let wish = if named { "--hint=host" } else { "--hint" };
    let command = match truth.first() {
        Some(card) => format!("thruway vm plan --give {} --to vm:{} {wish}", card.pci.short(), vm.id),
        None => format!("thruway vm plan --to vm:{} --hint=none", vm.id),
    };
    Says::Warn(trouble.fix(restart(vm, Fix::planned("write the hint anew", command))))
}
