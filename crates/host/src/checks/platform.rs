//! Firmware, chipset and slot: what makes a right configuration fail all the same.

use formats::kcmdline::Cmdline;
use gpu::Card;
use model::{Fix, PciId, Reason, Seen, Source, Trouble, Verdict};

use super::{unknown, wanted};
use crate::facts::{Facts, Target};

const GIB: u64 = 1 << 30;

fn sysfs(card: &Card, name: &str) -> Source {
    Source::file(format!("/sys/bus/pci/devices/{}/{name}", card.identity.bdf))
}

fn firmware(does: &str, undo: &str) -> Fix {
    Fix { does: does.into(), paste: vec![], costs: vec!["a reboot".into()], undo: undo.into() }
}

pub(super) fn igfx(facts: &Facts) -> Verdict {
    let line = match &facts.boot.effective.value {
        Seen::Is(line) => Cmdline::parse(line),
        Seen::Absent => return Verdict::NotApplicable,
        Seen::Unreadable(reason) => return unknown(reason, "/proc/cmdline"),
    };
    let integrated = facts.inventory.cards.iter().find(|card| card.identity.id.vendor == 0x8086);
    let Some(card) = integrated else { return Verdict::NotApplicable };
    if !line.has("intel_iommu=igfx_off") {
        return Verdict::Pass;
    }
    let fix = firmware("take igfx_off out of intel_iommu= on the kernel command line", "put it back");
    Verdict::Warn(
        Trouble::new(format!(
            "{} stands outside of the IOMMU, so it can never go to a VM and reads all memory",
            card.identity.bdf.short()
        ))
        .seen(Source::file("/proc/cmdline"), "intel_iommu=igfx_off")
        .fix(fix),
    )
}

pub(super) fn vmd(facts: &Facts) -> Verdict {
    if let Some(reason) = facts.inventory.looked.unreadable() {
        return unknown(reason, "the PCI devices");
    }
    if facts.inventory.cards.is_empty() {
        return Verdict::NotApplicable;
    }
    let Some(card) = facts.inventory.cards.iter().find(|card| card.identity.bdf.domain > 0xffff) else {
        return Verdict::Pass;
    };
    Verdict::Warn(
        Trouble::new(format!(
            "{} sits behind Intel's VMD, whose devices have no IOMMU group of their own",
            card.identity.bdf.short()
        ))
        .seen(sysfs(card, ""), format!("PCI domain {:x}", card.identity.bdf.domain))
        .fix(firmware(
            "switch VMD (\"RST\", \"RAID\") off for that slot in the firmware's set-up",
            "switch it on again",
        )),
    )
}

pub(super) fn width(facts: &Facts) -> Verdict {
    wanted(facts, |facts, _| {
        let iommu = &facts.platform.iommu_bits;
        let (bits, cpu) = match (&iommu.value, &facts.platform.cpu_bits) {
            (Seen::Is(bits), Seen::Is(cpu)) => (*bits, *cpu),
            (Seen::Unreadable(reason), _) => return unknown(reason, iommu.source.to_string()),
            (_, Seen::Unreadable(reason)) => return unknown(reason, "/proc/cpuinfo"),
            _ => return Verdict::NotApplicable,
        };
        if bits >= cpu {
            return Verdict::Pass;
        }
        let fix = Fix::by_hand(
            format!(
                "let the guest see no more address bits than the IOMMU has; on Proxmox VE: cpu: host,guest-phys-bits={bits}, with libvirt: <maxphysaddr mode='passthrough' limit='{bits}'/>"
            ),
            &[],
            "take the setting away again",
        );
        Verdict::Warn(
            Trouble::new(format!("the IOMMU maps {bits} address bits and the CPU has {cpu}: a guest that sees the CPU's puts the card's memory where the IOMMU cannot reach"))
                .seen(iommu.source.clone(), format!("{bits} bits"))
                .seen(Source::file("/proc/cpuinfo"), format!("{cpu} bits physical"))
                .fix(fix.costs("the VM must be stopped and started")),
        )
    })
}

