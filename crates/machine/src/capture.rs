//! The file form of a recorded machine: one `.tar.zst` whose first entry is `manifest.json`, then `blob/N` (the bytes
//! of files, each content once) and `answer/KEY.json` (what closed questions were answered).
//!
//! A capture comes from somebody else: it is read as untrusted input. Everything in it is bounded before it is
//! allocated, links are data and never followed on disk, and every error names the file, the entry and a way out.

mod extra;
mod manifest;
mod pack;
mod unpack;

use std::fmt;
use std::path::{Path, PathBuf};

pub use extra::extra;
pub use pack::{write, write_with};
pub use unpack::{read, read_bytes, read_with_meta};

use crate::{Memory, notes};

/// The version of the manifest's form. A reader refuses a newer one.
pub const SCHEMA: u32 = 1;

/// The most that a packed capture may weigh.
pub const PACKED_LIMIT: u64 = 256 << 20;
/// The most that it may unpack to.
pub const UNPACKED_LIMIT: u64 = 512 << 20;
/// The most that its manifest may weigh; entries are small, and a large machine has some ten thousand.
pub const MANIFEST_LIMIT: u64 = 96 << 20;
/// The most that one recorded answer may weigh, as `kubectl`'s output is bounded where it is asked.
pub const ANSWER_LIMIT: u64 = 64 << 20;
/// The most names that a capture may hold.
pub const ENTRY_LIMIT: usize = 400_000;
/// The longest path or link target, in bytes: PATH_MAX, thrice, since a byte that is no UTF-8 is kept as three.
pub const PATH_LIMIT: usize = 3 * 4096;
/// The largest zstd window: what `zstd -19` uses, four times over.
pub const WINDOW_LIMIT: u64 = 32 << 20;

const MANIFEST: &str = "manifest.json";

/// What a capture says of itself beside the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Seconds since the epoch; `None` where it was not said, so that equal machines give equal bytes.
    pub when: Option<i64>,
    /// The version of thruway that wrote it; empty for this one.
    pub thruway: String,
}

/// Why a capture cannot be read.
#[derive(Debug)]
pub struct CaptureError {
    /// The capture: a file or a directory.
    pub file: PathBuf,
    /// The entry in it: `manifest.json`, `blob/12`, or a recorded path.
    pub entry: Option<String>,
    pub problem: Problem,
}

/// What is wrong with it.
#[derive(Debug)]
pub enum Problem {
    /// The operating system would not let us read it.
    Io(std::io::Error),
    /// It is something else.
    NotACapture(String),
    /// It was a capture, and is cut off, altered or inconsistent.
    Damaged(String),
    /// It is larger than we read from somebody else.
    OverLimit { what: &'static str, limit: u64 },
    /// Written by a later thruway.
    Newer(u64),
}

impl CaptureError {
    pub fn new(file: &Path, entry: Option<&str>, problem: Problem) -> Self {
        CaptureError { file: file.to_owned(), entry: entry.map(str::to_owned), problem }
    }

    pub fn io(file: &Path, error: std::io::Error) -> Self {
        Self::new(file, None, Problem::Io(error))
    }

    /// Something inside is not what it should be.
    pub fn damaged(file: &Path, entry: Option<&str>, what: impl Into<String>) -> Self {
        Self::new(file, entry, Problem::Damaged(what.into()))
    }
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(entry) = &self.entry {
            let shown: String = entry.chars().take(200).flat_map(char::escape_debug).collect();
            write!(f, "{shown}: ")?;
        }
        match &self.problem {
            Problem::Io(error) => write!(f, "{error}"),
            Problem::NotACapture(what) => {
                write!(f, "is no capture ({what}); give a file written by `thruway capture -o FILE`")
            }
            Problem::Damaged(what) => write!(f, "damaged: {what}; copy the file again, or record it again"),
            Problem::OverLimit { what, limit } => {
                write!(f, "{what} is over the limit of {limit} and is not read; ask for a smaller capture")
            }
            Problem::Newer(schema) => write!(
                f,
                "has the form {schema}, this thruway reads forms up to {SCHEMA}; read it with the thruway that wrote it"
            ),
        }
    }
}

impl std::error::Error for CaptureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// A recorded machine from a path: a packed capture, an unpacked one (a directory that holds `manifest.json`), or a
/// partial tree of notes (`proc/`, `sys/`, …).
pub fn open(path: &Path) -> Result<Memory, CaptureError> {
    let meta = std::fs::metadata(path).map_err(|error| CaptureError::io(path, error))?;
    if !meta.is_dir() {
        return read(path);
    }
    match std::fs::symlink_metadata(path.join(MANIFEST)) {
        Ok(_) => unpack::read_dir(path),
        Err(_) => notes::from_dir(path),
    }
}
