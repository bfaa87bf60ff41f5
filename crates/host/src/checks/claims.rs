//! Claims on a card that do not reach the kernel, or reach more than they should.

use formats::kcmdline::Cmdline;
use formats::shellvars::ShellVars;
use model::{Fix, Seen, Source, Trouble, Verdict};

use super::{plan_command, unknown, wanted};
use crate::facts::{Facts, InitTool, Target, is_module, is_vfio};

pub(super) fn drift(facts: &Facts) -> Verdict {
    if facts.conf.held.is_empty() {
        return match &facts.conf.blind {
            Some((path, reason)) => unknown(reason, path),
            None => Verdict::NotApplicable,
        };
    }
    let Some(held) = facts.conf.held.iter().find(|held| !held.matches) else { return Verdict::Pass };
    let now = facts.inventory.function(held.bdf).map_or("nothing".to_owned(), |function| function.id.to_string());
    Verdict::Fail(
        Trouble::new(format!(
            "a rule holds {} for vfio-pci, and another device is there now: a card was added, taken out or moved",
            held.bdf.short()
        ))
        .seen(held.source.clone(), held.bdf.to_string())
        .seen(Source::file(format!("/sys/bus/pci/devices/{}", held.bdf)), now)
        .fix(
            Fix::by_hand("see where the card is now, and plan for that address", &["thruway gpus"], "thruway undo")
                .costs("a reboot"),
        ),
    )
}

/// What vfio-pci has though nothing says so: a standing `new_id`.
pub(super) fn grabbed(facts: &Facts) -> Verdict {
    if let Some(reason) = facts.inventory.looked.unreadable() {
        return unknown(reason, "the PCI devices");
    }
    if let Some((path, reason)) = &facts.conf.blind {
        return unknown(reason, path);
    }
    let mine: Vec<_> =
        facts.inventory.functions.iter().filter(|f| f.driver.get().is_some_and(|d| is_vfio(d))).collect();
    if mine.is_empty() {
        return Verdict::NotApplicable;
    }
    let targets = facts.targets();
    let told = |bdf: model::Bdf| {
        targets.iter().any(|target| target.card.identity.bdf.same_slot(&bdf))
            || facts.conf.held.iter().any(|held| held.bdf == bdf)
    };
    let grouped =
        |bdf: model::Bdf| targets.iter().filter_map(|t| t.card.group.get()).any(|group| group.members.contains(&bdf));
    let stray = mine
        .into_iter()
        .find(|f| !told(f.bdf) && !grouped(f.bdf) && facts.ids_hold(f).is_none() && f.driver_override.is_absent());
    let Some(function) = stray else { return Verdict::Pass };
    let bdf = function.bdf;
    let id = format!("{:04x} {:04x}", function.id.vendor, function.id.device);
    let paste = format!("echo '{id}' > /sys/bus/pci/drivers/vfio-pci/remove_id");
    Verdict::Warn(
        Trouble::new(format!(
            "vfio-pci has {} ({}), which nothing written gives it: a new_id takes every device of a kind",
            bdf.short(),
            function.id
        ))
        .seen(Source::file(format!("/sys/bus/pci/devices/{bdf}/driver")), "vfio-pci")
        .seen(Source::file(format!("/sys/bus/pci/devices/{bdf}/driver_override")), "unset")
        .fix(Fix::by_hand(
            "take the standing rule away, and give the device back to its driver",
            &[&paste],
            format!("echo '{id}' > /sys/bus/pci/drivers/vfio-pci/new_id"),
        )),
    )
}

/// True where something asks for these cards to be vfio-pci's at boot.
fn claimed(facts: &Facts, targets: &[Target<'_>]) -> bool {
    targets.iter().flat_map(|t| &t.functions).any(|function| {
        facts.ids_hold(function).is_some() || facts.conf.held.iter().any(|held| held.bdf == function.bdf)
    })
}

/// The texts of a tool's configuration: the file, and the drop-ins beside it.
fn recipe<'f>(facts: &'f Facts, file: &'f str) -> impl Iterator<Item = (&'f String, &'f str)> {
    let dir = format!("{file}.d/");
    facts
        .texts
        .iter()
        .filter(move |(path, _)| *path == file || path.starts_with(&dir) && path.ends_with(".conf"))
        .filter_map(|(path, text)| Some((path, text.get()?.as_str())))
}

