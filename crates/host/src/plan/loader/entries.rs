//! systemd-boot with entries that a person wrote, as Arch's and Gentoo's manuals have it: each entry is its own source,
//! so its `options` line is edited and nothing is to be generated (loader.conf(5); UAPI.1 Boot Loader Specification).

use formats::bootentries::{LoaderEntry, edit_options};

use super::Wish;
use crate::plan::steps::Steps;

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    let facts = steps.facts;
    let mut edits = Vec::new();
    for (path, text) in facts.texts.iter().filter(|(path, _)| path.contains("/loader/entries/")) {
        if !path.ends_with(".conf") || !text.is_there() {
            continue;
        }
        let text = steps.text(path);
        let entry = LoaderEntry::parse(&text);
        // An entry of another system (`efi`), or one without a line, is none of ours.
        if entry.linux.is_none() || entry.options.is_none() {
            continue;
        }
        let whole = entry.options.map(|(_, options)| options).unwrap_or_default();
        let whole = formats::kcmdline::Cmdline::parse(&whole);
        let add: Vec<String> = wish.add.iter().filter(|token| !whole.has(token)).cloned().collect();
        let its = Wish { add: &add, ..*wish };
        let edited = edit_options(&text, |line, last| if last { its.fulfil(line) } else { its.dropped(line) });
        if edited != text {
            edits.push((path, edited));
        }
    }
    if edits.is_empty() {
        let says = "the loader entries could not be read, so their command line cannot be changed";
        return wish.refuse(
            steps,
            says.to_owned(),
            "mount the EFI system partition, run thruway as root, and plan again",
        );
    }
    for (path, edited) in edits {
        steps.write(path, edited, 0o644, wish.title(), wish.because);
    }
}
