//! The journal over real directories: apply, undo, crashes at every point, other people's edits.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the tests look at the tree from outside")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says what it does, and fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::sync::Mutex;

use journal::{Error, HandError, Hands, Journal, Recovered, State};
use model::{Before, Change, Content, Digest, Effective, Intent, Layer, Op, Plan, Risk, ServiceVerb, Tool, Undo};

use common::snapshot;

/// Stands in for generators: `update-grub` copies the written file's text into a generated one, so that an undo that
/// forgets to run it again is seen.
struct Copier {
    root: std::path::PathBuf,
    said: Mutex<Vec<String>>,
    fail: bool,
}

impl Copier {
    fn new(root: &Path) -> Self {
        Copier { root: root.to_owned(), said: Mutex::default(), fail: false }
    }

    fn regenerate(&self) {
        let text = std::fs::read(self.root.join("etc/default/grub")).unwrap_or_default();
        std::fs::create_dir_all(self.root.join("boot")).unwrap();
        std::fs::write(self.root.join("boot/grub.cfg"), text).unwrap();
    }
}

impl Hands for Copier {
    fn act(&self, op: &Op) -> Result<(), HandError> {
        self.said.lock().unwrap().push(format!("act {op:?}"));
        if self.fail && matches!(op, Op::Service { .. }) {
            return Err(HandError::NotHere { what: "systemctl".into(), why: "told to fail".into() });
        }
        if matches!(op, Op::Regenerate(_)) {
            self.regenerate();
        }
        Ok(())
    }

    fn take_back(&self, op: &Op) -> Result<(), HandError> {
        self.said.lock().unwrap().push(format!("back {op:?}"));
        if matches!(op, Op::Regenerate(_)) {
            self.regenerate();
        }
        Ok(())
    }
}

fn change(title: &str, op: Op, expects: Before) -> Change {
    Change {
        layer: Layer::Host,
        title: title.into(),
        op,
        expects,
        because: vec!["host/test".into()],
        risk: vec![Risk::Reboot],
        effective: Effective::NextBoot,
        undo: Undo::Exact,
    }
}

fn write(path: &str, text: &str, expects: Before) -> Change {
    let op = Op::WriteFile { path: path.into(), content: Content::Text(text.into()), mode: 0o640 };
    change(&format!("write {path}"), op, expects)
}

fn drift(root: &Path) -> Vec<journal::Drift> {
    let root = machine::Root::tree(root).unwrap();
    journal::drift(&root, &journal::read_log(&root).unwrap()).unwrap()
}

const GRUB: &str = "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n";

/// One edit, one new file in new directories, one removal, a generator, a service, and a link to what is not there.
fn plan() -> Plan {
    let mut plan = Plan::new(Layer::Host, &Intent::default(), BTreeMap::new());
    plan.changes = vec![
        write(
            "/etc/default/grub",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet intel_iommu=on\"\n",
            Before::File(Digest::of(GRUB.as_bytes())),
        ),
        write("/etc/udev/rules.d/61-thruway.rules", "ACTION==\"add\"\n", Before::NoFile),
        change("remove old", Op::RemoveFile { path: "/etc/old.conf".into() }, Before::File(Digest::of(b"old\n"))),
        change("generate", Op::Regenerate(Tool::UpdateGrub), Before::Nothing),
        change("restart", Op::Service { unit: "x.service".into(), verb: ServiceVerb::Restart }, Before::Nothing),
        link("/etc/wants/deep/x.service", "/etc/x.service"),
    ];
    plan
}

fn link(path: &str, target: &str) -> Change {
    change("link", Op::Link { path: path.into(), target: target.into() }, Before::NoFile)
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("etc/default")).unwrap();
    std::fs::write(dir.path().join("etc/default/grub"), GRUB).unwrap();
    std::fs::set_permissions(dir.path().join("etc/default/grub"), PermissionsExt::from_mode(0o604)).unwrap();
    std::fs::write(dir.path().join("etc/old.conf"), "old\n").unwrap();
    Copier::new(dir.path()).regenerate();
    dir
}

