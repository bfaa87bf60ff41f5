//! Mode, owner, ACLs, links, times: what a file is beyond its bytes.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;

use journal::{Error, Journal};
use model::Before;

use crate::world::*;

fn acl(root: &Path, args: &[&str], path: &str) -> bool {
    std::process::Command::new("setfacl").args(args).arg(root.join(path)).status().is_ok_and(|s| s.success())
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let file = std::fs::File::open(path).unwrap();
    let mut names = vec![0; 4096];
    let length = rustix::fs::flistxattr(&file, names.as_mut_slice()).unwrap_or(0);
    let names = names[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    let mut found: Vec<_> = names
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0; 4096];
            let length = rustix::fs::fgetxattr(&file, name.as_str(), value.as_mut_slice()).unwrap();
            (name, value[..length].to_vec())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_directorys_default_acl_does_not_come_to_a_file_that_had_none() {
    let dir = tree();
    let grub = dir.path().join("etc/default/grub");
    if !acl(dir.path(), &["-d", "-m", "u:1:rw"], "etc/default") {
        println!("SKIP: no setfacl, or no ACLs here");
        return;
    }
    let (before, mode) = (xattrs(&grub), grub.metadata().unwrap().mode());
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan(), &mut |_| {}).unwrap();
    assert_eq!((xattrs(&grub), grub.metadata().unwrap().mode()), (before.clone(), mode), "after apply");
    journal.undo(1).unwrap();
    assert_eq!((xattrs(&grub), grub.metadata().unwrap().mode()), (before, mode), "after undo");
}

#[test]
fn an_attribute_given_since_goes_with_undo() {
    let dir = tree();
    let grub = dir.path().join("etc/default/grub");
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let before = xattrs(&grub);
    journal.apply(&plan(), &mut |_| {}).unwrap();
    if !acl(dir.path(), &["-m", "u:1:rw"], "etc/default/grub") {
        println!("SKIP: no setfacl, or no ACLs here");
        return;
    }
    journal.undo(1).unwrap();
    assert_eq!(xattrs(&grub), before);
    assert_eq!(grub.metadata().unwrap().mode() & 0o7777, 0o604);
}

#[test]
fn undo_does_not_invent_a_time_of_access() {
    let dir = tree();
    let grub = dir.path().join("etc/default/grub");
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(&grub).unwrap().set_modified(old).unwrap();
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan_of(vec![write("/etc/default/grub", WANTED, file(GRUB))]), &mut |_| {}).unwrap();
    journal.undo(1).unwrap();
    let meta = grub.metadata().unwrap();
    assert_eq!(meta.mtime(), 1_000_000_000);
    assert_ne!(meta.atime(), meta.mtime(), "nobody read it in 2001");
}

#[test]
fn a_removed_link_is_a_link_again() {
    let dir = tree();
    let link = dir.path().join("etc/link.conf");
    symlink("old.conf", &link).unwrap();
    let before = snapshot(dir.path());
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan_of(vec![remove("/etc/link.conf", "old\n")]), &mut |_| {}).unwrap();
    assert!(link.symlink_metadata().is_err(), "the link is gone");
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/old.conf")).unwrap(), "old\n", "its target is not");
    journal.undo(1).unwrap();
    assert_eq!(snapshot(dir.path()), before);
    // Someone points it elsewhere in the meantime: theirs.
    journal.apply(&plan_of(vec![remove("/etc/link.conf", "old\n")]), &mut |_| {}).unwrap();
    symlink("default/grub", &link).unwrap();
    assert!(matches!(journal.undo(2), Err(Error::Conflict { .. })));
    assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("default/grub"));
}

