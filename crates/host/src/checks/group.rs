//! IOMMU groups: who else is in the card's, what the firmware keeps of it, whether it is real.

use formats::kcmdline::Cmdline;
use gpu::Function;
use model::{Fix, Seen, Source, Trouble, Verdict};

use super::{unknown, wanted};
use crate::facts::{Facts, Target, is_vfio};

pub(super) fn shared_all(facts: &Facts) -> Verdict {
    wanted(facts, shared)
}

pub(super) fn rmrr_all(facts: &Facts) -> Verdict {
    wanted(facts, rmrr)
}

/// The endpoints of a card's group that are not functions of a given card.
pub(crate) fn strangers<'a>(facts: &'a Facts, target: &Target<'_>, targets: &[Target<'_>]) -> Vec<&'a Function> {
    let Some(group) = target.card.group.get() else { return Vec::new() };
    let members = group.members.iter().filter_map(|bdf| facts.inventory.function(*bdf));
    members
        .filter(|f| !f.bridge && f.class >> 16 != 0x06)
        .filter(|f| !targets.iter().any(|given| given.card.identity.bdf.same_slot(&f.bdf)))
        .collect()
}

pub(crate) fn shared(facts: &Facts, targets: &[Target<'_>]) -> Verdict {
    let mut none = true;
    for target in targets {
        match &target.card.group {
            Seen::Is(_) => none = false,
            Seen::Unreadable(reason) => return unknown(reason, format!("the IOMMU group of {}", target.name())),
            Seen::Absent => {}
        }
        let mut busy = Vec::new();
        for function in strangers(facts, target, targets) {
            match &function.driver {
                Seen::Is(driver) if !is_vfio(driver) => busy.push((function, driver)),
                Seen::Unreadable(reason) => return unknown(reason, format!("the driver of {}", function.bdf)),
                _ => {}
            }
        }
        let Some(number) = target.card.group.get().map(|group| group.number) else { continue };
        if busy.is_empty() {
            continue;
        }
        let names: Vec<String> = busy.iter().map(|(f, driver)| format!("{} ({driver})", f.bdf.short())).collect();
        let says =
            format!("{} shares IOMMU group {number} with {}, which the host uses", target.name(), names.join(", "));
        let mut trouble = Trouble::new(says);
        for (function, driver) in &busy {
            let path = format!("/sys/kernel/iommu_groups/{number}/devices/{}", function.bdf);
            trouble = trouble.seen(Source::file(path), format!("{}, driver {driver}", function.id));
        }
        let fix = Fix {
            does: "move the card to another slot, best one that hangs on the CPU; groups follow the board's wiring"
                .into(),
            paste: vec!["thruway gpus".into()],
            costs: vec![
                "the machine is off meanwhile".into(),
                "addresses may change: names of network interfaces too".into(),
            ],
            undo: "move it back".into(),
        };
        return Verdict::Fail(trouble.fix(fix));
    }
    // No group at all: the IOMMU's checks speak of that.
    if none { Verdict::NotApplicable } else { Verdict::Pass }
}

pub(crate) fn rmrr(facts: &Facts, targets: &[Target<'_>]) -> Verdict {
    let mut verdict = Verdict::NotApplicable;
    for target in targets {
        let Some(group) = target.card.group.get() else { continue };
        let path = format!("/sys/kernel/iommu_groups/{}/reserved_regions", group.number);
        let lines = match facts.iommu.reserved.get(&group.number) {
            Some(Seen::Is(lines)) => lines,
            Some(Seen::Unreadable(reason)) => return unknown(reason, path),
            _ => continue,
        };
        // "direct-relaxable" is no hindrance: the kernel lets such a device go.
        let direct = lines.iter().position(|line| line.split_whitespace().nth(2) == Some("direct"));
        match direct.and_then(|at| Some((at, lines.get(at)?))) {
            Some((at, line)) => {
                let says = format!(
                    "the firmware keeps memory of {} for itself, so the kernel refuses to give it away",
                    target.name()
                );
                let fix = Fix {
                    does: "update the board's firmware, or switch off there what shares memory with the slot".into(),
                    paste: Vec::new(),
                    costs: vec!["a reboot".into()],
                    undo: "the firmware's own way back".into(),
                };
                let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
                return Verdict::Fail(Trouble::new(says).seen(Source::line(path, number), line.clone()).fix(fix));
            }
            None => verdict = Verdict::Pass,
        }
    }
    verdict
}

pub(super) fn acs(facts: &Facts) -> Verdict {
    const CMDLINE: &str = "/proc/cmdline";
    match &facts.boot.effective.value {
        Seen::Unreadable(reason) => unknown(reason, CMDLINE),
        Seen::Absent => Verdict::NotApplicable,
        Seen::Is(line) => match Cmdline::parse(line).last("pcie_acs_override") {
            None => Verdict::Pass,
            Some(value) => {
                let fix = Fix {
                    does: "take the token away; look for a slot whose group is the card's alone".into(),
                    paste: Vec::new(),
                    costs: vec!["a reboot".into(), "groups may grow together again".into()],
                    undo: "put the token back".into(),
                };
                Verdict::Warn(
                    Trouble::new("IOMMU groups are split on paper only: devices in different groups may reach each other's memory")
                        .seen(Source::file(CMDLINE), format!("pcie_acs_override={value}"))
                        .fix(fix),
                )
            }
        },
    }
}