#[test]
fn apply_then_undo_is_the_identity() {
    let dir = tree();
    let before = snapshot(dir.path());
    let hands = Copier::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let applied = journal.apply(&plan(), &mut |_| {}).unwrap();
    assert_eq!((applied.number, applied.steps), (1, 6));
    let grub = dir.path().join("etc/default/grub");
    assert_eq!(grub.metadata().unwrap().mode() & 0o7777, 0o604, "an existing file keeps its mode");
    assert_eq!(dir.path().join("etc/udev/rules.d/61-thruway.rules").metadata().unwrap().mode() & 0o7777, 0o640);
    assert!(std::fs::read_to_string(dir.path().join("boot/grub.cfg")).unwrap().contains("intel_iommu=on"));
    assert!(!dir.path().join("etc/old.conf").exists());
    assert_eq!(drift(dir.path()), []);
    let undone = journal.undo(1).unwrap();
    assert_eq!(
        undone.steps,
        [
            "link",
            "remove old",
            "write /etc/udev/rules.d/61-thruway.rules",
            "write /etc/default/grub",
            "generate",
            "restart"
        ]
    );
    assert_eq!(snapshot(dir.path()), before);
    assert!(matches!(journal.undo(1), Err(Error::AlreadyUndone(1))));
    assert_eq!(journal.log()[0].state, State::Undone);
}

#[test]
fn killed_at_every_point_the_next_run_is_whole_again() {
    let whole = {
        let dir = tree();
        let hands = Copier::new(dir.path());
        Journal::open(dir.path(), &hands).unwrap().apply(&plan(), &mut |_| {}).unwrap();
        snapshot(dir.path())
    };
    let mut points = 0;
    for n in 1.. {
        let dir = tree();
        let before = snapshot(dir.path());
        let hands = Copier::new(dir.path());
        let mut journal = Journal::open(dir.path(), &hands).unwrap().stop_at(n);
        match journal.apply(&plan(), &mut |_| {}) {
            Err(Error::Stopped(_)) => {}
            Ok(_) => break,
            Err(other) => panic!("point {n}: {other}"),
        }
        points += 1;
        drop(journal);
        let mut journal = Journal::open(dir.path(), &hands).unwrap();
        let recovered = journal.recover().unwrap();
        let now = snapshot(dir.path());
        match recovered.as_slice() {
            [] | [Recovered::TakenBack(_)] => assert_eq!(now, before, "point {n}"),
            [Recovered::Completed(1)] => assert_eq!(now, whole, "point {n}"),
            other => panic!("point {n}: {other:?}"),
        }
        assert_eq!(journal.recover().unwrap(), [], "a second recovery has nothing to do");
    }
    println!("{points} points of apply tried");
    assert!(points > 15, "only {points} points: the loop did not run");
}

#[test]
fn killed_at_every_point_of_undo_the_next_run_finishes_it() {
    let mut points = 0;
    for n in 1.. {
        let dir = tree();
        let before = snapshot(dir.path());
        let hands = Copier::new(dir.path());
        Journal::open(dir.path(), &hands).unwrap().apply(&plan(), &mut |_| {}).unwrap();
        let mut journal = Journal::open(dir.path(), &hands).unwrap().stop_at(n);
        match journal.undo(1) {
            Err(Error::Stopped(_)) => {}
            Ok(_) => break,
            Err(other) => panic!("point {n}: {other}"),
        }
        points += 1;
        drop(journal);
        let mut journal = Journal::open(dir.path(), &hands).unwrap();
        journal.recover().unwrap();
        if journal.log()[0].state == State::Applied {
            // Stopped before the undo was announced: it never began.
            journal.undo(1).unwrap();
        }
        assert_eq!(snapshot(dir.path()), before, "point {n}");
    }
    println!("{points} points of undo tried");
    assert!(points > 8, "only {points} points: the loop did not run");
}

#[test]
fn a_failing_step_takes_back_the_steps_before_it() {
    let dir = tree();
    let before = snapshot(dir.path());
    let mut hands = Copier::new(dir.path());
    hands.fail = true;
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let error = journal.apply(&plan(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Step { step: 5, .. }), "{error}");
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_changed_file_refuses_the_plan_before_the_first_write() {
    let dir = tree();
    std::fs::write(dir.path().join("etc/old.conf"), "edited\n").unwrap();
    let before = snapshot(dir.path());
    let hands = Copier::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let error = journal.apply(&plan(), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::Changed { path } if path == "/etc/old.conf"), "{error}");
    assert_eq!(snapshot(dir.path()), before);
    assert!(journal.log().is_empty());
}

