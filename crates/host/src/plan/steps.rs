//! The changes, in the order in which they are made: files first, generators last.

use gpu::Function;
use model::{
    Before, Change, Content, Digest, Effective, Intent, Layer, Op, PciId, Plan, Refusal, Risk, Seen, Tool, Undo,
};

use super::hold::{self, Held};
use super::{cmdline, files, guard};
use crate::facts::{Facts, InitTool, Target, is_module, is_vfio};

pub(super) fn add(facts: &Facts, intent: &Intent, targets: &[Target<'_>], plan: &mut Plan) {
    let mut steps = Steps { facts, plan, wrote: false };
    let needed: Vec<&Target<'_>> = targets.iter().filter(|target| needs(facts, target)).collect();
    let twins = twin_lines(facts, targets);
    if intent.by_ids {
        by_ids(&mut steps, targets, &needed);
    } else {
        by_address(&mut steps, targets, &needed, !twins.is_empty());
        for (path, text) in twins {
            let title = "stop catching every card of the same kind by ids=".to_owned();
            steps.write(&path, text, 0o644, title, "host/ids-catch-twin");
        }
    }
    let image = steps.wrote;
    let generate = cmdline::add(facts, intent, targets, &mut steps);
    if let (Some(wish), true) = (&intent.guard, image || generate.is_some()) {
        guard::add(wish, &mut steps);
    }
    if image {
        match facts.initramfs.tool {
            Some(InitTool::InitramfsTools) => steps.run(Tool::UpdateInitramfs),
            Some(InitTool::Dracut) => steps.run(Tool::Dracut),
            Some(InitTool::Mkinitcpio) => steps.run(Tool::Mkinitcpio),
            None => steps.plan.refusals.push(Refusal {
                because: "host/initramfs-stale".into(),
                says: "no initramfs tool is known here, so the files would not reach the early boot".into(),
                instead: "install initramfs-tools, dracut or mkinitcpio".into(),
            }),
        }
    }
    if let Some(tool) = generate {
        steps.run(tool);
    }
}

/// True where a function is not held at boot by anything written.
fn needs(facts: &Facts, target: &Target<'_>) -> bool {
    target.functions.iter().any(|function| facts.written_hold(function).is_none())
}

pub(super) struct Steps<'a> {
    pub facts: &'a Facts,
    pub plan: &'a mut Plan,
    /// Whether something that goes into the initramfs was written.
    pub wrote: bool,
}

impl Steps<'_> {
    /// A file, unless it is so already.
    pub(super) fn write(&mut self, path: &str, text: String, mode: u32, title: String, because: &str) {
        let expects = match self.facts.texts.get(path) {
            Some(Seen::Is(now)) if *now == text => return,
            Some(Seen::Is(now)) => Before::File(Digest::of(now.as_bytes())),
            Some(Seen::Unreadable(reason)) => {
                return self.plan.refusals.push(Refusal {
                    because: because.into(),
                    says: format!("{path} could not be read: {reason}"),
                    instead: "run thruway as root".into(),
                });
            }
            Some(Seen::Absent) | None => Before::NoFile,
        };
        self.wrote = true;
        self.plan.changes.push(Change {
            layer: Layer::Host,
            title,
            op: Op::WriteFile { path: path.into(), content: Content::Text(text), mode },
            expects,
            because: vec![because.into()],
            risk: vec![Risk::Reboot],
            effective: Effective::NextBoot,
            undo: Undo::Exact,
        });
    }

    pub(super) fn run(&mut self, tool: Tool) {
        self.plan.changes.push(Change {
            layer: Layer::Host,
            title: format!("run {}", tool.argv().join(" ")),
            op: Op::Regenerate(tool),
            expects: Before::Nothing,
            because: vec!["host/initramfs-stale".into()],
            risk: vec![Risk::Reboot],
            effective: Effective::NextBoot,
            undo: Undo::Inverse,
        });
    }
}

fn by_address(steps: &mut Steps<'_>, targets: &[Target<'_>], needed: &[&Target<'_>], untwin: bool) {
    let facts = steps.facts;
    if needed.is_empty() && !untwin {
        return;
    }
    // Cards that were given earlier stay given.
    let before = hold::parse_rules(facts.text(files::RULES).unwrap_or_default());
    let mut held: Vec<Held> = before.into_iter().map(|(_, held)| held).collect();
    for function in targets.iter().flat_map(|target| &target.functions) {
        held.retain(|one| one.bdf != function.bdf);
        held.push(Held::of(function));
    }
    held.sort_by_key(|one| one.bdf);
    let names: Vec<String> = held.iter().map(|one| one.bdf.short()).collect();
    let names = names.join(" and ");
    const WHY: &str = "host/driver-owns-card";
    steps.write(files::RULES, hold::rules(&held), 0o644, format!("hold {names} for vfio-pci, by address"), WHY);
    match facts.initramfs.tool {
        Some(InitTool::InitramfsTools) => {
            let title = format!("hold {names} in the initramfs, before udev loads other drivers");
            steps.write(files::SCRIPT, hold::script(&held), 0o755, title, WHY);
            steps.write(files::HOOK, hold::hook(false), 0o755, "put vfio-pci into the initramfs".into(), WHY);
        }
        tool => carry(steps, tool, false),
    }
    modules(steps);
}

