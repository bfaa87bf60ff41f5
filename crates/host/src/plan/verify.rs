//! Whether what a plan promised is so: by driver links, /dev/vfio and /proc/cmdline.

use formats::kcmdline::Cmdline;
use model::{Evidence, Handover, Intent, Outcome, OutcomeState, Seen, Source};

use super::{cmdline, targets};
use crate::cruft::{Leftover, Remove};
use crate::facts::{Facts, Place, Target, is_vfio};

use model::A_REBOOT as REBOOT;

/// Looks again at each thing that [`super::plan`] promises for this intent.
pub fn verify(facts: &Facts, intent: &Intent) -> Vec<Outcome> {
    let targets = targets(facts, intent);
    match &intent.handover {
        Handover::Bind(driver) => return bound(facts, &targets, Some(driver)),
        Handover::Back => return bound(facts, &targets, None),
        Handover::AtBoot | Handover::Now => {}
    }
    if !matches!(facts.place, Place::Metal) {
        return Vec::new();
    }
    let mut outcomes = Vec::new();
    if intent.clean {
        outcomes.extend(cleaned(facts));
    }
    if targets.is_empty() {
        return outcomes;
    }
    let on = facts.iommu.on();
    let (add, drop) = cmdline::tokens(facts, intent, &targets);
    let written = Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
    let state = match on {
        Seen::Is(true) => OutcomeState::Held,
        Seen::Unreadable(reason) => OutcomeState::Unknown(reason.to_string()),
        // Something stood in its way, and what is written no longer does.
        _ if !(add.is_empty() && drop.is_empty())
            && add.iter().all(|token| written.has(token))
            && !drop.iter().any(|token| written.has(token)) =>
        {
            OutcomeState::Pending(REBOOT.into())
        }
        _ => OutcomeState::Failed("the kernel runs no IOMMU".into()),
    };
    let value = facts.iommu.units.get().map_or("empty".into(), |units| units.join(" "));
    let evidence = vec![Evidence { source: Source::file("/sys/class/iommu"), value }];
    outcomes.push(Outcome { says: "the kernel runs an IOMMU".into(), state, evidence });
    for token in add.iter().filter(|token| token.starts_with("vfio-pci.ids=")) {
        let line = facts.boot.effective.get().map_or("", String::as_str);
        let state = match (Cmdline::parse(line).has(token), written.has(token)) {
            (true, _) => OutcomeState::Held,
            (false, true) => OutcomeState::Pending(REBOOT.into()),
            (false, false) => OutcomeState::Failed("it is not written".into()),
        };
        let evidence = vec![Evidence { source: Source::file("/proc/cmdline"), value: line.into() }];
        outcomes.push(Outcome { says: format!("the kernel was booted with {token}"), state, evidence });
    }
    for target in &targets {
        for function in &target.functions {
            let path = format!("/sys/bus/pci/devices/{}/driver", function.bdf);
            let hold = facts.written_hold(function);
            let (state, value) = match &function.driver {
                Seen::Is(driver) if is_vfio(driver) => (OutcomeState::Held, driver.clone()),
                Seen::Unreadable(reason) => (OutcomeState::Unknown(reason.to_string()), reason.to_string()),
                other => {
                    let value = other.get().cloned().unwrap_or_else(|| "no driver".into());
                    let state = match hold {
                        Some(_) => OutcomeState::Pending(REBOOT.into()),
                        None => OutcomeState::Failed(format!("{value} has it, and nothing written holds it")),
                    };
                    (state, value)
                }
            };
            let mut evidence = vec![Evidence { source: Source::file(path), value }];
            evidence.extend(hold.map(|source| Evidence { source: source.clone(), value: "holds it at boot".into() }));
            outcomes.push(Outcome { says: format!("{} is held by vfio-pci", function.bdf.short()), state, evidence });
        }
        outcomes.extend(node(facts, target));
    }
    outcomes
}

/// What a bind promised, or (`None`) its way back.
fn bound(facts: &Facts, targets: &[Target<'_>], driver: Option<&str>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for target in targets {
        for function in &target.functions {
            let path = format!("/sys/bus/pci/devices/{}/driver", function.bdf);
            let value = match &function.driver {
                Seen::Is(name) => name.clone(),
                Seen::Absent => "no driver".into(),
                Seen::Unreadable(reason) => reason.to_string(),
            };
            let short = function.bdf.short();
            let (says, holds) = match driver {
                Some(driver) => {
                    (format!("{short} is held by {driver}"), function.driver.get().is_some_and(|d| d == driver))
                }
                None => {
                    let free = !function.driver.get().is_some_and(|name| is_vfio(name));
                    (format!("{short} is back with its own driver"), free && !function.driver_override.is_there())
                }
            };
            let state = match (&function.driver, holds) {
                (Seen::Unreadable(reason), _) => OutcomeState::Unknown(reason.to_string()),
                (_, true) => OutcomeState::Held,
                (_, false) => OutcomeState::Failed(format!("{value} has it; a bind lasts until the next boot only")),
            };
            outcomes.push(Outcome { says, state, evidence: vec![Evidence { source: Source::file(path), value }] });
        }
        outcomes.extend(node(facts, target).filter(|_| driver.is_some()));
    }
    outcomes
}

/// The kernel makes the group's node once vfio-pci has a device of it; before that there is nothing to wait for.
fn node(facts: &Facts, target: &Target<'_>) -> Option<Outcome> {
    let group = target.card.group.get().filter(|_| target.held())?;
    let number = group.number.to_string();
    let state = match &facts.usage.nodes {
        Seen::Is(names) if names.contains(&number) => OutcomeState::Held,
        Seen::Unreadable(reason) => OutcomeState::Unknown(reason.to_string()),
        Seen::Is(_) | Seen::Absent => OutcomeState::Failed("the kernel made no node for the group".into()),
    };
    let value = facts.usage.nodes.get().map_or("absent".into(), |names| names.join(" "));
    let evidence = vec![Evidence { source: Source::file("/dev/vfio"), value }];
    Some(Outcome { says: format!("/dev/vfio/{number} can be given to a VM"), state, evidence })
}

/// What old guides left: gone, gone from the files and in effect until the boot, or there.
fn cleaned(facts: &Facts) -> Vec<Outcome> {
    let written = Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
    let left = crate::cruft::find(facts);
    let state = |leftover: &Leftover| match &leftover.remove {
        Remove::Token(token) if !written.has(token) => OutcomeState::Pending(REBOOT.into()),
        _ => OutcomeState::Failed("it is still written".into()),
    };
    let one = |leftover: &Leftover| Outcome {
        says: format!("{} is gone", leftover.what),
        state: state(leftover),
        evidence: vec![Evidence { source: leftover.source.clone(), value: leftover.what.clone() }],
    };
    if left.is_empty() {
        let says = "nothing of old guides is left".into();
        return vec![Outcome { says, state: OutcomeState::Held, evidence: Vec::new() }];
    }
    left.iter().map(one).collect()
}
