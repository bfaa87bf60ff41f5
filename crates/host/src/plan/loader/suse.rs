//! openSUSE with entries on the ESP: sdbootutil writes /etc/kernel/cmdline into the entry of every snapshot
//! (sdbootutil's README). The classic GRUB of SUSE is in `grub`.

use model::Tool;

use super::{Wish, systemd_boot};
use crate::plan::steps::Steps;

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    if wish.stands || systemd_boot::write(wish, steps) {
        steps.run(Tool::Sdbootutil, wish.because);
    }
}
