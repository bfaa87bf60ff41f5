//! Killed, and cut off from power, at every moment of apply, of undo and of recovery itself: what is left boots, and
//! the next run makes it whole.
//!
//! What the model of a power cut is. A shadow of the tree knows what is durable: a file's bytes and mode as of its
//! last fsync, a directory's names as of its own last fsync, everything as of the last syncfs. Nothing else counts: an
//! fsync of a file does not save its name, a rename saves neither. A cut is tried before and after every barrier and
//! whenever a generator has put a file in place. At each, the disk may hold of what was not yet durable:
//! nothing; all names but no bytes (a renamed file is empty); all bytes but no names; everything (which is SIGKILL);
//! and, with either names, half of each file's new bytes, or all but the first half, which reads as zeros (pages reach
//! the disk in any order).
//!
//! What it is not. All unsynced files fare alike in one cut; sectors are not reordered within half a file; a disk that
//! lies about a flush is not modelled. Generators rename without an fsync, as the real ones do, and their bytes count
//! as durable with the rename, as ext4 (auto_da_alloc) and btrfs have it: no journal outside them could do better.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use journal::{Barrier, Error, Journal, State, Watch};
use model::{Op, Plan};

use crate::world::*;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Dir(u32),
    File(u32, Vec<u8>),
    Link(PathBuf),
}

/// A whole disk: path below the root → what is there.
type Tree = BTreeMap<String, Node>;

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

struct Shadow {
    root: PathBuf,
    seen: Mutex<Seen>,
    /// The run dies at this barrier, counted from 0; until then no cut is tried.
    dies_at: Mutex<Option<usize>>,
    /// Only what is durable survives a cut; no more.
    harsh: bool,
}

