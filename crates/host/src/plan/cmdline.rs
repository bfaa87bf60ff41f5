//! The kernel command line: only what this CPU and kernel need, where this boot loader reads it.

use formats::kcmdline::{Cmdline, Token};
use model::{Intent, Seen, Source};

use super::loader::{self, Wish};
use super::steps::{self, Steps};
use crate::facts::{Facts, Target};

const WHY: &str = "host/iommu-kernel-off";

/// Adds the edits, and what has to run afterwards.
pub(super) fn add(facts: &Facts, intent: &Intent, targets: &[Target<'_>], steps: &mut Steps<'_>) {
    let (add, drop) = tokens(facts, intent, targets);
    change(facts, &add, &drop, WHY, steps);
}

/// Brings the command line to have `add` and to lack `drop`, unless what is booted next is so already.
pub(super) fn change(facts: &Facts, add: &[String], drop: &[String], because: &'static str, steps: &mut Steps<'_>) {
    if add.is_empty() && drop.is_empty() {
        return;
    }
    let written = Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
    let stands = add.iter().all(|token| written.has(token)) && !written.tokens().any(|t| is_one_of(t, drop));
    if stands && in_next_boot(facts, add, drop) {
        return;
    }
    loader::edit(&Wish { add, drop, stands, because }, steps);
}

/// What the command line must have, and what must go because it switches an IOMMU off.
pub(crate) fn tokens(facts: &Facts, intent: &Intent, targets: &[Target<'_>]) -> (Vec<String>, Vec<String>) {
    let mut add = Vec::new();
    let mut drop = Vec::new();
    let off = facts.iommu.on() == Seen::Is(false);
    if let (true, Seen::Is(table)) = (off, &facts.iommu.table) {
        let now = Cmdline::parse(facts.boot.effective.get().map_or("", String::as_str));
        let written = Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
        for token in ["iommu=off", "intel_iommu=off", "amd_iommu=off"] {
            if now.has(token) || written.has(token) {
                drop.push(token.to_owned());
            }
        }
        // AMD's is on by itself, and `amd_iommu=on` is no value that the kernel knows. Intel's is where the kernel was
        // built so: there it is enough that nothing switches it off.
        let by_itself = facts.kernel.intel_on == Seen::Is(true) && !drop.is_empty();
        if table == "DMAR"
            && !by_itself
            && now.last("intel_iommu").is_none_or(|value| !value.split(',').any(|w| w == "on"))
        {
            add.push("intel_iommu=on".to_owned());
        }
    }
    if intent.by_ids && facts.kernel.is_builtin("vfio_pci") {
        let ids: Vec<String> = steps::ids(targets).iter().map(ToString::to_string).collect();
        add.push(format!("vfio-pci.ids={}", ids.join(",")));
    }
    (add, drop)
}

/// True where the argument is one of these, name and value.
pub(super) fn is_one_of(token: &Token, these: &[String]) -> bool {
    these.iter().any(|one| match one.split_once('=') {
        Some((name, value)) => formats::kcmdline::same_name(&token.name, name) && token.value.as_deref() == Some(value),
        None => formats::kcmdline::same_name(&token.name, one) && token.value.is_none(),
    })
}

/// True where what will be booted next already says so. An ESP that cannot be seen counts as generated: its tool ran
/// when the file was written, and [`super::verify`] looks at the effect.
fn in_next_boot(facts: &Facts, add: &[String], drop: &[String]) -> bool {
    let Seen::Is(entries) = &facts.boot.generated else { return true };
    let Some(first) = entries.first() else { return false };
    let line = Cmdline::parse(&first.text);
    add.iter().all(|token| line.has(token)) && !line.tokens().any(|token| is_one_of(token, drop))
}

/// Where a token stands in the written line, for a report.
pub(crate) fn place(facts: &Facts, token: &str) -> Source {
    let found = facts.boot.pieces.iter().rev().find(|piece| Cmdline::parse(&piece.text).has(token));
    found.map_or_else(|| facts.boot.written.source.clone(), |piece| piece.source.clone())
}
