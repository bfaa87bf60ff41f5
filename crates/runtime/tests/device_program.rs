//! The device program of cgroup version 2, in the kernel that runs this: verified, attached, obeyed.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "makes a cgroup and a process in it"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use runtime::prestart::bpf::{Rule, allow, always, attach, before, instructions, load, programs};

/// A cgroup of the unified hierarchy, gone with it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Option<Cgroup> {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let root = root.iter().find(|root| Path::new(root).join("cgroup.controllers").exists())?;
        let path = Path::new(root).join(format!("thruway-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        Some(Cgroup(path))
    }

    /// What opening a device for reading and writing says in it.
    fn open(&self, device: &str) -> String {
        let script = format!("echo $$ > {}/cgroup.procs; : <> {device} && echo opened", self.0.display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn rule(major: u32, minor: u32, access: &str) -> Rule {
    Rule { kind: 'c', major, minor, access: access.to_owned() }
}

/// The cgroup, opened, and a program that refuses everything; or why not.
fn ready(name: &str) -> Option<(Cgroup, File, std::os::fd::OwnedFd)> {
    let Some(cgroup) = Cgroup::new(name) else {
        println!("SKIP: no cgroup of version 2 can be made here");
        return None;
    };
    match load(&always(false)) {
        Ok(program) => {
            let folder = File::open(&cgroup.0).unwrap();
            Some((cgroup, folder, program))
        }
        Err(error) => {
            println!("SKIP: this kernel does not load device programs: {error}");
            None
        }
    }
}

#[test]
fn the_kernel_takes_the_program_and_obeys_it() {
    let Some((cgroup, folder, nothing)) = ready("obey") else { return };
    assert!(cgroup.open("/dev/null").contains("opened"));
    assert_eq!(allow(&folder, &[rule(1, 3, "rwm")]).unwrap(), 0, "no program: nothing is ruled, nothing to do");
    attach(&folder, &nothing, 2, None).unwrap();
    assert!(cgroup.open("/dev/null").contains("not permitted"));
    // what the runtime put there is read back as it was loaded
    assert_eq!(instructions(&nothing).unwrap(), always(false));
    assert_eq!(allow(&folder, &[rule(1, 3, "rw")]).unwrap(), 1);
    assert!(cgroup.open("/dev/null").contains("opened"));
    assert!(cgroup.open("/dev/zero").contains("not permitted"), "and nothing else");
    // again, beside: the new program is read, and takes the new rule before the old ones
    assert_eq!(allow(&folder, &[rule(1, 5, "rwm")]).unwrap(), 1);
    assert!(cgroup.open("/dev/null").contains("opened") && cgroup.open("/dev/zero").contains("opened"));
    assert_eq!(programs(&folder).unwrap().0.len(), 1, "replaced, not added");
}

#[test]
fn an_access_that_is_not_allowed_is_not_given() {
    let Some((cgroup, folder, nothing)) = ready("access") else { return };
    attach(&folder, &nothing, 2, None).unwrap();
    allow(&folder, &[rule(1, 3, "r"), rule(1, 5, "")]).unwrap();
    assert!(cgroup.open("/dev/null").contains("not permitted"), "reading and writing, where reading is allowed");
    assert!(cgroup.open("/dev/zero").contains("not permitted"));
    allow(&folder, &[Rule { kind: 'b', ..rule(1, 3, "rwm") }]).unwrap();
    assert!(cgroup.open("/dev/null").contains("not permitted"), "a block device's rule is no character device's");
}

#[test]
fn every_program_of_a_cgroup_has_to_agree_and_is_asked() {
    let Some((cgroup, folder, nothing)) = ready("several") else { return };
    attach(&folder, &nothing, 2, None).unwrap();
    let other = load(&before(&[rule(1, 5, "rwm")], &always(false))).unwrap();
    attach(&folder, &other, 2, None).unwrap();
    assert!(cgroup.open("/dev/zero").contains("not permitted"), "one of two refuses");
    assert_eq!(allow(&folder, &[rule(1, 3, "rwm")]).unwrap(), 2);
    assert!(cgroup.open("/dev/null").contains("opened"));
    assert!(cgroup.open("/dev/zero").contains("not permitted"));
    // one that was put there alone (systemd's and old runtimes' way) is replaced as well
    let Some((cgroup, folder, nothing)) = ready("alone") else { return };
    attach(&folder, &nothing, 0, None).unwrap();
    assert_eq!(allow(&folder, &[rule(1, 3, "rwm")]).unwrap(), 1);
    assert!(cgroup.open("/dev/null").contains("opened") && cgroup.open("/dev/zero").contains("not permitted"));
}

/// crun's and runc's programs for a usual container are longer than ours; the longest list that a card has is taken too.
#[test]
fn many_rules_are_taken() {
    let Some((cgroup, folder, nothing)) = ready("many") else { return };
    attach(&folder, &nothing, 2, None).unwrap();
    let mut rules: Vec<Rule> = (0..200).map(|minor| rule(195, minor, "rwm")).collect();
    rules.push(rule(1, 3, "rwm"));
    assert_eq!(allow(&folder, &rules).unwrap(), 1);
    assert!(cgroup.open("/dev/null").contains("opened") && cgroup.open("/dev/zero").contains("not permitted"));
}
