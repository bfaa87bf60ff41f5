//! The params guard, the user's own mounts, and roots that are none.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "tests build trees and run programs"
)]

mod common;

use std::process::Command;

use common::bundle::{Bundle, Watch};
use common::{is_root, link, put, said, scratch};

/// The guard: the file that is covered is replaced by a link, or the way to it is.
#[test]
fn params_behind_a_link_are_not_covered() {
    for (place, target) in [("/proc/driver/nvidia/params", "params"), ("/proc/driver/nvidia", ""), ("/proc/driver", "")]
    {
        let bundle = Bundle::whole();
        let aim = bundle.canary.join(target);
        link(&bundle.root, place, &aim.display().to_string());
        let watch = Watch::on(&bundle.canary);
        let output = bundle.direct().output().expect("the hook starts");
        assert!(!output.status.success(), "{place}: {}", said(&output));
        watch.untouched(place);
    }
}

/// The guard at work: in a mount namespace of the test's own, a copy that says 0 lies over the file, read-only.
#[test]
fn params_are_covered_by_a_copy_that_cannot_be_written() {
    if !is_root() {
        return println!("SKIP: needs root for mounts");
    }
    let bundle = Bundle::whole();
    put(&bundle.root, "/proc/driver/nvidia/params", "A: 1\nModifyDeviceFiles: 1\nB: 2\n");
    let direct = bundle.direct();
    let words: Vec<String> = direct.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let script = format!(
        "set -e; {hook} \"$@\" < {state}; cat {file}; if echo x > {file}; then echo written; fi; \
         mount -o remount,bind,rw {file} 2>/dev/null || true; if echo x > {file}; then echo written; fi; \
         grep -c {file} /proc/self/mountinfo; {hook} \"$@\" < {state}; grep -c {file} /proc/self/mountinfo",
        hook = common::bundle::HOOK,
        state = bundle.dir.path().join("state").display(),
        file = bundle.root.join("proc/driver/nvidia/params").display(),
    );
    let output =
        Command::new("unshare").args(["--mount", "sh", "-c", &script, "sh"]).args(words).output().expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "A: 1\nModifyDeviceFiles: 0\nB: 2\n1\n1\n", "{}", said(&output));
    let own = std::fs::read_to_string(bundle.root.join("proc/driver/nvidia/params")).expect("the file under it");
    assert!(own.contains("ModifyDeviceFiles: 1"), "the file itself is as it was");
}

/// The user's own mounts in the container are not written: a bind of the machine's /etc stays as it is.
#[test]
fn what_the_user_mounted_is_left_alone() {
    if !is_root() {
        return println!("SKIP: needs root for mounts");
    }
    let bundle = Bundle::whole();
    let watch = Watch::on(&bundle.canary.join("etc"));
    let direct = bundle.direct();
    let words: Vec<String> = direct.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let script = format!(
        "mount --bind {canary} {etc} && {hook} \"$@\" < {state}",
        canary = bundle.canary.join("etc").display(),
        etc = bundle.root.join("etc").display(),
        hook = common::bundle::HOOK,
        state = bundle.dir.path().join("state").display(),
    );
    let output =
        Command::new("unshare").args(["--mount", "sh", "-c", &script, "sh"]).args(words).output().expect("unshare");
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("it is left as it is"), "{}", said(&output));
    let names = std::fs::read_dir(bundle.canary.join("etc")).expect("the canary").count();
    assert_eq!(names, 2, "nothing was made there");
    let cache = std::fs::read(bundle.canary.join("etc/ld.so.cache")).expect("the canary's");
    assert_eq!(cache, b"the host's cache");
    drop(watch);
}

/// A root that is the machine's own is refused, and so is a state that is none.
#[test]
fn the_machines_own_root_is_no_containers() {
    let scratch = scratch();
    put(scratch.path(), "config.json", r#"{"root":{"path":"/"}}"#);
    for state in [
        format!("{{\"bundle\":{:?}}}", scratch.path()),
        "{}".to_owned(),
        "{\"bundle\":\"x\"}".to_owned(),
        String::new(),
    ] {
        put(scratch.path(), "state", &state);
        let mut command = Command::new(common::bundle::HOOK);
        command.args(["create-container", "--folder", "/usr/lib"]);
        command.stdin(std::fs::File::open(scratch.path().join("state")).expect("the state"));
        let output = command.output().expect("the hook starts");
        assert_eq!(output.status.code(), Some(1), "{state}: {}", said(&output));
    }
}
