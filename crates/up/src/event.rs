//! What a walk tells while it goes: one event a line of `--json`, and what the lines on a terminal are made of.

use serde::Serialize;

/// The version of the events' JSON form.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    pub schema: u32,
    /// Seconds since the epoch.
    pub at: i64,
    pub way: String,
    /// `host` or `guest`, or `here`.
    pub machine: String,
    /// `host/apply`: the outline's id.
    pub step: String,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum What {
    /// A step begins.
    Begin { says: String },
    /// What is run for it there, as it can be pasted.
    Command { text: String },
    /// A line that it printed.
    Line { text: String },
    /// Of something long.
    Progress { done: u64, of: u64, unit: &'static str },
    /// A plan, on paper.
    Plan { text: String },
    /// `did`: something was changed; else it was so already.
    Done { says: String, seconds: f64, did: bool },
    /// `says` in one sentence; `words`: the doctor's report or what the program printed.
    Failed { says: String, words: String, seconds: f64 },
    /// A walk's end: `well` in the first case, with what stands in words.
    End { well: bool, says: String, seconds: f64 },
}
