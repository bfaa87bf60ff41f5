//! A card changes hands now, and is promised: the program from outside, on simulated machines that refuse, hang, fail
//! and move their cards.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "lays machines out and runs the program")]

mod common;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use common::{differ, on, snapshot, stderr, stdout};
use machine::scratch::Scratch;
use model::Bdf;
use sim::physics::{Trouble, boot, set_trouble};

const GPU: &str = "0000:26:00.0";
const AUDIO: &str = "0000:26:00.1";

fn lay(name: &str) -> Scratch {
    let scratch = Scratch::temporary().expect("a directory");
    sim::build_named(name, &scratch).expect("the box");
    scratch
}

/// The host whose desktop has the card open, with the unit of its display manager.
fn desktop() -> Scratch {
    let scratch = lay("host-in-use");
    let unit = b"[Service]\nExecStart=/usr/sbin/lightdm\n";
    scratch.write("/usr/lib/systemd/system/display-manager.service", unit, 0o644).expect("a unit");
    scratch
}

/// The same host without its desktop: nobody uses the card.
fn idle() -> Scratch {
    let scratch = desktop();
    scratch.remove("/proc/900").expect("the process ends");
    scratch
}

fn driver(root: &Path, bdf: &str) -> String {
    let link = std::fs::read_link(root.join("sys/bus/pci/devices").join(bdf).join("driver"));
    link.map_or("none".into(), |to| to.file_name().expect("a name").to_string_lossy().into_owned())
}

fn forced(root: &Path, bdf: &str) -> String {
    let path = root.join("sys/bus/pci/devices").join(bdf).join("driver_override");
    std::fs::read_to_string(path).expect("an attribute").trim().to_owned()
}

fn drivers(root: &Path) -> [String; 2] {
    [GPU, AUDIO].map(|bdf| driver(root, bdf))
}

