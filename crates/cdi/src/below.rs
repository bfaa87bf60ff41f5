//! A driver that has a root of its own: a driver container's, or another system's mounted somewhere.

use formats::elfso::SharedObject;
use machine::{Answer, Kind, Machine, MachineExt as _, Question, Stat};
use model::Seen;

/// The machine whose root is a directory of another. Links in it lead to places in it, as they do for its own programs.
pub(crate) struct Below<'m> {
    inner: &'m dyn Machine,
    /// "/run/nvidia/driver"; never ends in a slash.
    prefix: String,
}

impl<'m> Below<'m> {
    pub(crate) fn new(inner: &'m dyn Machine, root: &str) -> Self {
        Below { inner, prefix: root.trim_end_matches('/').to_owned() }
    }

    /// The inner machine's path of what `path` leads to.
    fn outer(&self, path: &str) -> Seen<String> {
        self.resolve(path).map(|path| format!("{}{path}", self.prefix))
    }
}

impl Machine for Below<'_> {
    fn kind(&self) -> Kind {
        self.inner.kind()
    }

    fn name(&self) -> String {
        format!("{} of {}", self.prefix, self.inner.name())
    }

    fn read(&self, path: &str) -> Seen<Vec<u8>> {
        self.outer(path).and_then(|path| self.inner.read(&path))
    }

    fn image(&self, path: &str) -> Seen<Vec<u8>> {
        self.outer(path).and_then(|path| self.inner.image(&path))
    }

    fn list(&self, path: &str) -> Seen<Vec<String>> {
        self.outer(path).and_then(|path| self.inner.list(&path))
    }

    fn stat(&self, path: &str) -> Seen<Stat> {
        self.outer(path).and_then(|path| self.inner.lstat(&path))
    }

    fn lstat(&self, path: &str) -> Seen<Stat> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.outer(parent).and_then(|parent| self.inner.lstat(&format!("{}/{name}", parent.trim_end_matches('/'))))
    }

    /// Asked for paths whose directories are resolved already.
    fn link(&self, path: &str) -> Seen<String> {
        self.inner.link(&format!("{}{path}", self.prefix))
    }

    fn library(&self, path: &str) -> Seen<SharedObject> {
        self.outer(path).and_then(|path| self.inner.library(&path))
    }

    fn ask(&self, question: &Question) -> Seen<Answer> {
        self.inner.ask(question)
    }
}
