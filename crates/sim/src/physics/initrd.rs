//! The initramfs: copies of what a generator would put into it, as of when it was made.

use machine::{Machine as _, MachineExt as _, SIM_DIR};

use super::PhysicsError;
use crate::tree::Tree;

/// Where the initramfs's copies of its inputs lie.
pub(crate) const INITRD: &str = "/.thruway-sim/initrd";

/// What goes into the initramfs. Files changed after it was made are not in it: it is stale.
const INPUTS: [&str; 11] = [
    "/etc/modprobe.d",
    "/etc/initramfs-tools",
    "/etc/initramfs-tools/scripts/init-top",
    "/etc/initramfs-tools/scripts/init-premount",
    "/etc/initramfs-tools/hooks",
    "/etc/initramfs-tools/conf.d",
    "/etc/udev/rules.d",
    "/etc/dracut.conf.d",
    "/etc",
    "/etc/mkinitcpio.conf.d",
    "/etc/thruway",
];

/// Makes the initramfs again from the inputs as they are now. `newest`: the latest time that an input may have.
pub(crate) fn snapshot(tree: &Tree, newest: Option<i64>) -> Result<(), PhysicsError> {
    debug_assert!(INITRD.starts_with(SIM_DIR));
    tree.remove(INITRD)?;
    tree.mkdir(INITRD)?;
    for dir in INPUTS {
        for file in tree.root.names(dir) {
            let path = format!("{dir}/{file}");
            let stat = tree.root.stat(&path).is();
            if dir == "/etc" && !matches!(file.as_str(), "mkinitcpio.conf" | "dracut.conf") {
                continue;
            }
            // initramfs-tools runs hooks and scripts that are executable, and leaves the others.
            let runs = dir.ends_with("/hooks") || dir.contains("/scripts/");
            if runs && stat.as_ref().is_none_or(|stat| stat.mode & 0o111 == 0) {
                continue;
            }
            let young = |limit: i64| stat.as_ref().is_some_and(|stat| stat.mtime > limit);
            if newest.is_some_and(young) {
                continue;
            }
            if let Some(bytes) = tree.root.read(&path).is() {
                tree.write(&format!("{INITRD}{path}"), bytes)?;
            }
        }
    }
    Ok(())
}