fn by_ids(steps: &mut Steps<'_>, targets: &[Target<'_>], needed: &[&Target<'_>]) {
    let facts = steps.facts;
    if needed.is_empty() || facts.kernel.is_builtin("vfio_pci") {
        return;
    }
    let mut drivers: Vec<&str> = Vec::new();
    for function in targets.iter().flat_map(|target| &target.functions) {
        drivers.extend(native(function).into_iter().filter(|driver| !facts.kernel.is_builtin(driver)));
    }
    drivers.sort_unstable();
    drivers.dedup();
    const WHY: &str = "host/driver-owns-card";
    let title = "give the cards' kinds to vfio-pci by vendor:device, before their own drivers".to_owned();
    steps.write(files::MODPROBE, hold::modprobe(&ids(targets), &drivers), 0o644, title, WHY);
    match facts.initramfs.tool {
        Some(InitTool::InitramfsTools) => {
            steps.write(files::HOOK, hold::hook(true), 0o755, "load vfio-pci in the initramfs".into(), WHY);
        }
        tool => carry(steps, tool, true),
    }
    modules(steps);
}

fn carry(steps: &mut Steps<'_>, tool: Option<InitTool>, by_ids: bool) {
    let (path, text) = match tool {
        Some(InitTool::Dracut) => (files::DRACUT, hold::dracut(by_ids)),
        Some(InitTool::Mkinitcpio) => (files::MKINITCPIO, hold::mkinitcpio(by_ids)),
        Some(InitTool::InitramfsTools) | None => return,
    };
    steps.write(path, text, 0o644, "put vfio-pci into the initramfs".into(), "host/driver-owns-card");
}

/// Only modules that this kernel has; vfio_virqfd is vfio-pci's own affair, and gone since 6.2.
fn modules(steps: &mut Steps<'_>) {
    let kernel = &steps.facts.kernel;
    let has = |name: &&str| kernel.has_module(name).get().copied().unwrap_or(false);
    let names: Vec<&str> = ["vfio-pci", "vfio_iommu_type1"].into_iter().filter(has).collect();
    if !names.is_empty() {
        let title = "load vfio's modules at boot".to_owned();
        steps.write(files::MODULES, hold::modules(&names), 0o644, title, "host/driver-owns-card");
    }
}

pub(super) fn ids(targets: &[Target<'_>]) -> Vec<PciId> {
    let mut ids: Vec<PciId> = Vec::new();
    for function in targets.iter().flat_map(|target| &target.functions) {
        if !ids.contains(&function.id) {
            ids.push(function.id);
        }
    }
    ids
}

/// The drivers that would take a function: the one that has it, and those of its kind.
fn native(function: &Function) -> Vec<&str> {
    let mut names: Vec<&str> = match (function.id.vendor, function.class >> 8) {
        (PciId::NVIDIA, 0x0300 | 0x0302) => vec!["nouveau", "nvidia", "nvidiafb"],
        (_, 0x0403) => vec!["snd_hda_intel"],
        (_, 0x0c03) => vec!["xhci_pci"],
        (PciId::NVIDIA, 0x0c80) => vec!["i2c_nvidia_gpu"],
        _ => Vec::new(),
    };
    if let Some(driver) = function.driver.get().filter(|driver| !is_vfio(driver) && *driver != "xhci_hcd") {
        names.push(driver);
    }
    names
}

/// modprobe.d files whose `ids=` also takes a card that is not given, without that word.
fn twin_lines(facts: &Facts, targets: &[Target<'_>]) -> Vec<(String, String)> {
    if crate::checks::binding::twins(facts, targets).is_empty() {
        return Vec::new();
    }
    let mut edits = Vec::new();
    for line in facts.conf.modprobe.iter().filter(|l| l.verb == "options" && is_module(&l.module, "vfio_pci")) {
        let model::Source::File { path, .. } = &line.source else { continue };
        let Some(text) = facts.text(path).filter(|_| path != files::MODPROBE) else { continue };
        if edits.iter().any(|(done, _)| done == path) {
            continue;
        }
        let edited = without_ids(text);
        if edited != text {
            edits.push((path.clone(), edited));
        }
    }
    edits
}

/// The file without `ids=…` on vfio-pci's options; a line that has nothing else left goes.
fn without_ids(text: &str) -> String {
    use formats::modprobe::{Directive, Modprobe};
    let only = |what: &Directive| {
        matches!(what, Directive::Options { module, options }
            if is_module(module, "vfio_pci") && options.iter().all(|o| o.starts_with("ids=")))
    };
    let text = Modprobe::parse(text).without(only);
    let mut out = text.clone();
    for line in Modprobe::parse(&text).lines() {
        if let Directive::Options { module, options } = &line.what
            && is_module(module, "vfio_pci")
        {
            for word in options.iter().filter(|o| o.starts_with("ids=")) {
                out = out.replacen(&format!(" {word}"), "", 1);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::without_ids;

    #[test]
    fn only_the_ids_word_goes() {
        let text = "# mine\noptions vfio-pci ids=10de:1d01,10de:0fb8 disable_vga=1\noptions vfio-pci ids=1002:67df\nblacklist nouveau\n";
        assert_eq!(without_ids(text), "# mine\noptions vfio-pci disable_vga=1\nblacklist nouveau\n");
    }
}
