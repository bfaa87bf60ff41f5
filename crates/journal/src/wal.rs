//! The write-ahead log's form: one line an entry, `CHECKSUM JSON`, after a first line that names the form.

use model::{Digest, Plan};
use serde::{Deserialize, Serialize};

use crate::guard::Judged;
use crate::{Error, Image};

/// The first line. A later form gets a later number of the same width; the older ones stay readable.
///
/// Form 2 adds to form 1: what a generator made before it ran (`outputs`, `UndoIntent`), whether a service was so
/// already (`held`), steps that said they failed (`Failed`) and removed links (`Image::Link`).
pub(crate) const HEADER: &str = "thruway-journal 2\n";
/// Form 1, of 0.1.0 before its release.
const HEADER_1: &str = "thruway-journal 1\n";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    Begin {
        tx: u64,
        /// Seconds since the epoch.
        at: i64,
        /// /proc/sys/kernel/random/boot_id: tells a later run whether a boot has come between.
        boot: Option<String>,
        plan: Box<Plan>,
    },
    Intent {
        tx: u64,
        step: usize,
        /// What was there, for file steps; its bytes are a blob.
        before: Option<Image>,
        /// Directories that the step makes.
        dirs: Vec<String>,
        /// For a generator: what it may overwrite, as it was before it ran.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        outputs: Vec<Output>,
        /// For a service: it was already so before the step, as far as could be seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        held: Option<bool>,
        /// For packages: the blob of what was installed before, and of what was to come ([`crate::Stock`]).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stock: Option<Digest>,
    },
    /// The step said that it failed; a crash says nothing.
    Failed {
        tx: u64,
        step: usize,
    },
    Done {
        tx: u64,
        step: usize,
        after: Option<Image>,
    },
    End {
        tx: u64,
    },
    UndoBegin {
        tx: u64,
        at: i64,
    },
    /// A generator is about to run again for an undo: what it may overwrite, as it is now.
    UndoIntent {
        tx: u64,
        step: usize,
        outputs: Vec<Output>,
    },
    UndoStep {
        tx: u64,
        step: usize,
    },
    UndoEnd {
        tx: u64,
    },
    /// What the boot guard found at the boot that the transaction waited for.
    Judged {
        tx: u64,
        judged: Judged,
    },
}

/// A file that a generator writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Output {
    pub path: String,
    /// `None`: too big to keep a copy of.
    pub image: Option<Image>,
}

pub(crate) fn line(entry: &Entry) -> String {
    // A plan is plain data: serde_json cannot fail on it.
    let json = serde_json::to_string(entry).unwrap_or_default();
    let mut sum = Digest::of(json.as_bytes()).0;
    sum.truncate(16);
    format!("{sum} {json}\n")
}

/// What a log file holds.
pub(crate) struct Parsed {
    /// With their 1-based line numbers.
    pub entries: Vec<(usize, Entry)>,
    /// Length of the valid part in bytes; 0 where not even the first line was written.
    pub valid: usize,
    /// An older form: its first line is to be brought up to date before anything is appended.
    pub old: bool,
}

/// Reads a log. A torn tail (the power went while a line was being appended: its pages reach the disk in any order,
/// some not at all) is not part of it: nothing was ever done on the strength of a line that was not yet durable. A
/// broken line with a whole one after it is no tear but damage.
pub(crate) fn parse(path: &str, bytes: &[u8]) -> Result<Parsed, Error> {
    let (rest, old) = if let Some(rest) = bytes.strip_prefix(HEADER.as_bytes()) {
        (rest, false)
    } else if let Some(rest) = bytes.strip_prefix(HEADER_1.as_bytes()) {
        (rest, true)
    } else if [HEADER, HEADER_1].iter().any(|header| header.as_bytes().starts_with(bytes))
        || bytes.iter().all(|byte| *byte == 0)
    {
        return Ok(Parsed { entries: Vec::new(), valid: 0, old: false });
    } else {
        let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
        let first = String::from_utf8_lossy(&first[..first.len().min(60)]).into_owned();
        return Err(match first.strip_prefix("thruway-journal ") {
            Some(form) => Error::Newer { path: path.into(), form: form.into() },
            None => Error::Damaged { path: path.into(), line: 1, what: "its first line is not a journal's".into() },
        });
    };
    let mut entries = Vec::new();
    let mut valid = HEADER.len();
    // The header is line 1.
    let mut lines = (2..).zip(rest.split_inclusive(|byte| *byte == b'\n'));
    while let Some((number, raw)) = lines.next() {
        match entry(raw) {
            Ok(entry) => entries.push((number, entry)),
            Err(_) if !lines.any(|(_, later)| entry(later).is_ok()) => break,
            Err(what) => return Err(Error::Damaged { path: path.into(), line: number, what }),
        }
        valid += raw.len();
    }
    Ok(Parsed { entries, valid, old })
}

fn entry(raw: &[u8]) -> Result<Entry, String> {
    let text = std::str::from_utf8(raw).map_err(|error| error.to_string())?;
    let text = text.strip_suffix('\n').ok_or("the line has no end")?;
    let (sum, json) = text.split_once(' ').ok_or("no checksum")?;
    if sum.len() != 16 || !Digest::of(json.as_bytes()).0.starts_with(sum) {
        return Err("the checksum does not match".into());
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}