/// What a run that dies unwinds with: no hook runs, nothing is cleaned up but what the kernel would close.
struct Died;

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
    fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self::of(root, false))
    }

    fn of(root: &Path, harsh: bool) -> Self {
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
    fn placed(&self, path: &Path) {
        let inode = path.metadata().unwrap().ino();
        self.seen.lock().unwrap().durable.nodes.insert(inode, node(path));
        self.cut();
    }

    fn take(&self) -> (BTreeSet<Tree>, usize) {
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

fn lay_out(tree: &Tree, root: &Path) {
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

type Snapshot = BTreeMap<String, (u32, u32, Vec<u8>)>;

fn applied(plan: &Plan, root: &Path) {
    let hands = Boot::new(root);
    Journal::open(root, &hands).unwrap().apply(plan, &mut |_| {}).unwrap();
}

/// The same without generators: nothing but the journal's own barriers makes anything durable.
fn files_only() -> Plan {
    let mut plan = plan();
    plan.changes.retain(|change| !matches!(change.op, Op::Regenerate(_)));
    plan
}

/// The tree before, and after the plan was applied.
fn ends(plan: &Plan) -> (Snapshot, Snapshot) {
    let dir = tree();
    let before = snapshot(dir.path());
    applied(plan, dir.path());
    (before, snapshot(dir.path()))
}

/// After recovery the tree is one of the two, and the log says which.
fn is_whole(root: &Path, journal: &Journal<'_>, (before, after): &(Snapshot, Snapshot)) -> Result<(), String> {
    bootable(root)?;
    let wanted = match journal.log().last().map(|t| t.state) {
        None | Some(State::Undone) => before,
        Some(State::Applied) => after,
        Some(open) => return Err(format!("the log says {open:?}")),
    };
    let now = snapshot(root);
    if now == *wanted {
        return Ok(());
    }
    let differs = |name: &&String| now.get(*name) != wanted.get(*name);
    let names: BTreeSet<&String> = now.keys().chain(wanted.keys()).filter(differs).collect();
    Err(format!("not as it should be: {names:?}"))
}

/// Starts the machine up from a cut disk; what a cut of this recovery would leave.
fn start_up(cut: &Tree, ends: &(Snapshot, Snapshot), watched: bool) -> Result<BTreeSet<Tree>, String> {
    let dir = directory();
    let root = dir.path();
    lay_out(cut, root);
    bootable(root)?;
    let shadow = watched.then(|| Shadow::new(root));
    let mut hands = Boot::new(root);
    if let Some(shadow) = shadow.clone() {
        hands.placed = Box::new(move |path| shadow.placed(path));
    }
    let open = match shadow.clone() {
        Some(shadow) => Journal::open_watched(root, &hands, shadow),
        None => Journal::open(root, &hands),
    };
    let mut journal = open.map_err(|error| format!("open: {error}"))?;
    journal.recover().map_err(|error| format!("recover: {error}"))?;
    is_whole(root, &journal, ends)?;
    Ok(shadow.map(|shadow| shadow.take().0).unwrap_or_default())
}

/// Cuts the power at every moment of `run`, and at every moment of each recovery.
fn cut_everywhere(what: &str, plan: &Plan, prepare: &dyn Fn(&Path), run: &dyn Fn(&mut Journal<'_>)) {
    let ends = ends(plan);
    let dir = tree();
    prepare(dir.path());
    let shadow = Shadow::new(dir.path());
    let mut hands = Boot::new(dir.path());
    hands.placed = Box::new({
        let shadow = shadow.clone();
        move |path| shadow.placed(path)
    });
    run(&mut Journal::open_watched(dir.path(), &hands, shadow.clone()).unwrap());
    let (cuts, moments) = shadow.take();
    let mut again = BTreeSet::new();
    // Watching a recovery for what a second cut would leave takes its time: every fourth, evenly, and of the second
    // cuts, most of which differ in nothing but a time in the log, some hundreds. All of them where the environment has
    // ALL_CUTS.
    let all = std::env::var_os("ALL_CUTS").is_some();
    for (n, cut) in cuts.iter().enumerate() {
        match start_up(cut, &ends, all || n % 4 == 0) {
            Ok(more) => again.extend(more),
            Err(why) => panic!("{what}: cut {n} of {}: {why}\n{}", cuts.len(), show(cut)),
        }
    }
    let again: Vec<&Tree> = again.difference(&cuts).collect();
    let every = if all { 1 } else { again.len().div_ceil(300).max(1) };
    let mut seconds = 0;
    for cut in again.iter().step_by(every) {
        seconds += 1;
        if let Err(why) = start_up(cut, &ends, false) {
            panic!("{what}: second cut {seconds}: {why}\n{}", show(cut));
        }
    }
    println!(
        "power cut in {what}: {moments} moments, {} different disks, {seconds} more after a second cut",
        cuts.len()
    );
    assert!(moments > 40 && cuts.len() > 40 && seconds > 40, "the loop did not run");
}

fn show(cut: &Tree) -> String {
    let line = |(name, node): (&String, &Node)| match node {
        Node::File(_, bytes) if !name.contains("blobs") => {
            let text = String::from_utf8_lossy(bytes).replace('\0', "~");
            let lines: Vec<String> = text.lines().map(|line| line.chars().take(90).collect()).collect();
            format!("{name}: {}\n", lines.join("\n    "))
        }
        _ => format!("{name}\n"),
    };
    cut.iter().map(line).collect()
}

#[test]
fn the_power_may_go_at_any_moment_of_apply() {
    for (what, plan) in [("apply", plan()), ("apply of files alone", files_only())] {
        let run = |journal: &mut Journal<'_>| assert_eq!(journal.apply(&plan, &mut |_| {}).unwrap().number, 1);
        cut_everywhere(what, &plan, &|_| {}, &run);
    }
}

#[test]
fn the_power_may_go_at_any_moment_of_undo() {
    for (what, plan) in [("undo", plan()), ("undo of files alone", files_only())] {
        cut_everywhere(what, &plan, &|root| applied(&plan, root), &|journal| drop(journal.undo(1).unwrap()));
    }
}

/// What a killed run left in memory is seen by the next one and is not on the disk: trusting it is not enough.
#[test]
fn the_power_may_go_in_the_run_after_a_kill() {
    let mut plan = files_only();
    // A write comes last: recovery that finds it done ends the change on the strength of that.
    plan.changes.retain(|change| matches!(change.op, Op::WriteFile { .. }));
    let ends = ends(&plan);
    let (mut kills, mut tried) = (0, 0);
    for n in 0.. {
        let dir = tree();
        let root = dir.path();
        let shadow = Arc::new(Shadow::of(root, true));
        *shadow.dies_at.lock().unwrap() = Some(n);
        let hands = Boot::new(root);
        let run = std::panic::AssertUnwindSafe(|| {
            Journal::open_watched(root, &hands, shadow.clone()).unwrap().apply(&plan, &mut |_| {}).unwrap();
        });
        if let Err(what) = std::panic::catch_unwind(run) {
            assert!(what.is::<Died>(), "kill {n}: the run failed by itself");
        } else {
            break;
        }
        kills += 1;
        *shadow.dies_at.lock().unwrap() = None;
        let mut journal = Journal::open_watched(root, &hands, shadow.clone()).unwrap();
        journal.recover().unwrap();
        if journal.log().last().is_none_or(|t| t.state != State::Applied) {
            journal.apply(&plan, &mut |_| {}).unwrap();
        }
        drop(journal);
        // Of each moment the harshest: nothing is there that was not made durable.
        let (cuts, _) = shadow.take();
        for cut in &cuts {
            tried += 1;
            if let Err(why) = start_up(cut, &ends, false) {
                panic!("kill {n}, then a cut: {why}\n{}", show(cut));
            }
        }
    }
    println!("power cut in the run after a kill: {kills} kills, {tried} disks");
    assert!(kills > 20 && tried > 200, "the loop did not run");
}

/// Kills its own process, as SIGKILL does, at the n-th barrier.
struct Killer {
    left: Mutex<usize>,
}

impl Watch for Killer {
    fn before(&self, _: Barrier<'_>) {
        let mut left = self.left.lock().unwrap();
        if *left == 0 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        *left = left.saturating_sub(1);
    }

    fn after(&self, barrier: Barrier<'_>) {
        self.before(barrier);
    }
}

const CHILD: &str = "power::is_killed_at_a_barrier";

#[test]
#[ignore = "the child of the test below"]
fn is_killed_at_a_barrier() {
    let Ok(job) = std::env::var("KILL") else { return };
    let [what, left, root] = job.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{job}") };
    let hands = Boot::new(Path::new(root));
    let killer = Arc::new(Killer { left: Mutex::new(left.parse().unwrap()) });
    let mut journal = Journal::open_watched(Path::new(root), &hands, killer).unwrap();
    match what {
        "apply" => assert!(journal.apply(&plan(), &mut |_| {}).is_ok()),
        _ => drop(journal.undo(1).unwrap()),
    }
}

#[test]
fn a_kill_may_come_at_any_barrier() {
    let ends = ends(&plan());
    for what in ["apply", "undo"] {
        let mut killed = 0;
        for n in 0.. {
            let dir = tree();
            let hands = Boot::new(dir.path());
            if what == "undo" {
                Journal::open(dir.path(), &hands).unwrap().apply(&plan(), &mut |_| {}).unwrap();
            }
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", CHILD])
                .env("KILL", format!("{what} {n} {}", dir.path().display()))
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap();
            if status.success() {
                break;
            }
            let signal = std::os::unix::process::ExitStatusExt::signal(&status);
            assert_eq!(signal, Some(9), "{what} {n}: the child failed by itself");
            killed += 1;
            bootable(dir.path()).unwrap_or_else(|why| panic!("{what} {n}: {why}"));
            let mut journal = Journal::open(dir.path(), &hands).unwrap();
            journal.recover().unwrap_or_else(|error| panic!("{what} {n}: {error}"));
            is_whole(dir.path(), &journal, &ends).unwrap_or_else(|why| panic!("{what} {n}: {why}"));
            // And the machine is fit for the next change.
            match journal.log().last().map(|t| t.state) {
                Some(State::Applied) => drop(journal.undo(1).unwrap()),
                _ => assert!(journal.apply(&plan(), &mut |_| {}).is_ok(), "{what} {n}: not fit for the next change"),
            }
        }
        println!("SIGKILL in {what}: {killed} points tried");
        assert!(killed > 30, "only {killed} points: the loop did not run");
    }
}

/// Bytes in place are the one thing that is not there or not: the mix is recovered, not lost.
#[test]
fn the_power_may_go_while_a_file_is_written_in_place() {
    let dir = tree();
    std::fs::hard_link(dir.path().join("etc/default/grub"), dir.path().join("etc/twin")).unwrap();
    let before = snapshot(dir.path());
    let change = plan_of(vec![write("/etc/default/grub", WANTED, file(GRUB))]);
    let shadow = Shadow::new(dir.path());
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open_watched(dir.path(), &hands, shadow.clone()).unwrap();
    journal.apply(&change, &mut |_| {}).unwrap();
    let after = snapshot(dir.path());
    journal.undo(1).unwrap();
    drop(journal);
    let (cuts, _) = shadow.take();
    for cut in &cuts {
        let dir = directory();
        lay_out(cut, dir.path());
        // The model knows paths, not inodes: the link is made again, to what the change's own name holds.
        std::fs::remove_file(dir.path().join("etc/twin")).unwrap();
        std::fs::hard_link(dir.path().join("etc/default/grub"), dir.path().join("etc/twin")).unwrap();
        let hands = Boot::new(dir.path());
        let mut journal = Journal::open(dir.path(), &hands).unwrap();
        match journal.recover() {
            Ok(_) => {}
            Err(error @ Error::Unclear { .. }) => panic!("{error}\n{}", show(cut)),
            Err(error) => panic!("{error}"),
        }
        let wanted = match journal.log().last().map(|t| t.state) {
            Some(State::Applied) => &after,
            _ => &before,
        };
        assert_eq!(snapshot(dir.path()), *wanted, "{}", show(cut));
    }
    println!("power cut while writing in place: {} different disks", cuts.len());
    assert!(cuts.len() > 20);
}
