//! The driver floor's checks, in the order of the way: the card, nouveau, what a driver needs, the driver, its nodes, the card's health.

mod card;
mod driver;
mod health;
mod hint;
mod kernel;
mod mig;
mod nodes;
mod upkeep;

use model::{Check, Reason, Verdict};

use crate::Facts;

pub(crate) use kernel::enrolment;
pub(crate) use upkeep::builds_here;

/// One row a check.
pub static CHECKS: &[Check<Facts>] = &[
    card::VISIBLE,
    hint::CONTRADICTS,
    card::NOUVEAU,
    kernel::CLOUD,
    kernel::HEADERS,
    kernel::SECURE_BOOT,
    driver::MISSING,
    driver::BRANCH,
    driver::MODULE_KIND,
    driver::LIBRARY,
    nodes::DEVICE_NODES,
    nodes::UVM,
    nodes::NVML,
    upkeep::NEXT_KERNEL,
    upkeep::HEADERS_FOLLOW,
    upkeep::POWER,
    upkeep::PERSISTENCE,
    upkeep::XID,
    health::RECOVERY,
    health::REPAIR,
    health::ECC,
    health::CLOCKS,
    health::LINK,
    health::MIG,
    mig::KEPT_CUT,
];

fn unknown(reason: &Reason, what: impl Into<String>) -> Verdict {
    Verdict::Unknown { reason: reason.clone(), what: what.into() }
}

/// The verdict where the floor is not here; `None`: go on and look.
fn not_here(facts: &Facts) -> Option<Verdict> {
    if let Some(reason) = facts.looked.unreadable() {
        return Some(unknown(reason, "the list of PCI devices"));
    }
    (!facts.here() || facts.usable().next().is_none()).then_some(Verdict::NotApplicable)
}
