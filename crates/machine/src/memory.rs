//! A machine held in memory: what a capture unpacks to.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Reason, Seen};
use serde::{Deserialize, Serialize};

use crate::walk::{Step, walk};
use crate::{Answer, FileKind, Kind, Machine, Question, Stat};

/// One recorded name.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub stat: Stat,
    pub kind: NodeKind,
}

/// What was recorded of it.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// The bytes; `Unreadable` where reading failed or only the metadata were recorded.
    File(Seen<Arc<[u8]>>),
    /// The target's text.
    Link(String),
    /// The names, where the directory was listed; what is not among them is absent. Children recorded on their own
    /// are found either way. (A directory that is no node, and only known by what lies below it, lists just that.)
    Dir(Seen<Vec<String>>),
    /// A device node, pipe or socket.
    Special,
}

/// A captured machine. What was never recorded is `Unreadable(NotCaptured)`, unless its directory was listed: then
/// it is `Absent` for sure.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    name: String,
    /// What was recorded: a simulated machine's recording is simulated as well.
    origin: Kind,
    nodes: BTreeMap<String, Node>,
    /// Paths that were looked for and not there, or could not be looked at.
    gone: BTreeMap<String, Seen<()>>,
    answers: BTreeMap<Question, Seen<Answer>>,
    /// A partial tree: what it does not hold may well be on the machine.
    default: Missing,
}

/// What a path means that was neither recorded nor in a listed directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    NotCaptured,
    Absent,
}

impl Memory {
    pub fn new(name: impl Into<String>) -> Self {
        Memory {
            name: name.into(),
            origin: Kind::Captured,
            nodes: BTreeMap::new(),
            gone: BTreeMap::new(),
            answers: BTreeMap::new(),
            default: Missing::NotCaptured,
        }
    }

    /// Adds or replaces a name. Directories above it need not be added.
    pub fn insert(&mut self, path: &str, node: Node) {
        self.nodes.insert(clean(path), node);
    }

    pub fn insert_file(&mut self, path: &str, bytes: &[u8]) {
        let stat = stat(FileKind::File, 0o644, bytes.len() as u64);
        self.insert(path, Node { stat, kind: NodeKind::File(Seen::Is(bytes.into())) });
    }

    pub fn insert_link(&mut self, path: &str, target: &str) {
        let stat = stat(FileKind::Link, 0o777, target.len() as u64);
        self.insert(path, Node { stat, kind: NodeKind::Link(target.to_owned()) });
    }

    /// Records that a path was looked for: `Absent`, or why it could not be seen. Of "/": why nothing else is known.
    pub fn insert_gone(&mut self, path: &str, why: Seen<()>) {
        self.gone.insert(clean(path), why);
    }

    pub fn insert_answer(&mut self, question: Question, answer: Seen<Answer>) {
        self.answers.insert(question, answer);
    }

    /// Says what kind of machine was recorded.
    pub fn of_kind(mut self, origin: Kind) -> Self {
        self.origin = origin;
        self
    }

    /// The kind of machine that was recorded.
    pub fn origin(&self) -> Kind {
        self.origin
    }

    /// Says what a path means that was neither recorded nor stands in a listed directory.
    pub fn missing_as(mut self, missing: Missing) -> Self {
        self.default = missing;
        self
    }

    pub fn missing_means(&self) -> Missing {
        self.default
    }

    pub(crate) fn called(&self) -> &str {
        &self.name
    }

    pub(crate) fn forget_gone(&mut self, path: &str) {
        self.gone.remove(path);
    }

    /// The same answers and meaning of what is missing, under another name and with no files.
    pub(crate) fn emptied(&self, name: String) -> Memory {
        Memory { name, origin: self.origin, default: self.default, ..Memory::new("") }
    }

    pub(crate) fn nodes_get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    pub fn gone(&self) -> impl Iterator<Item = (&str, &Seen<()>)> {
        self.gone.iter().map(|(path, why)| (path.as_str(), why))
    }

    pub fn answers(&self) -> impl Iterator<Item = (Question, &Seen<Answer>)> {
        self.answers.iter().map(|(question, answer)| (*question, answer))
    }

    /// Follows links inside the root; the result names a node, or nothing recorded. `Err`: the way ends early, and why.
    fn resolve(&self, path: &str, follow_last: bool) -> Result<String, Seen<()>> {
        let end = walk(path, follow_last, &mut |here| match self.nodes.get(here).map(|node| &node.kind) {
            Some(NodeKind::Link(target)) => Step::Link(target.clone()),
            Some(NodeKind::Dir(_)) => Step::Dir,
            Some(NodeKind::File(_) | NodeKind::Special) => Step::Leaf,
            None if self.has_children(here) => Step::Dir,
            None => match self.missing(here) {
                Seen::Unreadable(Reason::NotCaptured) => Step::Unknown,
                // what is below may be known all the same
                Seen::Unreadable(reason) if self.unknown() == Some(&reason) => Step::Unknown,
                gone => Step::Gone(gone),
            },
        });
        match end.stop {
            Some((_, why)) => Err(why),
            None => Ok(end.path),
        }
    }

