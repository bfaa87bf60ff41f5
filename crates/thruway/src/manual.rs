//! Manual pages: one a command, made of the grammar, and those of the programs that are installed beside this one.

use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::{DONE, say};

/// The programs beside this one have no grammar here: their pages are written by hand.
const BESIDE: [(&str, &str); 3] = [
    ("thruway-hook.1", include_str!("../../../dist/man/thruway-hook.1")),
    ("thruway-node.1", include_str!("../../../dist/man/thruway-node.1")),
    ("thruway-runtime.1", include_str!("../../../dist/man/thruway-runtime.1")),
];

/// What a command's page says of the options that every command has.
const EVERYWHERE: &str =
    "Options that every command has (which machine, the form of the output, Proxmox VE's API) are in thruway(1).";

/// The page of the whole program on standard output, or with `all` every page as a file in that directory.
///
/// # Errors
/// The directory cannot be made, or a file in it cannot be written.
pub fn man(all: Option<&Path>) -> anyhow::Result<u8> {
    let mut command = Cli::command();
    command.build();
    let Some(dir) = all else {
        return say(&String::from_utf8_lossy(&page(&command, true)?)).map(|()| DONE);
    };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut pages = vec![("thruway.1".to_owned(), page(&command, true)?)];
    below(&command, &mut pages)?;
    // `thruway node` is the program of that name: its own page stands for it
    pages.retain(|(name, _)| BESIDE.iter().all(|(beside, _)| name != beside));
    pages.extend(BESIDE.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())));
    for (name, text) in &pages {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say(&format!("{} pages in {}\n", pages.len(), dir.display())).map(|()| DONE)
}

fn below(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_display_name().unwrap_or_else(|| verb.get_name());
        pages.push((format!("{name}.1"), page(verb, false)?));
        below(verb, pages)?;
    }
    Ok(())
}

fn page(command: &clap::Command, whole: bool) -> anyhow::Result<Vec<u8>> {
    let command = command.clone().mut_args(|arg| {
        // what short help leaves out belongs here, and what every command has belongs on one page
        let hidden = arg.is_hide_set() || (!whole && arg.is_global_set());
        arg.hide(hidden).hide_short_help(false)
    });
    let command = match (whole, command.get_after_help().map(ToString::to_string)) {
        (true, _) => command,
        (false, None) => command.after_help(EVERYWHERE),
        (false, Some(text)) => command.after_help(format!("{text}\n\n{EVERYWHERE}")),
    };
    let mut text = Vec::new();
    let source = concat!("thruway ", env!("CARGO_PKG_VERSION"));
    Man::new(command).source(source).manual("thruway").render(&mut text)?;
    Ok(text)
}
