//! Debian's initramfs-tools: a hook that takes vfio-pci along, and a script that runs before udev
//! (initramfs-tools(7)).

use super::{Held, Steps, WHY, files, hold};

pub(super) fn by_address(steps: &mut Steps<'_>, held: &[Held], names: &str) {
    let title = format!("hold {names} in the initramfs, before udev loads other drivers");
    steps.write(files::SCRIPT, hold::script(held), 0o755, title, WHY);
    steps.write(files::HOOK, hold::hook(false), 0o755, "put vfio-pci into the initramfs".into(), WHY);
}

pub(super) fn by_ids(steps: &mut Steps<'_>) {
    steps.write(files::HOOK, hold::hook(true), 0o755, "load vfio-pci in the initramfs".into(), WHY);
}
