//! The changes, in the order in which they are made: files first, generators last.

use gpu::Function;
use model::{
    ArgsTool, Before, Change, Content, Digest, Effective, Intent, Layer, Op, PciId, Plan, Refusal, Risk, Seen, Tool,
    Undo,
};

use super::hold::{self, Held};
use super::loader::{self, Wish};
use super::{clean, cmdline, files, guard, initramfs};
use crate::facts::{Appliance, Facts, Loader, Target, is_module, is_vfio};

pub(super) fn add(facts: &Facts, intent: &Intent, targets: &[Target<'_>], plan: &mut Plan) {
    let mut steps = Steps { facts, plan, wrote: false };
    let needed: Vec<&Target<'_>> = targets.iter().filter(|target| needs(facts, target)).collect();
    if let Loader::Appliance(which) = facts.boot.loader {
        return appliance(&mut steps, which, intent, targets);
    }
    if facts.boot.loader == Loader::Bootc {
        return bootc(&mut steps, intent, targets);
    }
    // First: what is edited below is what this leaves.
    let cleaned = intent.clean && clean::add(facts, &mut steps);
    let twins = twin_lines(&steps, targets);
    if intent.by_ids {
        by_ids(&mut steps, targets, &needed);
    } else {
        by_address(&mut steps, targets, &needed, !twins.is_empty());
        for (path, text) in twins {
            let title = "stop catching every card of the same kind by ids=".to_owned();
            steps.write(&path, text, 0o644, title, "host/ids-catch-twin");
        }
    }
    let image = steps.wrote || cleaned;
    if !targets.is_empty() {
        cmdline::add(facts, intent, targets, &mut steps);
    }
    if image {
        initramfs::regenerate(&mut steps);
    }
    if let Some(wish) = &intent.guard {
        guard::add(wish, &mut steps);
    }
    generators_last(steps.plan);
}

/// Files first, then the images that are made from them, then the loader that is told of both; each program once.
fn generators_last(plan: &mut Plan) {
    let rank = |change: &Change| match &change.op {
        Op::Regenerate(
            Tool::UpdateInitramfs | Tool::Dracut | Tool::Mkinitcpio | Tool::Booster | Tool::OstreeInitramfs,
        ) => 1,
        Op::Regenerate(_) | Op::KernelArgs { .. } => 2,
        _ => 0,
    };
    let mut kept: Vec<Change> = Vec::new();
    for change in std::mem::take(&mut plan.changes) {
        if !matches!(change.op, Op::Regenerate(_)) || !kept.iter().any(|known| known.op == change.op) {
            kept.push(change);
        }
    }
    kept.sort_by_key(rank);
    plan.changes = kept;
}

/// Arguments and initramfs come with the image: the files go into its build.
fn bootc(steps: &mut Steps<'_>, intent: &Intent, targets: &[Target<'_>]) {
    let (add, drop) = cmdline::tokens(steps.facts, intent, targets);
    if !(add.is_empty() && drop.is_empty() && targets.iter().all(Target::held)) {
        let held: Vec<Held> = targets.iter().flat_map(|t| &t.functions).map(|f| Held::of(f)).collect();
        loader::bootc(steps, &add, &drop, &held, &drivers_of(steps.facts, targets));
    }
}

