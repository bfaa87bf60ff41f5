//! Checks as data, their verdicts, and the findings that a report shows.

use serde::Serialize;

use crate::{CheckId, Layer, Reason, Source};

/// One row of a floor's table of checks. `F` is the floor's facts; a check never reads anything else.
pub struct Check<F: 'static> {
    pub about: About,
    pub run: fn(&F) -> Verdict,
}

/// What a check is, apart from the code: the page that `thruway explain ID` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct About {
    pub id: CheckId,
    pub layer: Layer,
    /// One line, what this check looks for: "every device of the card's IOMMU group can go to the VM".
    pub title: &'static str,
    /// A paragraph: why it matters, what people see when it is wrong (with exact error texts), what to do.
    pub why: &'static str,
    /// Where the knowledge comes from: kernel doc, project source, issue.
    pub source: &'static str,
}

/// What a check says of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    Pass,
    /// Works, yet harmful, risky, or due to break.
    Warn(Trouble),
    /// The way is broken here.
    Fail(Trouble),
    /// Nothing here that this check speaks of.
    NotApplicable,
    /// We could not look. Never shown as well.
    Unknown {
        reason: Reason,
        /// What could not be looked at.
        what: String,
    },
}

/// What is wrong, shown, and how to mend it. Rides on `Warn` and `Fail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// One sentence in the reader's words, without a full stop at its end.
    pub says: String,
    pub evidence: Vec<Evidence>,
    pub fixes: Vec<Fix>,
}

impl Trouble {
    pub fn new(says: impl Into<String>) -> Self {
        Trouble { says: says.into(), evidence: Vec::new(), fixes: Vec::new() }
    }

    /// Adds the file, line and value that show it.
    pub fn seen(mut self, source: Source, value: impl Into<String>) -> Self {
        self.evidence.push(Evidence { source, value: value.into() });
        self
    }

    pub fn fix(mut self, fix: Fix) -> Self {
        self.fixes.push(fix);
        self
    }
}

/// One thing that was read: where, and what stood there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    pub source: Source,
    pub value: String,
}

/// A way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What it does, in a few words: "give both functions to vfio-pci by address".
    pub does: String,
    /// Lines to paste; empty where only a human can act (firmware set-up).
    pub paste: Vec<String>,
    /// What it costs: a reboot, an outage, a risk. Empty when nothing.
    pub costs: Vec<String>,
    /// How to take it back.
    pub undo: String,
}

impl Fix {
    /// A fix that thruway itself plans: `command` is the thruway command line to paste.
    pub fn planned(does: impl Into<String>, command: impl Into<String>) -> Self {
        Fix { does: does.into(), paste: vec![command.into()], costs: Vec::new(), undo: "thruway undo".into() }
    }

    /// A fix by hand, by these lines.
    pub fn by_hand(does: impl Into<String>, paste: &[&str], undo: impl Into<String>) -> Self {
        Fix {
            does: does.into(),
            paste: paste.iter().map(|line| (*line).to_owned()).collect(),
            costs: Vec::new(),
            undo: undo.into(),
        }
    }

    pub fn costs(mut self, what: impl Into<String>) -> Self {
        self.costs.push(what.into());
        self
    }
}

/// A check's verdict on this machine, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    #[serde(flatten)]
    pub about: About,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Runs a floor's whole table over its facts, in the table's order (which is the order of the way).
pub fn run_all<F>(checks: &[Check<F>], facts: &F) -> Vec<Finding> {
    checks.iter().map(|check| Finding { about: check.about, verdict: (check.run)(facts) }).collect()
}
