//! MIG as it is kept for the boots.

use model::{About, Check, CheckId, Fix, Layer, Reason, Seen, Source, Trouble, Verdict};

use super::unknown;
use crate::Facts;
use crate::mig::{KEPT, KeptCard};

pub const KEPT_CUT: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/mig-as-kept"),
        layer: Layer::Guest,
        title: "each card whose MIG layout is kept for the boots is there, and is cut",
        why: "A card's MIG instances are gone with each boot, and on Hopper and later so is its MIG mode. thruway keeps the layout in \
              /etc/thruway/mig.json, and its unit cuts again before containers start. Where that failed, or the card was changed, \
              pods that ask for nvidia.com/mig-… stay Pending and MIG-… names lead nowhere. (thruway mig verify looks at each \
              instance; this check, at the mode.)",
        source: "NVIDIA's MIG user guide, persistence; NVML: nvmlDeviceGetMigMode",
    },
    run: |facts| match &facts.mig_kept.value {
        // A recording that is older than such files has none to be judged.
        Seen::Absent | Seen::Unreadable(Reason::NotCaptured) => Verdict::NotApplicable,
        Seen::Unreadable(reason) => unknown(reason, "which MIG layouts are kept"),
        Seen::Is(kept) if kept.cards.is_empty() => Verdict::NotApplicable,
        Seen::Is(kept) => kept.cards.iter().find_map(|kept| astray(facts, kept)).map_or(Verdict::Pass, Verdict::Fail),
    },
};

fn astray(facts: &Facts, kept: &KeptCard) -> Option<Trouble> {
    let wanted = gpu::mig::says(&kept.layout);
    let trouble = |says: String, fix: Fix| {
        Trouble::new(says).seen(Source::file(KEPT), format!("{} {}: {wanted}", kept.bdf, kept.uuid)).fix(fix)
    };
    let again = "cut the card again, and see why the unit did not";
    let lines = ["journalctl -b -u thruway-mig.service", "sudo systemctl restart thruway-mig.service"];
    let Some(card) = facts.cards.iter().find(|card| card.identity.bdf == kept.bdf) else {
        let fix = Fix::by_hand("let go of the layout", &["sudo thruway mig undo"], "thruway mig apply LAYOUT");
        return Some(trouble(format!("a MIG layout is kept for {}, and no card is there", kept.bdf.short()), fix));
    };
    // Without NVML nothing is known of it, which another check says.
    let nvml = card.nvml.as_ref()?;
    if nvml.uuid.get().is_some_and(|uuid| *uuid != kept.uuid) {
        let says = format!("a MIG layout is kept for {}, and another card sits there now", kept.bdf.short());
        let lines = ["sudo thruway mig list", "sudo thruway mig apply LAYOUT"];
        return Some(trouble(says, Fix::by_hand("choose a layout for this card", &lines, "sudo thruway mig undo")));
    }
    if kept.layout.enabled && nvml.mig_enabled == Seen::Is(false) {
        let says = format!("{} ({}) is not cut: kept is {wanted}", kept.bdf.short(), card.short_name());
        return Some(trouble(says, Fix::by_hand(again, &lines, "sudo thruway mig undo")));
    }
    None
}
