//! The disk of the power tests: what is durable, and what a cut leaves. `power` says what it models.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use journal::{Barrier, Watch};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    Dir(u32),
    File(u32, Vec<u8>),
    Link(PathBuf),
}

/// A whole disk: path below the root → what is there.
pub type Tree = BTreeMap<String, Node>;

/// How much of a file's bytes that were not yet durable is there after the cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bytes {
    None,
    All,
    FirstHalf,
    SecondHalf,
}

#[derive(Default)]
struct Durable {
    /// A directory's names, by its inode.
    names: BTreeMap<u64, BTreeMap<String, u64>>,
    nodes: BTreeMap<u64, Node>,
}

#[derive(Default)]
struct Seen {
    durable: Durable,
    cuts: BTreeSet<Tree>,
    moments: usize,
}

pub struct Shadow {
    root: PathBuf,
    seen: Mutex<Seen>,
    /// The run dies at this barrier, counted from 0; until then no cut is tried.
    pub dies_at: Mutex<Option<usize>>,
    /// Only what is durable survives a cut; no more.
    harsh: bool,
}

/// What a run that dies unwinds with: no hook runs, nothing is cleaned up but what the kernel would close.
pub struct Died;

fn names(dir: &Path) -> BTreeMap<String, u64> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino())
    };
    std::fs::read_dir(dir).unwrap().map(entry).collect()
}

fn node(path: &Path) -> Node {
    let meta = path.symlink_metadata().unwrap();
    let mode = meta.mode() & 0o7777;
    if meta.is_symlink() {
        Node::Link(std::fs::read_link(path).unwrap())
    } else if meta.is_dir() {
        Node::Dir(mode)
    } else {
        Node::File(mode, std::fs::read(path).unwrap())
    }
}

fn behind(fd: BorrowedFd<'_>) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
}

impl Durable {
    /// A directory's names, and with each what has no life of its own: a new directory's or a link's inode.
    fn take_names(&mut self, dir: &Path) {
        let found = names(dir);
        for (name, inode) in &found {
            let path = dir.join(name);
            if !path.symlink_metadata().unwrap().is_file() {
                self.nodes.insert(*inode, node(&path));
            }
        }
        self.names.insert(dir.metadata().unwrap().ino(), found);
    }

    fn take_all(&mut self, dir: &Path) {
        self.take_names(dir);
        self.nodes.insert(dir.metadata().unwrap().ino(), node(dir));
        for (name, inode) in names(dir) {
            let path = dir.join(name);
            if path.symlink_metadata().unwrap().is_dir() {
                self.take_all(&path);
            } else {
                self.nodes.insert(inode, node(&path));
            }
        }
    }
}

/// What the cut leaves of a file.
fn left(durable: Option<&Node>, now: Option<&Node>, bytes: Bytes) -> Node {
    let (old_mode, old) = match durable {
        Some(Node::File(mode, bytes)) => (*mode, bytes.clone()),
        Some(other) => return other.clone(),
        None => (0o600, Vec::new()),
    };
    // A file that is gone by now, and whose name is not: its bytes are as they last were.
    let Some(Node::File(mode, new)) = now else { return Node::File(old_mode, old) };
    if *new == old {
        return Node::File(if bytes == Bytes::None { old_mode } else { *mode }, old);
    }
    let start = old.iter().zip(new).take_while(|(one, two)| one == two).count();
    let half = start + (new.len() - start) / 2;
    match bytes {
        Bytes::None => Node::File(old_mode, old),
        Bytes::All => Node::File(*mode, new.clone()),
        Bytes::FirstHalf => {
            let mut torn = new[..half].to_vec();
            torn.extend(old.iter().skip(half));
            Node::File(*mode, torn)
        }
        Bytes::SecondHalf => {
            let mut torn = old.clone();
            torn.resize(new.len(), 0);
            torn[half..].copy_from_slice(&new[half..]);
            Node::File(*mode, torn)
        }
    }
}

