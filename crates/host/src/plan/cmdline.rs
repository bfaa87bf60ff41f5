//! The kernel command line: only what this CPU and kernel need, in the file that this boot loader reads.

use formats::kcmdline::{Cmdline, Token};
use formats::shellvars::ShellVars;
use model::{Intent, Refusal, Seen, Source, Tool};

use super::steps::{self, Steps};
use super::{files, hold};
use crate::facts::{Facts, InitTool, Loader, Target};

const WHY: &str = "host/iommu-kernel-off";

/// Adds the edits; answers the generator that has to run afterwards.
pub(super) fn add(facts: &Facts, intent: &Intent, targets: &[Target<'_>], steps: &mut Steps<'_>) -> Option<Tool> {
    let (add, drop) = tokens(facts, intent, targets);
    if add.is_empty() && drop.is_empty() {
        return None;
    }
    let written = Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
    let stands = add.iter().all(|token| written.has(token)) && !written.tokens().any(|t| switches_off(t, &drop));
    let staged = stands && in_next_boot(facts, &add, &drop);
    if staged {
        return None;
    }
    let (tool, ok) = match facts.boot.loader {
        Loader::Grub | Loader::ProxmoxGrub => {
            if !stands {
                grub(facts, &add, &drop, steps);
            }
            (Tool::UpdateGrub, true)
        }
        Loader::ProxmoxSystemdBoot => (Tool::ProxmoxBootTool, stands || kernel_cmdline(facts, &add, &drop, steps)),
        Loader::SystemdBoot => (Tool::KernelInstall, stands || kernel_cmdline(facts, &add, &drop, steps)),
        Loader::UnifiedImage => {
            let tool = match facts.initramfs.tool {
                Some(InitTool::Mkinitcpio) => Tool::Mkinitcpio,
                _ => Tool::KernelInstall,
            };
            (tool, stands || kernel_cmdline(facts, &add, &drop, steps))
        }
        Loader::GrubEntries | Loader::Unknown => {
            let words = facts.boot.loader.words();
            let instead = format!("grubby --update-kernel=ALL --args=\"{}\"", add.join(" "));
            refuse(steps, format!("thruway does not edit the kernel command line of {words} yet"), &instead);
            (Tool::UpdateGrub, false)
        }
    };
    ok.then_some(tool)
}

/// What the command line must have, and what must go: names with the values that switch an IOMMU off.
pub(crate) fn tokens(
    facts: &Facts,
    intent: &Intent,
    targets: &[Target<'_>],
) -> (Vec<String>, Vec<(&'static str, &'static str)>) {
    let mut add = Vec::new();
    let mut drop = Vec::new();
    let off = facts.iommu.on() == Seen::Is(false);
    if let (true, Seen::Is(table)) = (off, &facts.iommu.table) {
        let now = Cmdline::parse(facts.boot.effective.get().map_or("", String::as_str));
        let written = Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
        for (name, value) in [("iommu", "off"), ("intel_iommu", "off"), ("amd_iommu", "off")] {
            if now.has(&format!("{name}={value}")) || written.has(&format!("{name}={value}")) {
                drop.push((name, value));
            }
        }
        // AMD's is on by itself, and `amd_iommu=on` is no value that the kernel knows.
        if table == "DMAR" && now.last("intel_iommu").is_none_or(|value| !value.split(',').any(|w| w == "on")) {
            add.push("intel_iommu=on".to_owned());
        }
    }
    if intent.by_ids && facts.kernel.is_builtin("vfio_pci") {
        let ids: Vec<String> = steps::ids(targets).iter().map(ToString::to_string).collect();
        add.push(format!("vfio-pci.ids={}", ids.join(",")));
    }
    (add, drop)
}

fn switches_off(token: &Token, drop: &[(&str, &str)]) -> bool {
    drop.iter().any(|(name, value)| token.name == *name && token.value.as_deref() == Some(*value))
}

/// True where what will be booted next already says so. An ESP that cannot be seen counts as generated: its tool ran
/// when the file was written, and [`super::verify`] looks at the effect.
fn in_next_boot(facts: &Facts, add: &[String], drop: &[(&str, &str)]) -> bool {
    let Seen::Is(entries) = &facts.boot.generated else { return true };
    let Some(first) = entries.first() else { return false };
    let line = Cmdline::parse(&first.text);
    add.iter().all(|token| line.has(token)) && !line.tokens().any(|token| switches_off(token, drop))
}

fn grub(facts: &Facts, add: &[String], drop: &[(&str, &str)], steps: &mut Steps<'_>) {
    // Each variable that holds an off switch is edited where it stands.
    for (path, text) in &facts.texts {
        let ours = path == "/etc/default/grub" || path.starts_with("/etc/default/grub.d/");
        let Some(text) = text.get().filter(|_| ours && !drop.is_empty()) else { continue };
        let edited = edit(text, |value| Cmdline::parse(value).without(|token| switches_off(token, drop)));
        if edited != *text {
            steps.write(path, edited, 0o644, "take away what switches the IOMMU off".into(), WHY);
        }
    }
    if add.is_empty() {
        return;
    }
    let title = format!("add {} to the kernel command line", add.join(" "));
    if facts.distro.debian_family() {
        steps.write(files::GRUB, hold::grub(add), 0o644, title, WHY);
        return;
    }
    const DEFAULT: &str = "/etc/default/grub";
    let text = facts.text(DEFAULT).unwrap_or_default();
    let with = |value: &str| add.iter().fold(value.to_owned(), |line, token| Cmdline::parse(&line).with(token));
    let edited = match ShellVars::parse(text) {
        Ok(vars) => {
            let mut env = Default::default();
            vars.eval(&mut env);
            let now = env.get("GRUB_CMDLINE_LINUX_DEFAULT").cloned().unwrap_or_default();
            vars.set("GRUB_CMDLINE_LINUX_DEFAULT", &with(&now))
        }
        Err(error) => return refuse(steps, format!("{DEFAULT}:{}: {}", error.line, error.what), "mend that line"),
    };
    steps.write(DEFAULT, edited, 0o644, title, WHY);
}

/// The text with both variables changed by `change`, where that changes them.
fn edit(text: &str, change: impl Fn(&str) -> String) -> String {
    let mut text = text.to_owned();
    for name in ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"] {
        let Ok(vars) = ShellVars::parse(&text) else { continue };
        if vars.last(name).is_none_or(|assignment| assignment.guess) {
            continue;
        }
        let mut env = Default::default();
        vars.eval(&mut env);
        let now = env.get(name).cloned().unwrap_or_default();
        let new = change(&now);
        if new != now {
            text = vars.set(name, &new);
        }
    }
    text
}

fn kernel_cmdline(facts: &Facts, add: &[String], drop: &[(&str, &str)], steps: &mut Steps<'_>) -> bool {
    const PATH: &str = "/etc/kernel/cmdline";
    let Some(text) = facts.text(PATH) else {
        // An empty file here would boot without root=.
        let says = format!("{PATH} is not there, and a new one would lack root=");
        refuse(steps, says, "write the whole command line of /proc/cmdline to it first");
        return false;
    };
    let less = Cmdline::parse(text).without(|token| switches_off(token, drop));
    let text = add.iter().fold(less, |line, token| Cmdline::parse(&line).with(token));
    let title = format!("set the kernel command line in the file that {} reads", facts.boot.loader.words());
    steps.write(PATH, text, 0o644, title, WHY);
    true
}

fn refuse(steps: &mut Steps<'_>, says: String, instead: &str) {
    steps.plan.refusals.push(Refusal { because: WHY.into(), says, instead: instead.into() });
}

/// Where a token stands in the written line, for a report.
pub(crate) fn place(facts: &Facts, token: &str) -> Source {
    let found = facts.boot.pieces.iter().rev().find(|piece| Cmdline::parse(&piece.text).has(token));
    found.map_or_else(|| facts.boot.written.source.clone(), |piece| piece.source.clone())
}
