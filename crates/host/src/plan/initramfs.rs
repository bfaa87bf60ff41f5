//! One file a tool: what must go into the initramfs so that a card is held before its own driver is loaded.
//!
//! The order is what matters. initramfs-tools runs our script before udev. The others have no such place below /etc,
//! so there modprobe itself keeps the order: `softdep DRIVER pre: vfio-pci` makes every load of a display driver load
//! vfio-pci first, and vfio-pci's `install` line runs the script that sets `driver_override` before the module comes
//! (modprobe.d(5)). Whoever loads what first, udev or a list of modules, the override is there before the driver.

mod booster;
mod dracut;
mod initramfs_tools;
mod mkinitcpio;
mod ostree;

use model::{Refusal, Tool};

use super::files;
use super::hold::{self, Held};
use super::steps::Steps;
use crate::facts::InitTool;

pub(super) const WHY: &str = "host/driver-owns-card";

/// Files that hold these functions by address in the early boot. `drivers`: what would take them.
pub(super) fn by_address(steps: &mut Steps<'_>, held: &[Held], drivers: &[&str], names: &str) {
    match steps.facts.initramfs.tool {
        Some(InitTool::InitramfsTools) => initramfs_tools::by_address(steps, held, names),
        Some(InitTool::Dracut | InitTool::Ostree) => {
            ordered(steps, held, drivers, names);
            dracut::carry(steps, &[files::RULES, files::MODPROBE, files::SETTER]);
        }
        Some(InitTool::Mkinitcpio) => {
            ordered(steps, held, drivers, names);
            mkinitcpio::carry(steps, &[files::RULES, files::MODPROBE, files::SETTER]);
        }
        Some(InitTool::Booster) => {
            ordered(steps, held, drivers, names);
            booster::keep_out(steps, drivers);
        }
        None => {}
    }
}

/// Files that load vfio-pci, with its `ids=`, ahead of the drivers.
pub(super) fn by_ids(steps: &mut Steps<'_>, drivers: &[&str]) {
    match steps.facts.initramfs.tool {
        Some(InitTool::InitramfsTools) => initramfs_tools::by_ids(steps),
        Some(InitTool::Dracut | InitTool::Ostree) => dracut::carry(steps, &[files::MODPROBE]),
        Some(InitTool::Mkinitcpio) => mkinitcpio::carry(steps, &[files::MODPROBE]),
        Some(InitTool::Booster) => booster::keep_out(steps, drivers),
        None => {}
    }
}

/// The script that sets the override, and the modprobe.d lines that run it first.
fn ordered(steps: &mut Steps<'_>, held: &[Held], drivers: &[&str], names: &str) {
    let title = format!("hold {names} whenever vfio-pci is loaded");
    steps.write(files::SETTER, hold::setter(held), 0o755, title, WHY);
    let title = "load vfio-pci, and set the override, before any driver that would take the card".to_owned();
    steps.write(files::MODPROBE, hold::order(drivers), 0o644, title, WHY);
}

/// Makes the image again.
pub(super) fn regenerate(steps: &mut Steps<'_>) {
    match steps.facts.initramfs.tool {
        Some(InitTool::InitramfsTools) => steps.run(Tool::UpdateInitramfs, "host/initramfs-stale"),
        Some(InitTool::Dracut) => steps.run(Tool::Dracut, "host/initramfs-stale"),
        Some(InitTool::Mkinitcpio) => steps.run(Tool::Mkinitcpio, "host/initramfs-stale"),
        Some(InitTool::Booster) => steps.run(Tool::Booster, "host/initramfs-stale"),
        Some(InitTool::Ostree) => ostree::regenerate(steps),
        None => steps.plan.refusals.push(Refusal {
            because: "host/initramfs-stale".into(),
            says: "no initramfs tool is known here, so the files would not reach the early boot".into(),
            instead: "install initramfs-tools, dracut, mkinitcpio or booster".into(),
        }),
    }
}
