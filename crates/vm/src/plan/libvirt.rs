//! A libvirt domain: one hostdev for each function, all on one guest slot.

use formats::domxml::{Domain, NewHostDev, NoRoom};
use formats::hint::PREFIX;
use gpu::Card;
use model::{Before, Change, Content, Effective, Intent, Layer, Op, Plan, Refusal, ServiceVerb, Tell, Undo};

use super::{allows, full_name, tells, will_have};
use crate::{Facts, Vm, hint};

pub(super) fn plan(facts: &Facts, intent: &Intent, vm: &Vm, cards: &[&Card], plan: &mut Plan) {
    let Some(domain) = &vm.domain else { return };
    let mut text = domain.text().to_owned();
    let mut titles = Vec::new();
    for card in cards {
        let Ok(now) = Domain::parse(text.as_bytes()) else { return };
        let functions = facts.functions(card);
        if functions.iter().all(|bdf| now.hostdevs.iter().any(|one| one.source == *bdf)) {
            continue;
        }
        // What is there of the card goes, and comes back complete: functions share one guest slot, .0 first.
        let bare = now.without(&functions);
        let Ok(bare) = Domain::parse(bare.as_bytes()) else { return };
        let (port, bus) = match (bare.is_q35(), bare.free_port()) {
            (false, _) => (None, None),
            (true, Some(bus)) => (None, Some(bus)),
            (true, None) => (Some(bare.next_index()), Some(bare.next_index())),
        };
        let new: Vec<NewHostDev> = functions
            .iter()
            .map(|bdf| NewHostDev {
                source: *bdf,
                guest: bus.map(|bus| (bus, 0, u32::from(bdf.function))),
                multifunction: bdf.function == 0 && functions.len() > 1,
            })
            .collect();
        match bare.with(port, &new) {
            Some(next) => text = next,
            None => plan.refusals.push(Refusal {
                because: "vm/card-not-given".into(),
                says: format!("{} has no <devices> that {} could be put in", vm.path, full_name(card)),
                instead: format!("virsh edit {}", vm.id),
            }),
        }
        titles.push(card.identity.bdf.short());
    }
    if !cards.is_empty() {
        advise(intent, vm, plan);
    }
    let (mut title, mut because, mut risk) = (Vec::new(), Vec::new(), Vec::new());
    if !titles.is_empty() && text != domain.text() {
        title.push(format!("{} with all functions", titles.join(" and ")));
        because.extend(["vm/card-not-given".to_owned(), "vm/card-partial".to_owned()]);
    }
    match intent.hint.map(|tell| told(facts, vm, cards, &text, tell)) {
        Some(Ok(next)) if next != text => {
            text = next;
            title.push("what its guest is told of its cards' places".into());
            because.push("vm/hint-stale".into());
            risk.extend((intent.hint != Some(Tell::Nothing)).then(|| tells(vm)));
        }
        Some(Err(no_room)) => plan.refusals.push(Refusal {
            because: "vm/hint-stale".into(),
            says: format!("{} cannot be told where its cards sit: {no_room}", vm.title()),
            instead: format!("leave --hint away, or take <smbios mode='host'/> out (virsh edit {})", vm.id),
        }),
        _ => {}
    }
    if text == domain.text() {
        return;
    }
    plan.changes.push(Change {
        layer: Layer::Vm,
        title: format!("VM {}: {}", vm.id, title.join(", ")),
        op: Op::WriteFile { path: vm.real_path.clone(), content: Content::Text(text), mode: 0o600 },
        expects: Before::File(vm.digest.clone()),
        because: because.clone(),
        risk,
        effective: Effective::NextVmStart,
        undo: Undo::Exact,
    });
    // the daemon keeps definitions in memory and reads them again on SIGHUP
    if let Some(unit) = facts.libvirt.get().cloned().flatten().filter(|_| facts.live) {
        plan.changes.push(Change {
            layer: Layer::Vm,
            title: format!("{unit} reads its definitions again"),
            op: Op::Service { unit, verb: ServiceVerb::Reload },
            expects: Before::Nothing,
            because,
            risk: Vec::new(),
            effective: Effective::Now,
            undo: Undo::Inverse,
        });
    }
}

/// The text with the hints in it.
fn told(facts: &Facts, vm: &Vm, cards: &[&Card], text: &str, tell: Tell) -> Result<String, NoRoom> {
    let Ok(domain) = Domain::parse(text.as_bytes()) else { return Ok(text.to_owned()) };
    let port = |card: &Card| hint::libvirt_port(&domain, card.identity.bdf);
    let hints = match tell {
        Tell::Nothing => Vec::new(),
        tell => hint::hints(facts, &will_have(facts, vm, cards), tell == Tell::Named, &port),
    };
    domain.with_oem_strings(PREFIX, &hint::texts(&vm.hints, &hints))
}

/// What is better set by libvirt's own editor: it fills in addresses that depend on it.
fn advise(intent: &Intent, vm: &Vm, plan: &mut Plan) {
    let advice = [
        (!vm.q35, "vm/machine-not-q35", "its machine type is i440fx, without PCI Express: make a q35 machine"),
        (!vm.uefi, "vm/not-ovmf", "it boots by SeaBIOS: a new guest is better installed with <os firmware='efi'>"),
        (vm.balloon.value, "vm/balloon-with-hostpci", "it has a memory balloon: <memballoon model='none'/>"),
        (vm.cpu.is_none(), "vm/cpu-not-host", "its CPU model is libvirt's default: <cpu mode='host-passthrough'/>"),
    ];
    for (_, check, text) in advice.iter().filter(|(wrong, check, _)| *wrong && !allows(intent, check)) {
        plan.notes.push(format!("{} ({check}): {text} (virsh edit {})", vm.title(), vm.id));
    }
}