#[test]
fn undo_never_eats_another_edit() {
    let dir = tree();
    let hands = Copier::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan(), &mut |_| {}).unwrap();
    let grub = dir.path().join("etc/default/grub");
    let edited = std::fs::read_to_string(&grub).unwrap() + "GRUB_TIMEOUT=1\n";
    std::fs::write(&grub, &edited).unwrap();
    let now = snapshot(dir.path());
    let drift = drift(dir.path());
    assert_eq!(drift.len(), 1);
    assert_eq!(drift[0].path, "/etc/default/grub");
    match journal.undo(1) {
        Err(Error::Conflict { path, diff, .. }) => {
            assert_eq!(path, "/etc/default/grub");
            assert!(diff.contains("+GRUB_TIMEOUT=1"), "{diff}");
            assert!(diff.contains("-GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\""), "{diff}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(snapshot(dir.path()), now, "a refused undo changes nothing");
}

#[test]
fn links_xattrs_and_times_are_kept() {
    let dir = tree();
    let root = dir.path();
    std::fs::write(root.join("etc/modules"), "loop\n").unwrap();
    std::fs::create_dir(root.join("etc/modules-load.d")).unwrap();
    std::os::unix::fs::symlink("../modules", root.join("etc/modules-load.d/modules.conf")).unwrap();
    let file = std::fs::File::open(root.join("etc/modules")).unwrap();
    let tagged = rustix::fs::fsetxattr(&file, "user.note", b"mine", rustix::fs::XattrFlags::empty()).is_ok();
    let time = root.join("etc/modules").metadata().unwrap().mtime_nsec();
    let hands = Copier::new(root);
    let mut journal = Journal::open(root, &hands).unwrap();
    let mut plan = Plan::new(Layer::Host, &Intent::default(), BTreeMap::new());
    plan.changes =
        vec![write("/etc/modules-load.d/modules.conf", "loop\nvfio-pci\n", Before::File(Digest::of(b"loop\n")))];
    journal.apply(&plan, &mut |_| {}).unwrap();
    assert!(root.join("etc/modules-load.d/modules.conf").is_symlink(), "written through the link");
    assert_eq!(std::fs::read(root.join("etc/modules")).unwrap(), b"loop\nvfio-pci\n");
    let note = |path: &Path| {
        let file = std::fs::File::open(path).unwrap();
        let mut value = vec![0; 64];
        rustix::fs::fgetxattr(&file, "user.note", value.as_mut_slice()).map(|n| value[..n].to_vec())
    };
    if tagged {
        assert_eq!(note(&root.join("etc/modules")).unwrap(), b"mine");
    } else {
        println!("SKIP xattrs: this file system has none");
    }
    journal.undo(1).unwrap();
    assert_eq!(root.join("etc/modules").metadata().unwrap().mtime_nsec(), time);
    if tagged {
        assert_eq!(note(&root.join("etc/modules")).unwrap(), b"mine");
    }
}

#[test]
fn a_link_is_made_where_nothing_is_and_goes_only_as_it_was_made() {
    let dir = tree();
    let hands = Copier::new(dir.path());
    let one = |change: Change| {
        let mut plan = Plan::new(Layer::Host, &Intent::default(), BTreeMap::new());
        plan.changes = vec![change];
        plan
    };
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let taken = journal.apply(&one(link("/etc/old.conf", "x")), &mut |_| {});
    assert!(matches!(taken, Err(Error::Changed { .. })), "{taken:?}");
    let made = journal.apply(&one(link("/etc/name", "old.conf")), &mut |_| {}).unwrap();
    let name = dir.path().join("etc/name");
    assert_eq!(std::fs::read_link(&name).unwrap(), Path::new("old.conf"));
    // Somebody's own link by that name is not taken away.
    std::fs::remove_file(&name).unwrap();
    std::os::unix::fs::symlink("theirs", &name).unwrap();
    let error = journal.undo(made.number).unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    assert_eq!(std::fs::read_link(&name).unwrap(), Path::new("theirs"));
    // What the link leads to stays.
    std::fs::remove_file(&name).unwrap();
    std::os::unix::fs::symlink("old.conf", &name).unwrap();
    journal.undo(made.number).unwrap();
    assert!(name.symlink_metadata().is_err() && dir.path().join("etc/old.conf").exists());
}

#[test]
fn a_link_out_of_the_tree_is_not_followed() {
    let dir = tree();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), "safe").unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("etc/away")).unwrap();
    let hands = Copier::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let mut plan = Plan::new(Layer::Host, &Intent::default(), BTreeMap::new());
    plan.changes = vec![write("/etc/away/victim", "owned", Before::NoFile)];
    // The link's absolute target is taken inside the tree: a new file there, nothing outside.
    let _ = journal.apply(&plan, &mut |_| {});
    assert_eq!(std::fs::read_to_string(outside.path().join("victim")).unwrap(), "safe");
}

