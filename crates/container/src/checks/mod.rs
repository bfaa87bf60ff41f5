//! The floor's table of checks, in the order of the way: an engine's way to the card, its configuration, the specs,
//! and what goes round or through them.

mod content;
mod engine;
mod running;
mod specs;
mod toolkit;
mod trust;

use model::{Check, Reason, Seen, Verdict};

use crate::Facts;

pub static CHECKS: &[Check<Facts>] = &[
    engine::GPU_WAY,
    engine::DAEMON_JSON_BROKEN,
    engine::RUNTIME_PATH_MISSING,
    engine::CDI_NOT_ENABLED,
    specs::MISSING,
    specs::BROKEN,
    specs::STALE,
    specs::CONFLICT,
    content::INCOMPLETE,
    content::LIBRARIES,
    content::DIR_UNREAD,
    content::REFRESH_RACED,
    engine::DEV_CHAR_LINKS,
    running::LOST_CARD,
    toolkit::CONFIG_BROKEN,
    toolkit::MANAGEMENT_KIND,
    toolkit::LDCONFIG,
    toolkit::HOOK_FILES,
    toolkit::SNAP,
    trust::TOOLKIT_VULNERABLE,
    trust::NVIDIA_DOCKER2,
    trust::DEFAULT_RUNTIME,
    trust::VISIBLE_DEVICES_ALL,
];

/// What every check of this floor asks first: `Some` ends it.
fn first(facts: &Facts) -> Option<Verdict> {
    if facts.engine_names().is_empty() {
        return Some(match &facts.programs {
            Seen::Unreadable(reason) => unknown(reason, "the container engines"),
            _ => Verdict::NotApplicable,
        });
    }
    match &facts.looked {
        Seen::Unreadable(reason) if facts.cards.is_empty() => Some(unknown(reason, "the PCI devices")),
        _ if facts.cards.is_empty() => Some(Verdict::NotApplicable),
        _ => None,
    }
}

fn unknown(reason: &Reason, what: impl Into<String>) -> Verdict {
    Verdict::Unknown { reason: reason.clone(), what: what.into() }
}
