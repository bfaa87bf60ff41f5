//! Is the card well, by its own word? What NVML tells of its memory, its clocks, its link, and what it asks for.

use gpu::Card;
use machine::nvml::{NvmlGpu, NvmlHealth, reasons};
use model::{About, Check, CheckId, Fix, Layer, Reason, Seen, Source, Trouble, Verdict};

use super::{not_here, unknown};
use crate::Facts;

const NVML: &str = "NVML";

/// Goes over the cards that NVML tells of: the first trouble is told. A report that is older than the question (a capture
/// made before it was asked) tells nothing, and neither does a card that is not the driver's.
fn each(facts: &Facts, judge: fn(&Card, &NvmlGpu, &NvmlHealth) -> Option<Verdict>) -> Verdict {
    if let Some(verdict) = not_here(facts) {
        return verdict;
    }
    let mut looked = None;
    for card in facts.usable() {
        let Some(gpu) = &card.nvml else { continue };
        match &gpu.health {
            Seen::Is(health) => match judge(card, gpu, health) {
                Some(Verdict::Pass) => looked = Some(looked.unwrap_or(Verdict::Pass)),
                Some(verdict @ Verdict::Unknown { .. }) => looked = Some(verdict),
                Some(verdict) => return verdict,
                None => {}
            },
            Seen::Absent | Seen::Unreadable(Reason::NotCaptured) => {}
            Seen::Unreadable(reason) => looked = Some(unknown(reason, format!("the health of {}", name(card)))),
        }
    }
    looked.unwrap_or(Verdict::NotApplicable)
}

fn name(card: &Card) -> String {
    format!("{} ({})", card.identity.bdf.short(), card.short_name())
}

fn nvml() -> Source {
    Source::Answer(NVML.into())
}

fn reset(gpu: &NvmlGpu, does: &str) -> Fix {
    let id = gpu.bus_id.get().cloned().unwrap_or_else(|| gpu.index.to_string());
    let line = format!("sudo nvidia-smi --gpu-reset -i {id}");
    Fix::by_hand(does, &["thruway gpus", &line], "nothing to take back").costs(
        "everything that uses the card must be stopped first; where the card cannot be reset alone, a reboot of this machine",
    )
}

/// What a row says of one seen value: nothing, all well, or the trouble.
fn flag(seen: &Seen<bool>, trouble: impl FnOnce() -> Verdict) -> Option<Verdict> {
    match seen {
        Seen::Is(true) => Some(trouble()),
        Seen::Is(false) => Some(Verdict::Pass),
        Seen::Absent => None,
        Seen::Unreadable(reason) => Some(unknown(reason, "what NVML says of the card's memory")),
    }
}

pub const RECOVERY: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/gpu-recovery"),
        layer: Layer::Guest,
        title: "no card has fallen off the bus or asks to be recovered",
        why: "A card that fell off the bus (Xid 79) answers nothing until the machine is rebooted: \"GPU is lost. Reboot the \
              system to recover this GPU\". After other faults the driver itself says what brings the card back: a reset, \
              a reboot, or that its work should be drained first. Until then new work fails or is at risk.",
        source: "NVML: NVML_ERROR_GPU_IS_LOST, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION; NVIDIA's Xid catalogue, 154",
    },
    run: |facts| {
        // A lost card has no health to tell; that it is lost is the trouble itself.
        for card in facts.usable() {
            let Some(reason) = card.nvml.as_ref().and_then(|gpu| gpu.name.unreadable()) else { continue };
            let words = reason.to_string();
            if words.contains("off the bus") || words.contains("hangs at this GPU") || words.contains("must be reset") {
                let lines = ["sudo dmesg | grep -iE 'nvrm|xid'", "sudo reboot"];
                return Verdict::Fail(
                    Trouble::new(format!("{} does not answer: {words}", name(card))).seen(nvml(), words).fix(
                        Fix::by_hand(
                            "read what the kernel saw, then reboot; if it comes back: power, riser, heat",
                            &lines,
                            "nothing to take back",
                        )
                        .costs("an outage of this machine"),
                    ),
                );
            }
        }
        each(facts, |card, gpu, health| match &health.recovery {
            Seen::Is(action) if action == "None" => Some(Verdict::Pass),
            Seen::Is(action) => {
                let trouble = Trouble::new(format!("the driver says that {} must be recovered: {action}", name(card)));
                let trouble = trouble.seen(nvml(), format!("GPU recovery action: {action}"));
                Some(Verdict::Fail(if action.contains("Reboot") {
                    trouble.fix(
                        Fix::by_hand("reboot", &["sudo reboot"], "nothing to take back")
                            .costs("an outage of this machine"),
                    )
                } else {
                    trouble.fix(reset(gpu, "stop what uses the card, and reset it"))
                }))
            }
            Seen::Absent => None,
            Seen::Unreadable(reason) => Some(unknown(reason, "what NVML says of the card's recovery")),
        })
    },
};

