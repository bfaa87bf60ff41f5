//! The table of known texts, read once from `errors.toml`.

use std::sync::OnceLock;

use serde::Deserialize;

use crate::{Explained, pattern};

/// One row of `errors.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub id: String,
    pub who: String,
    /// Alternatives: literal text, `*` for anything between.
    pub text: Vec<String>,
    /// One sentence; `{1}` is what the first `*` stood for.
    pub says: String,
    pub fix: String,
    /// Commands; a place is `{1:NAME}`.
    #[serde(default)]
    pub paste: Vec<String>,
    #[serde(default)]
    pub checks: Vec<String>,
    pub source: String,
    /// Messages as they were met: what the row is tested with.
    pub seen: Vec<String>,
    #[serde(default)]
    pub weak: bool,
    /// `text`, ready to be looked for.
    #[serde(skip)]
    parts: Vec<Vec<String>>,
}

/// `errors.toml` is not what it should be: thruway was built wrongly.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the table of known errors is broken: {0}")]
pub struct TableError(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    error: Vec<Entry>,
}

/// Every row, in the order in which a line is tried.
pub fn table() -> Result<&'static [Entry], TableError> {
    static ROWS: OnceLock<Result<Vec<Entry>, TableError>> = OnceLock::new();
    let rows = ROWS.get_or_init(|| {
        let table: Result<Table, _> = toml::from_str(include_str!("../errors.toml"));
        let ready = |mut row: Entry| {
            row.parts = row.text.iter().map(|text| pattern::parts(text)).collect();
            row
        };
        table.map(|table| table.error.into_iter().map(ready).collect()).map_err(|error| TableError(error.to_string()))
    });
    rows.as_deref().map_err(Clone::clone)
}

impl Entry {
    /// What the stars stand for, where one of the alternatives is in the line.
    pub(crate) fn matches(&self, line: &str, folded: &str) -> Option<Vec<String>> {
        self.parts.iter().find_map(|parts| pattern::find(parts, line, folded))
    }

    pub(crate) fn explain(&self, line: usize, text: &str, words: &[String]) -> Explained {
        Explained {
            id: self.id.clone(),
            who: self.who.clone(),
            line,
            text: text.to_owned(),
            times: 1,
            says: pattern::fill(&self.says, words),
            fix: pattern::fill(&self.fix, words),
            paste: self.paste.iter().map(|paste| pattern::fill_command(paste, words)).collect(),
            checks: self.checks.clone(),
            source: self.source.clone(),
            weak: self.weak,
        }
    }
}
