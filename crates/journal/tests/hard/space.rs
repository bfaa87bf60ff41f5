//! A full disk, a read-only one, other file systems.

use std::path::Path;

use journal::{Error, Journal};
use model::Before;

use crate::world::*;

/// Fills the file system but for `pages` pages.
fn fill(root: &Path, pages: usize) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(root.join("fill")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let full = file.metadata().unwrap().len() / 4096;
    let length = full.checked_sub(pages as u64).unwrap_or_else(|| panic!("only {full} pages were free")) * 4096;
    file.set_len(length).unwrap();
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let dir = directory();
    let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "-o", "size=2m", "thruway-test"], dir.path()) else { return };
    let root = dir.path().join("m");
    let big = "x = 1\n".repeat(4000);
    let (mut refused, mut failed, mut done) = (0, 0, 0);
    for pages in 0..160 {
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir(&root).unwrap();
        lay(&root);
        std::fs::write(root.join("etc/big"), &big).unwrap();
        let mut changes = plan().changes;
        changes.insert(1, write("/etc/big", &big.replace('1', "2"), file(&big)));
        changes.insert(2, write("/etc/new", &big, Before::NoFile));
        let before = snapshot(&root);
        let hands = Boot::new(&root);
        fill(&root, pages);
        let mut journal = match Journal::open(&root, &hands) {
            Ok(journal) => journal,
            Err(Error::Io { .. }) => {
                refused += 1;
                assert_eq!(snapshot(&root), before, "{pages} pages");
                continue;
            }
            Err(other) => panic!("{pages} pages: {other}"),
        };
        // The generators need no space of their own here.
        let plan = plan_of(changes.into_iter().filter(|c| !matches!(c.op, model::Op::Regenerate(_))).collect());
        match journal.apply(&plan, &mut |_| {}) {
            Ok(_) => {
                done += 1;
                // And back, on the same full disk.
                journal.undo(1).unwrap_or_else(|error| panic!("{pages} pages: undo: {error}"));
            }
            Err(Error::Io { .. }) => refused += 1,
            Err(Error::Step { .. }) => failed += 1,
            Err(other) => panic!("{pages} pages: {other}"),
        }
        assert_eq!(snapshot(&root), before, "{pages} pages");
        let open: Vec<_> = journal.log().iter().map(|t| t.state).collect();
        assert!(open.iter().all(|state| *state == journal::State::Undone), "{pages} pages: {open:?}");
    }
    println!("{refused} refused, {failed} failed and taken back, {done} done and undone");
    assert!(refused > 0 && failed > 0 && done > 0, "{refused} {failed} {done}: the loop missed a case");
}

#[test]
fn a_bind_mounted_file_is_not_cut_short_on_a_full_disk() {
    let dir = tree();
    let small = dir.path().join("var/small");
    std::fs::create_dir(&small).unwrap();
    let Some(_disk) = Mounted::new(&["-t", "tmpfs", "-o", "size=32k", "thruway-test"], &small) else { return };
    std::fs::write(small.join("grub"), GRUB).unwrap();
    let grub = dir.path().join("etc/default/grub");
    let Some(_bound) = Mounted::new(&["--bind", small.join("grub").to_str().unwrap()], &grub) else { return };
    fill(&small, 0);
    let before = snapshot(dir.path());
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let text = "long\n".repeat(3000);
    let error = journal.apply(&plan_of(vec![write("/etc/default/grub", &text, file(GRUB))]), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Step { step: 1, .. }), "{error}");
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_read_only_disk_is_named_and_nothing_is_begun_on_it() {
    let dir = tree();
    let other = dir.path().join("etc/default");
    let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "-o", "ro", "thruway-test"], &other) else { return };
    let before = snapshot(dir.path());
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let plan = plan_of(vec![remove("/etc/old.conf", "old\n"), write("/etc/default/new", "x\n", Before::NoFile)]);
    let error = journal.apply(&plan, &mut |_| {}).unwrap_err();
    assert_eq!(snapshot(dir.path()), before);
    let says = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
    assert!(says.contains("/etc/default/new"), "{says}");
}