pub const REPAIR: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/memory-repair"),
        layer: Layer::Guest,
        title: "no row or page of the cards' memory waits to be taken out of use",
        why: "A card replaces a bad row of its memory by a spare one (row remapping; before Ampere it retires the page), but \
              only at its next reset: until then programs may meet the bad row again, and end with \"uncorrectable ECC error \
              encountered\" or Xid 48, 63, 94. Where the remapping failed there is no spare row left: the card is to be replaced.",
        source: "NVIDIA's GPU memory error management; NVML: nvmlDeviceGetRemappedRows, nvmlDeviceGetRetiredPagesPendingStatus",
    },
    run: |facts| {
        each(facts, |card, gpu, health| {
            if health.remapped_failed.get() == Some(&true) {
                let lines = ["thruway gpus -v"];
                return Some(Verdict::Fail(
                    Trouble::new(format!("{} could not replace a bad row of its memory: no spare is left", name(card)))
                        .seen(nvml(), "row remapping failed")
                        .fix(
                            Fix::by_hand(
                                "have the card replaced (RMA); its banks are shown here",
                                &lines,
                                "nothing is changed",
                            )
                            .costs("until then: uncorrectable memory errors"),
                        ),
                ));
            }
            let pending = |what: &str| {
                let says = format!(
                    "{} has bad memory that is taken out of use at its next reset only ({what} pending)",
                    name(card)
                );
                Verdict::Warn(
                    Trouble::new(says)
                        .seen(nvml(), format!("{what} pending"))
                        .fix(reset(gpu, "reset the card when nobody uses it")),
                )
            };
            let rows = flag(&health.remapped_pending, || pending("row remapping"));
            let pages = flag(&health.retired_pending, || pending("page retirement"));
            match (rows, pages) {
                (Some(verdict @ (Verdict::Warn(_) | Verdict::Unknown { .. })), _) => Some(verdict),
                (rows, pages) => pages.or(rows),
            }
        })
    },
};

pub const ECC: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/ecc-uncorrected"),
        layer: Layer::Guest,
        title: "no uncorrectable memory error since the driver was loaded",
        why: "An error that ECC cannot correct ends the program that meets it (\"CUDA error: uncorrectable ECC error \
              encountered\", Xid 48, 94 or 95), and may have spoilt results before. One is an accident; several in a short time \
              are a card that is failing.",
        source: "NVML: nvmlDeviceGetTotalEccErrors, volatile",
    },
    run: |facts| {
        each(facts, |card, gpu, _| match &gpu.ecc_uncorrected_volatile {
            Seen::Is(0) => Some(Verdict::Pass),
            Seen::Is(count) => Some(Verdict::Warn(
                Trouble::new(format!(
                    "{} met {count} uncorrectable memory error(s) since the driver was loaded",
                    name(card)
                ))
                .seen(nvml(), format!("{count} uncorrected"))
                .fix(reset(gpu, "look at its rows (gpus -v), and reset it when nobody uses it")),
            )),
            Seen::Absent => None,
            Seen::Unreadable(reason) => Some(unknown(reason, "the count of memory errors")),
        })
    },
};

