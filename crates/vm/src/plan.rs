//! Facts and a wish in, a plan out. Pure; a definition that is already as wished gives an empty plan.

mod libvirt;
mod proxmox;
pub(crate) mod target;

use std::collections::BTreeMap;

use formats::hint::Hint;
use gpu::Card;
use model::{Intent, Layer, Plan, Refusal, Risk, Tell};

use crate::{Facts, Running, Vm, VmKind, hint};
use target::Target;

/// What gives the wished cards to the wished VM.
pub fn plan(facts: &Facts, intent: &Intent) -> Plan {
    if !facts.here() {
        return Plan::new(Layer::Vm, intent, BTreeMap::new());
    }
    let target = match target::find(facts, intent) {
        Target::Nothing(why) => {
            let mut plan = Plan::new(Layer::Vm, intent, BTreeMap::new());
            plan.intent.extend(why.map(|why| format!("inferred: give no card to a VM: {why}")));
            return plan;
        }
        Target::Refused(refusal) => {
            let mut plan = Plan::new(Layer::Vm, intent, BTreeMap::new());
            plan.refusals.push(refusal);
            return plan;
        }
        Target::Give(target) => target,
    };
    let (vm, cards) = (target.vm, &target.cards);
    let mut plan = Plan::new(Layer::Vm, intent, basis(facts, intent, vm, cards));
    let names: Vec<String> = cards.iter().map(|card| full_name(card)).collect();
    let inferred = if target.inferred { "inferred: " } else { "" };
    if !cards.is_empty() {
        plan.intent.push(format!("{inferred}give {} to {}", names.join(" and "), vm.title()));
    }
    for card in cards {
        plan.refusals.extend(refuse(facts, intent, vm, card));
    }
    match vm.kind {
        VmKind::Proxmox => proxmox::plan(facts, intent, vm, cards, &mut plan),
        VmKind::Libvirt => libvirt::plan(facts, intent, vm, cards, &mut plan),
    }
    if let Some(tell) = intent.hint {
        told(tell, vm, &mut plan);
    }
    if !plan.refusals.is_empty() {
        plan.changes.clear();
    }
    if !plan.changes.is_empty() {
        match &vm.running {
            Running::Yes { .. } => {
                plan.notes
                    .push(format!("{} must be stopped and started; a reboot inside it changes nothing", vm.title()));
            }
            Running::No => {}
            Running::Unknown(reason) => {
                plan.notes.push(format!("whether {} runs could not be seen: {reason}", vm.title()))
            }
        }
    }
    plan
}

/// Says in the plan what the wish means.
fn told(tell: Tell, vm: &Vm, plan: &mut Plan) {
    let what = match tell {
        Tell::Places => "where its cards sit on this host (address, slot, NUMA node, link)",
        Tell::Named => "where its cards sit on this host (address, slot, NUMA node, link), and this host's name",
        Tell::Nothing => "nothing any more of where its cards sit",
    };
    plan.intent.push(format!("tell the guest of {} {what}", vm.title()));
}

/// The cards that the VM will have: those that it has, and those that it gets.
fn will_have<'a>(facts: &'a Facts, vm: &Vm, cards: &[&'a Card]) -> Vec<&'a Card> {
    let mut all = facts.cards_of(vm);
    all.extend(cards);
    all
}

/// What a guest's root can read is told; nobody else in the guest can (the kernel's table has mode 0400).
fn tells(vm: &Vm) -> Risk {
    Risk::Security(format!("whoever is root in the guest of {} reads this of the host", vm.title()))
}

fn basis(facts: &Facts, intent: &Intent, vm: &Vm, cards: &[&Card]) -> BTreeMap<String, String> {
    let mut basis = BTreeMap::new();
    if let Some(tell @ (Tell::Places | Tell::Named)) = intent.hint {
        for hint in hint::hints(facts, &will_have(facts, vm, cards), tell == Tell::Named, &|_| None) {
            // the link comes and goes with the card's sleep
            let steady = Hint { max: None, now: None, ..hint };
            basis.insert(format!("vm place of {}", steady.pci), steady.place());
        }
    }
    let hypervisor = if vm.kind == VmKind::Proxmox { "Proxmox VE" } else { "libvirt" };
    basis.insert("vm hypervisor".into(), hypervisor.into());
    basis.insert(format!("vm definition {}", vm.path), vm.digest.to_string());
    for card in cards {
        let identity = &card.identity;
        let subsystem = identity.subsystem.map(|id| format!(" subsystem {id}")).unwrap_or_default();
        let functions: Vec<String> = facts.functions(card).iter().map(|bdf| bdf.function.to_string()).collect();
        let value = format!("{}{subsystem} functions {}", identity.id, functions.join(","));
        basis.insert(format!("vm card {}", identity.bdf), value);
    }
    basis
}

/// Why this card must not go to this VM.
fn refuse(facts: &Facts, intent: &Intent, vm: &Vm, card: &Card) -> Vec<Refusal> {
    let bdf = card.identity.bdf;
    let mut refusals = Vec::new();
    let others: Vec<&Vm> =
        facts.owners(bdf).into_iter().filter(|other| other.id != vm.id || other.kind != vm.kind).collect();
    if let Some(other) = others.first()
        && !allows(intent, "vm/two-vms-one-card")
    {
        refusals.push(Refusal {
            because: "vm/two-vms-one-card".into(),
            says: format!(
                "{} already names {}; only one of the two VMs could run at a time",
                other.title(),
                full_name(card)
            ),
            instead: format!(
                "take the card from VM {} first, or add --allow vm/two-vms-one-card to let both name it",
                other.id
            ),
        });
    }
    if let Some(lock) = &vm.lock {
        refusals.push(Refusal {
            because: "vm/pending-not-applied".into(),
            says: format!("{} is locked ({}): something else is changing it", vm.title(), lock.value),
            instead: format!("wait until it is done; if nothing runs, qm unlock {}", vm.id),
        });
    }
    if vm.template {
        refusals.push(Refusal {
            because: "vm/two-vms-one-card".into(),
            says: format!("{} is a template: every clone of it would name the card", vm.title()),
            instead: "give the card to a VM made from it".into(),
        });
    }
    refusals
}

fn allows(intent: &Intent, check: &str) -> bool {
    intent.allow.iter().any(|allowed| allowed == check)
}

/// "26:00.0 (GeForce GT 1030)".
pub(crate) fn full_name(card: &Card) -> String {
    format!("{} ({})", card.identity.bdf.short(), card.short_name())
}
