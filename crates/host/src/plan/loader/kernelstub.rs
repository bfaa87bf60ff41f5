//! Pop!_OS: kernelstub keeps the arguments in its own JSON and makes the loader entry from it (kernelstub's README).

use model::ArgsTool;

use super::Wish;
use crate::plan::steps::Steps;

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    let gone = wish.present(steps.facts.boot.written.get().map_or("", String::as_str));
    steps.args(ArgsTool::Kernelstub, wish.missing(steps.facts), gone, wish);
}
