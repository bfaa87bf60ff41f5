//! Field notes: a directory that somebody filled by hand on a machine, read as a capture.
//!
//! It holds parts of the machine's tree (`proc/`, `sys/`, `etc/`, …) and, where present, what common commands printed:
//!
//! | file | what printed it | what becomes of it |
//! |---|---|---|
//! | `q.xml` | `nvidia-smi -q -x` | the answer to the question NVML |
//! | `ldcache.txt` | `ldconfig -p` | `/etc/ld.so.cache` in glibc's own form, so that readers need no second way |
//! | `driver-files.txt`, `driver-links.txt` | `stat -c '%A %s %n -> …'` of driver files | metadata and links without bytes |
//! | `dev-nvidia.txt` | `ls -l /dev/nvidia* /dev/nvidia-caps` | device nodes |
//!
//! What the notes do not hold is "not recorded", never "not there". They come from somebody else: sizes and counts are
//! bounded, links are data, and only regular files are opened.

mod smi;

use std::fs::{DirEntry, FileType};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use formats::ldsocache::Cache;
use model::{Reason, Seen};
use rustix::fs::{Mode, OFlags};

use crate::capture::{CaptureError, Problem};
use crate::{Answer, FileKind, Machine as _, Memory, Node, NodeKind, Question, READ_LIMIT, Stat, memory};

/// Directories that belong to the machine's root; other names are the note-taker's own.
const ROOTS: [&str; 17] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib64", "opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp",
    "usr", "var",
];
const FILES: usize = 50_000;
const BYTES: u64 = 256 << 20;
const DEPTH: usize = 40;

/// Reads a directory of notes.
pub fn from_dir(dir: &Path) -> Result<Memory, CaptureError> {
    let mut notes = Notes {
        dir,
        memory: Memory::new(format!("the notes in {}", dir.display())),
        files: 0,
        bytes: 0,
        found: false,
        dirs: Vec::new(),
    };
    // Notes of commands first: a file of the tree says more and replaces them.
    notes.files("driver-files.txt")?;
    notes.files("driver-links.txt")?;
    notes.devices("dev-nvidia.txt")?;
    notes.cache("ldcache.txt")?;
    notes.nvml("q.xml")?;
    for name in ROOTS {
        let path = dir.join(name);
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                notes.found = true;
                notes.tree(&path, &format!("/{name}"), 0)?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(CaptureError::io(&path, error)),
        }
    }
    if !notes.found {
        let what = "neither manifest.json nor a part of a machine's tree such as proc/ or sys/ is in this directory";
        return Err(CaptureError::new(dir, None, Problem::NotACapture(what.into())));
    }
    // A directory is known by what lies in it, which may not be all; one of which nothing is known is only there.
    for (path, stat) in std::mem::take(&mut notes.dirs) {
        if !notes.memory.list(&path).is_there() {
            let kind = NodeKind::Dir(Seen::Unreadable(Reason::NotCaptured));
            notes.memory.insert(&path, Node { stat, kind });
        }
    }
    Ok(notes.memory)
}

struct Notes<'a> {
    dir: &'a Path,
    memory: Memory,
    files: usize,
    bytes: u64,
    found: bool,
    dirs: Vec<(String, Stat)>,
}