/// Cards that need room above 4 GiB.
fn large<'t>(targets: &'t [Target<'_>]) -> Option<&'t Target<'t>> {
    targets.iter().find(|target| target.card.bars.iter().any(|bar| bar.size >= 4 * GIB))
}

pub(super) fn legacy(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| match &facts.platform.efi {
        Seen::Unreadable(reason) => unknown(reason, "/sys/firmware/efi"),
        Seen::Absent => Verdict::NotApplicable,
        Seen::Is(true) => Verdict::Pass,
        Seen::Is(false) => match large(targets) {
            // A small card works under either.
            None => Verdict::NotApplicable,
            Some(target) => Verdict::Warn(
                Trouble::new(format!(
                    "this host was booted as a legacy BIOS, whose firmware places the large memory of {} badly",
                    target.name()
                ))
                .seen(Source::file("/sys/firmware/efi"), "not there")
                .fix(firmware(
                    "install for UEFI, then switch CSM off and Above 4G Decoding on in the firmware's set-up",
                    "switch CSM on again",
                )),
            ),
        },
    })
}

pub(super) fn unassigned(facts: &Facts) -> Verdict {
    wanted(facts, |_, targets| {
        for target in targets {
            // Without a place a region begins at 0. Where all do, the addresses are hidden and say nothing.
            let placed = target.card.bars.iter().any(|bar| bar.start != 0);
            let homeless = |bar: &&gpu::Bar| bar.size == 0 || placed && bar.start == 0;
            let Some(bar) = target.card.bars.iter().find(homeless) else { continue };
            return Verdict::Fail(
                Trouble::new(format!(
                    "the firmware and the kernel found no room for memory region {} of {}",
                    bar.index,
                    target.name()
                ))
                .seen(sysfs(target.card, "resource"), format!("line {} has no address", bar.index + 1))
                .fix(firmware(
                    "switch Above 4G Decoding on in the firmware's set-up; where there is no such option, pci=realloc on the kernel command line",
                    "switch it off, or take the token away",
                )),
            );
        }
        Verdict::Pass
    })
}

pub(super) fn size(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        let mut any = false;
        for target in targets {
            let Some(state) = facts.platform.cards.get(&target.card.identity.bdf) else { continue };
            for bar in &target.card.bars {
                let Some(sizes) = state.sizes.get(&bar.index).filter(|_| bar.size > 0) else { continue };
                any = true;
                let bit = bar.size.ilog2().checked_sub(20);
                if bit.is_some_and(|bit| sizes >> bit.min(63) & 1 == 1) {
                    continue;
                }
                return Verdict::Warn(
                    Trouble::new(format!(
                        "memory region {} of {} has a size that the card does not offer, and a guest's driver will not take it",
                        bar.index,
                        target.name()
                    ))
                    .seen(sysfs(target.card, &format!("resource{}_resize", bar.index)), format!("{sizes:#x}"))
                    .seen(sysfs(target.card, "resource"), format!("{} MiB", bar.size >> 20))
                    .fix(firmware("set Resizable BAR anew in the firmware's set-up: off, or on with a reset of its settings", "set it as it was")),
                );
            }
        }
        if any { Verdict::Pass } else { Verdict::NotApplicable }
    })
}

pub(super) fn noiommu(facts: &Facts) -> Verdict {
    let fact = &facts.platform.noiommu;
    match &fact.value {
        Seen::Absent => Verdict::NotApplicable,
        Seen::Unreadable(reason) => unknown(reason, fact.source.to_string()),
        Seen::Is(value) if value != "Y" && value != "1" => Verdict::Pass,
        Seen::Is(value) => Verdict::Fail(
            Trouble::new("vfio runs without an IOMMU: whoever opens a device may read and write all memory of this host")
                .seen(fact.source.clone(), value.clone())
                .fix(firmware("take enable_unsafe_noiommu_mode away from modprobe.d and the kernel command line: thruway host plan --clean", "thruway undo")),
        ),
    }
}

