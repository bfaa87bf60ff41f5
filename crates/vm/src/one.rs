//! One VM alone: what the checks of this floor say of it, before its start.

use model::{Check, Finding};

use crate::checks::CHECKS;
use crate::{Facts, Vm};

/// Checks that speak of several VMs at once: these see the ones that name the same card, too.
const BETWEEN: &[&str] = &["vm/two-vms-one-card", "vm/onboot-both", "vm/backup-grabs-card"];

/// Speaks of cards that no VM has.
const NOT_OF_A_VM: &[&str] = &["vm/card-not-given"];

/// The findings for this VM, in the table's order.
pub fn findings_of(facts: &Facts, vm: &Vm) -> Vec<Finding> {
    let mut alone = narrowed(facts, vm, |_| false);
    // what of other definitions could not be read decides nothing about this one
    alone.unread.clear();
    let with_rivals = narrowed(facts, vm, |other| facts.cards_of(other).iter().any(|card| vm.names(card.identity.bdf)));
    let asked = CHECKS.iter().filter(|check| !NOT_OF_A_VM.contains(&check.about.id.0));
    let run = |check: &Check<Facts>| {
        let facts = if BETWEEN.contains(&check.about.id.0) { &with_rivals } else { &alone };
        Finding { about: check.about, verdict: (check.run)(facts) }
    };
    asked.map(run).collect()
}

/// The facts with this VM, the others that `keep` says, and the mappings that this VM names.
fn narrowed(facts: &Facts, vm: &Vm, keep: impl Fn(&Vm) -> bool) -> Facts {
    let mut narrow = facts.clone();
    narrow.vms.retain(|other| (other.kind == vm.kind && other.id == vm.id) || keep(other));
    let named: Vec<&String> = vm.given.iter().filter_map(|given| given.mapping.as_ref()).collect();
    narrow.mappings = narrow.mappings.map(|mut mappings| {
        mappings.retain(|mapping| named.contains(&&mapping.id));
        mappings
    });
    narrow
}
