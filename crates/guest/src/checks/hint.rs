//! Does what the hypervisor told of the cards' places fit what is here?

use model::{About, Check, CheckId, Fix, Layer, Reason, Seen, Trouble, Verdict};

use super::unknown;
use crate::Facts;

pub const CONTRADICTS: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/hint-contradicts"),
        layer: Layer::Guest,
        title: "where the host says its cards sit fits the cards that are here",
        why: "The host can tell its guest where each card really sits (thruway vm plan --hint: address, slot, NUMA node, link), \
              as OEM strings of SMBIOS. That text stands in the VM's definition and does not follow a card: when another card \
              goes to the VM, or one is taken away, the old text still speaks of the former. Labels made from it would then \
              lie about the cluster's topology. Such a hint is of no card here and is not used; let the host write it anew.",
        source: "DSP0134 (SMBIOS), OEM Strings; QEMU -smbios type=11",
    },
    run: |facts| {
        if let Some(reason) = facts.looked.unreadable() {
            return unknown(reason, "the list of PCI devices");
        }
        match &facts.told.value {
            Seen::Absent => return Verdict::NotApplicable,
            // A recording from before there were hints, or of a tree without /sys.
            Seen::Unreadable(Reason::NotCaptured) => return Verdict::NotApplicable,
            // Without root a machine that is no guest has nothing to tell either.
            Seen::Unreadable(_) if facts.vm.get() != Some(&true) || facts.cards.is_empty() => {
                return Verdict::NotApplicable;
            }
            Seen::Unreadable(reason) => return unknown(reason, facts.told.source.to_string()),
            Seen::Is(_) => {}
        }
        let Some(first) = facts.astray.first() else { return Verdict::Pass };
        let more = match facts.astray.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let mut trouble = Trouble::new(format!("what the host tells of its cards does not fit: {}{more}", first.why));
        for astray in &facts.astray {
            let text = astray.hint.as_ref().map_or_else(|| astray.why.clone(), ToString::to_string);
            trouble = trouble.seen(facts.told.source.clone(), text);
        }
        for card in &facts.cards {
            let board = card.identity.subsystem.map(|board| format!(", board {board}")).unwrap_or_default();
            let value = format!("{} [{}{board}]", card.identity.bdf.short(), card.identity.id);
            trouble = trouble.seen(model::Source::file("/sys/bus/pci/devices"), value);
        }
        let fix = Fix::by_hand(
            "on the host: write the hint anew (or take it out with --hint=none), then stop and start this VM",
            &["sudo thruway vm apply --hint"],
            "thruway undo, on the host",
        );
        Verdict::Warn(trouble.fix(fix.costs("an outage of this VM while it restarts")))
    },
};
