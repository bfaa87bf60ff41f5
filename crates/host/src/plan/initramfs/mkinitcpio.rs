//! mkinitcpio: MODULES are loaded in their order, before the udev hook looks for devices; so vfio_pci goes to the front
//! of what /etc/mkinitcpio.conf lists (mkinitcpio.conf(5), drop-ins since version 36).

use super::{Steps, WHY, files, hold};

pub(super) fn carry(steps: &mut Steps<'_>, items: &[&str]) {
    steps.write(files::MKINITCPIO, hold::mkinitcpio(items), 0o644, "load vfio_pci first in the initramfs".into(), WHY);
}