pub(super) fn relaxed(facts: &Facts) -> Verdict {
    match &facts.boot.effective.value {
        Seen::Unreadable(reason) => unknown(reason, "/proc/cmdline"),
        Seen::Absent => Verdict::NotApplicable,
        Seen::Is(line) if !Cmdline::parse(line).has("intel_iommu=relax_rmrr") => Verdict::Pass,
        Seen::Is(_) => Verdict::Warn(
            Trouble::new("memory that the firmware keeps for its own access to a device is given away with the device")
                .seen(Source::file("/proc/cmdline"), "intel_iommu=relax_rmrr")
                .fix(firmware(
                    "update the firmware, and take relax_rmrr away once the kernel gives the card without it",
                    "put it back",
                )),
        ),
    }
}

pub(super) fn power(facts: &Facts) -> Verdict {
    wanted(facts, |_, targets| {
        for target in targets {
            let dead = match &target.card.power {
                Seen::Unreadable(reason) => return unknown(reason, format!("the power state of {}", target.name())),
                // "unknown" is what a function without power management says, too: no sign of death.
                Seen::Is(state) => state == "error" || target.card.revision == 0xff,
                Seen::Absent => target.card.revision == 0xff,
            };
            if dead {
                let state = target.card.power.get().map_or("", String::as_str);
                return Verdict::Fail(
                    Trouble::new(format!("{} does not answer: it did not come back from its sleep", target.name()))
                        .seen(sysfs(target.card, "power_state"), state)
                        .seen(sysfs(target.card, "revision"), format!("{:#04x}", target.card.revision))
                        .fix(Fix {
                            does: "switch the machine off at the mains for a minute; then keep the card and the port above it from sleeping (d3cold_allowed 0, vfio-pci.disable_idle_d3=1)".into(),
                            paste: vec![],
                            costs: vec!["an outage of this machine".into()],
                            undo: "let it sleep again".into(),
                        }),
                );
            }
        }
        Verdict::Pass
    })
}

/// Cards that do not come back from a reset, by vendor and device number, ends included.
const STUCK: [(PciId, u16, &str, &str); 7] = [
    (PciId::new(PciId::NVIDIA, 0x2b80), 0x2bff, "GB202", "open-gpu-kernel-modules issues 853 and 1353"),
    (PciId::new(PciId::NVIDIA, 0x2c00), 0x2c7f, "GB203", "open-gpu-kernel-modules issues 853 and 1353"),
    (PciId::new(PciId::NVIDIA, 0x2f00), 0x2f7f, "GB205", "open-gpu-kernel-modules issues 853 and 1353"),
    (PciId::new(0x1002, 0x6860), 0x687f, "Vega 10", "gnif/vendor-reset"),
    (PciId::new(0x1002, 0x66a0), 0x66af, "Vega 20", "gnif/vendor-reset"),
    (PciId::new(0x1002, 0x7310), 0x731f, "Navi 10", "gnif/vendor-reset"),
    (PciId::new(0x1002, 0x7340), 0x734f, "Navi 14", "gnif/vendor-reset"),
];

pub(super) fn reset_bug(facts: &Facts) -> Verdict {
    wanted(facts, |_, targets| {
        for target in targets {
            let id = target.card.identity.id;
            let stuck = STUCK
                .iter()
                .find(|(first, last, ..)| first.vendor == id.vendor && (first.device..=*last).contains(&id.device));
            let Some((_, _, chip, source)) = stuck else { continue };
            return Verdict::Warn(
                Trouble::new(format!("{} is of a kind ({chip}) that may not come back when a VM ends", target.name()))
                    .seen(sysfs(target.card, "device"), id.to_string())
                    .seen(Source::Rule((*source).into()), chip.to_string())
                    .fix(Fix {
                        does: "shut the guest down from inside, never by force, and keep the card's firmware and this kernel up to date; a card that is stuck needs a reboot of this host".into(),
                        paste: vec![],
                        costs: vec![],
                        undo: "nothing is changed".into(),
                    }),
            );
        }
        Verdict::Pass
    })
}