/// Nothing is written where the system would not keep it: the refusal says what to do there instead.
fn appliance(steps: &mut Steps<'_>, which: Appliance, intent: &Intent, targets: &[Target<'_>]) {
    let (add, drop) = cmdline::tokens(steps.facts, intent, targets);
    if add.is_empty() && drop.is_empty() && targets.iter().all(Target::held) {
        return;
    }
    let because = if add.is_empty() && drop.is_empty() { "host/driver-owns-card" } else { "host/iommu-kernel-off" };
    let words = which.words();
    steps.plan.refusals.push(Refusal {
        because: because.into(),
        says: format!(
            "{words} makes its boot files from its own configuration: what thruway wrote there would not last"
        ),
        instead: loader::appliance(which, &add, targets),
    });
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
        let earlier = self.plan.changes.iter().rev().find_map(|change| match &change.op {
            Op::WriteFile { path: p, content: Content::Text(text), .. } if p == path => Some(text),
            _ => None,
        });
        let expects = match self.facts.texts.get(path) {
            _ if earlier == Some(&text) => return,
            _ if earlier.is_some() => Before::File(Digest::of(earlier.map_or("", String::as_str).as_bytes())),
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

    /// A file's text as this plan leaves it: edits of one file build on each other.
    pub(super) fn text(&self, path: &str) -> String {
        let written = self.plan.changes.iter().rev().find_map(|change| match &change.op {
            Op::WriteFile { path: p, content: Content::Text(text), .. } if p == path => Some(text.clone()),
            Op::RemoveFile { path: p } if p == path => Some(String::new()),
            _ => None,
        });
        written.unwrap_or_else(|| self.facts.text(path).unwrap_or_default().to_owned())
    }

    /// Kernel arguments by the loader's own program; nothing where there is nothing to change.
    pub(super) fn args(&mut self, by: ArgsTool, add: Vec<String>, remove: Vec<String>, wish: &Wish<'_>) {
        if add.is_empty() && remove.is_empty() {
            return;
        }
        self.plan.changes.push(Change {
            layer: Layer::Host,
            title: wish.title(),
            op: Op::KernelArgs { by, add, remove },
            expects: Before::Nothing,
            because: vec![wish.because.into()],
            risk: vec![Risk::Reboot],
            effective: Effective::NextBoot,
            undo: Undo::Inverse,
        });
    }

    pub(super) fn run(&mut self, tool: Tool, because: &str) {
        self.plan.changes.push(Change {
            layer: Layer::Host,
            title: format!("run {}", tool.argv().join(" ")),
            op: Op::Regenerate(tool),
            expects: Before::Nothing,
            because: vec![because.into()],
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
    initramfs::by_address(steps, &held, &drivers_of(facts, targets), &names);
    modules(steps);
}

/// The modules that would take one of the cards' functions, those of this kernel that can be told to wait.
fn drivers_of<'t>(facts: &Facts, targets: &'t [Target<'_>]) -> Vec<&'t str> {
    let mut drivers: Vec<&str> = Vec::new();
    for function in targets.iter().flat_map(|target| &target.functions) {
        drivers.extend(native(function).into_iter().filter(|driver| !facts.kernel.is_builtin(driver)));
    }
    drivers.sort_unstable();
    drivers.dedup();
    drivers
}

fn by_ids(steps: &mut Steps<'_>, targets: &[Target<'_>], needed: &[&Target<'_>]) {
    let facts = steps.facts;
    if needed.is_empty() || facts.kernel.is_builtin("vfio_pci") {
        return;
    }
    let drivers = drivers_of(facts, targets);
    let title = "give the cards' kinds to vfio-pci by vendor:device, before their own drivers".to_owned();
    steps.write(files::MODPROBE, hold::modprobe(&ids(targets), &drivers), 0o644, title, initramfs::WHY);
    initramfs::by_ids(steps, &drivers);
    modules(steps);
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
fn twin_lines(steps: &Steps<'_>, targets: &[Target<'_>]) -> Vec<(String, String)> {
    let facts = steps.facts;
    if crate::checks::binding::twins(facts, targets).is_empty() {
        return Vec::new();
    }
    let mut edits = Vec::new();
    for line in facts.conf.modprobe.iter().filter(|l| l.verb == "options" && is_module(&l.module, "vfio_pci")) {
        let model::Source::File { path, .. } = &line.source else { continue };
        if path == files::MODPROBE || facts.text(path).is_none() {
            continue;
        }
        let text = steps.text(path);
        if edits.iter().any(|(done, _)| done == path) {
            continue;
        }
        let edited = without_ids(&text);
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
