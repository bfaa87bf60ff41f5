//! Fedora, RHEL and their kin: GRUB reads loader entries, and grubby keeps them, the defaults in /etc/default/grub and
//! what kernels to come get. grub2-mkconfig alone does not rewrite the entries (grubby(8); Fedora's
//! BootLoaderSpecByDefault).

use model::ArgsTool;

use super::Wish;
use crate::plan::steps::Steps;

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    // What some entry lacks: grubby changes them all, and leaves those that have it.
    let lines = steps.facts.boot.generated.get().cloned().unwrap_or_default();
    let line: Vec<&str> = lines.iter().map(|written| written.text.as_str()).collect();
    let gone = wish.present(&line.join(" "));
    steps.args(ArgsTool::Grubby, wish.missing(steps.facts), gone, wish);
}
