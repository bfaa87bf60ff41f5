//! From a written line to a running kernel: lists, initramfs, command line, and what old guides left.

use formats::kcmdline::{Cmdline, same_name};
use model::{Fix, Seen, Source, Trouble, Verdict};

use super::{plan_command, unknown};
use crate::facts::{Facts, InitTool, is_module};
use crate::plan::place;

pub(super) fn virqfd(facts: &Facts) -> Verdict {
    let vfio: Vec<_> = facts.conf.listed.iter().filter(|l| l.module.starts_with("vfio")).collect();
    if vfio.is_empty() {
        return match &facts.conf.blind {
            Some((path, reason)) => unknown(reason, path),
            None => Verdict::NotApplicable,
        };
    }
    let modules = match &facts.kernel.modules {
        Seen::Is(modules) => modules,
        Seen::Absent => return Verdict::NotApplicable,
        Seen::Unreadable(reason) => return unknown(reason, "modules.dep of the running kernel"),
    };
    let here = |name: &str| modules.contains(&name.replace('-', "_")) || facts.kernel.is_builtin(name);
    let Some(gone) = vfio.into_iter().find(|listed| !here(&listed.module)) else { return Verdict::Pass };
    let release = facts.kernel.release.get().map_or("", String::as_str);
    let mut trouble =
        Trouble::new(format!("{} is to be loaded at boot, and kernel {release} has no such module", gone.module))
            .seen(gone.source.clone(), gone.module.clone());
    if let Source::File { path, line: Some(line) } = &gone.source {
        let paste = format!("sed -i '{line}s/^/#/' {path}");
        trouble = trouble.fix(Fix::by_hand("comment the line out", &[&paste], "take the # away again"));
    }
    Verdict::Warn(trouble)
}

pub(super) fn stale(facts: &Facts) -> Verdict {
    let relevant: Vec<&(String, i64)> =
        facts.initramfs.inputs.iter().filter(|(path, _)| matters(facts, path)).collect();
    if relevant.is_empty() {
        return Verdict::NotApplicable;
    }
    let (image, made) = match &facts.initramfs.image {
        Seen::Is(image) => image,
        Seen::Absent => return Verdict::NotApplicable,
        Seen::Unreadable(reason) => return unknown(reason, "the initramfs of the running kernel"),
    };
    // 0 is "not recorded".
    if *made == 0 {
        let reason = model::Reason::NotCaptured;
        return unknown(&reason, format!("when {image} was made"));
    }
    let Some((path, _)) = relevant.iter().find(|(_, time)| *time > *made) else { return Verdict::Pass };
    let command = match facts.initramfs.tool {
        Some(InitTool::Dracut) => "dracut --regenerate-all --force",
        Some(InitTool::Mkinitcpio) => "mkinitcpio -P",
        Some(InitTool::Booster) => "/usr/lib/booster/regenerate_images",
        Some(InitTool::Ostree) => "rpm-ostree initramfs --enable",
        _ => "update-initramfs -u -k all",
    };
    Verdict::Warn(
        Trouble::new(format!("the early boot does not know {path}: it is newer than the initramfs"))
            .seen(Source::file(path.clone()), "changed later")
            .seen(Source::file(image.clone()), "made earlier")
            .fix(
                Fix::by_hand("make the initramfs again", &[command], "restore the file and run it again")
                    .costs("a reboot"),
            ),
    )
}

/// Files that say something of vfio or of a display driver.
fn matters(facts: &Facts, path: &str) -> bool {
    const DRIVERS: [&str; 6] = ["nouveau", "nvidia", "nvidiafb", "amdgpu", "radeon", "snd_hda_intel"];
    let of = |source: &Source| matches!(source, Source::File { path: p, .. } if p == path);
    path.contains("vfio")
        || facts.conf.modprobe.iter().any(|line| {
            of(&line.source)
                && (line.module.starts_with("vfio") || DRIVERS.iter().any(|driver| is_module(&line.module, driver)))
        })
        || facts.conf.listed.iter().any(|l| of(&l.source) && l.module.starts_with("vfio"))
}

/// Parameters of which we say whether they are in effect.
fn speaks(name: &str) -> bool {
    [
        "iommu",
        "intel_iommu",
        "amd_iommu",
        "intremap",
        "pcie_acs_override",
        "initcall_blacklist",
        "modprobe.blacklist",
        "module_blacklist",
    ]
    .iter()
    .any(|known| same_name(name, known))
        || name.starts_with("vfio")
}