impl Notes<'_> {
    fn damaged(&self, name: &str, what: impl Into<String>) -> CaptureError {
        CaptureError::damaged(self.dir, Some(name), what)
    }

    fn count(&mut self, bytes: u64) -> Result<(), CaptureError> {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let limit = |what, limit| Err(CaptureError::new(self.dir, None, Problem::OverLimit { what, limit }));
        if self.files > FILES {
            return limit("the number of files in it", FILES as u64);
        }
        if self.bytes > BYTES { limit("the bytes in it", BYTES) } else { Ok(()) }
    }

    /// A file beside the tree, as text; `None` where it is not there.
    fn note(&mut self, name: &str) -> Result<Option<String>, CaptureError> {
        let path = self.dir.join(name);
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(self.damaged(name, "is no regular file")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CaptureError::io(&path, error)),
        }
        let bytes = match read(&path)? {
            Seen::Is(bytes) => bytes,
            _ => return Err(self.damaged(name, format!("is larger than {READ_LIMIT} bytes"))),
        };
        self.count(bytes.len() as u64)?;
        self.found = true;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Lines `MODE SIZE PATH -> TARGET`: metadata, and links, without bytes.
    fn files(&mut self, name: &str) -> Result<(), CaptureError> {
        let Some(text) = self.note(name)? else { return Ok(()) };
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let Some((path, node)) = listed(line) else {
                let what = format!("line {}: is not like \"-rwxr-xr-x 524 /usr/bin/nvidia-smi -> \"", at + 1);
                return Err(self.damaged(name, what));
            };
            self.count(0)?;
            match node.kind {
                NodeKind::Dir(_) => self.dirs.push((path.to_owned(), node.stat)),
                _ => self.memory.insert(path, node),
            }
        }
        Ok(())
    }

    /// What `ls -l` printed of device nodes, with `DIR:` lines before other directories than /dev.
    fn devices(&mut self, name: &str) -> Result<(), CaptureError> {
        let Some(text) = self.note(name)? else { return Ok(()) };
        let mut dir = "/dev".to_owned();
        for line in text.lines() {
            if let Some(next) = line.trim().strip_suffix(':').filter(|next| next.starts_with('/')) {
                dir = next.to_owned();
            } else if let Some((name, stat)) = device(line) {
                self.count(0)?;
                let path = if name.starts_with('/') { name.to_owned() } else { format!("{dir}/{name}") };
                self.memory.insert(&path, Node { stat, kind: NodeKind::Special });
            }
        }
        Ok(())
    }

    fn cache(&mut self, name: &str) -> Result<(), CaptureError> {
        let Some(text) = self.note(name)? else { return Ok(()) };
        let cache = Cache::from_listing(&text).map_err(|error| self.damaged(name, error.to_string()))?;
        self.memory.insert_file("/etc/ld.so.cache", &cache.to_bytes());
        Ok(())
    }

    fn nvml(&mut self, name: &str) -> Result<(), CaptureError> {
        let Some(text) = self.note(name)? else { return Ok(()) };
        let log = formats::smi_xml::parse(&text).map_err(|error| self.damaged(name, error.to_string()))?;
        let report = Answer::Nvml(Box::new(smi::report(&log)));
        self.memory.insert_answer(Question::Nvml, Seen::Is(report));
        Ok(())
    }

    /// A directory of the machine's tree with all below it.
    fn tree(&mut self, dir: &Path, inside: &str, depth: usize) -> Result<(), CaptureError> {
        if depth > DEPTH {
            let what = "the depth of its directories";
            return Err(CaptureError::new(self.dir, Some(inside), Problem::OverLimit { what, limit: DEPTH as u64 }));
        }
        let entries = std::fs::read_dir(dir).map_err(|error| CaptureError::io(dir, error))?;
        let mut entries: Vec<DirEntry> =
            entries.take(FILES).collect::<Result<_, _>>().map_err(|error| CaptureError::io(dir, error))?;
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let inside = format!("{inside}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(|error| CaptureError::io(&path, error))?;
            self.entry(&path, &inside, kind, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, inside: &str, kind: FileType, depth: usize) -> Result<(), CaptureError> {
        let meta = std::fs::symlink_metadata(path).map_err(|error| CaptureError::io(path, error))?;
        self.count(0)?;
        // The owner is whoever copied the notes; what was root's on the machine is so here.
        let of = |kind| Stat { mtime: meta.mtime(), ..memory::stat(kind, meta.mode() & 0o7777, meta.size()) };
        if kind.is_dir() {
            self.dirs.push((inside.to_owned(), of(FileKind::Dir)));
            self.tree(path, inside, depth + 1)?;
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path).map_err(|error| CaptureError::io(path, error))?;
            self.memory.insert_link(inside, &target.to_string_lossy());
        } else if kind.is_file() {
            let bytes = read(path)?;
            self.count(bytes.get().map_or(0, |bytes| bytes.len() as u64))?;
            let bytes = bytes.map(|bytes| bytes.as_slice().into());
            self.memory.insert(inside, Node { stat: of(FileKind::File), kind: NodeKind::File(bytes) });
        }
        // Pipes, sockets and device nodes in a directory of notes are nobody's notes.
        Ok(())
    }
}

