//! proxmox-boot-tool in its three forms: it copies kernels to every ESP, with GRUB (/etc/default/grub), systemd-boot or
//! unified images (both /etc/kernel/cmdline) to boot them (proxmox-boot-tool(8); Proxmox VE, "Host Bootloader").

use model::Tool;

use super::{Wish, grub, systemd_boot};
use crate::facts::Loader;
use crate::plan::steps::Steps;

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    let by_grub = steps.facts.boot.loader == Loader::ProxmoxGrub;
    let written = match by_grub {
        _ if wish.stands => true,
        true => grub::write(wish, steps),
        false => systemd_boot::write(wish, steps),
    };
    match (written, by_grub) {
        // There update-grub ends in a refresh of the ESPs.
        (true, true) => steps.run(Tool::UpdateGrub, wish.because),
        (true, false) => steps.run(Tool::ProxmoxBootTool, wish.because),
        (false, _) => {}
    }
}
