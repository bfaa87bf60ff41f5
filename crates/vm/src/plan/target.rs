//! Which cards go to which VM: as told, else inferred, else nothing.

use gpu::Card;
use model::{Intent, PciId, Reason, Refusal, Seen};

use crate::{Facts, Vm};

pub(crate) struct Give<'a> {
    pub vm: &'a Vm,
    /// Empty only where a guest without any card is told something, or nothing any more.
    pub cards: Vec<&'a Card>,
    /// Card or VM were not named.
    pub inferred: bool,
}

pub(crate) enum Target<'a> {
    Give(Give<'a>),
    /// Nothing was asked and nothing can be inferred; why, where that is of use.
    Nothing(Option<String>),
    Refused(Refusal),
}

/// Resolves a wish against what is there.
pub(crate) fn find<'a>(facts: &'a Facts, intent: &Intent) -> Target<'a> {
    let asked = !intent.give.is_empty();
    if asked && let Some((source, reason)) = facts.unread.first() {
        return refused(
            "vm/two-vms-one-card",
            format!("{source} could not be read ({reason}), so another VM may have the card"),
            "run it as root, or mend the file",
        );
    }
    if let Some(reason) = facts.gpus.looked.unreadable() {
        return if asked {
            refused(
                "vm/card-gone",
                format!("this machine's PCI devices could not be read ({reason})"),
                if *reason == Reason::PermissionDenied { "run it as root" } else { "mend that, and plan again" },
            )
        } else {
            Target::Nothing(None)
        };
    }
    let name = intent.vm.as_deref().map(|name| name.strip_prefix("vm:").unwrap_or(name));
    // who asks what one VM's guest is told gives no card to it
    if !asked
        && intent.hint.is_some()
        && let Some(vm) = name.and_then(|name| facts.vm(name))
    {
        return Target::Give(Give { vm, cards: facts.cards_of(vm), inferred: true });
    }
    let cards = match cards(facts, intent) {
        Ok(cards) => cards,
        Err(target) => return target,
    };
    if let Some(name) = name {
        return match facts.vm(name) {
            Some(vm) => Target::Give(Give { vm, cards, inferred: !asked }),
            None => {
                let known: Vec<String> = facts.vms.iter().map(Vm::title).collect();
                let known =
                    if known.is_empty() { "there is none".into() } else { format!("there are {}", known.join(", ")) };
                refused(
                    "vm/card-not-given",
                    format!("There is no VM {name} on this machine"),
                    &format!("name one: {known}"),
                )
            }
        };
    }
    let mut owners: Vec<&Vm> = cards.iter().flat_map(|card| facts.owners(card.identity.bdf)).collect();
    owners.dedup_by(|one, other| one.id == other.id);
    let all: Vec<&Vm> = facts.vms.iter().filter(|vm| !vm.template).collect();
    match (owners.as_slice(), all.as_slice()) {
        ([vm], _) | ([], [vm]) => Target::Give(Give { vm, cards, inferred: true }),
        ([], []) if asked => refused(
            "vm/card-not-given",
            "There is no VM on this machine that the card could go to".into(),
            "make one first",
        ),
        ([], []) => Target::Nothing(Some("there is no VM".into())),
        _ if asked => {
            let names: Vec<String> = all.iter().map(|vm| vm.title()).collect();
            refused(
                "vm/card-not-given",
                format!("Which VM gets the card is not said, and there are {}: {}", names.len(), names.join(", ")),
                "add --to vm:ID",
            )
        }
        _ => Target::Nothing(Some("there is more than one VM".into())),
    }
}

fn cards<'a>(facts: &'a Facts, intent: &Intent) -> Result<Vec<&'a Card>, Target<'a>> {
    if !intent.give.is_empty() {
        let found = intent.give.iter().map(|bdf| {
            let card = facts.gpus.cards.iter().find(|card| card.identity.bdf.same_slot(bdf));
            card.ok_or_else(|| {
                refused(
                    "vm/card-gone",
                    format!("There is no card at {} in this machine", bdf.short()),
                    "thruway gpus lists them",
                )
            })
        });
        return found.collect();
    }
    let given: Vec<&Card> = facts.gpus.nvidia().filter(|card| !facts.owners(card.identity.bdf).is_empty()).collect();
    if !given.is_empty() {
        return Ok(given);
    }
    let held = |card: &Card| {
        card.driver.get().is_some_and(|driver| driver == "vfio-pci")
            || card.driver_override.get().is_some_and(|driver| driver == "vfio-pci")
    };
    let all: Vec<&Card> = facts.gpus.nvidia().collect();
    let free: Vec<&Card> = all.iter().copied().filter(|card| held(card)).collect();
    match (free.as_slice(), all.as_slice()) {
        ([card], _) => Ok(vec![*card]),
        // A card that NVIDIA's own driver holds is the host's.
        ([], [card]) if matches!(&card.driver, Seen::Is(driver) if driver.starts_with("nvidia")) => {
            Err(Target::Nothing(Some(format!("{} is used by this host's own driver", card.identity.bdf.short()))))
        }
        // libvirt on a workstation: its only card is its display
        ([], [card]) if facts.pve.is_there() && card.identity.id.vendor == PciId::NVIDIA => Ok(vec![*card]),
        ([], []) => Err(Target::Nothing(None)),
        _ => Err(Target::Nothing(Some("which card is not said".into()))),
    }
}

fn refused<'a>(because: &str, says: String, instead: &str) -> Target<'a> {
    Target::Refused(Refusal { because: because.into(), says, instead: instead.into() })
}
