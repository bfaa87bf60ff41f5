//! The files that this floor owns.

/// Says which functions are held, by address and identity.
pub const RULES: &str = "/etc/udev/rules.d/61-thruway-vfio.rules";
/// By address where the initramfs has no script of ours: vfio-pci's `install` line and softdeps. By ids: `options
/// vfio-pci ids=` and softdeps.
pub const MODPROBE: &str = "/etc/modprobe.d/thruway-vfio.conf";
pub const MODULES: &str = "/etc/modules-load.d/thruway-vfio.conf";
pub const HOOK: &str = "/etc/initramfs-tools/hooks/thruway-vfio";
pub const SCRIPT: &str = "/etc/initramfs-tools/scripts/init-top/thruway-vfio";
pub const DRACUT: &str = "/etc/dracut.conf.d/thruway-vfio.conf";
pub const MKINITCPIO: &str = "/etc/mkinitcpio.conf.d/thruway-vfio.conf";
/// Sets the override before vfio-pci is loaded; run by [`MODPROBE`]'s `install` line.
pub const SETTER: &str = "/etc/thruway/hold-vfio";
/// A piece of the command line that mkinitcpio builds into a unified kernel image.
pub const CMDLINE: &str = "/etc/cmdline.d/90-thruway.conf";
/// Sorts behind the cloud images' 50-cloudimg-settings.cfg, which would override it.
pub const GRUB: &str = "/etc/default/grub.d/99-thruway.cfg";

/// The boot guard, and what has systemd start it.
pub const GUARD: &str = "/etc/systemd/system/thruway-guard.service";
/// A drop-in, since it is a plain file that undo puts back exactly; `systemctl enable` makes a link.
pub const GUARD_WANTED: &str = "/etc/systemd/system/multi-user.target.d/50-thruway-guard.conf";

pub const OWN: [&str; 12] =
    [RULES, MODPROBE, MODULES, HOOK, SCRIPT, DRACUT, MKINITCPIO, SETTER, CMDLINE, GRUB, GUARD, GUARD_WANTED];