pub(super) fn modconf(facts: &Facts) -> Verdict {
    const PATH: &str = "/etc/mkinitcpio.conf";
    wanted(facts, |facts, targets| {
        if facts.initramfs.tool != Some(InitTool::Mkinitcpio) {
            return Verdict::NotApplicable;
        }
        let Some(text) = facts.text(PATH) else { return Verdict::NotApplicable };
        let line = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("HOOKS=")).last();
        let Some((at, line)) = line else { return Verdict::NotApplicable };
        let has = |hook: &str| line.split(['(', ')', ' ', '"', '\'', '=']).any(|word| word == hook);
        // Our own drop-in carries the files along by name.
        let carried = recipe(facts, PATH).any(|(_, text)| text.contains("/etc/modprobe.d/"));
        if has("modconf") || carried {
            return Verdict::Pass;
        }
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        Verdict::Warn(
            Trouble::new(
                "the initramfs does not hold modprobe.d, so what stands there comes after the drivers are loaded",
            )
            .seen(Source::line(PATH, number), line.trim())
            .fix(Fix::planned("carry along what holds the card", plan_command(targets)).costs("a reboot")),
        )
    })
}

pub(super) fn dracut(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        if !matches!(facts.initramfs.tool, Some(InitTool::Dracut | InitTool::Ostree)) || !claimed(facts, targets) {
            return Verdict::NotApplicable;
        }
        let line = facts.boot.written.get().map_or("", String::as_str);
        let pre = Cmdline::parse(line).values("rd.driver.pre").any(|v| v.split(',').any(|m| is_module(m, "vfio_pci")));
        let mut glued = None;
        for (path, text) in recipe(facts, "/etc/dracut.conf") {
            let Ok(vars) = ShellVars::parse(text) else { continue };
            let mut env = Default::default();
            vars.eval(&mut env);
            for name in ["force_drivers", "add_drivers"] {
                let Some(value) = env.get(name) else { continue };
                if !value.split_whitespace().any(|module| is_module(module, "vfio_pci")) {
                    continue;
                }
                // dracut joins its drop-ins as they stand: without blanks around, two names become one.
                if value.starts_with(' ') && value.ends_with(' ') {
                    return Verdict::Pass;
                }
                glued = vars.last(name).map(|a| (Source::line(path.as_str(), a.line), format!("{name}+=\"{value}\"")));
            }
        }
        if pre {
            return Verdict::Pass;
        }
        let fix = Fix::planned("put vfio-pci into the initramfs, ahead of the drivers", plan_command(targets));
        let trouble = match glued {
            Some((source, value)) => Trouble::new("dracut may read vfio-pci and its neighbour as one name: there is no blank inside the quotes")
                .seen(source, value),
            None => Trouble::new("the card is claimed for vfio-pci, which the initramfs does not hold: dracut takes along what this host uses")
                .seen(Source::file("/etc/dracut.conf.d"), "no force_drivers+=\" vfio-pci \""),
        };
        Verdict::Warn(trouble.fix(fix.costs("a reboot")))
    })
}

pub(super) fn unread_list(facts: &Facts) -> Verdict {
    const PATH: &str = "/etc/modules";
    let vfio = |text: &str| text.lines().any(|line| line.trim_start().starts_with("vfio"));
    let text = match facts.texts.get(PATH) {
        Some(Seen::Unreadable(reason)) => return unknown(reason, PATH),
        Some(Seen::Is(text)) if vfio(text) => text,
        _ => return Verdict::NotApplicable,
    };
    // Debian's systemd reads it through modules-load.d/modules.conf.
    if facts.distro.debian_family() || facts.texts.contains_key("/etc/modules-load.d/modules.conf") {
        return Verdict::Pass;
    }
    let at = text.lines().position(|line| line.trim_start().starts_with("vfio")).unwrap_or(0);
    let fix = Fix::by_hand(
        "put the names where systemd reads them",
        &["printf 'vfio-pci\\nvfio_iommu_type1\\n' > /etc/modules-load.d/vfio.conf"],
        "rm /etc/modules-load.d/vfio.conf",
    );
    Verdict::Warn(
        Trouble::new("modules are listed in /etc/modules, which nobody reads on this system")
            .seen(
                Source::line(PATH, u32::try_from(at + 1).unwrap_or(u32::MAX)),
                text.lines().nth(at).unwrap_or_default(),
            )
            .fix(fix.costs("a reboot")),
    )
}

