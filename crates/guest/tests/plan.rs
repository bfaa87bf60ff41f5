//! The driver floor's plan over small machines: what it writes, that it asks once, and that what could not be read is
//! never called well.

use machine::{FileKind, Memory, Node, NodeKind, Stat};
use model::{Content, Effective, Intent, Op, OutcomeState, Presence, Reason, Seen, Tool, Verdict, run_all};

const CARD: &str = "/sys/bus/pci/devices/0000:01:00.0";

fn dir(machine: &mut Memory, path: &str, names: &[&str]) {
    let stat = Stat { kind: FileKind::Dir, mode: 0o755, uid: 0, gid: 0, size: 0, mtime: 0, rdev: None };
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    machine.insert(path, Node { stat, kind: NodeKind::Dir(Seen::Is(names)) });
}

/// A VM with a GT 1030 that nouveau holds.
fn guest() -> Memory {
    let mut machine = Memory::new("test");
    dir(&mut machine, "/", &["dev", "etc", "lib", "proc", "sys", "usr", "var"]);
    dir(&mut machine, "/sys/bus/pci/devices", &["0000:01:00.0"]);
    for (name, text) in [
        (
            "uevent",
            "DRIVER=nouveau\nPCI_CLASS=30000\nPCI_ID=10DE:1D01\nPCI_SUBSYS_ID=1043:85F4\nPCI_SLOT_NAME=0000:01:00.0\n",
        ),
        ("vendor", "0x10de\n"),
        ("device", "0x1d01\n"),
        ("class", "0x030000\n"),
        ("revision", "0xa1\n"),
        ("resource", ""),
    ] {
        machine.insert_file(&format!("{CARD}/{name}"), text.as_bytes());
    }
    machine.insert_link(&format!("{CARD}/driver"), "../../../bus/pci/drivers/nouveau");
    machine.insert_file("/proc/cpuinfo", b"processor : 0\nflags : fpu hypervisor\n");
    machine.insert_file("/proc/sys/kernel/osrelease", b"5.4.0-100-generic\n");
    machine.insert_file("/proc/modules", b"nouveau 1 0 - Live 0x0\n");
    machine.insert_file("/etc/os-release", b"ID=ubuntu\nVERSION_ID=\"20.04\"\n");
    machine.insert_file("/etc/initramfs-tools/initramfs.conf", b"MODULES=most\n");
    machine.insert_file("/var/lib/dpkg/status", b"Package: bash\nStatus: install ok installed\nVersion: 1\n");
    dir(&mut machine, "/etc/modprobe.d", &["mine.conf", "thruway-nouveau.conf", "vfio.conf"]);
    for path in ["mine.conf", "thruway-nouveau.conf", "vfio.conf"] {
        machine.insert_gone(&format!("/etc/modprobe.d/{path}"), Seen::Absent);
    }
    for path in [
        "/proc/driver/nvidia",
        "/proc/driver/nvidia/version",
        "/sys/module/nvidia/version",
        "/run/modprobe.d",
        "/lib/modprobe.d",
        "/usr/lib/modprobe.d",
        "/usr/local/lib/modprobe.d",
        "/usr/bin",
        "/usr/sbin",
    ] {
        machine.insert_gone(path, Seen::Absent);
    }
    machine
}

fn facts(machine: &Memory) -> guest::Facts {
    guest::observe(machine, &gpu::observe(machine))
}

#[test]
fn nouveau_is_kept_away_once_and_the_initramfs_made_again() {
    let mut machine = guest();
    let seen = facts(&machine);
    assert!(matches!(guest::presence(&seen), Presence::Here(_)));
    let plan = guest::plan(&seen, &Intent::default());
    let [write, packages, uvm, regenerate] = plan.changes.as_slice() else { panic!("{:#?}", plan.changes) };
    let Op::Packages(op) = &packages.op else { panic!("{:?}", packages.op) };
    assert_eq!(
        op.install,
        [
            "build-essential",
            "linux-headers-5.4.0-100-generic",
            "linux-headers-generic",
            "nvidia-headless-535-server",
            "nvidia-utils-535-server",
            "libnvidia-decode-535-server",
            "libnvidia-encode-535-server"
        ]
    );
    assert!(matches!(&uvm.op, Op::WriteFile { path, .. } if path == guest::UVM_FILE), "{:?}", uvm.op);
    assert_eq!(regenerate.op, Op::Regenerate(Tool::UpdateInitramfs));
    assert_eq!(write.effective, Effective::NextBoot);
    let Op::WriteFile { path, content: Content::Text(text), .. } = &write.op else { panic!("{:?}", write.op) };
    assert_eq!(path, guest::NOUVEAU_FILE);
    machine.insert_file(path, text.as_bytes());
    let status = "Package: nvidia-headless-535-server\nStatus: install ok installed\nVersion: 535.183.01-0ubuntu1\n";
    machine.insert_file("/var/lib/dpkg/status", status.as_bytes());
    let after = facts(&machine);
    assert!(guest::plan(&after, &Intent::default()).is_empty());
    let outcomes = guest::verify(&after, &Intent::default());
    let nouveau = outcomes.first().map(|outcome| &outcome.state);
    assert_eq!(nouveau, Some(&OutcomeState::Pending("a reboot of this machine".into())));
}

#[test]
fn a_user_s_own_line_is_enough() {
    let mut machine = guest();
    machine.insert_file("/etc/modprobe.d/mine.conf", b"blacklist nouveau\n");
    let plan = guest::plan(&facts(&machine), &Intent::default());
    let ours = |path: &str| path == guest::NOUVEAU_FILE;
    assert!(!plan.changes.iter().any(|c| matches!(&c.op, Op::WriteFile { path, .. } if ours(path))), "{plan:?}");
    assert!(!plan.changes.iter().any(|c| matches!(c.op, Op::Regenerate(_))), "{plan:?}");
}

#[test]
fn without_the_plan_nothing_is_pending() {
    let outcomes = guest::verify(&facts(&guest()), &Intent::default());
    assert!(outcomes.first().is_some_and(|outcome| matches!(outcome.state, OutcomeState::Failed(_))), "{outcomes:?}");
}

#[test]
fn a_card_for_a_vm_is_left_alone() {
    let mut machine = guest();
    machine.insert_file("/proc/cpuinfo", b"processor : 0\nflags : fpu\n");
    machine.insert_file("/usr/bin/docker", b"");
    let intent = Intent { give: vec!["01:00.0".parse().expect("an address")], ..Intent::default() };
    assert!(!guest::plan(&facts(&machine), &Intent::default()).is_empty());
    assert!(guest::plan(&facts(&machine), &intent).is_empty());
    machine.insert_file("/etc/modprobe.d/vfio.conf", b"options vfio-pci ids=10de:1d01\n");
    assert!(matches!(guest::presence(&facts(&machine)), Presence::NotHere(_)));
}

#[test]
fn what_could_not_be_read_is_never_well() {
    let mut machine = Memory::new("locked");
    machine.insert_gone("/", Seen::Unreadable(Reason::PermissionDenied));
    for finding in run_all(guest::CHECKS, &facts(&machine)) {
        assert!(matches!(finding.verdict, Verdict::Unknown { .. }), "{}: {:?}", finding.about.id, finding.verdict);
    }
}
