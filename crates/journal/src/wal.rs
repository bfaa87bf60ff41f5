//! The write-ahead log's form: one line an entry, `CHECKSUM JSON`, after a first line that names the form.

use model::{Digest, Plan};
use serde::{Deserialize, Serialize};

use crate::guard::Judged;
use crate::{Error, Image};

/// The first line. A later form gets a later number; this one stays readable.
pub(crate) const HEADER: &str = "thruway-journal 1\n";

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

pub(crate) fn line(entry: &Entry) -> String {
    // A plan is plain data: serde_json cannot fail on it.
    let json = serde_json::to_string(entry).unwrap_or_default();
    let mut sum = Digest::of(json.as_bytes()).0;
    sum.truncate(16);
    format!("{sum} {json}\n")
}

/// The entries, and the length of the valid part. A torn last line (power cut while appending) is not part of it;
/// a broken line anywhere else is damage.
pub(crate) fn parse(path: &str, bytes: &[u8]) -> Result<(Vec<Entry>, usize), Error> {
    if bytes.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let Some(rest) = bytes.strip_prefix(HEADER.as_bytes()) else {
        if HEADER.as_bytes().starts_with(bytes) {
            return Ok((Vec::new(), 0));
        }
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
    for (number, raw) in (2..).zip(rest.split_inclusive(|byte| *byte == b'\n')) {
        match entry(raw) {
            Ok(entry) => entries.push(entry),
            // A torn append has no newline at its end; damage does.
            Err(_) if !raw.ends_with(b"\n") => break,
            Err(what) => return Err(Error::Damaged { path: path.into(), line: number, what }),
        }
        valid += raw.len();
    }
    Ok((entries, valid))
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
