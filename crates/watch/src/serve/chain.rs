//! What the doctor said of the way, as the page and the metrics show it. Who looks stands above this room and hands it in.

use model::{Bdf, Finding, Layer, Presence, Trouble, Verdict};
use serde::Serialize;

/// The whole way over one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Chain {
    /// What the machine is called.
    pub machine: String,
    /// In the order of the way.
    pub floors: Vec<Floor>,
    /// To whom cards are promised.
    pub promises: Vec<Promise>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Floor {
    pub layer: Layer,
    #[serde(flatten)]
    pub presence: Presence,
    pub state: State,
    pub findings: Vec<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    NotHere,
    Well,
    Warned,
    Broken,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Promise {
    pub bdf: Bdf,
    /// "host", "vm:100", "containers", "pods".
    pub to: String,
}

impl State {
    pub const ALL: [State; 5] = [State::NotHere, State::Well, State::Warned, State::Broken, State::Unknown];

    pub fn name(self) -> &'static str {
        match self {
            State::NotHere => "not_here",
            State::Well => "well",
            State::Warned => "warned",
            State::Broken => "broken",
            State::Unknown => "unknown",
        }
    }
}

/// A verdict's word as a label; none where there is nothing to say.
pub fn word(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Fail(_) => Some("fail"),
        Verdict::Warn(_) => Some("warn"),
        Verdict::Unknown { .. } => Some("unknown"),
        Verdict::Pass | Verdict::NotApplicable => None,
    }
}

/// What is wrong, where something is.
pub fn trouble(verdict: &Verdict) -> Option<&Trouble> {
    match verdict {
        Verdict::Fail(trouble) | Verdict::Warn(trouble) => Some(trouble),
        _ => None,
    }
}

impl Chain {
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.floors.iter().flat_map(|floor| &floor.findings)
    }

    /// To whom the card in this slot is promised.
    pub fn promised(&self, bdf: Bdf) -> Option<&str> {
        self.promises.iter().find(|promise| promise.bdf.same_slot(&bdf)).map(|promise| promise.to.as_str())
    }
}
