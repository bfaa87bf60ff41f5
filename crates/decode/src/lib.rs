//! Known error texts: a log in, what happened out.
//!
//! The texts are data (`errors.toml`): what a line of a log must hold, what it means in one sentence, the fix, and the
//! checks of thruway that look at the same thing. A log is anybody's text: nothing of it reaches a command to paste but
//! what looks like a plain word.

mod pattern;
mod table;

use serde::Serialize;

pub use table::{Entry, TableError, table};

/// More of a line than this is not looked at: a line of that length is no message.
const LINE: usize = 4096;

/// One known error in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The row's name, stable: "qemu/group-not-viable".
    pub id: String,
    /// Who says it: "QEMU", "the kernel", "Proxmox VE".
    pub who: String,
    /// The first line that says it, 1-based, and the line itself.
    pub line: usize,
    pub text: String,
    /// How many lines say it.
    pub times: usize,
    /// One sentence: what happened.
    pub says: String,
    /// What to do, in words.
    pub fix: String,
    /// Lines to paste; empty where only a human can act.
    pub paste: Vec<String>,
    /// The checks of thruway that confirm it; empty where none looks at this.
    pub checks: Vec<String>,
    /// Where the knowledge is from.
    pub source: String,
    /// A consequence: where something else was found too, that is the cause.
    pub weak: bool,
}

/// What a log says, in the order of the log, consequences last. Errors only where the table itself is broken.
pub fn explain(log: &str) -> Result<Vec<Explained>, TableError> {
    let rows = table()?;
    let mut found: Vec<Explained> = Vec::new();
    for (at, line) in log.lines().enumerate() {
        let line = cut(line);
        let folded = line.to_ascii_lowercase();
        let Some((row, words)) = rows.iter().find_map(|row| Some((row, row.matches(line, &folded)?))) else { continue };
        if let Some(known) = found.iter_mut().find(|known| known.id == row.id) {
            known.times += 1;
            continue;
        }
        found.push(row.explain(at + 1, line, &words));
    }
    found.sort_by_key(|one| (one.weak, one.line));
    Ok(found)
}

/// The line without blanks at its end, at most [`LINE`] bytes.
fn cut(line: &str) -> &str {
    let mut end = line.len().min(LINE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.get(..end).unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_row_knows_its_own_messages_and_no_other_row_takes_them() {
        for row in table().expect("the table") {
            assert!(!row.seen.is_empty(), "{} has no message to be tested with", row.id);
            for message in &row.seen {
                let found = explain(message).expect("the table");
                let ids: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
                assert_eq!(ids, [row.id.as_str()], "{message}");
                let text = format!("{} {} {}", found[0].says, found[0].fix, found[0].paste.join(" "));
                assert!(!text.contains('{'), "{}: a place was not filled: {text}", row.id);
            }
            // Every alternative is needed by some message: a text that no message has is a guess.
            for text in &row.text {
                let one = |message: &String| {
                    pattern::find(&pattern::parts(text), message, &message.to_ascii_lowercase()).is_some()
                };
                assert!(row.seen.iter().any(one), "{}: no message has {text:?}", row.id);
            }
        }
    }

    #[test]
    fn rows_are_well_written() {
        let rows = table().expect("the table");
        assert!(rows.len() >= 80, "{} rows", rows.len());
        let mut ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        ids.sort_unstable();
        let many = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), many, "an id is there twice");
        for row in rows {
            assert!(!row.says.ends_with('.') && !row.fix.ends_with('.'), "{}: no full stop at the end", row.id);
            assert!(!row.says.is_empty() && !row.fix.is_empty() && !row.source.is_empty(), "{}", row.id);
        }
    }

    #[test]
    fn a_log_is_told_in_its_order_and_consequences_come_last() {
        let log = "2026-01-01 start\n\
                   start failed: QEMU exited with code 1\n\
                   kvm: vfio 0000:01:00.0: group 3 is not viable\n\
                   kvm: vfio 0000:01:00.0: group 3 is not viable\n";
        let found = explain(log).expect("the table");
        let ids: Vec<(&str, usize, usize)> = found.iter().map(|one| (one.id.as_str(), one.line, one.times)).collect();
        assert_eq!(ids, [("qemu/group-not-viable", 3, 2), ("pve/qemu-exited", 2, 1)]);
        let busy =
            explain("vfio 0000:01:00.0: failed to open /dev/vfio/6: Device or resource busy").expect("the table");
        assert!(busy[0].says.contains("group (6)"), "{}", busy[0].says);
    }

    #[test]
    fn an_unknown_log_explains_nothing() {
        assert_eq!(explain("all is well\nnothing to see\n").expect("the table"), []);
        assert_eq!(explain("").expect("the table"), []);
    }

    #[test]
    fn a_hostile_log_puts_nothing_into_a_command() {
        let log = "PCI device '0000:01:00.0' already in use by VMID '101; rm -rf /'";
        let found = explain(log).expect("the table");
        assert_eq!(found[0].id, "pve/in-use-by-vm");
        let paste = found[0].paste.join("\n");
        assert!(!paste.contains("rm -rf"), "{paste}");
        assert!(paste.contains("VMID"), "{paste}");
    }

    proptest! {
        #[test]
        fn random_text_never_panics(log in "\\PC*") {
            let _ = explain(&log).expect("the table");
        }

        #[test]
        fn messages_in_noise_are_found(before in "[ -~]{0,40}", after in "[ -~]{0,40}") {
            let log = format!("{before} vfio 0000:01:00.0: no iommu_group found {after}");
            prop_assert!(!explain(&log).expect("the table").is_empty());
        }
    }
}
