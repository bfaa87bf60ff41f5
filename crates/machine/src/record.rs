//! Records what observers read, so that the same observers can read it again elsewhere.

use std::sync::Mutex;

use model::Seen;

use crate::{Answer, FileKind, Kind, Machine, Memory, Node, NodeKind, Question, Stat, memory};

/// Passes every look on to a machine and keeps what came back, errors and absences too. So a capture holds just what
/// the observers asked for, and the doctor says the same over it as over the machine.
pub struct Recorder<'a> {
    inner: &'a dyn Machine,
    seen: Mutex<Memory>,
}

impl<'a> Recorder<'a> {
    pub fn new(inner: &'a dyn Machine) -> Self {
        Recorder { inner, seen: Mutex::new(Memory::new(inner.name())) }
    }

    /// What was recorded.
    pub fn finish(self) -> Memory {
        self.seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn keep(&self, keep: impl FnOnce(&mut Memory)) {
        keep(&mut self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// Records the links that lead to `path`, so that the capture resolves it as the machine did; returns where it ends.
    fn walk(&self, path: &str) -> String {
        let mut todo: Vec<String> = path.split('/').filter(|p| !p.is_empty() && *p != ".").rev().map(Into::into).collect();
        let mut done = String::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.truncate(done.rfind('/').unwrap_or(0));
                continue;
            }
            let here = format!("{done}/{part}");
            match self.inner.link(&here) {
                Seen::Is(target) if links < 40 => {
                    links += 1;
                    self.keep(|memory| memory.insert_link(&here, &target));
                    if target.starts_with('/') {
                        done.clear();
                    }
                    todo.extend(target.split('/').filter(|p| !p.is_empty() && *p != ".").rev().map(Into::into));
                }
                _ => done = here,
            }
        }
        if done.is_empty() { "/".into() } else { done }
    }

    fn gone<T>(&self, path: &str, seen: &Seen<T>) {
        let why = seen.as_ref().map(|_| ());
        self.keep(|memory| memory.insert_gone(path, why));
    }

    fn keep_stat(&self, path: &str, stat: &Stat) {
        self.keep(|memory| {
            if memory.nodes_get(path).is_some() {
                return;
            }
            let kind = match stat.kind {
                FileKind::Dir => NodeKind::Dir(Seen::Unreadable(model::Reason::NotCaptured)),
                FileKind::Link => return,
                FileKind::File => NodeKind::File(Seen::Unreadable(model::Reason::NotCaptured)),
                _ => NodeKind::Special,
            };
            memory.insert(path, Node { stat: stat.clone(), kind });
        });
    }
}

impl Machine for Recorder<'_> {
    fn kind(&self) -> Kind {
        self.inner.kind()
    }

    fn name(&self) -> String {
        self.inner.name()
    }

    fn read(&self, path: &str) -> Seen<Vec<u8>> {
        let seen = self.inner.read(path);
        let end = self.walk(path);
        match &seen {
            Seen::Absent => self.gone(&end, &seen),
            _ => {
                let stat = self.inner.stat(path).is().unwrap_or_else(|| memory::stat(FileKind::File, 0o644, 0));
                match stat.kind {
                    FileKind::File => {
                        let bytes = seen.as_ref().map(|bytes| bytes.as_slice().into());
                        self.keep(|memory| memory.insert(&end, Node { stat, kind: NodeKind::File(bytes) }));
                    }
                    _ => self.keep_stat(&end, &stat),
                }
            }
        }
        seen
    }

    fn list(&self, path: &str) -> Seen<Vec<String>> {
        let seen = self.inner.list(path);
        let end = self.walk(path);
        match &seen {
            Seen::Absent => self.gone(&end, &seen),
            _ => {
                let stat = self.inner.stat(path).is().unwrap_or_else(|| memory::stat(FileKind::Dir, 0o755, 0));
                self.keep(|memory| memory.insert(&end, Node { stat, kind: NodeKind::Dir(seen.clone()) }));
            }
        }
        seen
    }

    fn stat(&self, path: &str) -> Seen<Stat> {
        let seen = self.inner.stat(path);
        let end = self.walk(path);
        match &seen {
            Seen::Is(stat) => self.keep_stat(&end, stat),
            _ => self.gone(&end, &seen),
        }
        seen
    }

    fn lstat(&self, path: &str) -> Seen<Stat> {
        let seen = self.inner.lstat(path);
        match &seen {
            Seen::Is(stat) if stat.kind == FileKind::Link => {
                self.link(path);
            }
            Seen::Is(stat) => {
                let end = self.walk(path);
                self.keep_stat(&end, stat);
            }
            _ => {
                let end = self.walk(path);
                self.gone(&end, &seen);
            }
        }
        seen
    }

    fn link(&self, path: &str) -> Seen<String> {
        let seen = self.inner.link(path);
        // The parent's links are resolved, the last name is not.
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.walk(parent);
        let here = if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") };
        match &seen {
            Seen::Is(target) => self.keep(|memory| memory.insert_link(&here, target)),
            // No link: either nothing at all, or something else that its own look records.
            Seen::Absent => match self.inner.lstat(path) {
                Seen::Is(stat) => self.keep_stat(&here, &stat),
                other => self.gone(&here, &other),
            },
            Seen::Unreadable(_) => self.gone(&here, &seen),
        }
        seen
    }

    fn ask(&self, question: &Question) -> Seen<Answer> {
        let seen = self.inner.ask(question);
        self.keep(|memory| memory.insert_answer(*question, seen.clone()));
        seen
    }
}