impl Shadow {
    /// Everything that is there now is durable.
    pub fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self::of(root, false))
    }

    pub fn of(root: &Path, harsh: bool) -> Self {
        let mut seen = Seen::default();
        seen.durable.take_all(root);
        Shadow { root: root.to_owned(), seen: Mutex::new(seen), dies_at: Mutex::default(), harsh }
    }

    fn cut(&self) {
        let mut now = Durable::default();
        now.take_all(&self.root);
        let root = self.root.metadata().unwrap().ino();
        let seen = &mut *self.seen.lock().unwrap();
        seen.moments += 1;
        for bytes in [Bytes::None, Bytes::All, Bytes::FirstHalf, Bytes::SecondHalf] {
            for names in [&seen.durable.names, &now.names] {
                if self.harsh && (bytes != Bytes::None || !std::ptr::eq(names, &seen.durable.names)) {
                    continue;
                }
                let mut tree = Tree::new();
                let mut todo = vec![(root, String::new())];
                while let Some((dir, path)) = todo.pop() {
                    for (name, inode) in names.get(&dir).into_iter().flatten() {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                        let kind = now.nodes.get(inode).or(seen.durable.nodes.get(inode));
                        let node = match kind {
                            Some(Node::File(..)) => left(seen.durable.nodes.get(inode), now.nodes.get(inode), bytes),
                            Some(other) => other.clone(),
                            // Made, named and gone again between two barriers: its name alone.
                            None => Node::File(0o600, Vec::new()),
                        };
                        if matches!(node, Node::Dir(_)) {
                            todo.push((*inode, path.clone()));
                        }
                        tree.insert(path, node);
                    }
                }
                seen.cuts.insert(tree);
            }
        }
    }

    /// A generator has put this file in place.
    pub fn placed(&self, path: &Path) {
        let inode = path.metadata().unwrap().ino();
        self.seen.lock().unwrap().durable.nodes.insert(inode, node(path));
        self.cut();
    }

    pub fn take(&self) -> (BTreeSet<Tree>, usize) {
        let mut seen = self.seen.lock().unwrap();
        (std::mem::take(&mut seen.cuts), seen.moments)
    }
}

impl Watch for Shadow {
    fn before(&self, _: Barrier<'_>) {
        let dies = {
            let mut dies_at = self.dies_at.lock().unwrap();
            dies_at.as_mut().map(|left| left.checked_sub(1).map(|less| *left = less).is_none())
        };
        match dies {
            Some(true) => std::panic::resume_unwind(Box::new(Died)),
            Some(false) => {}
            None => self.cut(),
        }
    }

    fn after(&self, barrier: Barrier<'_>) {
        {
            let durable = &mut self.seen.lock().unwrap().durable;
            match barrier {
                Barrier::File(fd) => {
                    let path = behind(fd);
                    let inode = std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap().ino();
                    durable.nodes.insert(inode, node(&path));
                }
                Barrier::Directory(fd) => {
                    let path = behind(fd);
                    // The way down to the root leads out of the tree at its top only.
                    if path.starts_with(&self.root) {
                        durable.take_names(&path);
                    }
                }
                Barrier::Everything => durable.take_all(&self.root),
            }
        }
        if self.dies_at.lock().unwrap().is_none() {
            self.cut();
        }
    }
}

pub fn lay_out(tree: &Tree, root: &Path) {
    // Parents sort before what is in them.
    for (name, node) in tree {
        let path = root.join(name);
        match node {
            Node::Dir(_) => std::fs::create_dir(&path).unwrap(),
            Node::File(mode, bytes) => {
                std::fs::write(&path, bytes).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
            }
            Node::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
        }
    }
    for (name, node) in tree.iter().rev() {
        if let Node::Dir(mode) = node {
            std::fs::set_permissions(root.join(name), PermissionsExt::from_mode(*mode)).unwrap();
        }
    }
}
