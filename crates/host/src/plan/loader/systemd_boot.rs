//! systemd-boot with entries that kernel-install makes from /etc/kernel/cmdline (kernel-install(8)).

use model::Tool;

use super::Wish;
use crate::plan::steps::Steps;

pub(super) const PATH: &str = "/etc/kernel/cmdline";

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    if wish.stands || write(wish, steps) {
        steps.run(Tool::KernelInstall, wish.because);
    }
}

/// /etc/kernel/cmdline alone; false where it is not there to be edited.
pub(super) fn write(wish: &Wish<'_>, steps: &mut Steps<'_>) -> bool {
    let text = steps.text(PATH);
    if text.trim().is_empty() {
        // A new file with our tokens alone would boot without root=.
        let words: Vec<&str> = steps.facts.boot.effective.get().map_or("", String::as_str).split_whitespace().collect();
        let words: Vec<&str> =
            words.into_iter().filter(|w| !w.starts_with("initrd=") && !w.starts_with("BOOT_IMAGE=")).collect();
        let instead =
            format!("write what this machine runs with, and plan again:\necho '{}' > {PATH}", words.join(" "));
        wish.refuse(steps, format!("{PATH} is not there, and a new one would lack root="), instead);
        return false;
    }
    steps.write(PATH, wish.fulfil(&text), 0o644, wish.title(), wish.because);
    true
}
