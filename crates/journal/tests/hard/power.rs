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
use std::path::Path;
use std::sync::{Arc, Mutex};

use journal::{Barrier, Error, Journal, State, Watch};
use model::{Op, Plan};

use crate::shadow::{Died, Node, Shadow, Tree, lay_out};
use crate::world::*;

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