    /// What is known of a resolved path that is no node of its own.
    fn missing<T>(&self, path: &str) -> Seen<T> {
        let mut here = path;
        loop {
            match self.gone.get(here) {
                Some(Seen::Unreadable(reason)) => return Seen::Unreadable(reason.clone()),
                Some(_) => return Seen::Absent,
                None => {}
            }
            let Some(cut) = here.rfind('/') else { break };
            let parent = if cut == 0 { "/" } else { &here[..cut] };
            let name = &here[cut + 1..];
            match self.nodes.get(parent).map(|node| &node.kind) {
                // The directory was listed and this name is not in it.
                Some(NodeKind::Dir(Seen::Is(names))) if names.binary_search_by(|n| n.as_str().cmp(name)).is_err() => {
                    return Seen::Absent;
                }
                // Something that is no directory cannot have anything below it.
                Some(NodeKind::File(_) | NodeKind::Special) => return Seen::Absent,
                _ => {}
            }
            if cut == 0 {
                break;
            }
            here = parent;
        }
        if let Some(reason) = self.unknown() {
            return Seen::Unreadable(reason.clone());
        }
        match self.default {
            Missing::Absent => Seen::Absent,
            Missing::NotCaptured => Seen::Unreadable(Reason::NotCaptured),
        }
    }

    /// Why what was neither recorded nor stands in a listed directory is not known, where that was said of "/".
    fn unknown(&self) -> Option<&Reason> {
        self.gone.get("/").and_then(Seen::unreadable)
    }

    /// The names below a directory that are recorded on their own.
    fn children(&self, dir: &str) -> Vec<String> {
        let prefix = if dir == "/" { "/".to_owned() } else { format!("{dir}/") };
        let mut names: Vec<String> = Vec::new();
        for (path, _) in self.nodes.range(prefix.clone()..) {
            let Some(rest) = path.strip_prefix(&prefix) else { break };
            let name = rest.split('/').next().unwrap_or_default();
            if !name.is_empty() && names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    fn has_children(&self, dir: &str) -> bool {
        let prefix = if dir == "/" { "/".to_owned() } else { format!("{dir}/") };
        self.nodes.range(prefix.clone()..).next().is_some_and(|(path, _)| path.starts_with(&prefix))
    }

    fn meta(&self, path: &str, follow: bool) -> Seen<Stat> {
        let path = match self.resolve(path, follow) {
            Ok(path) => path,
            Err(why) => return why.and_then(|()| Seen::Absent),
        };
        match self.nodes.get(&path) {
            Some(node) => Seen::Is(node.stat.clone()),
            None if self.has_children(&path) => Seen::Is(stat(FileKind::Dir, 0o755, 0)),
            None => self.missing(&path),
        }
    }
}

impl Machine for Memory {
    fn kind(&self) -> Kind {
        match self.origin {
            Kind::Simulated => Kind::Simulated,
            Kind::Remote => Kind::Remote,
            _ => Kind::Captured,
        }
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(&self, path: &str) -> Seen<Vec<u8>> {
        let path = match self.resolve(path, true) {
            Ok(path) => path,
            Err(why) => return why.and_then(|()| Seen::Absent),
        };
        match self.nodes.get(&path).map(|node| &node.kind) {
            Some(NodeKind::File(bytes)) => bytes.as_ref().map(|bytes| bytes.to_vec()),
            Some(_) => Seen::Unreadable(Reason::Other("is no regular file".into())),
            None => self.missing(&path),
        }
    }

    fn image(&self, path: &str) -> Seen<Vec<u8>> {
        self.read(path)
    }

    fn list(&self, path: &str) -> Seen<Vec<String>> {
        let path = match self.resolve(path, true) {
            Ok(path) => path,
            Err(why) => return why.and_then(|()| Seen::Absent),
        };
        match self.nodes.get(&path).map(|node| &node.kind) {
            Some(NodeKind::Dir(names)) => names.clone(),
            Some(_) => Seen::Absent,
            None => match self.children(&path) {
                names if names.is_empty() => self.missing(&path),
                names => Seen::Is(names),
            },
        }
    }

    fn stat(&self, path: &str) -> Seen<Stat> {
        self.meta(path, true)
    }

    fn lstat(&self, path: &str) -> Seen<Stat> {
        self.meta(path, false)
    }

    fn link(&self, path: &str) -> Seen<String> {
        let path = match self.resolve(path, false) {
            Ok(path) => path,
            Err(why) => return why.and_then(|()| Seen::Absent),
        };
        match self.nodes.get(&path).map(|node| &node.kind) {
            Some(NodeKind::Link(target)) => Seen::Is(target.clone()),
            Some(_) => Seen::Absent,
            // The root is a directory, recorded or not.
            None if path == "/" => Seen::Absent,
            None if self.has_children(&path) => Seen::Absent,
            None => self.missing(&path),
        }
    }

    fn ask(&self, question: &Question) -> Seen<Answer> {
        self.answers.get(question).cloned().unwrap_or(Seen::Unreadable(Reason::NotCaptured))
    }
}

pub(crate) fn stat(kind: FileKind, mode: u32, size: u64) -> Stat {
    Stat { kind, mode, uid: 0, gid: 0, size, mtime: 0, rdev: None }
}

fn split(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// `/a/b` from any spelling of it; `..` is taken as text would have it.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in split(path) {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    format!("/{}", parts.join("/"))
}
