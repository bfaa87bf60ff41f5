//! Fedora Atomic desktops, CoreOS and bootc systems that have rpm-ostree: a new deployment with other arguments
//! (rpm-ostree(1), kargs).

use model::ArgsTool;

use super::Wish;
use crate::plan::steps::Steps;

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    let gone = wish.present(steps.facts.boot.written.get().map_or("", String::as_str));
    steps.args(ArgsTool::RpmOstree, wish.missing(steps.facts), gone, wish);
}
