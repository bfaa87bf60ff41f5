//! A unified kernel image: the command line goes into it when it is built, from a drop-in in /etc/cmdline.d where
//! mkinitcpio is used so, else from /etc/kernel/cmdline (mkinitcpio(8); ukify(1); kernel-install(8)).

use super::{Wish, image_tool, systemd_boot};
use crate::facts::InitTool;
use crate::plan::files;
use crate::plan::steps::Steps;

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    let tool = image_tool(steps);
    if wish.stands || write(wish, steps) {
        steps.run(tool, wish.because);
    }
}

fn write(wish: &Wish<'_>, steps: &mut Steps<'_>) -> bool {
    let facts = steps.facts;
    let pieces = |path: &str| path.starts_with("/etc/cmdline.d/") && path.ends_with(".conf");
    let by_pieces = facts.texts.keys().any(|path| pieces(path) && path != files::CMDLINE);
    if !by_pieces || facts.initramfs.tool != Some(InitTool::Mkinitcpio) {
        return systemd_boot::write(wish, steps);
    }
    for (path, text) in facts.texts.iter().filter(|(path, _)| pieces(path)) {
        if wish.drop.is_empty() || !text.is_there() {
            continue;
        }
        let text = steps.text(path);
        let line = |line: &str| match line.trim_start().starts_with('#') {
            true => line.to_owned(),
            false => wish.dropped(line),
        };
        let edited: String = text.split_inclusive('\n').map(line).collect();
        if edited != text {
            let title = format!("take {} from the kernel command line", wish.drop.join(" "));
            steps.write(path, edited, 0o644, title, wish.because);
        }
    }
    let add = wish.missing(facts);
    if !add.is_empty() {
        let title = format!("add {} to the kernel command line", add.join(" "));
        steps.write(
            files::CMDLINE,
            format!("{}{}\n", crate::plan::hold::HEAD, add.join(" ")),
            0o644,
            title,
            wish.because,
        );
    }
    true
}