/// A regular file's bytes; `TooLarge` above the limit. Never follows a link, never waits for a pipe.
fn read(path: &Path) -> Result<Seen<Vec<u8>>, CaptureError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| CaptureError::io(path, errno.into()))?;
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(fd).take(READ_LIMIT as u64 + 1);
    file.read_to_end(&mut bytes).map_err(|error| CaptureError::io(path, error))?;
    Ok(if bytes.len() > READ_LIMIT { Seen::Unreadable(Reason::TooLarge) } else { Seen::Is(bytes) })
}

/// `-rwxr-xr-x 524 /usr/bin/nvidia-smi -> `.
fn listed(line: &str) -> Option<(&str, Node)> {
    let (mode, rest) = line.trim_start().split_once(' ')?;
    let (size, rest) = rest.trim_start().split_once(' ')?;
    let (path, target) = match rest.split_once(" ->") {
        Some((path, target)) => (path, target.trim()),
        None => (rest.trim_end(), ""),
    };
    let stat = memory::stat(kind(mode)?, permissions(mode)?, size.parse().ok()?);
    let unseen = Seen::Unreadable(Reason::NotCaptured);
    let kind = match stat.kind {
        FileKind::Dir => NodeKind::Dir(unseen),
        FileKind::Link if target.is_empty() => return None,
        FileKind::Link => NodeKind::Link(target.to_owned()),
        FileKind::File => NodeKind::File(Seen::Unreadable(Reason::NotCaptured)),
        _ => NodeKind::Special,
    };
    path.starts_with('/').then_some((path, Node { stat, kind }))
}

/// `crw-rw-rw-  1 root root 195,   0 Nov 24 00:27 nvidia0`.
fn device(line: &str) -> Option<(&str, Stat)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mode = *words.first()?;
    let kind = kind(mode).filter(|kind| matches!(kind, FileKind::CharDevice | FileKind::BlockDevice))?;
    let at = words.iter().position(|word| word.contains(','))?;
    let (major, minor) = words.get(at)?.split_once(',')?;
    let minor = if minor.is_empty() { *words.get(at + 1)? } else { minor };
    let mut stat = memory::stat(kind, permissions(mode)?, 0);
    stat.rdev = Some((major.parse().ok()?, minor.parse().ok()?));
    Some((*words.last()?, stat))
}

fn kind(mode: &str) -> Option<FileKind> {
    Some(match mode.chars().next()? {
        '-' => FileKind::File,
        'd' => FileKind::Dir,
        'l' => FileKind::Link,
        'c' => FileKind::CharDevice,
        'b' => FileKind::BlockDevice,
        'p' => FileKind::Fifo,
        's' => FileKind::Socket,
        _ => return None,
    })
}

/// `rwxr-xr-x` as bits; a mark of an ACL or a label may follow.
fn permissions(mode: &str) -> Option<u32> {
    let letters: Vec<char> = mode.chars().skip(1).take(9).collect();
    if letters.len() != 9 {
        return None;
    }
    let mut bits = 0;
    for (at, letter) in letters.iter().enumerate() {
        let bit = 0o400 >> at;
        bits |= match (letter, at % 3) {
            ('-', _) => 0,
            ('r', 0) | ('w', 1) | ('x', 2) => bit,
            ('s', 2) | ('t', 2) => bit | 0o4000 >> (at / 3),
            ('S', 2) | ('T', 2) => 0o4000 >> (at / 3),
            _ => return None,
        };
    }
    Some(bits)
}

#[cfg(test)]
mod tests;
