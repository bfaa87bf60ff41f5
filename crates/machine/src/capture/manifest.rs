//! The manifest: what was recorded, as JSON. The bytes are elsewhere.

use std::collections::BTreeMap;

use model::Seen;
use serde::{Deserialize, Serialize};

use crate::memory::Missing;
use crate::{FileKind, Kind};

#[derive(Serialize, Deserialize)]
pub(super) struct Manifest {
    pub schema: u64,
    pub thruway: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<i64>,
    /// What the machine was called: "this machine".
    pub name: String,
    pub kind: Kind,
    /// What a path means that is not told of here.
    pub missing: Missing,
    #[serde(default)]
    pub entries: Vec<Entry>,
    #[serde(default)]
    pub gone: Vec<Gone>,
    /// Question key → the entry that holds the answer, or why there is none.
    #[serde(default)]
    pub answers: BTreeMap<String, Seen<String>>,
}

/// One recorded name.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub path: String,
    pub kind: FileKind,
    /// Octal digits.
    pub mode: String,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub mtime: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdev: Option<(u32, u32)>,
    /// A link's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The entry with a file's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
    /// A listed directory's names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Why there are no bytes or names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Seen<()>>,
}

/// A path that was looked for in vain.
#[derive(Serialize, Deserialize)]
pub(super) struct Gone {
    pub path: String,
    pub why: Seen<()>,
}