pub(super) fn weak_blacklist(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        if let Some((path, reason)) = &facts.conf.blind {
            return unknown(reason, path);
        }
        let mut any = false;
        for line in facts.conf.modprobe.iter().filter(|line| line.verb == "blacklist") {
            let barred = facts.conf.modprobe.iter().any(|l| l.verb == "install" && l.module == line.module);
            for function in targets.iter().flat_map(|target| &target.functions) {
                let of_card = match function.id.vendor {
                    0x10de => {
                        ["nouveau", "nvidia", "nvidiafb", "snd_hda_intel"].iter().any(|d| is_module(&line.module, d))
                    }
                    _ => false,
                };
                any |= of_card;
                let Seen::Is(driver) = &function.driver else { continue };
                if !is_module(&line.module, driver) || barred {
                    continue;
                }
                return Verdict::Warn(
                    Trouble::new(format!(
                        "{driver} has {} though it is blacklisted: a blacklist stops loading by device, not by name or by another module",
                        function.bdf.short()
                    ))
                    .seen(line.source.clone(), format!("blacklist {}", line.module))
                    .seen(Source::file(format!("/sys/bus/pci/devices/{}/driver", function.bdf)), driver.clone())
                    .fix(Fix::planned("hold the card by address, which needs no blacklist", plan_command(targets)).costs("a reboot")),
                );
            }
        }
        if any { Verdict::Pass } else { Verdict::NotApplicable }
    })
}

pub(super) fn sysfb(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        let line = match &facts.boot.effective.value {
            Seen::Is(line) => Cmdline::parse(line),
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "/proc/cmdline"),
        };
        if !line.has("initcall_blacklist=sysfb_init") {
            return Verdict::NotApplicable;
        }
        let found = match &facts.usage.bootfb {
            Seen::Is(found) => found,
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "/proc/iomem"),
        };
        let hit = found.iter().find(|(bdf, _)| targets.iter().any(|target| target.card.identity.bdf == *bdf));
        let Some((bdf, name)) = hit else { return Verdict::Pass };
        Verdict::Warn(
            Trouble::new(format!("initcall_blacklist=sysfb_init is in effect, and the framebuffer lies in {} all the same", bdf.short()))
                .seen(Source::file("/proc/cmdline"), "initcall_blacklist=sysfb_init")
                .seen(Source::file("/proc/iomem"), name.clone())
                .fix(Fix::by_hand(
                    "choose another display as the first one in the firmware's set-up; or take the framebuffer off before the VM starts",
                    &["echo simple-framebuffer.0 > /sys/bus/platform/drivers/simple-framebuffer/unbind"],
                    "a reboot",
                )),
        )
    })
}

pub(super) fn leftover(facts: &Facts) -> Verdict {
    wanted(facts, |facts, targets| {
        let ours = |card: &gpu::Card| targets.iter().any(|target| target.card.identity.bdf == card.identity.bdf);
        let nvidia = targets.iter().any(|target| target.card.identity.id.vendor == 0x10de);
        if !nvidia || facts.inventory.nvidia().any(|card| !ours(card)) {
            return Verdict::NotApplicable;
        }
        let modules = match &facts.kernel.modules {
            Seen::Is(modules) => modules,
            Seen::Absent => return Verdict::NotApplicable,
            Seen::Unreadable(reason) => return unknown(reason, "modules.dep of the running kernel"),
        };
        let safe = |target: &Target<'_>| target.functions.iter().all(|f| facts.written_hold(f).is_some());
        if !modules.contains("nvidia") || targets.iter().all(safe) {
            return Verdict::Pass;
        }
        let release = facts.kernel.release.get().map_or("", String::as_str);
        Verdict::Warn(
            Trouble::new("NVIDIA's driver is installed on this host, whose every NVIDIA card is meant for a VM: it takes them at the next boot")
                .seen(Source::file(format!("/lib/modules/{release}/modules.dep")), "nvidia.ko")
                .fix(Fix::planned("hold the cards for vfio-pci, ahead of it", plan_command(targets)).costs("a reboot")),
        )
    })
}