#[test]
fn the_lock_names_its_holder() {
    let dir = tree();
    let hands = Copier::new(dir.path());
    let first = Journal::open(dir.path(), &hands).unwrap();
    let busy = Journal::open(dir.path(), &hands).err().unwrap();
    assert!(busy.to_string().contains(&std::process::id().to_string()), "{busy}");
    drop(first);
    Journal::open(dir.path(), &hands).unwrap();
}

#[test]
fn a_torn_last_line_is_dropped_and_damage_is_named() {
    let dir = tree();
    let hands = Copier::new(dir.path());
    Journal::open(dir.path(), &hands).unwrap().apply(&plan(), &mut |_| {}).unwrap();
    let path = dir.path().join("var/lib/thruway/journal");
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 10, 30] {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let mut journal = Journal::open(dir.path(), &hands).unwrap();
        assert_eq!(journal.log()[0].state, State::Unfinished);
        assert!(matches!(journal.apply(&plan(), &mut |_| {}), Err(Error::Unfinished(1))));
        assert_eq!(journal.recover().unwrap(), [Recovered::Completed(1)]);
    }
    let mut bent = whole.clone();
    let middle = bent.iter().position(|b| *b == b'\n').unwrap() + 30;
    bent[middle] ^= 1;
    std::fs::write(&path, &bent).unwrap();
    match Journal::open(dir.path(), &hands).err().unwrap() {
        Error::Damaged { line: 2, .. } => {}
        other => panic!("{other}"),
    }
    std::fs::write(&path, "thruway-journal 9\n{}\n").unwrap();
    assert!(matches!(Journal::open(dir.path(), &hands).err().unwrap(), Error::Newer { .. }));
}

#[test]
fn an_interrupted_file_that_is_neither_is_left_alone() {
    let dir = tree();
    let hands = Copier::new(dir.path());
    // Stop right after the first intent is durable, before the write.
    for n in 1..10 {
        let dir2 = tree();
        let hands2 = Copier::new(dir2.path());
        let mut journal = Journal::open(dir2.path(), &hands2).unwrap().stop_at(n);
        let _ = journal.apply(&plan(), &mut |_| {});
        drop(journal);
        let log = std::fs::read_to_string(dir2.path().join("var/lib/thruway/journal")).unwrap();
        if log.contains("{\"intent\"") {
            std::fs::write(dir2.path().join("etc/default/grub"), "a third text\n").unwrap();
            let mut journal = Journal::open(dir2.path(), &hands2).unwrap();
            match journal.recover() {
                Err(Error::Unclear { path, step: 1, .. }) => assert_eq!(path, "/etc/default/grub"),
                other => panic!("{other:?}"),
            }
            assert_eq!(std::fs::read_to_string(dir2.path().join("etc/default/grub")).unwrap(), "a third text\n");
            return;
        }
    }
    drop((dir, hands));
    panic!("no point after the first intent was found");
}

proptest::proptest! {
    #[test]
    fn random_bytes_as_journal_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let dir = tree();
        std::fs::create_dir_all(dir.path().join("var/lib/thruway")).unwrap();
        std::fs::write(dir.path().join("var/lib/thruway/journal"), &bytes).unwrap();
        let hands = Copier::new(dir.path());
        if let Err(error) = Journal::open(dir.path(), &hands) {
            proptest::prop_assert!(error.to_string().contains("/var/lib/thruway/journal"), "{}", error);
        }
    }
}
