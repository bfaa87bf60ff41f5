//! A real Debian 12 tree: real GRUB, initramfs-tools, kmod and udev, changed by `thruway --root` and taken back.
//!
//! The tree is made once by mmdebstrap and kept below target/. The card is simulated: a box's /sys and /proc are laid
//! into the tree, with the tree's own kernel release. Needs root (chroot, mounts) and mmdebstrap; prints why it is
//! skipped otherwise.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks at the tree from outside")]
#![allow(clippy::print_stdout, reason = "says what it skips and counts")]

mod common;
#[path = "common/tree.rs"]
mod tree;

use std::path::Path;
use std::process::Command;

use common::{differ, snapshot};
use tree::{base, can_run, run};

fn done(root: &Path, args: &[&str]) -> String {
    let output = common::on(root, args);
    let text = format!("{}{}", common::stdout(&output), common::stderr(&output));
    assert!(output.status.success(), "{args:?}: {}\n{text}", output.status);
    text
}

/// Without what generators make, the machine's own file systems, and update-initramfs's note of what it made.
fn skip(name: &str) -> bool {
    name.starts_with("/boot/initrd")
        || name == "/boot/grub/grub.cfg"
        || name.starts_with("/var/lib/initramfs-tools/")
        || ["/proc", "/sys", "/dev", "/tmp", "/run"].contains(&name)
}

#[test]
fn plan_apply_undo_with_real_grub_and_initramfs() {
    if let Err(why) = can_run() {
        println!("SKIPPED: {why}");
        return;
    }
    let work = tempfile::Builder::new().prefix("debian-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let root = work.path().join("root");
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(base()).arg(&root));

    // The card: a simulated host's sysfs and procfs, under this tree's own kernel.
    let card = machine::scratch::Scratch::temporary().expect("a directory");
    sim::build_named("debian-host", &card).expect("the box");
    for dir in ["sys", "proc"] {
        let _ = std::fs::remove_dir_all(root.join(dir));
        run(Command::new("cp").arg("-a").arg(card.path().join(dir)).arg(root.join(dir)));
    }
    let kernels = std::fs::read_dir(root.join("lib/modules")).expect("the tree has a kernel");
    let release =
        kernels.map(|e| e.expect("an entry").file_name().into_string().expect("a name")).next().expect("a kernel");
    std::fs::write(root.join("proc/sys/kernel/osrelease"), format!("{release}\n")).expect("its release");

    // Generated files as this tree's generators make them before any change.
    let listing = |root: &Path| {
        run(Command::new("chroot").arg(root).args(["lsinitramfs", &format!("/boot/initrd.img-{release}")]))
    };
    let before = snapshot(&root, &skip);
    let initrd_before = listing(&root);

    let plan = work.path().join("plan.json");
    let give = ["--give", "26:00.0", "--allow", "host/console-lost"];
    let shown = done(&root, &[["host", "plan"].as_slice(), &give, &["--out", plan.to_str().expect("a path")]].concat());
    assert!(shown.contains("update-initramfs -u -k all"), "{shown}");
    println!("{shown}");
    println!("{}", done(&root, &["apply", plan.to_str().expect("a path"), "--yes"]));

    let during = snapshot(&root, &skip);
    let changed = differ(&before, &during);
    assert!(!changed.is_empty(), "apply wrote nothing");
    assert!(changed.iter().all(|path| path.starts_with("/etc") || path.starts_with("/var")), "{changed:?}");
    let initrd = listing(&root);
    for wanted in ["vfio-pci.ko", "61-thruway-vfio.rules", "scripts/init-top/thruway-vfio"] {
        assert!(initrd.contains(wanted), "the initramfs has no {wanted}:\n{initrd}");
    }
    let again = done(&root, &[["host", "plan"].as_slice(), &give].concat());
    assert!(again.contains("Nothing to change"), "a second plan is not empty:\n{again}");

    println!("{}", done(&root, &["undo", "--yes"]));
    let after = snapshot(&root, &skip);
    assert_eq!(differ(&before, &after), Vec::<String>::new(), "undo left differences");
    assert_eq!(listing(&root), initrd_before, "the regenerated initramfs is not equal in meaning");
}