#[test]
fn a_dangling_link_is_not_nothing() {
    let dir = tree();
    symlink("nowhere.conf", dir.path().join("etc/new.conf")).unwrap();
    let before = snapshot(dir.path());
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let error = journal.apply(&plan_of(vec![write("/etc/new.conf", "x\n", Before::NoFile)]), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::Changed { path } if path == "/etc/new.conf"), "{error}");
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn directories_behind_a_link_are_made_and_unmade_where_they_are() {
    let dir = tree();
    symlink("../srv/deep/rules", dir.path().join("etc/rules")).unwrap();
    let before = snapshot(dir.path());
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan_of(vec![write("/etc/rules/a/x", "x\n", Before::NoFile)]), &mut |_| {}).unwrap();
    assert!(dir.path().join("srv/deep/rules/a/x").is_file());
    journal.undo(1).unwrap();
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_made_directory_that_became_a_link_is_left_alone() {
    let dir = tree();
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan_of(vec![write("/etc/mine/x", "x\n", Before::NoFile)]), &mut |_| {}).unwrap();
    std::fs::create_dir(dir.path().join("etc/theirs")).unwrap();
    std::fs::remove_file(dir.path().join("etc/mine/x")).unwrap();
    std::fs::remove_dir(dir.path().join("etc/mine")).unwrap();
    symlink("theirs", dir.path().join("etc/mine")).unwrap();
    journal.undo(1).unwrap();
    assert!(dir.path().join("etc/theirs").is_dir(), "rmdir went through the link");
    assert!(dir.path().join("etc/mine").is_symlink());
}

#[test]
fn made_directories_have_their_mode_whatever_the_umask() {
    let dir = tree();
    // A process of its own: the umask is the whole process's.
    if std::env::var_os("UNDER_UMASK").is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "metadata::made_directories_have_their_mode_whatever_the_umask";
        let done = std::process::Command::new("sh")
            .args(["-c", "umask 077; exec \"$0\" --exact \"$1\""])
            .arg(me)
            .arg(name)
            .env("UNDER_UMASK", "1")
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        return;
    }
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan(), &mut |_| {}).unwrap();
    for made in ["etc/udev", "etc/udev/rules.d"] {
        assert_eq!(dir.path().join(made).metadata().unwrap().mode() & 0o7777, 0o755, "{made}");
    }
}

#[test]
fn a_hard_linked_file_keeps_its_other_names() {
    let dir = tree();
    let (grub, other) = (dir.path().join("etc/default/grub"), dir.path().join("etc/other-name"));
    std::fs::hard_link(&grub, &other).unwrap();
    let before = snapshot(dir.path());
    let inode = grub.metadata().unwrap().ino();
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan(), &mut |_| {}).unwrap();
    assert_eq!(grub.metadata().unwrap().ino(), inode);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), WANTED);
    journal.undo(1).unwrap();
    assert_eq!((grub.metadata().unwrap().ino(), grub.metadata().unwrap().nlink()), (inode, 2));
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_bind_mounted_file_is_written_and_restored() {
    let dir = tree();
    let outside = dir.path().join("var/real");
    let grub = dir.path().join("etc/default/grub");
    std::fs::write(&outside, GRUB).unwrap();
    std::fs::set_permissions(&outside, PermissionsExt::from_mode(0o604)).unwrap();
    let Some(_mounted) = Mounted::new(&["--bind", outside.to_str().unwrap()], &grub) else { return };
    let before = snapshot(dir.path());
    let hands = Boot::new(dir.path());
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan(), &mut |_| {}).unwrap();
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), WANTED);
    journal.undo(1).unwrap();
    assert_eq!(snapshot(dir.path()), before);
    drop(journal);
    // Killed in the middle of writing in place: some of the new bytes, some of the old.
    for n in 1.. {
        let mut journal = Journal::open(dir.path(), &hands).unwrap().stop_at(n);
        assert!(matches!(journal.apply(&plan(), &mut |_| {}), Err(Error::Stopped(_))), "no intent was found");
        drop(journal);
        let log = std::fs::read_to_string(log_path(dir.path())).unwrap();
        if log.lines().last().unwrap().contains("{\"intent\"") {
            break;
        }
        Journal::open(dir.path(), &hands).unwrap().recover().unwrap();
    }
    let mut torn = WANTED.as_bytes()[..40].to_vec();
    torn.resize(WANTED.len(), 0);
    std::fs::write(&outside, torn).unwrap();
    Journal::open(dir.path(), &hands).unwrap().recover().unwrap();
    assert_eq!(snapshot(dir.path()), before);
}
