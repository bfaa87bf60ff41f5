//! One file a boot loader: how its command line is changed, and what runs afterwards. What is not ours to edit is a
//! refusal that carries the lines to paste.

mod advice;
mod bls;
mod bootc;
mod entries;
mod grub;
mod kernelstub;
mod ostree;
mod proxmox;
mod suse;
mod systemd_boot;
mod uki;

use formats::kcmdline::Cmdline;
use model::{Refusal, Tool};

pub(super) use advice::appliance;
pub(super) use bootc::refuse as bootc;

use super::cmdline::is_one_of;
use super::steps::Steps;
use crate::facts::{Facts, InitTool, Loader};

/// What the command line must gain and lose.
pub(super) struct Wish<'a> {
    pub add: &'a [String],
    pub drop: &'a [String],
    /// Written already, and only to be generated.
    pub stands: bool,
    /// The check that asks for it.
    pub because: &'static str,
}

impl Wish<'_> {
    /// A line with the wish fulfilled; everything else stands as it stood.
    fn fulfil(&self, line: &str) -> String {
        self.added(&self.dropped(line))
    }

    fn added(&self, line: &str) -> String {
        self.add.iter().fold(line.to_owned(), |line, token| Cmdline::parse(&line).with(token))
    }

    fn dropped(&self, line: &str) -> String {
        Cmdline::parse(line).without(|token| is_one_of(token, self.drop))
    }

    pub(super) fn title(&self) -> String {
        match (self.add, self.drop) {
            (add, []) => format!("add {} to the kernel command line", add.join(" ")),
            ([], drop) => format!("take {} from the kernel command line", drop.join(" ")),
            (add, drop) => {
                format!("add {} to the kernel command line, and take {} away", add.join(" "), drop.join(" "))
            }
        }
    }

    /// The arguments to remove that are really there: a program may call a missing one an error.
    fn present(&self, line: &str) -> Vec<String> {
        let line = Cmdline::parse(line);
        let found = line.tokens().filter(|token| is_one_of(token, self.drop)).map(|token| line.raw(token).to_owned());
        let mut found: Vec<String> = found.collect();
        found.dedup();
        found
    }

    /// The arguments to add that are not written yet.
    fn missing(&self, facts: &Facts) -> Vec<String> {
        let written = Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
        self.add.iter().filter(|token| !written.has(token)).cloned().collect()
    }

    fn refuse(&self, steps: &mut Steps<'_>, says: String, instead: impl Into<String>) {
        steps.plan.refusals.push(Refusal { because: self.because.into(), says, instead: instead.into() });
    }
}

/// By the loader that boots this machine.
pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    match steps.facts.boot.loader {
        Loader::Grub => grub::edit(wish, steps),
        Loader::ProxmoxGrub | Loader::ProxmoxSystemdBoot | Loader::ProxmoxUnifiedImage => proxmox::edit(wish, steps),
        Loader::SystemdBoot => systemd_boot::edit(wish, steps),
        Loader::Entries => entries::edit(wish, steps),
        Loader::GrubEntries => bls::edit(wish, steps),
        Loader::SuseEntries => suse::edit(wish, steps),
        Loader::Kernelstub => kernelstub::edit(wish, steps),
        Loader::UnifiedImage => uki::edit(wish, steps),
        Loader::Ostree => ostree::edit(wish, steps),
        Loader::Limine | Loader::Refind | Loader::Bootc | Loader::Appliance(_) | Loader::Unknown => {
            advice::edit(wish, steps)
        }
    }
}

/// What builds kernel images with the command line inside.
fn image_tool(steps: &Steps<'_>) -> Tool {
    match steps.facts.initramfs.tool {
        Some(InitTool::Mkinitcpio) => Tool::Mkinitcpio,
        _ => Tool::KernelInstall,
    }
}