pub(super) fn edits(facts: &Facts) -> Verdict {
    let effective = match &facts.boot.effective.value {
        Seen::Is(line) => Cmdline::parse(line),
        // A tree that does not run has nothing in effect.
        Seen::Absent => return Verdict::NotApplicable,
        Seen::Unreadable(reason) => return unknown(reason, "/proc/cmdline"),
    };
    if let Seen::Unreadable(reason) = &facts.boot.written.value {
        return unknown(reason, facts.boot.written.source.to_string());
    }
    let raw = |line: &Cmdline| -> Vec<String> {
        line.tokens().filter(|token| speaks(&token.name)).map(|token| line.raw(token).to_owned()).collect()
    };
    let written = Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
    let loader = facts.boot.loader;
    let mut any = !raw(&written).is_empty();
    if let Some(token) = raw(&written).into_iter().find(|token| !effective.has(token)) {
        let source = place(facts, &token);
        let generated = facts.boot.generated.get();
        let staged = generated.and_then(|entries| entries.iter().find(|e| Cmdline::parse(&e.text).has(&token)));
        let (says, fix) = match (staged, generated) {
            (Some(_), _) => (
                format!("{token} is written and generated, and takes effect at the next boot"),
                Fix::by_hand("let it take effect", &["reboot"], "take the token away"),
            ),
            (None, Some(_)) => (
                format!("{token} is written, and what {} will boot was not made again", loader.words()),
                Fix::by_hand(
                    "make it again",
                    &[&loader.generator(&facts.boot.mkconfig)],
                    "take the token away and run it again",
                ),
            ),
            (None, None) => (
                format!("{token} is written and not in effect; whether {} knows it cannot be seen", loader.words()),
                Fix::by_hand(
                    "copy it to the boot partitions",
                    &[&loader.generator(&facts.boot.mkconfig)],
                    "take the token away and run it again",
                ),
            ),
        };
        let trouble = Trouble::new(says).seen(source, token).seen(Source::file("/proc/cmdline"), effective.to_string());
        return Verdict::Warn(trouble.fix(fix.costs("a reboot")));
    }
    // In a file that this loader does not read, or in a piece that a later file replaces.
    let lost = facts.boot.pieces.iter().map(|piece| (piece, true)).chain(facts.boot.unread.iter().map(|p| (p, false)));
    for (piece, read) in lost {
        for token in raw(&Cmdline::parse(&piece.text)) {
            any = true;
            if effective.has(&token) || written.has(&token) {
                continue;
            }
            let says = if read {
                format!("{token} is written and has no effect: a later file replaces that line")
            } else {
                let reads = loader.reads().unwrap_or("no file that thruway knows");
                format!(
                    "{token} is written where nobody reads it: this host is booted by {}, from {reads}",
                    loader.words()
                )
            };
            let mut trouble = Trouble::new(says).seen(piece.source.clone(), piece.text.clone());
            trouble = trouble.seen(
                if read { facts.boot.written.source.clone() } else { facts.boot.loader_source.clone() },
                loader.words(),
            );
            let trouble = trouble.seen(Source::file("/proc/cmdline"), effective.to_string());
            let fix =
                Fix::planned("write what this host needs to the file that is read", plan_command(&facts.targets()));
            return Verdict::Warn(trouble.fix(fix.costs("a reboot")));
        }
    }
    if any { Verdict::Pass } else { Verdict::NotApplicable }
}

pub(super) fn cruft(facts: &Facts) -> Verdict {
    if let Seen::Unreadable(reason) = &facts.boot.effective.value {
        return unknown(reason, "/proc/cmdline");
    }
    let found = crate::cruft::find(facts);
    if found.is_empty() {
        return match &facts.conf.blind {
            Some((path, reason)) => unknown(reason, path),
            None => Verdict::Pass,
        };
    }
    let names: Vec<&str> = found.iter().map(|leftover| leftover.what.as_str()).collect();
    let mut trouble =
        Trouble::new(format!("settings of old guides are left that help nothing here: {}", names.join(", ")));
    for leftover in &found {
        let value = format!("{} ({}): {}", leftover.what, leftover.weight.word(), leftover.why);
        trouble = trouble.seen(leftover.source.clone(), value);
    }
    let fix = Fix::planned("take them away, each where it stands; nothing waits for it", "thruway host plan --clean");
    Verdict::Warn(trouble.fix(fix.costs("a reboot, whenever one comes")))
}
