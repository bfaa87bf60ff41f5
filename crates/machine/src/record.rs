//! Records what observers read, so that the same observers can read it again elsewhere.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use formats::efistore::{self, SecureBoot};
use formats::elfso::SharedObject;
use formats::{hint, qcow2, smbios};
use model::{Reason, Seen};

use crate::walk::{End, Step, walk};
use crate::{Answer, DMI_TABLE, FileKind, Kind, Machine, Memory, Node, NodeKind, Question, READ_LIMIT, Stat, memory};

/// Passes every look on to a machine and keeps what came back, errors and absences too. So a capture holds just what
/// the observers asked for, and the doctor says the same over it as over the machine.
pub struct Recorder<'a> {
    inner: &'a dyn Machine,
    seen: Mutex<State>,
}

struct State {
    memory: Memory,
    /// What stands at the names that a path led through: each is looked at once, and every path that passes it is
    /// followed alike, even where /proc changes under us.
    steps: HashMap<String, Known>,
}

#[derive(Clone)]
enum Known {
    Dir,
    Leaf,
    Link(String),
    Gone(Seen<()>),
}

impl<'a> Recorder<'a> {
    pub fn new(inner: &'a dyn Machine) -> Self {
        let memory = Memory::new(inner.name()).of_kind(inner.kind());
        Recorder { inner, seen: Mutex::new(State { memory, steps: HashMap::new() }) }
    }

    /// What was recorded.
    pub fn finish(self) -> Memory {
        self.seen.into_inner().unwrap_or_else(PoisonError::into_inner).memory
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the names that lead to `path`, so that the capture resolves it as the machine did.
    fn walk(&self, path: &str, follow_last: bool) -> End {
        let state = &mut *self.state();
        let end = walk(path, follow_last, &mut |here| {
            let known = match state.steps.get(here) {
                Some(known) => known.clone(),
                None => {
                    let known = self.look(&mut state.memory, here);
                    state.steps.insert(here.to_owned(), known.clone());
                    known
                }
            };
            match known {
                Known::Dir => Step::Dir,
                Known::Leaf => Step::Leaf,
                Known::Link(target) => Step::Link(target),
                Known::Gone(why) => Step::Gone(why),
            }
        });
        if let Some((at, why)) = &end.stop
            && !matches!(why, Seen::Unreadable(Reason::BadLink))
            && matches!(state.steps.get(at), Some(Known::Gone(_)))
            && state.memory.nodes_get(at).is_none()
        {
            state.memory.insert_gone(at, why.clone());
        }
        end
    }

    /// Looks at one name and keeps what it is.
    fn look(&self, memory: &mut Memory, here: &str) -> Known {
        match self.inner.lstat(here) {
            Seen::Is(stat) if stat.kind == FileKind::Link => match self.inner.link(here) {
                Seen::Is(target) => {
                    memory.insert(here, Node { stat, kind: NodeKind::Link(target.clone()) });
                    Known::Link(target)
                }
                Seen::Absent => Known::Gone(Seen::Absent),
                Seen::Unreadable(reason) => Known::Gone(Seen::Unreadable(reason)),
            },
            Seen::Is(stat) => {
                let known = if stat.kind == FileKind::Dir { Known::Dir } else { Known::Leaf };
                keep_stat(memory, here, stat);
                known
            }
            Seen::Absent => Known::Gone(Seen::Absent),
            Seen::Unreadable(reason) => Known::Gone(Seen::Unreadable(reason)),
        }
    }

    /// Keeps that `path` could not be had, where the way to it did not already say so.
    fn gone(&self, end: &End, why: Seen<()>) {
        let state = &mut *self.state();
        if end.stop.is_none() && state.memory.nodes_get(&end.path).is_none() {
            state.memory.insert_gone(&end.path, why);
        }
    }

    /// Keeps what was seen at a path's end, though the way to it may have changed meanwhile.
    fn keep(&self, end: &End, node: Node) {
        let state = &mut *self.state();
        if let Some((at, _)) = &end.stop {
            state.memory.forget_gone(at);
        }
        state.memory.insert(&end.path, node);
    }
}

/// What is kept of a file in place of all of it: of SMBIOS's table the hints of [`formats::hint`].
fn ours_of(path: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let is_ours = |text: &String| text.starts_with(hint::PREFIX);
    let hints = || smbios::oem_strings(bytes).into_iter().filter(is_ours).collect::<Vec<String>>();
    (path == DMI_TABLE).then(|| smbios::table_of(&hints()))
}

/// What is kept of a guest's disk image in place of it: of a variable store what it says of Secure Boot, without the
/// names of its boot entries; of any other nothing.
fn told(image: &[u8]) -> Seen<Vec<u8>> {
    let disk =
        if image.starts_with(&qcow2::MAGIC) { qcow2::head(image, READ_LIMIT).ok() } else { Some(image.to_vec()) };
    let variables = disk.and_then(|disk| efistore::parse(&disk).ok());
    let says = variables.map(|variables| SecureBoot { boots: Vec::new(), ..SecureBoot::of(&variables) });
    says.map_or(Seen::Unreadable(Reason::NotCaptured), |says| Seen::Is(efistore::store_of(&says)))
}

/// Metadata, where nothing better is known of the name.
fn keep_stat(memory: &mut Memory, path: &str, stat: Stat) {
    if memory.nodes_get(path).is_some() {
        return;
    }
    let kind = match stat.kind {
        FileKind::Dir => NodeKind::Dir(Seen::Unreadable(Reason::NotCaptured)),
        FileKind::Link => return,
        FileKind::File => NodeKind::File(Seen::Unreadable(Reason::NotCaptured)),
        _ => NodeKind::Special,
    };
    memory.insert(path, Node { stat, kind });
}

impl Machine for Recorder<'_> {
    fn kind(&self) -> Kind {
        self.inner.kind()
    }

