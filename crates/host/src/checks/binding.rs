//! Who owns a card that is meant for a VM, and whether the way it is claimed works and hits it alone.

use gpu::Card;
use model::{Fix, Seen, Source, Trouble, Verdict};

use super::{plan_command, unknown, wanted};
use crate::facts::{Facts, ModprobeLine, Target, is_module, is_vfio};

pub(super) fn owner(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        let mut owned = Vec::new();
        let mut pending = true;
        for target in targets {
            for function in &target.functions {
                match &function.driver {
                    Seen::Is(driver) if is_vfio(driver) => {}
                    Seen::Unreadable(reason) => return unknown(reason, format!("the driver of {}", function.bdf)),
                    // Free, and held at boot by what is written: nothing is wrong.
                    Seen::Absent if facts.written_hold(function).is_some() => {}
                    other => {
                        pending &= facts.written_hold(function).is_some();
                        owned.push((function, other.get().map_or("no driver", String::as_str)));
                    }
                }
            }
        }
        if owned.is_empty() {
            return Verdict::Pass;
        }
        let names: Vec<String> = owned.iter().map(|(f, driver)| format!("{} ({driver})", f.bdf.short())).collect();
        let cards: Vec<String> = targets.iter().map(Target::name).collect();
        let wait = if pending { "; what is written takes effect at the next boot" } else { "" };
        let says =
            format!("{} is meant for a VM and not held by vfio-pci: {}{wait}", cards.join(", "), names.join(", "));
        let mut trouble = Trouble::new(says);
        for (function, driver) in &owned {
            let path = format!("/sys/bus/pci/devices/{}/driver", function.bdf);
            trouble = trouble.seen(Source::file(path), *driver);
        }
        if let Some(want) = facts.wanted.first() {
            trouble = trouble.seen(want.source.clone(), want.why.clone());
        }
        let fix = if pending {
            Fix::by_hand("let it take effect", &["reboot"], "thruway undo, and a reboot")
        } else {
            Fix::planned(
                "hold all functions for vfio-pci from the boot on, by address and identity",
                plan_command(targets),
            )
        };
        let trouble = trouble.fix(fix.costs("a reboot"));
        if pending { Verdict::Warn(trouble) } else { Verdict::Fail(trouble) }
    })
}

/// A claim by `ids=`, with nothing that makes vfio-pci the first.
pub(super) fn softdep(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        let mut claimed = false;
        for function in targets.iter().flat_map(|target| &target.functions) {
            let by_address = facts.conf.held.iter().any(|held| held.bdf == function.bdf && held.matches);
            let Some(source) = facts.ids_hold(function).filter(|_| !by_address) else { continue };
            claimed = true;
            let Seen::Is(driver) = &function.driver else { continue };
            if is_vfio(driver) || facts.loads_after_vfio(driver) {
                continue;
            }
            let says = format!("{driver} took {} before vfio-pci could, though ids= claims it", function.bdf.short());
            let path = format!("/sys/bus/pci/devices/{}/driver", function.bdf);
            return Verdict::Fail(
                Trouble::new(says)
                    .seen(Source::file(path), driver.clone())
                    .seen(source.clone(), function.id.to_string())
                    .fix(
                        Fix::planned("hold it by address, ahead of every driver", plan_command(targets))
                            .costs("a reboot"),
                    ),
            );
        }
        match &facts.conf.blind {
            Some((path, reason)) => unknown(reason, path),
            None if claimed => Verdict::Pass,
            None => Verdict::NotApplicable,
        }
    })
}

pub(super) fn builtin(facts: &Facts) -> Verdict {
    let line = facts.conf.modprobe.iter().find(|l| {
        l.verb == "options" && is_module(&l.module, "vfio_pci") && l.args.iter().any(|a| a.starts_with("ids="))
    });
    let Some(line) = line else {
        return match &facts.conf.blind {
            Some((path, reason)) => unknown(reason, path),
            None => Verdict::NotApplicable,
        };
    };
    let builtin = match &facts.kernel.builtin {
        Seen::Is(_) => facts.kernel.is_builtin("vfio_pci"),
        Seen::Absent => return Verdict::NotApplicable,
        Seen::Unreadable(reason) => return unknown(reason, "modules.builtin of the running kernel"),
    };
    if !builtin {
        return Verdict::Pass;
    }
    let release = facts.kernel.release.get().map_or("", String::as_str);
    Verdict::Fail(
        Trouble::new("vfio-pci is built into this kernel, so its ids= in modprobe.d is never read")
            .seen(line.source.clone(), format!("options {} {}", line.module, line.args.join(" ")))
            .seen(Source::file(format!("/lib/modules/{release}/modules.builtin")), "vfio-pci.ko")
            .fix(Fix::planned("hold the card by address instead", plan_command(&facts.targets())).costs("a reboot")),
    )
}