pub(super) fn vgpu(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        for target in targets {
            let state = facts.platform.cards.get(&target.card.identity.bdf);
            let Some(source) = state.and_then(|state| state.vgpu.as_ref()).filter(|_| !target.held()) else { continue };
            return Verdict::Warn(
                Trouble::new(format!(
                    "{} is set up to be shared out (vGPU), not to be given as a whole",
                    target.name()
                ))
                .seen(source.clone(), "there")
                .fix(Fix {
                    does: "give one of its shares to the VM (mdev or a virtual function), or end the sharing first"
                        .into(),
                    paste: vec![],
                    costs: vec!["VMs with a share lose it".into()],
                    undo: "set the sharing up again".into(),
                }),
            );
        }
        Verdict::Pass
    })
}

pub(super) fn link(facts: &Facts) -> Verdict {
    wanted(facts, |_, targets| {
        let mut any = false;
        let mut blind: Option<(Reason, String)> = None;
        for target in targets {
            let link = match &target.card.link {
                Seen::Is(link) => link,
                Seen::Unreadable(reason) => {
                    blind = Some((reason.clone(), format!("the link of {}", target.name())));
                    continue;
                }
                Seen::Absent => continue,
            };
            any = true;
            // An idle card lowers its speed, never its lanes.
            if link.now.lanes > 0 && link.now.lanes < link.max.lanes {
                return Verdict::Warn(
                    Trouble::new(format!(
                        "{} has {} of its {} lanes: a narrow slot, a riser, or a bad seat",
                        target.name(),
                        link.now.lanes,
                        link.max.lanes
                    ))
                    .seen(sysfs(target.card, "current_link_width"), link.now.lanes.to_string())
                    .seen(sysfs(target.card, "max_link_width"), link.max.lanes.to_string())
                    .fix(Fix {
                        does: "seat the card anew, or put it into a slot with all lanes; where the board has no other, live with it".into(),
                        paste: vec![],
                        costs: vec!["the machine is off meanwhile".into(), "addresses may change".into()],
                        undo: "move it back".into(),
                    }),
                );
            }
        }
        match blind {
            Some((reason, what)) => unknown(&reason, what),
            None if any => Verdict::Pass,
            None => Verdict::NotApplicable,
        }
    })
}

/// Some are normal after a boot; this many since then are a cable's, a riser's or a slot's.
const MANY: u64 = 1000;

pub(super) fn errors(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        let mut any = false;
        for target in targets {
            let Some(state) = facts.platform.cards.get(&target.card.identity.bdf) else { continue };
            any |= state.corrected.is_there() || state.fatal.is_there();
            let corrected = state.corrected.get().copied().filter(|count| *count > MANY);
            let fatal = state.fatal.get().copied().filter(|count| *count > 0);
            let (count, kind, file) = match (fatal, corrected) {
                (Some(count), _) => (count, "fatal", "aer_dev_fatal"),
                (None, Some(count)) => (count, "corrected", "aer_dev_correctable"),
                (None, None) => continue,
            };
            return Verdict::Warn(
                Trouble::new(format!("{} has had {count} {kind} errors on its link since the boot", target.name()))
                    .seen(sysfs(target.card, file), count.to_string())
                    .fix(Fix {
                        does:
                            "seat the card and its riser anew; if they go on, pcie_aspm=off on the kernel command line"
                                .into(),
                        paste: vec![],
                        costs: vec!["the machine is off meanwhile".into()],
                        undo: "take the token away".into(),
                    }),
            );
        }
        if any { Verdict::Pass } else { Verdict::NotApplicable }
    })
}
