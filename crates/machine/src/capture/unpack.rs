//! Bytes → Memory, of a file that somebody else may have made to harm us.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use model::Seen;
use ruzstd::decoding::StreamingDecoder;

use super::manifest::{Entry, Manifest};
use super::{
    ANSWER_LIMIT, CaptureError, ENTRY_LIMIT, MANIFEST, MANIFEST_LIMIT, Meta, PACKED_LIMIT, PATH_LIMIT, Problem, SCHEMA,
    UNPACKED_LIMIT, WINDOW_LIMIT,
};
use crate::walk::recordable;
use crate::{Answer, FileKind, Memory, Node, NodeKind, Question, READ_LIMIT, Root, Stat};

/// Reads a packed capture.
pub fn read(file: &Path) -> Result<Memory, CaptureError> {
    read_with_meta(file).map(|(memory, _)| memory)
}

/// As [`read`], with what the capture says of itself.
pub fn read_with_meta(file: &Path) -> Result<(Memory, Meta), CaptureError> {
    let io = |error| CaptureError::io(file, error);
    let opened = std::fs::File::open(file).map_err(io)?;
    if !opened.metadata().map_err(io)?.is_file() {
        return Err(CaptureError::new(file, None, Problem::NotACapture("it is no regular file".into())));
    }
    let mut bytes = Vec::new();
    opened.take(PACKED_LIMIT + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > PACKED_LIMIT {
        return Err(over(file, None, "the packed size in bytes", PACKED_LIMIT));
    }
    read_bytes(&bytes, file)
}

/// Reads a packed capture's bytes; `file` is the name for errors.
pub fn read_bytes(bytes: &[u8], file: &Path) -> Result<(Memory, Meta), CaptureError> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    if !bytes.starts_with(&ZSTD) {
        let what = if bytes.is_empty() { "the file is empty" } else { "it does not begin as zstd does" };
        return Err(CaptureError::new(file, None, Problem::NotACapture(what.into())));
    }
    let mut frames = Frames { rest: bytes, decoder: None, left: UNPACKED_LIMIT };
    let mut parts = Parts::default();
    let mut manifest = None;
    {
        let mut archive = tar::Archive::new(&mut frames);
        let broken = |entry: Option<&str>, error: std::io::Error| from_stream(file, entry, &error);
        // Raw: extension headers (long names) are not read into memory; ours never need them.
        for entry in archive.entries().map_err(|e| broken(None, e))?.raw(true) {
            let mut entry = entry.map_err(|e| broken(None, e))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            let kind = entry.header().entry_type();
            if kind.is_dir() || kind.is_pax_global_extensions() || kind.is_pax_local_extensions() {
                continue;
            }
            if !kind.is_file() {
                return Err(CaptureError::damaged(file, Some(&name), "an entry that is no plain file"));
            }
            let limit = limit_of(&name);
            let size = entry.size();
            if size > limit {
                return Err(over(file, Some(&name), "the entry's size in bytes", limit));
            }
            let mut content = Vec::with_capacity(size.min(1 << 20) as usize);
            (&mut entry).take(limit).read_to_end(&mut content).map_err(|e| broken(Some(&name), e))?;
            if content.len() as u64 != size {
                return Err(CaptureError::damaged(file, Some(&name), "it is cut off"));
            }
            if manifest.is_none() {
                if name != MANIFEST {
                    let what = format!("its first entry is not {MANIFEST}");
                    return Err(CaptureError::new(file, Some(&name), Problem::NotACapture(what)));
                }
                manifest = Some(parse(file, &content)?);
                continue;
            }
            if parts.files.len() > ENTRY_LIMIT {
                return Err(over(file, Some(&name), "the number of entries", ENTRY_LIMIT as u64));
            }
            if parts.files.insert(name.clone(), content.into()).is_some() {
                return Err(CaptureError::damaged(file, Some(&name), "the entry stands twice"));
            }
        }
    }
    let Some(manifest) = manifest else {
        return Err(CaptureError::new(file, None, Problem::NotACapture(format!("it holds no {MANIFEST}"))));
    };
    // To the end, so that the checksum is read; an archive's padding is small, what is longer is no padding.
    let mut tail = Vec::new();
    (&mut frames).take(1 << 20).read_to_end(&mut tail).map_err(|e| from_stream(file, None, &e))?;
    if tail.iter().any(|byte| *byte != 0) || tail.len() == 1 << 20 {
        return Err(CaptureError::damaged(file, None, "something follows the archive's end"));
    }
    build(file, manifest, &mut parts)
}