fn all(output: &Output) -> String {
    // Reports wrap their lines; what is looked for may be on two.
    let text = format!("{}{}", stdout(output), stderr(output));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn bdf(text: &str) -> Bdf {
    text.parse().expect("an address")
}

/// A process of nobody's, started by hand.
fn process(scratch: &Scratch, pid: u32, name: &str, node: &str, cgroup: &str) {
    let dir = format!("/proc/{pid}");
    let stat = format!("{pid} ({name}) S 1 {}4242 0\n", "0 ".repeat(17));
    for (file, text) in [("comm", format!("{name}\n")), ("cgroup", format!("0::{cgroup}\n")), ("stat", stat)] {
        scratch.write(&format!("{dir}/{file}"), text.as_bytes(), 0o644).expect("a file of the process");
    }
    scratch.link(&format!("{dir}/fd/5"), node).expect("an open file");
}

#[test]
fn the_whole_card_goes_and_comes_back_to_its_own_drivers() {
    let scratch = idle();
    let root = scratch.path();
    let before = snapshot(root, &|_| false);
    // By its audio function: the card is meant.
    let dry = on(root, &["host", "bind", "26:00.1", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(0), "{}", all(&dry));
    let untold = on(root, &["host", "bind", "26:00.1"]);
    assert!(untold.status.code() == Some(2) && stderr(&untold).contains("--yes"), "{}", all(&untold));
    assert_eq!(drivers(root), ["nouveau", "snd_hda_intel"]);
    let bound = on(root, &["host", "bind", "26:00.1", "--yes"]);
    assert_eq!(bound.status.code(), Some(0), "{}", all(&bound));
    assert!(all(&bound).contains("/dev/vfio/14 can be given to a VM"), "{}", all(&bound));
    assert_eq!(drivers(root), ["vfio-pci", "vfio-pci"]);
    assert_eq!([GPU, AUDIO].map(|one| forced(root, one)), ["vfio-pci", "vfio-pci"]);
    let again = on(root, &["host", "bind", "26:00.0", "--yes"]);
    assert!(again.status.code() == Some(0) && all(&again).contains("Nothing to change"), "{}", all(&again));
    let back = on(root, &["host", "unbind", "26:00.0", "--yes"]);
    assert_eq!(back.status.code(), Some(0), "{}", all(&back));
    assert!(all(&back).contains("Change 1 is taken back"), "{}", all(&back));
    assert_eq!(drivers(root), ["nouveau", "snd_hda_intel"]);
    // Modes, owners, bytes and links are as before; times in sysfs are not, and vfio-pci stays loaded. This box's iomem
    // is of the time when vfio-pci had the card.
    const LEFT: [&str; 3] = ["/sys/bus/pci/drivers/vfio-pci", "/.thruway-sim", "/proc/iomem"];
    let bare = |mut tree: std::collections::BTreeMap<String, (u32, u32, u32, i64, String)>| {
        tree.retain(|name, _| !LEFT.iter().any(|left| name.starts_with(left)));
        tree.values_mut().for_each(|entry| entry.3 = 0);
        tree
    };
    assert_eq!(differ(&bare(before), &bare(snapshot(root, &|_| false))), Vec::<String>::new());
}

#[test]
fn a_holder_is_named_and_the_desktop_stops_only_when_told() {
    let scratch = desktop();
    let root = scratch.path();
    let refused = on(root, &["host", "bind", "26:00.0", "--yes"]);
    let text = all(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    for wanted in ["desktop of display-manager.service", "process 900 (Xorg)", "/dev/dri/card0", "--stop-holders"] {
        assert!(text.contains(wanted), "no {wanted} in {text}");
    }
    assert_eq!(drivers(root), ["nouveau", "snd_hda_intel"]);
    assert!(!root.join("var/lib/thruway").exists(), "a refused bind left a journal");
    let told = on(root, &["host", "bind", "26:00.0", "--stop-holders", "--yes"]);
    assert_eq!(told.status.code(), Some(0), "{}", all(&told));
    assert_eq!(drivers(root), ["vfio-pci", "vfio-pci"]);
    assert!(!root.join("proc/900").exists(), "the desktop still runs");
    let back = on(root, &["host", "unbind", "26:00.0", "--yes"]);
    assert!(
        all(&back).contains("display-manager.service, which that change stopped, is started again"),
        "{}",
        all(&back)
    );
    assert!(root.join("proc/900").exists(), "the desktop was not started again");
    assert_eq!(drivers(root), ["nouveau", "snd_hda_intel"]);
}

#[test]
fn a_process_gets_sigterm_and_one_that_stays_refuses_the_bind() {
    let scratch = idle();
    let root = scratch.path();
    process(&scratch, 901, "ffmpeg", "/dev/dri/card0", "/user.slice/user-1000.slice/session-2.scope");
    let named = on(root, &["host", "bind", "26:00.0", "--yes"]);
    assert!(named.status.code() == Some(1) && all(&named).contains("process 901 (ffmpeg)"), "{}", all(&named));
    set_trouble(root, &Trouble { stubborn: vec![901], ..Trouble::default() }).expect("trouble");
    let stays = on(root, &["host", "bind", "26:00.0", "--stop-holders", "--yes"]);
    assert_eq!(stays.status.code(), Some(2), "{}", all(&stays));
    assert!(all(&stays).contains("process 901 (ffmpeg)") && all(&stays).contains("still there"), "{}", all(&stays));
    assert_eq!(drivers(root), ["nouveau", "snd_hda_intel"]);
    set_trouble(root, &Trouble::default()).expect("no trouble");
    let goes = on(root, &["host", "bind", "26:00.0", "--stop-holders", "--yes"]);
    assert_eq!(goes.status.code(), Some(0), "{}", all(&goes));
    assert_eq!(drivers(root), ["vfio-pci", "vfio-pci"]);
    // What was ended stays ended, and does not stand in the way of an undo.
    let back = on(root, &["undo", "--yes"]);
    assert_eq!(back.status.code(), Some(0), "{}", all(&back));
    assert_eq!(drivers(root), ["nouveau", "snd_hda_intel"]);
}

#[test]
fn containers_are_named_and_never_stopped_by_us() {
    let scratch = idle();
    let id = "ab".repeat(32);
    process(&scratch, 902, "ffmpeg", "/dev/dri/card0", &format!("/system.slice/docker-{id}.scope"));
    let config = format!("/var/lib/docker/containers/{id}/config.v2.json");
    scratch.write(&config, b"{\"Name\": \"/jellyfin\"}", 0o600).expect("the engine's file");
    let refused = on(scratch.path(), &["host", "bind", "26:00.0", "--stop-holders", "--yes"]);
    assert_eq!(refused.status.code(), Some(1), "{}", all(&refused));
    assert!(all(&refused).contains("the container jellyfin"), "{}", all(&refused));
    assert!(all(&refused).contains("docker stop jellyfin"), "{}", all(&refused));
}

#[test]
fn an_unbind_that_hangs_is_told_in_time_and_finished_by_the_next_run() {
    let scratch = idle();
    let root = scratch.path();
    set_trouble(root, &Trouble { unbind_hangs: vec![bdf(GPU)], ..Trouble::default() }).expect("trouble");
    let began = Instant::now();
    let hung = on(root, &["host", "bind", "26:00.0", "--yes"]);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let text = all(&hung);
    assert_eq!(hung.status.code(), Some(2), "{text}");
    for wanted in ["did not come back within", "state D in nv_pci_remove", "only a reboot frees the card", "step 1"] {
        assert!(text.contains(wanted), "no {wanted} in {text}");
    }
    // The function that may hang goes first, so nothing else was touched.
    assert_eq!(drivers(root), ["nouveau", "snd_hda_intel"]);
    assert_eq!(forced(root, AUDIO), "(null)");
    // Its user went: what hung goes through, and the next run takes it back.
    set_trouble(root, &Trouble::default()).expect("no trouble");
    let next = on(root, &["host", "bind", "26:00.0", "--yes"]);
    assert!(stderr(&next).contains("Change 1 had been interrupted: it was taken back"), "{}", all(&next));
    assert_eq!(next.status.code(), Some(0), "{}", all(&next));
    assert_eq!(drivers(root), ["vfio-pci", "vfio-pci"]);
}

#[test]
fn a_bind_that_fails_at_the_second_function_is_taken_back() {
    let scratch = desktop();
    let root = scratch.path();
    set_trouble(root, &Trouble { bind_fails: vec![bdf(AUDIO)], ..Trouble::default() }).expect("trouble");
    let failed = on(root, &["host", "bind", "26:00.0", "--stop-holders", "--yes"]);
    let text = all(&failed);
    assert_eq!(failed.status.code(), Some(2), "{text}");
    assert!(text.contains("everything before it was taken back"), "{text}");
    assert!(text.contains("drivers/vfio-pci/bind") && text.contains("Device or resource busy"), "{text}");
    assert_eq!(drivers(root), ["nouveau", "snd_hda_intel"]);
    assert_eq!([GPU, AUDIO].map(|one| forced(root, one)), ["(null)", "(null)"]);
    assert!(root.join("proc/900").exists(), "the desktop was not started again");
}

#[test]
fn the_whole_group_goes_once_its_losses_are_named() {
    let scratch = lay("host-group-shared");
    let root = scratch.path();
    // The card of this box is vfio-pci's already: it is given back first, and its neighbours keep their drivers.
    let back = on(root, &["host", "unbind", "26:00.0", "--yes"]);
    assert_eq!(back.status.code(), Some(0), "{}", all(&back));
    assert_eq!([driver(root, GPU), driver(root, "0000:22:00.0")], ["nouveau", "r8169"]);
    assert!(all(&back).contains("still gives it to vfio-pci at the next boot"), "{}", all(&back));
    let refused = on(root, &["host", "bind", "26:00.0", "--yes"]);
    let text = all(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    for wanted in ["host/network-lost", "enp34s0", "host/disk-lost", "sda", "host/group-shared"] {
        assert!(text.contains(wanted), "no {wanted} in {text}");
    }
    let allow = ["host/network-lost", "host/disk-lost", "host/group-shared"].map(|id| ["--allow", id]).concat();
    let told = on(root, &[&["host", "bind", "26:00.0", "--yes"], allow.as_slice()].concat());
    assert_eq!(told.status.code(), Some(0), "{}", all(&told));
    for one in [GPU, AUDIO, "0000:22:00.0", "0000:03:00.1"] {
        assert_eq!(driver(root, one), "vfio-pci", "{one}");
    }
    assert_eq!(driver(root, "0000:00:03.1"), "pcieport", "a bridge went too");
}

#[test]
fn now_binds_beside_what_is_written_for_the_boot() {
    let scratch = lay("twin-cards");
    let root = scratch.path();
    let conflict = on(root, &["host", "plan", "--give", "26:00.0", "--now", "--at-boot"]);
    assert_eq!(conflict.status.code(), Some(2), "{}", all(&conflict));
    let later = on(root, &["host", "apply", "--give", "26:00.0", "--at-boot", "--yes"]);
    assert_eq!(later.status.code(), Some(0), "{}", all(&later));
    assert_eq!(driver(root, GPU), "nouveau");
    let now = on(root, &["host", "apply", "--give", "26:00.0", "--now", "--yes"]);
    assert_eq!(now.status.code(), Some(0), "{}", all(&now));
    assert_eq!(drivers(root), ["vfio-pci", "vfio-pci"]);
    assert_eq!(driver(root, "0000:2d:00.0"), "nouveau", "the twin went too");
    let again = on(root, &["host", "plan", "--give", "26:00.0", "--now"]);
    assert!(all(&again).contains("Nothing to change"), "{}", all(&again));
    boot(root).expect("boots");
    assert_eq!(drivers(root), ["vfio-pci", "vfio-pci"]);
}

#[test]
fn without_an_iommu_a_bind_is_refused_and_a_tree_is_no_machine() {
    let scratch = lay("ubuntu-grub-d");
    let refused = on(scratch.path(), &["host", "bind", "01:00.0", "--yes"]);
    assert_eq!(refused.status.code(), Some(1), "{}", all(&refused));
    assert!(all(&refused).contains("no IOMMU runs"), "{}", all(&refused));
    let scratch = idle();
    std::fs::remove_dir_all(scratch.path().join(machine::SIM_DIR.trim_start_matches('/'))).expect("a plain tree");
    let tree = on(scratch.path(), &["host", "bind", "26:00.0", "--yes"]);
    assert!(tree.status.code() == Some(2) && stderr(&tree).contains("does not run"), "{}", all(&tree));
    for bad in [vec!["host", "bind", "26:00"], vec!["host", "bind", "26:00.0", "--to", "../x"]] {
        assert_eq!(on(scratch.path(), &bad).status.code(), Some(2), "{bad:?}");
    }
    let none = on(scratch.path(), &["host", "bind", "99:00.0", "--yes"]);
    assert!(all(&none).contains("no display controller at 0000:99:00.0"), "{}", all(&none));
}
