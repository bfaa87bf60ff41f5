//! What the journal refuses, and how it says so.

use journal::{Error, Journal, State};
use model::Before;

use crate::world::*;

#[test]
fn an_older_change_under_a_newer_one_waits_for_it() {
    let dir = tree();
    std::os::unix::fs::symlink("default/grub", dir.path().join("etc/grub-link")).unwrap();
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan_of(vec![write("/etc/default/grub", WANTED, file(GRUB))]), &mut |_| {}).unwrap();
    journal.apply(&plan_of(vec![write("/etc/other", "x\n", Before::NoFile)]), &mut |_| {}).unwrap();
    // By another name of the same file.
    journal.apply(&plan_of(vec![write("/etc/grub-link", "third\n", file(WANTED))]), &mut |_| {}).unwrap();
    // Even where the newer one put back what the older one left.
    journal.apply(&plan_of(vec![write("/etc/default/grub", WANTED, file("third\n"))]), &mut |_| {}).unwrap();
    let now = snapshot(dir.path());
    let error = journal.undo(1).unwrap_err();
    assert!(error.to_string().contains("undo 4 first"), "{error}");
    assert!(error.to_string().contains("/etc/default/grub"), "{error}");
    assert_eq!(snapshot(dir.path()), now);
    journal.undo(4).unwrap();
    assert!(journal.undo(1).unwrap_err().to_string().contains("undo 3 first"));
    // What touches other files is in nobody's way.
    journal.undo(3).unwrap();
    journal.undo(1).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/default/grub")).unwrap(), GRUB);
    assert_eq!(journal.log()[1].state, State::Applied);
}

#[test]
fn nothing_is_applied_over_a_half_taken_back_change() {
    let dir = tree();
    let hands = Boot::new(dir.path());
    Journal::open(dir.path(), &hands).unwrap().apply(&plan(), &mut |_| {}).unwrap();
    for n in 1.. {
        let mut journal = Journal::open(dir.path(), &hands).unwrap().stop_at(n);
        assert!(matches!(journal.undo(1), Err(Error::Stopped(_))));
        drop(journal);
        let mut journal = Journal::open(dir.path(), &hands).unwrap();
        if journal.log()[0].state == State::HalfUndone {
            let other = plan_of(vec![write("/etc/other", "x\n", Before::NoFile)]);
            let error = journal.apply(&other, &mut |_| {}).unwrap_err();
            assert!(matches!(error, Error::Unfinished(1)), "{error}");
            return;
        }
    }
}

#[test]
fn of_many_at_once_each_waits_or_names_a_live_holder() {
    let dir = tree();
    // A dead process's number stands in the lock file: nobody may be sent to it.
    std::fs::create_dir_all(dir.path().join("var/lib/thruway")).unwrap();
    std::fs::write(dir.path().join("var/lib/thruway/lock"), "4194304").unwrap();
    let root = dir.path();
    let mine = std::process::id().to_string();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let hands = Boot::new(root);
                    match Journal::open(root, &hands) {
                        Ok(_held) => std::thread::yield_now(),
                        Err(Error::Busy(who)) => assert!(who.contains(&mine), "sent to {who:?}"),
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
}

#[test]
fn nobody_is_sent_to_a_dead_holder() {
    let dir = tree();
    let path = dir.path().join("var/lib/thruway/lock");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Taken a moment ago: the number in the file is still that of the one before, who has long gone.
    std::fs::write(&path, "4194304\n").unwrap();
    let held = std::fs::File::open(&path).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let hands = Boot::new(dir.path());
    let error = Journal::open(dir.path(), &hands).err().unwrap();
    assert!(!error.to_string().contains("4194304"), "{error}");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            drop(held);
        });
        Journal::open(dir.path(), &hands).unwrap();
    });
}

#[test]
fn a_file_that_came_since_is_not_written_over() {
    let dir = tree();
    let made = plan_of(vec![write("/etc/udev/rules.d/61-thruway.rules", "ours\n", Before::NoFile)]);
    // A package brings a file of the same name.
    std::fs::create_dir_all(dir.path().join("etc/udev/rules.d")).unwrap();
    std::fs::write(dir.path().join("etc/udev/rules.d/61-thruway.rules"), "the package's\n").unwrap();
    let before = snapshot(dir.path());
    let hands = Boot::new(dir.path());
    let error = Journal::open(dir.path(), &hands).unwrap().apply(&made, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("/etc/udev/rules.d/61-thruway.rules"), "{error}");
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn two_plans_from_the_same_look_do_not_both_apply() {
    let dir = tree();
    let hands = Boot::new(dir.path());
    let one = plan_of(vec![write("/etc/default/grub", WANTED, file(GRUB))]);
    let two = plan_of(vec![write("/etc/default/grub", "two\n", file(GRUB))]);
    Journal::open(dir.path(), &hands).unwrap().apply(&one, &mut |_| {}).unwrap();
    let error = Journal::open(dir.path(), &hands).unwrap().apply(&two, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::Changed { path } if path == "/etc/default/grub"), "{error}");
    assert!(error.to_string().contains("plan again"), "{error}");
}