    fn name(&self) -> String {
        self.inner.name()
    }

    fn read(&self, path: &str) -> Seen<Vec<u8>> {
        let end = self.walk(path, true);
        let seen = self.inner.read(path);
        let mut stat = self.inner.stat(path);
        let ours = seen.as_ref().and_then(|bytes| Seen::from(ours_of(&end.path, bytes)));
        if let (Seen::Is(ours), Seen::Is(stat)) = (&ours, &mut stat) {
            stat.size = ours.len() as u64;
        }
        let bytes = seen.as_ref().map(|bytes| ours.get().unwrap_or(bytes).as_slice().into());
        match (&seen, stat) {
            (_, Seen::Is(stat)) if stat.kind == FileKind::File => {
                self.keep(&end, Node { stat, kind: NodeKind::File(bytes) });
            }
            // It went, or became something else, between the two looks.
            (Seen::Is(read), _) => {
                let stat = memory::stat(FileKind::File, 0o644, read.len() as u64);
                self.keep(&end, Node { stat, kind: NodeKind::File(bytes) });
            }
            (_, Seen::Is(stat)) => keep_stat(&mut self.state().memory, &end.path, stat),
            _ => self.gone(&end, seen.as_ref().map(|_| ())),
        }
        seen
    }

    fn image(&self, path: &str) -> Seen<Vec<u8>> {
        let end = self.walk(path, true);
        let seen = self.inner.image(path);
        match (self.inner.stat(path), &seen) {
            // A block device is recorded as the file that it is in a tree.
            (Seen::Is(_), Seen::Is(bytes)) => {
                let kept = told(bytes);
                let stat = memory::stat(FileKind::File, 0o600, kept.get().map_or(0, |kept| kept.len() as u64));
                let kept = kept.map(|kept| kept.as_slice().into());
                self.keep(&end, Node { stat, kind: NodeKind::File(kept) });
            }
            (Seen::Is(stat), _) => keep_stat(&mut self.state().memory, &end.path, stat),
            (other, _) => self.gone(&end, other.map(|_| ())),
        }
        seen
    }

    fn list(&self, path: &str) -> Seen<Vec<String>> {
        let end = self.walk(path, true);
        let seen = self.inner.list(path);
        match (&seen, self.inner.stat(path)) {
            (_, Seen::Is(stat)) if stat.kind == FileKind::Dir => {
                self.keep(&end, Node { stat, kind: NodeKind::Dir(seen.clone()) });
            }
            (Seen::Is(_), _) => {
                let stat = memory::stat(FileKind::Dir, 0o755, 0);
                self.keep(&end, Node { stat, kind: NodeKind::Dir(seen.clone()) });
            }
            (_, Seen::Is(stat)) => keep_stat(&mut self.state().memory, &end.path, stat),
            _ => self.gone(&end, seen.as_ref().map(|_| ())),
        }
        seen
    }

    fn stat(&self, path: &str) -> Seen<Stat> {
        let end = self.walk(path, true);
        let seen = self.inner.stat(path);
        match &seen {
            Seen::Is(stat) => keep_stat(&mut self.state().memory, &end.path, stat.clone()),
            _ => self.gone(&end, seen.as_ref().map(|_| ())),
        }
        seen
    }

    fn lstat(&self, path: &str) -> Seen<Stat> {
        let end = self.walk(path, false);
        let seen = self.inner.lstat(path);
        match &seen {
            // A link was kept on the way.
            Seen::Is(stat) => keep_stat(&mut self.state().memory, &end.path, stat.clone()),
            _ => self.gone(&end, seen.as_ref().map(|_| ())),
        }
        seen
    }

    fn link(&self, path: &str) -> Seen<String> {
        let end = self.walk(path, false);
        let seen = self.inner.link(path);
        match &seen {
            // What is no link was kept on the way, and so was what is not there.
            Seen::Is(_) | Seen::Absent => {}
            Seen::Unreadable(_) => self.gone(&end, seen.as_ref().map(|_| ())),
        }
        seen
    }

    /// The library's names stay out of the recording, as its bytes do: links and tables tell them well enough.
    fn library(&self, path: &str) -> Seen<SharedObject> {
        self.inner.library(path)
    }

    fn ask(&self, question: &Question) -> Seen<Answer> {
        let seen = self.inner.ask(question);
        self.state().memory.insert_answer(*question, seen.clone());
        seen
    }
}
