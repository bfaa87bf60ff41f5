//! The IOMMU itself: offered, running, remapping interrupts.

use formats::kcmdline::Cmdline;
use model::{Fix, Seen, Source, Trouble, Verdict};

use super::{plan_command, unknown};
use crate::facts::{Facts, is_module};

const UNITS: &str = "/sys/class/iommu";
const TABLES: &str = "/sys/firmware/acpi/tables";

/// Without a card that is meant for a VM nobody misses an IOMMU.
fn needless(facts: &Facts) -> bool {
    facts.inventory.looked.is_there() && facts.wanted.is_empty()
}

pub(super) fn firmware(facts: &Facts) -> Verdict {
    if needless(facts) {
        return Verdict::NotApplicable;
    }
    match (facts.iommu.on(), &facts.iommu.table) {
        (Seen::Is(true), _) | (_, Seen::Is(_)) => Verdict::Pass,
        (Seen::Unreadable(reason), _) => unknown(&reason, UNITS),
        (_, Seen::Unreadable(reason)) => unknown(reason, TABLES),
        _ => {
            let name = match facts.kernel.cpu_vendor.get().map(String::as_str) {
                Some("GenuineIntel") => "VT-d",
                Some("AuthenticAMD") => "AMD-Vi (often just \"IOMMU\")",
                _ => "VT-d or AMD-Vi",
            };
            let fix = Fix {
                does: format!("switch {name} on in the firmware's set-up; only a human at the machine can"),
                paste: Vec::new(),
                costs: vec!["a reboot".into()],
                undo: "switch it off again".into(),
            };
            Verdict::Fail(
                Trouble::new(format!("the firmware offers no IOMMU: {name} is switched off, or the board has none"))
                    .seen(Source::file(UNITS), "empty")
                    .seen(Source::file(TABLES), "neither DMAR nor IVRS")
                    .fix(fix),
            )
        }
    }
}

pub(super) fn kernel(facts: &Facts) -> Verdict {
    if needless(facts) {
        return Verdict::NotApplicable;
    }
    match (facts.iommu.on(), &facts.iommu.table) {
        (Seen::Is(true), _) => Verdict::Pass,
        (Seen::Unreadable(reason), _) => unknown(&reason, UNITS),
        (_, Seen::Unreadable(reason)) => unknown(reason, TABLES),
        (_, Seen::Absent) => Verdict::NotApplicable,
        (_, Seen::Is(table)) => {
            let line = facts.boot.effective.get().cloned().unwrap_or_default();
            let now = Cmdline::parse(&line);
            let off = ["iommu=off", "intel_iommu=off", "amd_iommu=off"].into_iter().find(|token| now.has(token));
            let why = match off {
                Some(token) => format!(": {token} on the kernel command line switches it off"),
                None if table == "DMAR" && !now.has("intel_iommu=on") => {
                    ": this kernel wants intel_iommu=on and was not given it".into()
                }
                None => String::new(),
            };
            let fix = Fix::planned(
                "put right the kernel command line that this boot loader uses",
                plan_command(&facts.targets()),
            );
            Verdict::Fail(
                Trouble::new(format!("the firmware offers an IOMMU ({table}) and the kernel does not run it{why}"))
                    .seen(Source::file(UNITS), "empty")
                    .seen(Source::file("/proc/cmdline"), line)
                    .fix(fix.costs("a reboot")),
            )
        }
    }
}

pub(super) fn remapping(facts: &Facts) -> Verdict {
    let remaps = &facts.iommu.remaps;
    match &remaps.value {
        _ if needless(facts) => Verdict::NotApplicable,
        Seen::Is(true) => Verdict::Pass,
        Seen::Absent => Verdict::NotApplicable,
        Seen::Unreadable(reason) => unknown(reason, "whether interrupts are remapped"),
        Seen::Is(false) => {
            let line = Cmdline::parse(facts.boot.effective.get().map_or("", String::as_str));
            let off = line.has("intremap=off") || line.has("nointremap");
            let does = if off {
                "take intremap=off from the kernel command line"
            } else {
                "update the firmware; some boards switch remapping off with their x2APIC option"
            };
            let fix =
                Fix { does: does.into(), paste: vec![], costs: vec!["a reboot".into()], undo: "put it back".into() };
            Verdict::Fail(
                Trouble::new("interrupts are not remapped, so the kernel refuses to give a device to a VM")
                    .seen(remaps.source.clone(), "no interrupt remapping")
                    .fix(fix),
            )
        }
    }
}

pub(super) fn unsafe_interrupts(facts: &Facts) -> Verdict {
    let line = facts.conf.modprobe.iter().find(|line| {
        line.verb == "options"
            && is_module(&line.module, "vfio_iommu_type1")
            && line
                .args
                .iter()
                .any(|arg| matches!(arg.as_str(), "allow_unsafe_interrupts=1" | "allow_unsafe_interrupts=Y"))
    });
    let now = facts.iommu.unsafe_now.get().is_some_and(|value| value == "Y" || value == "1");
    let cmdline = Cmdline::parse(facts.boot.effective.get().map_or("", String::as_str));
    let told = matches!(cmdline.last("vfio_iommu_type1.allow_unsafe_interrupts"), Some("1" | "Y" | "y"));
    if line.is_none() && !now && !told {
        if let Some((path, reason)) = &facts.conf.blind {
            return unknown(reason, path);
        }
        return if needless(facts) { Verdict::NotApplicable } else { Verdict::Pass };
    }
    match &facts.iommu.remaps.value {
        // There it is the only way, and host/intremap-missing speaks of it.
        Seen::Is(false) => Verdict::NotApplicable,
        Seen::Unreadable(reason) => unknown(reason, "whether interrupts are remapped"),
        Seen::Is(true) | Seen::Absent => {
            let says = "a guest may inject interrupts into this host: allow_unsafe_interrupts is set, and the platform does not need it";
            let mut trouble = Trouble::new(says);
            if let Some(line) = line {
                trouble = trouble.seen(line.source.clone(), format!("options {} {}", line.module, line.args.join(" ")));
                if let Source::File { path, line: Some(number) } = &line.source {
                    let paste = format!("sed -i '{number}s/^/#/' {path}");
                    let fix = Fix::by_hand(
                        "comment the line out",
                        &[&paste, "update-initramfs -u -k all"],
                        "take the # away again",
                    );
                    trouble = trouble.fix(fix.costs("a reboot"));
                }
            }
            if now {
                trouble = trouble.seen(facts.iommu.unsafe_now.source.clone(), "Y");
            }
            if told {
                trouble = trouble.seen(Source::file("/proc/cmdline"), "vfio_iommu_type1.allow_unsafe_interrupts=1");
            }
            Verdict::Warn(trouble)
        }
    }
}
