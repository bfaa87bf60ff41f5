//! The ledger held against the cards that are there: who may have which, and what a new promise needs.

use std::collections::BTreeMap;

use journal::ledger::{self, FORM, Ledger, Owner, Promise, Written};
use model::{
    About, Bdf, Before, Change, CheckId, Content, Effective, Identity, Intent, Layer, Op, Plan, Refusal, Undo,
};
use serde::Serialize;

use crate::{Card, Holder, Inventory};

/// What refuses a handover of a promised card; `--allow` takes it by this name.
pub const PROMISED: &str = "ledger/promised";

/// Its page in `thruway explain`. Planners refuse by it; no doctor's check, since a promise alone is no fault.
pub const ABOUT: About = About {
    id: CheckId(PROMISED),
    layer: Layer::Host,
    title: "no card is handed to another than whom it is promised to",
    why: "The ledger (below /var/lib/thruway/ledger) keeps for each GPU of this node to whom it is promised: the host, a \
          VM, containers or pods. A plan that hands the card to another is refused, and so is one for a card that was \
          swapped or moved since, because two owners of one card end in a VM that does not start or a pod without its \
          GPU. `thruway gpus` shows the promise; `thruway assign GPU nobody` takes it back; --allow ledger/promised \
          goes on in spite of it, once.",
    source: "thruway's own ledger: thruway assign --help",
};

/// What the ledger says of a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Promised {
    Nobody,
    To {
        to: Owner,
    },
    /// The ledger speaks of another card at this address: "10de:2204" was promised, this one was not.
    OtherCard {
        to: Owner,
        was: Identity,
    },
    /// This card, or one that cannot be told from it, was promised when it sat elsewhere.
    Moved {
        to: Owner,
        from: Bdf,
    },
    /// The ledger's file could not be taken in.
    Unreadable {
        why: String,
    },
}

/// True where a promise speaks of this very card, whatever slot it sits in. UUIDs decide where both are known.
fn same(promise: &Identity, card: &Identity) -> bool {
    match (&promise.uuid, &card.uuid) {
        (Some(then), Some(now)) => then == now,
        _ => promise.id == card.id && promise.subsystem == card.subsystem,
    }
}

/// What the ledger says of a card.
pub fn promised(ledger: &Ledger, inventory: &Inventory, card: &Card) -> Promised {
    let bdf = card.identity.bdf;
    if let Some(broken) = ledger.broken.iter().find(|broken| broken.bdf.is_none_or(|about| about == bdf)) {
        return Promised::Unreadable { why: broken.why.clone() };
    }
    if let Some(written) = at(ledger, bdf) {
        let Promise { gpu, to, .. } = &written.promise;
        return match same(gpu, &card.identity) {
            true => Promised::To { to: to.clone() },
            false => Promised::OtherCard { to: to.clone(), was: gpu.clone() },
        };
    }
    // A promise whose own slot holds another card, or none, may be meant for this one.
    let lost = ledger.promises.iter().map(|written| &written.promise).find(|promise| {
        let there = inventory.card(promise.gpu.bdf);
        same(&promise.gpu, &card.identity) && !there.is_some_and(|there| same(&promise.gpu, &there.identity))
    });
    lost.map_or(Promised::Nobody, |promise| Promised::Moved { to: promise.to.clone(), from: promise.gpu.bdf })
}

fn at(ledger: &Ledger, bdf: Bdf) -> Option<&Written> {
    ledger.promises.iter().find(|written| written.promise.gpu.bdf == bdf)
}

/// "26:00.0 (GeForce GT 1030)".
fn name(card: &Card) -> String {
    format!("{} ({})", card.identity.bdf.short(), card.short_name())
}

/// Why a card must not be handed to `to`; `Owner::Vm("")` is a VM that has no name yet.
pub fn refuse(ledger: &Ledger, inventory: &Inventory, card: &Card, to: &Owner) -> Option<Refusal> {
    let bdf = card.identity.bdf.short();
    let says = match promised(ledger, inventory, card) {
        Promised::Nobody => return None,
        Promised::To { to: owner } => {
            let unnamed = matches!((&owner, to), (Owner::Vm(_), Owner::Vm(name)) if name.is_empty());
            if owner == *to || unnamed {
                return None;
            }
            format!("{} is promised to {owner}", name(card))
        }
        Promised::OtherCard { to: owner, was } => format!(
            "another card ({}) was promised to {owner} at {bdf}; now {} [{}] sits there",
            was.id,
            name(card),
            card.identity.id
        ),
        Promised::Moved { to: owner, from } => {
            let instead = format!("thruway assign {from} nobody, then thruway assign {bdf} {owner}");
            let says = format!("{} was promised to {owner} when it sat at {}", name(card), from.short());
            return Some(Refusal { because: PROMISED.into(), says, instead });
        }
        Promised::Unreadable { why } => format!("to whom {} is promised cannot be read: {why}", name(card)),
    };
    Some(Refusal { because: PROMISED.into(), says, instead: format!("thruway assign {bdf} nobody, if that is over") })
}

/// Who has the card now, where that is not `to`.
fn live_another(card: &Card, to: &Owner) -> Option<String> {
    match (&card.holder, to) {
        (Holder::Nobody, _) | (Holder::Host(_), Owner::Host) => None,
        (Holder::Host(users), _) if users.is_empty() => None,
        (Holder::Host(users), _) => Some(format!("processes of this machine use it now: {}", users.join(", "))),
        (Holder::Vm(vms), Owner::Vm(wanted)) if vms.iter().all(|label| is_vm(label, wanted)) => None,
        (Holder::Vm(vms), _) => Some(format!("VM {} runs with it now", vms.join(", "))),
        (Holder::Containers(_), Owner::Containers) | (Holder::Pods(_), Owner::Pods) => None,
        (Holder::Containers(names), _) => Some(format!("the container {} uses it now", names.join(", "))),
        (Holder::Pods(names), _) => Some(format!("the pod {} uses it now", names.join(", "))),
        (Holder::Unknown(why), _) => Some(format!("who uses it now could not be seen: {why}")),
    }
}