pub const CLOCKS: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/clocks-held"),
        layer: Layer::Guest,
        title: "no card holds its clocks down for heat or for want of power",
        why: "A card that is too hot, or whose power supply tells it to brake, halves its clocks or worse: everything runs, and \
              slowly. Idleness and the power limit under full load are no faults and are not meant here.",
        source: "NVML: nvmlDeviceGetCurrentClocksEventReasons",
    },
    run: |facts| {
        each(facts, |card, gpu, health| {
            let bits = match &health.event_reasons {
                Seen::Is(bits) => *bits,
                Seen::Absent => return None,
                Seen::Unreadable(reason) => return Some(unknown(reason, "why the clocks are what they are")),
            };
            let all = [
                (reasons::HW_THERMAL, "heat (HW Thermal Slowdown)"),
                (reasons::SW_THERMAL, "heat (SW Thermal Slowdown)"),
                (reasons::HW_POWER_BRAKE, "the power supply's brake (HW Power Brake)"),
                (reasons::HW_SLOWDOWN, "its hardware (HW Slowdown)"),
            ];
            let Some((_, by)) = all.iter().find(|(bit, _)| bits & bit != 0) else { return Some(Verdict::Pass) };
            let heat = gpu.temperature.get().map(|heat| format!(" at {heat} °C")).unwrap_or_default();
            let lines = ["thruway gpus --watch"];
            Some(Verdict::Warn(
                Trouble::new(format!("{} holds its clocks down{heat}: {by}", name(card)))
                    .seen(nvml(), format!("clocks event reasons 0x{bits:x}"))
                    .fix(Fix::by_hand(
                        "watch it, then look at air flow, fans, and the card's power cables",
                        &lines,
                        "nothing is changed",
                    )),
            ))
        })
    },
};

pub const LINK: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/link-degraded"),
        layer: Layer::Guest,
        title: "a card at work has the PCIe link that it and its slot can do",
        why: "A card that sits badly, or on a worn riser, trains its link with fewer lanes or a lower generation: copies to and \
              from it take twice as long or worse. An idle card goes down to generation 1 of itself, so that only one at work is \
              judged.",
        source: "NVML: nvmlDeviceGetCurrPcieLinkWidth, nvmlDeviceGetMaxPcieLinkWidth and their generations",
    },
    run: |facts| {
        // A guest sees what the card could do, and not what the slot on the host has.
        if facts.vm.get() == Some(&true) {
            return Verdict::NotApplicable;
        }
        each(facts, |card, gpu, _| {
            let busy = gpu.utilization_gpu.get().is_some_and(|use_of| *use_of > 0);
            let (Seen::Is(width), Seen::Is(most)) = (&gpu.pcie_width_current, &gpu.pcie_width_max) else { return None };
            let generation = (gpu.pcie_gen_current.get(), gpu.pcie_gen_max.get());
            if !busy {
                return None;
            }
            let slow = matches!(generation, (Some(now), Some(max)) if now < max);
            if width >= most && !slow {
                return Some(Verdict::Pass);
            }
            let text = |generation: Option<&u32>, lanes: u32| match generation {
                Some(generation) => format!("generation {generation} x{lanes}"),
                None => format!("x{lanes}"),
            };
            let (now, could) = (text(generation.0, *width), text(generation.1, *most));
            let lines =
                ["sudo lspci -vv -s BDF | grep -E 'LnkCap|LnkSta'".replace("BDF", &card.identity.bdf.to_string())];
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            Some(Verdict::Warn(
                Trouble::new(format!("{} works over PCIe {now}, and could over {could}", name(card)))
                    .seen(nvml(), format!("link {now} of {could}"))
                    .fix(Fix::by_hand(
                        "see what the slot has; then reseat the card, or replace the riser (in a VM: on the host)",
                        &lines,
                        "nothing is changed",
                    )),
            ))
        })
    },
};

pub const MIG: Check<Facts> = Check {
    about: About {
        id: CheckId("guest/mig-pending"),
        layer: Layer::Guest,
        title: "MIG is as it was set",
        why: "Turning MIG on or off takes effect at the card's next reset (before Hopper): until then \"Warning: MIG mode is in \
              pending enable state\", no instance can be made, and device plugins see whole cards.",
        source: "NVIDIA's MIG user guide; NVML: nvmlDeviceGetMigMode",
    },
    run: |facts| {
        each(facts, |card, gpu, health| {
            let (Seen::Is(now), Seen::Is(then)) = (&gpu.mig_enabled, &health.mig_pending) else { return None };
            if now == then {
                return Some(Verdict::Pass);
            }
            let mode = |on: &bool| if *on { "on" } else { "off" };
            Some(Verdict::Warn(
                Trouble::new(format!(
                    "MIG of {} was turned {} and is still {} until the card is reset",
                    name(card),
                    mode(then),
                    mode(now)
                ))
                .seen(nvml(), format!("current {}, pending {}", mode(now), mode(then)))
                .fix(reset(gpu, "reset the card")),
            ))
        })
    },
};
