//! dracut: `force_drivers` becomes rd.driver.pre=, whose modules are loaded before udev starts; `install_items` carries
//! files along even where the image is made for any machine (dracut.conf(5)).

use super::{Steps, WHY, files, hold};

pub(super) fn carry(steps: &mut Steps<'_>, items: &[&str]) {
    steps.write(files::DRACUT, hold::dracut(items), 0o644, "load vfio-pci first in the initramfs".into(), WHY);
}