/// Cards that a written `ids=` also matches, though they are not given.
pub(crate) fn twins<'a>(facts: &'a Facts, targets: &[Target<'_>]) -> Vec<(&'a Source, &'a Card)> {
    let mut found = Vec::new();
    for (source, ids) in facts.ids() {
        // Only ids that also name a card that is given: another list is another intention.
        let given = targets.iter().any(|target| ids.contains(&target.card.identity.id));
        for card in facts.inventory.cards.iter().filter(|_| given) {
            let kept = !targets.iter().any(|target| target.card.identity.bdf == card.identity.bdf);
            if kept && ids.contains(&card.identity.id) {
                found.push((source, card));
            }
        }
    }
    found
}

pub(super) fn twin(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        if let Some((source, card)) = twins(facts, targets).first() {
            let bdf = card.identity.bdf;
            let says = format!("ids= also takes {} ({}), which no VM is to have", bdf.short(), card.short_name());
            return Verdict::Fail(
                Trouble::new(says)
                    .seen((*source).clone(), card.identity.id.to_string())
                    .seen(Source::file(format!("/sys/bus/pci/devices/{bdf}")), card.identity.id.to_string())
                    .fix(
                        Fix::planned("hold the one card by address, and drop ids=", plan_command(targets))
                            .costs("a reboot"),
                    ),
            );
        }
        match &facts.conf.blind {
            Some((path, reason)) => unknown(reason, path),
            None if facts.ids().is_empty() => Verdict::NotApplicable,
            None => Verdict::Pass,
        }
    })
}

/// What keeps a module from loading: `blacklist X`, or `install X /bin/false`.
fn bans(line: &ModprobeLine) -> bool {
    line.verb == "blacklist"
        || (line.verb == "install" && line.args.first().is_some_and(|c| c.ends_with("/false") || c.ends_with("/true")))
}

pub(super) fn blacklist(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        if let Some((path, reason)) = &facts.conf.blind {
            return unknown(reason, path);
        }
        let drivers = |card: &Card| -> &[&str] {
            match card.identity.id.vendor {
                0x10de => &["nouveau", "nvidia"],
                0x1002 => &["amdgpu", "radeon"],
                0x8086 => &["i915", "xe"],
                _ => &[],
            }
        };
        for card in &facts.inventory.cards {
            let given = targets.iter().any(|target| target.card.identity.bdf == card.identity.bdf);
            if given || !card.driver.is_absent() {
                continue;
            }
            let line = facts
                .conf
                .modprobe
                .iter()
                .find(|line| bans(line) && drivers(card).iter().any(|d| is_module(&line.module, d)));
            let Some(line) = line else { continue };
            let bdf = card.identity.bdf;
            let says = format!(
                "{} ({}) stays with the host and has no driver: {} is kept off every card",
                bdf.short(),
                card.short_name(),
                line.module
            );
            let fix = Fix::planned("hold only the given card, by address", plan_command(targets));
            let paste = match &line.source {
                Source::File { path, line: Some(number) } => format!("sed -i '{number}s/^/#/' {path}"),
                other => other.to_string(),
            };
            let unban = Fix::by_hand(
                "then comment the ban out",
                &[&paste, "update-initramfs -u -k all"],
                "take the # away again",
            );
            return Verdict::Fail(
                Trouble::new(says)
                    .seen(line.source.clone(), format!("{} {}", line.verb, line.module))
                    .seen(Source::file(format!("/sys/bus/pci/devices/{bdf}/driver")), "no driver")
                    .fix(fix.costs("a reboot"))
                    .fix(unban.costs("a reboot")),
            );
        }
        Verdict::Pass
    })
}