/// Reads an unpacked capture: a directory with the same entries. Links in it cannot lead out of it.
pub(super) fn read_dir(dir: &Path) -> Result<Memory, CaptureError> {
    let root = Root::tree(dir).map_err(|error| CaptureError::io(dir, error))?;
    let get = |name: &str| match root.read_at_most(&format!("/{name}"), limit_of(name) as usize) {
        Seen::Is(bytes) => Ok(bytes),
        Seen::Absent => Err(CaptureError::damaged(dir, Some(name), "the manifest names it and it is not there")),
        Seen::Unreadable(reason) => Err(CaptureError::damaged(dir, Some(name), reason.to_string())),
    };
    let manifest = parse(dir, &get(MANIFEST)?)?;
    let mut parts = Parts::default();
    let mut total = 0u64;
    let named =
        manifest.entries.iter().filter_map(|e| e.blob.as_ref()).chain(manifest.answers.values().filter_map(Seen::get));
    for name in named {
        if parts.files.contains_key(name) || !is_part(name) {
            continue;
        }
        let bytes = get(name)?;
        total += bytes.len() as u64;
        if total > UNPACKED_LIMIT {
            return Err(over(dir, Some(name), "the unpacked size in bytes", UNPACKED_LIMIT));
        }
        parts.files.insert(name.clone(), bytes.into());
    }
    build(dir, manifest, &mut parts).map(|(memory, _)| memory)
}

/// The contents beside the manifest, by name.
#[derive(Default)]
struct Parts {
    files: HashMap<String, Arc<[u8]>>,
}

fn limit_of(name: &str) -> u64 {
    match name {
        MANIFEST => MANIFEST_LIMIT,
        _ if name.starts_with("answer/") => ANSWER_LIMIT,
        _ => READ_LIMIT as u64,
    }
}

/// `blob/N` or `answer/KEY.json`, and nothing that could be a way elsewhere.
fn is_part(name: &str) -> bool {
    match name.split_once('/') {
        Some(("blob", number)) => (1..=9).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit()),
        Some(("answer", key)) => key.strip_suffix(".json").and_then(Question::from_key).is_some(),
        _ => false,
    }
}

