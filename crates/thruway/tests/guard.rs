//! The boot guard on a simulated host: it judges the boot that a change waits for, once, and takes the change back
//! where that was asked for and the network stayed away.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "changes the simulated machine from outside")]

mod common;

use std::path::Path;

use common::{differ, on, snapshot, stderr, stdout};
use machine::scratch::Scratch;

const PROGRAM: &str = "/usr/local/bin/thruway";
const GIVE: [&str; 4] = ["--give", "26:00.0", "--allow", "host/console-lost"];

fn host() -> Scratch {
    let scratch = Scratch::temporary().expect("a temporary directory");
    sim::build_named("seed-host", &scratch).expect("the box");
    std::fs::create_dir_all(scratch.path().join("var/lib")).expect("/var/lib");
    scratch
}

fn apply(root: &Path, guard: &str) {
    let guard = ["host", "apply", "--yes", guard, "--guard-program", PROGRAM];
    let done = on(root, &[guard.as_slice(), &GIVE].concat());
    assert_eq!(done.status.code(), Some(0), "{}\n{}", stdout(&done), stderr(&done));
}

fn guard(root: &Path) -> (Option<i32>, String) {
    let output = on(root, &["guard", "--wait", "0"]);
    (output.status.code(), stdout(&output) + &stderr(&output))
}

/// The gateway's hardware address, as the kernel has it once the gateway has answered.
fn answers(root: &Path) {
    let head = "IP address       HW type     Flags       HW address            Mask     Device\n";
    let row = "192.0.2.1        0x1         0x2         02:00:00:00:00:01     *        vmbr0\n";
    std::fs::write(root.join("proc/net/arp"), format!("{head}{row}")).expect("the neighbour table");
}

fn files(root: &Path) -> std::collections::BTreeMap<String, (u32, u32, u32, String)> {
    // What a boot makes anew, and the simulator's own notes.
    let skip = |name: &str| ["/.thruway-sim", "/proc", "/sys", "/dev", "/run"].contains(&name);
    snapshot(root, &skip).into_iter().map(|(name, (m, u, g, _, what))| (name, (m, u, g, what))).collect()
}

#[test]
fn a_boot_that_came_true_is_judged_once() {
    let host = host();
    let root = host.path();
    assert!(guard(root).1.contains("No change waits"));
    apply(root, "--guard");
    let unit = std::fs::read_to_string(root.join("etc/systemd/system/thruway-guard.service")).expect("the unit");
    assert!(unit.contains(&format!("ExecStart={PROGRAM} guard\n")), "{unit}");
    let (status, text) = guard(root);
    assert!(status == Some(0) && text.contains("Change 1 waits for a boot"), "{text}");

    sim::physics::boot(root).expect("boots");
    answers(root);
    let (status, text) = guard(root);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("the gateway 192.0.2.1 answers by vmbr0"), "{text}");
    assert!(text.contains("26:00.0 is held by vfio-pci: so"), "{text}");
    assert!(guard(root).1.contains("No change waits"), "a boot is judged once");
    let log = stdout(&on(root, &["log"]));
    assert!(log.contains("stands") && log.contains("everything that was planned is so"), "{log}");
}

#[test]
fn a_boot_that_did_not_come_true_is_reported_and_stands() {
    let host = host();
    let root = host.path();
    apply(root, "--guard=undo");
    // Somebody's own initramfs goes over ours: nothing holds the card at boot.
    std::fs::remove_file(root.join("etc/udev/rules.d/61-thruway-vfio.rules")).expect("the rule");
    std::fs::remove_file(root.join("etc/initramfs-tools/scripts/init-top/thruway-vfio")).expect("the script");
    std::fs::remove_dir_all(root.join(".thruway-sim/initrd")).expect("the image");
    sim::physics::boot(root).expect("boots");
    answers(root);
    let (status, text) = guard(root);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("not everything that was planned is so"), "{text}");
    assert!(text.contains("thruway undo 1"), "{text}");
    let log = stdout(&on(root, &["log"]));
    assert!(log.contains("stands"), "only a lost network takes a change back by itself:\n{log}");
}

#[test]
fn a_lost_network_takes_the_change_back_and_boots_once() {
    let host = host();
    let root = host.path();
    let before = files(root);
    apply(root, "--guard=undo");
    sim::physics::boot(root).expect("boots");
    let boot = || std::fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).expect("the boot's id");
    let first = boot();
    let dry = stdout(&on(root, &["guard", "--wait", "0", "--dry-run"]));
    assert!(dry.contains("the network did not come back"), "{dry}");
    assert_eq!(boot(), first, "a dry run does nothing");

    let (status, text) = guard(root);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("192.0.2.1 by vmbr0 does not answer"), "{text}");
    assert!(text.contains("Change 1 is taken back; this machine boots once more."), "{text}");
    assert_ne!(boot(), first);
    assert_eq!(differ(&before, &files(root)), Vec::<String>::new(), "undo left differences");
    let second = boot();
    assert!(guard(root).1.contains("No change waits"));
    assert_eq!(boot(), second, "and never again");
    let log = stdout(&on(root, &["log"]));
    assert!(log.contains("taken back") && log.contains("the network did not come back"), "{log}");
}

/// With `--guard` alone a lost network is told, and nothing is done.
#[test]
fn without_being_told_nothing_is_taken_back() {
    let host = host();
    let root = host.path();
    apply(root, "--guard");
    sim::physics::boot(root).expect("boots");
    let (status, text) = guard(root);
    assert_eq!(status, Some(1), "{text}");
    assert!(stdout(&on(root, &["log"])).contains("stands"));
}

#[test]
fn where_no_gateway_is_undo_is_refused() {
    let host = host();
    let root = host.path();
    let route = root.join("proc/net/route");
    let head = std::fs::read_to_string(&route).expect("routes");
    std::fs::write(&route, head.lines().next().unwrap_or_default()).expect("no routes");
    let plan = |guard: &str, program: &str| {
        let output = on(root, &[["host", "plan", guard, "--guard-program", program].as_slice(), &GIVE].concat());
        (output.status.code(), stdout(&output))
    };
    let (status, text) = plan("--guard=undo", PROGRAM);
    assert!(status == Some(1) && text.contains("no IPv4 default route"), "{text}");
    let (status, text) = plan("--guard=report", PROGRAM);
    assert_eq!(status, Some(0), "{text}");
    // What a boot clears away, or systemd could not start.
    for program in ["/tmp/thruway", "/run/thruway", "thruway", "/opt/my tools/thruway"] {
        let (status, text) = plan("--guard=report", program);
        assert!(status == Some(1) && text.contains("the boot guard cannot start"), "{program}: {text}");
    }
}
