//! Who has the card, what keeps vfio-pci off it, and whether it comes back from a guest.

use gpu::Holder;
use model::{Fix, Reason, Seen, Source, Trouble, Verdict};

use super::{unknown, wanted};
use crate::facts::{Facts, Target, is_vfio};

pub(super) fn blocked_all(facts: &Facts) -> Verdict {
    wanted(facts, |_, targets| blocked(targets))
}

pub(crate) fn blocked(targets: &[Target<'_>]) -> Verdict {
    for function in targets.iter().flat_map(|target| &target.functions) {
        let path = format!("/sys/bus/pci/devices/{}/driver_override", function.bdf);
        match &function.driver_override {
            Seen::Is(name) if !is_vfio(name) => {
                let paste = format!("driverctl unset-override {}", function.bdf);
                let fix = Fix::by_hand(
                    "clear the override",
                    &[&paste],
                    format!("driverctl set-override {} {name}", function.bdf),
                );
                return Verdict::Fail(
                    Trouble::new(format!(
                        "{} may be taken by {name} only: its driver_override says so",
                        function.bdf.short()
                    ))
                    .seen(Source::file(path), name.clone())
                    .fix(fix),
                );
            }
            Seen::Unreadable(reason) => return unknown(reason, path),
            _ => {}
        }
    }
    Verdict::Pass
}

pub(super) fn in_use(facts: &Facts) -> Verdict {
    wanted(facts, |_, targets| {
        for target in targets {
            let (who, names) = match &target.card.holder {
                Holder::Unknown(why) if !target.held() => {
                    return unknown(&Reason::Other(why.clone()), format!("who uses {}", target.name()));
                }
                Holder::Host(names) if !names.is_empty() => ("processes of the host", names),
                Holder::Containers(names) => ("containers", names),
                Holder::Pods(names) => ("pods", names),
                _ => continue,
            };
            let fix = Fix {
                does: "let it be taken at the next boot, and end those before it".into(),
                paste: vec![format!("thruway host plan --give {}", target.card.identity.bdf.short())],
                costs: vec!["they lose the card".into(), "a reboot".into()],
                undo: "thruway undo".into(),
            };
            return Verdict::Warn(
                Trouble::new(format!("{} is meant for a VM and in use by {who}: {}", target.name(), names.join(", ")))
                    .seen(Source::Rule("open files of /proc/*/fd, and the engines' answers".into()), names.join(", "))
                    .fix(fix),
            );
        }
        Verdict::Pass
    })
}

pub(super) fn reset(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        for target in targets {
            let path = format!("/sys/bus/pci/devices/{}/reset_method", target.card.identity.bdf);
            let missing = match &target.card.reset {
                Seen::Is(methods) => methods.is_empty(),
                // The file came with Linux 5.15; before that its absence says nothing.
                Seen::Absent if facts.kernel.version().is_some_and(|version| version >= (5, 15)) => true,
                Seen::Absent => return unknown(&Reason::Other("this kernel has no reset_method".into()), path),
                Seen::Unreadable(reason) => return unknown(reason, path),
            };
            if missing {
                let fix = Fix {
                    does: "give all functions of the card, so that its whole slot can be reset; else plan a host reboot between two starts of the VM".into(),
                    paste: vec![format!("thruway host plan --give {}", target.card.identity.bdf.short())],
                    costs: Vec::new(),
                    undo: "thruway undo".into(),
                };
                return Verdict::Warn(
                    Trouble::new(format!(
                        "{} cannot be reset, so a VM may find it dead at its second start",
                        target.name()
                    ))
                    .seen(Source::file(path), "no reset method")
                    .fix(fix),
                );
            }
        }
        Verdict::Pass
    })
}
