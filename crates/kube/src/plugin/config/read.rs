//! Values of a file, each with the way to it, so that an error names the line.

use std::fmt;

use formats::yamlin::tree::{self, Node};
use serde_json::Value;

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadConfig {
    /// From 1; 0 where it is of no line: of a flag, or of what is missing.
    pub line: usize,
    /// "sharing.timeSlicing.resources[0].replicas", "--mig-strategy", "MIG_STRATEGY".
    pub at: String,
    /// One sentence without a full stop: what is wrong and what would be right.
    pub says: String,
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.at.is_empty()) {
            (0, true) => f.write_str(&self.says),
            (0, false) => write!(f, "{}: {}", self.at, self.says),
            (line, true) => write!(f, "line {line}: {}", self.says),
            (line, false) => write!(f, "line {line}, {}: {}", self.at, self.says),
        }
    }
}

impl std::error::Error for BadConfig {}

impl BadConfig {
    /// With the line of the text at which it is.
    pub(super) fn located(mut self, text: &str) -> Self {
        let documents = tree::documents(text).unwrap_or_default();
        self.line = documents.first().map_or(0, |root| line(root, &self.at));
        self
    }
}

/// The line of "a.b[0].c", or of the nearest thing above it that is there.
fn line(root: &Node, at: &str) -> usize {
    let mut node = root;
    let mut line = 0;
    for step in at.split(['.', '[']).filter(|step| !step.is_empty()) {
        let next = match step.strip_suffix(']') {
            Some(number) => number.parse::<usize>().ok().and_then(|number| node.items().get(number)),
            None => node.entry(step).map(|(key, value)| {
                line = key.line;
                value
            }),
        };
        let Some(next) = next else { break };
        node = next;
        if step.ends_with(']') {
            line = node.line;
        }
    }
    line
}

/// A value and the way to it.
#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

pub(super) type Read<T> = Result<T, BadConfig>;

impl<'a> At<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        At { value, path: String::new() }
    }

    pub(super) fn bad<T>(&self, says: impl Into<String>) -> Read<T> {
        Err(BadConfig { line: 0, at: self.path.clone(), says: says.into() })
    }

    /// The value of a key; none where it is not there or null.
    pub(super) fn get(&self, key: &str) -> Option<At<'a>> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Some(At { value, path })
    }

    /// The mapping that is to be here, with the keys that nobody reads.
    pub(super) fn unknown(&self, known: &[&str]) -> Read<Vec<String>> {
        let Some(map) = self.value.as_object() else { return self.bad("is to be a mapping (key: value)") };
        let all = map.keys().filter(|key| !known.contains(&key.as_str()));
        Ok(all.map(|key| if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) }).collect())
    }

    pub(super) fn items(&self) -> Read<Vec<At<'a>>> {
        let Some(list) = self.value.as_array() else { return self.bad("is to be a list") };
        let item = |(number, value)| At { value, path: format!("{}[{number}]", self.path) };
        Ok(list.iter().enumerate().map(item).collect())
    }

    pub(super) fn flag(&self) -> Read<bool> {
        self.value.as_bool().map_or_else(|| self.bad("is to be true or false"), Ok)
    }

    pub(super) fn text(&self) -> Read<&'a str> {
        self.value.as_str().map_or_else(|| self.bad("is to be a text"), Ok)
    }

    pub(super) fn number(&self) -> Read<u64> {
        self.value.as_u64().map_or_else(|| self.bad("is to be a whole number, not below 0"), Ok)
    }

    /// A name or a number, as its text: devices are called either way.
    pub(super) fn name(&self) -> Read<String> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            _ => self.bad("is to be a name or a number"),
        }
    }

    /// One text with commas, or a list of texts.
    pub(super) fn texts(&self) -> Read<Vec<String>> {
        let texts = match self.value {
            Value::String(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
            _ => self.items()?.iter().map(At::name).collect::<Read<Vec<_>>>()?,
        };
        Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
    }
}

/// Milliseconds out of Go's form of a duration ("60s", "1h30m", "500ms") or, as a number, of its nanoseconds.
pub(super) fn duration(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().map(|nanos| nanos / 1_000_000),
        Value::String(text) => go_duration(text),
        _ => None,
    }
}

pub(super) fn go_duration(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut sum) = (text, 0.0_f64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let millis = match &rest[..unit] {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            "us" | "µs" => 0.001,
            "ns" => 0.000_001,
            _ => return None,
        };
        sum += number * millis;
        rest = &rest[unit..];
    }
    // beyond a century is a slip of the pen
    (!text.is_empty() && sum.is_finite() && sum < 3.2e12).then_some(sum as u64)
}
