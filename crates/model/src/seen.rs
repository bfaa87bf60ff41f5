//! What an observation may say: it is so, it is not there, or we could not look.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An observation. Never an `Option`: "permission denied" is not "no GPU".
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen<T> {
    /// It is there, and this is it.
    Is(T),
    /// We looked, and it is not there (a missing file; NVML's "N/A").
    Absent,
    /// We could not look.
    Unreadable(Reason),
}

/// Why we could not look.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// EACCES or EPERM: root would see it.
    PermissionDenied,
    /// The capture or tree does not hold it; the machine may well have it.
    NotCaptured,
    /// No answer within the time limit (a hung driver, a dead API server).
    TimedOut,
    /// Larger than the limit for its kind.
    TooLarge,
    /// A loop of symbolic links, or a link out of the root.
    BadLink,
    /// It is there and its text is not what the format allows; says file, line and what is wrong.
    Malformed(String),
    /// Anything else, in the operating system's words.
    Other(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::PermissionDenied => f.write_str("permission denied (needs root)"),
            Reason::NotCaptured => f.write_str("not recorded in this capture"),
            Reason::TimedOut => f.write_str("no answer in time"),
            Reason::TooLarge => f.write_str("too large to read"),
            Reason::BadLink => f.write_str("its symbolic links loop or leave the root"),
            Reason::Malformed(what) => write!(f, "malformed: {what}"),
            Reason::Other(what) => f.write_str(what),
        }
    }
}

/// What nobody asked of a thing it does not have.
impl<T> Default for Seen<T> {
    fn default() -> Self {
        Seen::Absent
    }
}

impl<T> Seen<T> {
    pub fn is(self) -> Option<T> {
        match self {
            Seen::Is(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_ref(&self) -> Seen<&T> {
        match self {
            Seen::Is(value) => Seen::Is(value),
            Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason.clone()),
        }
    }

    /// The value, where it was seen.
    pub fn get(&self) -> Option<&T> {
        match self {
            Seen::Is(value) => Some(value),
            _ => None,
        }
    }

    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Seen::Is(value) => Seen::Is(f(value)),
            Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        }
    }

    pub fn and_then<U>(self, f: impl FnOnce(T) -> Seen<U>) -> Seen<U> {
        match self {
            Seen::Is(value) => f(value),
            Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        }
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Seen::Absent)
    }

    /// True where it is certainly there.
    pub fn is_there(&self) -> bool {
        matches!(self, Seen::Is(_))
    }

    pub fn unreadable(&self) -> Option<&Reason> {
        match self {
            Seen::Unreadable(reason) => Some(reason),
            _ => None,
        }
    }
}

impl<T> From<Option<T>> for Seen<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Seen::Absent, Seen::Is)
    }
}

/// Where a value came from, for the report.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file, and the line (1-based) where that says more.
    File { path: String, line: Option<u32> },
    /// A closed question that the machine was asked (NVML, a command, an API).
    Answer(String),
    /// Worked out from other facts by this rule.
    Rule(String),
}

impl Source {
    pub fn file(path: impl Into<String>) -> Self {
        Source::File { path: path.into(), line: None }
    }

    pub fn line(path: impl Into<String>, line: u32) -> Self {
        Source::File { path: path.into(), line: Some(line) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { path, line: Some(line) } => write!(f, "{path}:{line}"),
            Source::File { path, line: None } => f.write_str(path),
            Source::Answer(what) | Source::Rule(what) => f.write_str(what),
        }
    }
}

/// An observation with the place it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact<T> {
    pub value: Seen<T>,
    pub source: Source,
}

impl<T> Fact<T> {
    pub fn new(value: Seen<T>, source: Source) -> Self {
        Fact { value, source }
    }

    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }
}
