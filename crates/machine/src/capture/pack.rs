//! Memory → bytes. The same memory gives the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use model::{Reason, Seen};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::manifest::{Entry, Gone, Manifest};
use super::{MANIFEST, Meta, SCHEMA};
use crate::walk::recordable;
use crate::{Answer, Memory, NodeKind, READ_LIMIT};

/// A capture's bytes, without the time: the same machine twice is the same file.
pub fn write(memory: &Memory) -> Vec<u8> {
    write_with(memory, &Meta::default())
}

/// A capture's bytes. What a reader would refuse (a path with a NUL, a file over [`READ_LIMIT`]) is left out or
/// marked as too large, so that what was written can be read.
pub fn write_with(memory: &Memory, meta: &Meta) -> Vec<u8> {
    let mut blobs: Vec<Arc<[u8]>> = Vec::new();
    let mut known: HashMap<Arc<[u8]>, usize> = HashMap::new();
    let mut entries = Vec::new();
    for (path, node) in memory.nodes().filter(|(path, _)| recordable(path)) {
        let stat = &node.stat;
        let mut entry = Entry {
            path: path.to_owned(),
            kind: stat.kind,
            mode: format!("{:04o}", stat.mode & 0o7777),
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            mtime: stat.mtime,
            rdev: stat.rdev,
            target: None,
            blob: None,
            names: None,
            why: None,
        };
        match &node.kind {
            NodeKind::File(Seen::Is(bytes)) if bytes.len() > READ_LIMIT => {
                entry.why = Some(Seen::Unreadable(Reason::TooLarge));
            }
            NodeKind::File(Seen::Is(bytes)) => {
                let next = known.len();
                let number = *known.entry(bytes.clone()).or_insert_with(|| {
                    blobs.push(bytes.clone());
                    next
                });
                entry.blob = Some(format!("blob/{number}"));
            }
            NodeKind::File(other) => entry.why = Some(other.as_ref().map(|_| ())),
            NodeKind::Link(target) => entry.target = Some(target.clone()),
            NodeKind::Dir(Seen::Is(names)) => entry.names = Some(names.clone()),
            NodeKind::Dir(other) => entry.why = Some(other.as_ref().map(|_| ())),
            NodeKind::Special => {}
        }
        entries.push(entry);
    }
    let gone = memory
        .gone()
        .filter(|(path, _)| recordable(path))
        .map(|(path, why)| Gone { path: path.to_owned(), why: why.clone() })
        .collect();
    let mut answers = BTreeMap::new();
    let mut payloads = Vec::new();
    for (question, answer) in memory.answers() {
        let key = question.key();
        let said = match answer {
            Seen::Is(answer) => match payload(answer) {
                Ok(bytes) => {
                    let name = format!("answer/{key}.json");
                    payloads.push((name.clone(), bytes));
                    Seen::Is(name)
                }
                Err(error) => Seen::Unreadable(Reason::Other(error.to_string())),
            },
            other => other.as_ref().map(|_| String::new()),
        };
        answers.insert(key.to_owned(), said);
    }
    let thruway = if meta.thruway.is_empty() { env!("CARGO_PKG_VERSION") } else { &meta.thruway };
    let manifest = Manifest {
        schema: u64::from(SCHEMA),
        thruway: thruway.to_owned(),
        when: meta.when,
        name: memory.called().to_owned(),
        kind: memory.origin(),
        missing: memory.missing_means(),
        entries,
        gone,
        answers,
    };
    let mut tar = tar::Builder::new(Vec::new());
    let manifest = serde_json::to_vec(&manifest).unwrap_or_default();
    append(&mut tar, MANIFEST, &manifest);
    for (number, bytes) in blobs.iter().enumerate() {
        append(&mut tar, &format!("blob/{number}"), bytes);
    }
    for (name, bytes) in &payloads {
        append(&mut tar, name, bytes);
    }
    let packed = tar.into_inner().unwrap_or_default();
    compress_to_vec(packed.as_slice(), CompressionLevel::Fastest)
}

fn payload(answer: &Answer) -> serde_json::Result<Vec<u8>> {
    match answer {
        Answer::Nvml(report) => serde_json::to_vec(report),
        Answer::Json(value) => serde_json::to_vec(value),
    }
}

/// Writing to memory does not fail, and our names are short.
fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    let _ = tar.append_data(&mut header, name, bytes);
}