fn over(file: &Path, entry: Option<&str>, what: &'static str, limit: u64) -> CaptureError {
    CaptureError::new(file, entry, Problem::OverLimit { what, limit })
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Manifest, CaptureError> {
    // The form's number first: a newer manifest may have another shape altogether.
    #[derive(serde::Deserialize)]
    struct Form {
        schema: u64,
    }
    let bad = |error: serde_json::Error| CaptureError::damaged(file, Some(MANIFEST), error.to_string());
    let form: Form = serde_json::from_slice(bytes).map_err(bad)?;
    if form.schema > u64::from(SCHEMA) {
        return Err(CaptureError::new(file, Some(MANIFEST), Problem::Newer(form.schema)));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(bad)?;
    if manifest.entries.len() + manifest.gone.len() > ENTRY_LIMIT {
        return Err(over(file, Some(MANIFEST), "the number of entries", ENTRY_LIMIT as u64));
    }
    Ok(manifest)
}

fn build(file: &Path, manifest: Manifest, parts: &mut Parts) -> Result<(Memory, Meta), CaptureError> {
    let mut memory = Memory::new(manifest.name).of_kind(manifest.kind).missing_as(manifest.missing);
    let mut used = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for entry in manifest.entries {
        let bad = |what: &str| CaptureError::damaged(file, Some(&entry.path), what);
        check_path(&entry.path).map_err(&bad)?;
        if !seen.insert(entry.path.clone()) {
            return Err(bad("the path stands twice in the manifest"));
        }
        if let Some(blob) = &entry.blob {
            used.insert(blob.clone());
        }
        let node = node(&entry, parts).map_err(|what| bad(&what))?;
        memory.insert(&entry.path, node);
    }
    for gone in manifest.gone {
        check_path(&gone.path).map_err(|what| CaptureError::damaged(file, Some(&gone.path), what))?;
        memory.insert_gone(&gone.path, gone.why);
    }
    for (key, said) in manifest.answers {
        let bad = |what: String| CaptureError::damaged(file, Some(&format!("answer {key}")), what);
        let question = Question::from_key(&key).ok_or_else(|| bad("no question of this name is known".into()))?;
        let answer = match said {
            Seen::Is(name) => {
                let bytes = parts.files.get(&name).filter(|_| is_part(&name));
                let bytes = bytes.ok_or_else(|| bad(format!("{name} is not in the capture")))?;
                let answer = match question {
                    Question::Nvml | Question::NvmlAll => serde_json::from_slice(bytes).map(Answer::Nvml),
                    _ => serde_json::from_slice(bytes).map(Answer::Json),
                };
                used.insert(name);
                Seen::Is(answer.map_err(|error| bad(error.to_string()))?)
            }
            Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        };
        memory.insert_answer(question, answer);
    }
    if let Some(stray) = parts.files.keys().filter(|name| !used.contains(*name)).min() {
        return Err(CaptureError::damaged(file, Some(stray), "the manifest does not name this entry"));
    }
    Ok((memory, Meta { when: manifest.when, thruway: manifest.thruway }))
}

fn node(entry: &Entry, parts: &Parts) -> Result<Node, String> {
    let mode = u32::from_str_radix(&entry.mode, 8).ok().filter(|mode| *mode <= 0o7777);
    let mode = mode.ok_or_else(|| format!("\"{}\" is no file mode", entry.mode.escape_debug()))?;
    let stat = Stat {
        kind: entry.kind,
        mode,
        uid: entry.uid,
        gid: entry.gid,
        size: entry.size,
        mtime: entry.mtime,
        rdev: entry.rdev,
    };
    let kind = match entry.kind {
        FileKind::File => NodeKind::File(match (&entry.blob, &entry.why) {
            (Some(name), None) => {
                let bytes = parts.files.get(name).filter(|_| is_part(name));
                Seen::Is(bytes.ok_or_else(|| format!("its bytes ({name}) are not in the capture"))?.clone())
            }
            (None, Some(why)) => failed(why)?,
            _ => return Err("a file needs either its bytes or a reason".into()),
        }),
        FileKind::Dir => NodeKind::Dir(match (&entry.names, &entry.why) {
            (Some(names), None) => {
                if let Some(bad) = names.iter().find(|name| !is_name(name)) {
                    return Err(format!(
                        "\"{}\" is no file name",
                        bad.chars().take(80).collect::<String>().escape_debug()
                    ));
                }
                let mut names = names.clone();
                names.sort_unstable();
                names.dedup();
                Seen::Is(names)
            }
            (None, Some(why)) => failed(why)?,
            _ => return Err("a directory needs either its names or a reason".into()),
        }),
        FileKind::Link => {
            let target = entry.target.clone().ok_or("a link needs a target")?;
            if target.is_empty() || target.len() > PATH_LIMIT || target.contains('\0') {
                return Err("its target is no path".into());
            }
            NodeKind::Link(target)
        }
        _ => NodeKind::Special,
    };
    Ok(Node { stat, kind })
}

fn failed<T>(why: &Seen<()>) -> Result<Seen<T>, String> {
    match why {
        Seen::Is(()) => Err("a reason that gives none".into()),
        Seen::Absent => Ok(Seen::Absent),
        Seen::Unreadable(reason) => Ok(Seen::Unreadable(reason.clone())),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 3 * 255 && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// Absolute and in its one plain spelling.
fn check_path(path: &str) -> Result<(), &'static str> {
    if !recordable(path) {
        return Err("its path is too long, or holds a NUL");
    }
    match path.strip_prefix('/') {
        Some("") => Ok(()),
        Some(rest) if rest.split('/').all(|part| !matches!(part, "" | "." | "..")) => Ok(()),
        Some(_) => Err("its path has empty, . or .. parts"),
        None => Err("its path does not begin at the root"),
    }
}

/// The marks by which an error that came up through the archive reader is known again.
const OVER: &str = "over the limit of unpacked bytes";

fn from_stream(file: &Path, entry: Option<&str>, error: &std::io::Error) -> CaptureError {
    let text = error.to_string();
    let mut cause = std::error::Error::source(error);
    let mut all = text.clone();
    while let Some(inner) = cause {
        all = format!("{all}: {inner}");
        cause = inner.source();
    }
    if all.contains(OVER) {
        return over(file, entry, "the unpacked size in bytes", UNPACKED_LIMIT);
    }
    CaptureError::damaged(file, entry, text.chars().take(200).flat_map(char::escape_debug).collect::<String>())
}

/// One or more zstd frames as one stream, bounded, each frame's checksum compared.
struct Frames<'a> {
    rest: &'a [u8],
    decoder: Option<StreamingDecoder<&'a [u8], ruzstd::decoding::FrameDecoder>>,
    left: u64,
}

impl Read for Frames<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let other = |error: String| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        loop {
            let Some(decoder) = &mut self.decoder else {
                if self.rest.is_empty() {
                    return Ok(0);
                }
                let opened = StreamingDecoder::new_with_max_window_size(self.rest, WINDOW_LIMIT);
                self.decoder = Some(opened.map_err(|error| other(error.to_string()))?);
                continue;
            };
            let count = decoder.read(into).map_err(|error| other(error.to_string()))?;
            if count > 0 {
                self.left = self.left.checked_sub(count as u64).ok_or_else(|| other(OVER.into()))?;
                return Ok(count);
            }
            if into.is_empty() {
                return Ok(0);
            }
            let frame = &decoder.decoder;
            if frame.get_checksum_from_data().is_some()
                && frame.get_checksum_from_data() != frame.get_calculated_checksum()
            {
                return Err(other("the checksum does not match".into()));
            }
            self.rest = decoder.get_ref();
            self.decoder = None;
        }
    }
}