/// "100 (media)" is VM 100 and VM media.
fn is_vm(label: &str, wanted: &str) -> bool {
    let (id, name) = label.split_once(" (").unwrap_or((label, ""));
    id == wanted || name.strip_suffix(')') == Some(wanted)
}

fn change(title: String, op: Op, now: Option<&Written>) -> Change {
    Change {
        layer: Layer::Host,
        title,
        op,
        expects: now.map_or(Before::NoFile, |written| Before::File(written.digest.clone())),
        because: Vec::new(),
        risk: Vec::new(),
        effective: Effective::Now,
        undo: Undo::Exact,
    }
}

/// The step that writes a promise down; none where it stands already.
pub fn promise(ledger: &Ledger, card: &Card, to: &Owner) -> Option<Change> {
    let now = at(ledger, card.identity.bdf);
    // The UUID is written where it is known; a promise made without one stands as it is.
    if now.is_some_and(|written| written.promise.to == *to && same(&written.promise.gpu, &card.identity)) {
        return None;
    }
    let promise =
        Promise { form: FORM, gpu: card.identity.clone(), name: card.short_name().to_owned(), to: to.clone() };
    let content = Content::Text(promise.text());
    let op = Op::WriteFile { path: ledger::path(card.identity.bdf), content, mode: 0o644 };
    Some(change(format!("{} is promised to {to}", name(card)), op, now))
}

/// The plan that promises a card to somebody (`None`: to nobody any more). Empty where it is so already.
pub fn assign(ledger: &Ledger, inventory: &Inventory, card: &Card, to: Option<&Owner>) -> Plan {
    let bdf = card.identity.bdf;
    let mut facts = BTreeMap::new();
    facts.insert(format!("card {bdf}"), card.identity.id.to_string());
    let now = at(ledger, bdf);
    facts.insert(format!("promise {bdf}"), now.map_or("none".to_owned(), |written| written.promise.to.to_string()));
    let mut plan = Plan::new(Layer::Host, &Intent::default(), facts);
    // No floor's: the ledger stands over all of them.
    plan.layers.clear();
    let Some(to) = to else {
        plan.intent.push(format!("promise {} to nobody", name(card)));
        if let Some(written) = now {
            let title = format!("{} is promised to {} no more", name(card), written.promise.to);
            plan.changes.push(change(title, Op::RemoveFile { path: ledger::path(bdf) }, Some(written)));
        } else if let Some(broken) = ledger.broken.iter().find(|broken| broken.bdf == Some(bdf)) {
            let way = format!("look at it, then remove {}", broken.path);
            plan.refusals.push(Refusal { because: PROMISED.into(), says: broken.why.clone(), instead: way });
        }
        return plan;
    };
    plan.intent.push(format!("promise {} to {to}", name(card)));
    plan.refusals.extend(refuse(ledger, inventory, card, to));
    if let Some(why) = live_another(card, to) {
        plan.refusals.push(Refusal {
            because: "host/in-use".into(),
            says: format!("{} cannot be promised to {to}: {why}", name(card)),
            instead: "stop that first, or promise the card to it (as root, where it could not be seen)".into(),
        });
    }
    plan.changes.extend(promise(ledger, card, to));
    plan
}

/// The card that a person means: by address (any function), NVML's index, UUID, or a part of its name.
pub fn find<'a>(inventory: &'a Inventory, text: &str) -> Result<&'a Card, String> {
    let list = |cards: &[&Card]| cards.iter().map(|card| name(card)).collect::<Vec<_>>().join(", ");
    let all: Vec<&Card> = inventory.cards.iter().collect();
    let none = |what: String| Err(format!("{what}; the cards are: {}", list(&all)));
    if let Ok(bdf) = text.parse::<Bdf>() {
        let card = inventory.cards.iter().find(|card| card.identity.bdf.same_slot(&bdf));
        return card.map_or_else(|| none(format!("there is no GPU at {bdf}")), Ok);
    }
    if let Ok(index) = text.parse::<u32>() {
        // NVML's own number where it runs, which nvidia-smi shows; else the place among NVIDIA's cards by address.
        let by_nvml = inventory.nvidia().find(|card| card.nvml.as_ref().is_some_and(|gpu| gpu.index == index));
        let known = inventory.nvidia().any(|card| card.nvml.is_some());
        let card = by_nvml.or_else(|| inventory.nvidia().nth(index as usize).filter(|_| !known));
        return card.map_or_else(|| none(format!("there is no NVIDIA GPU number {index}")), Ok);
    }
    let matching: Vec<&Card> = if text.starts_with("GPU-") {
        all.iter().filter(|card| card.identity.uuid.as_deref() == Some(text)).copied().collect()
    } else {
        let wanted = text.to_lowercase();
        all.iter().filter(|card| card.device_name.to_lowercase().contains(&wanted)).copied().collect()
    };
    match matching.as_slice() {
        [card] => Ok(card),
        [] => none(format!("no GPU is \"{}\"", text.escape_debug())),
        several => Err(format!("\"{}\" is {}: say which by its address", text.escape_debug(), list(several))),
    }
}
