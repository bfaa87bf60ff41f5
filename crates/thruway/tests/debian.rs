//! A real Debian 12 tree: real GRUB, initramfs-tools, kmod and udev, changed by `thruway --root` and taken back.
//!
//! The tree is made once by mmdebstrap and kept below target/. The card is simulated: a box's /sys and /proc are laid
//! into the tree, with the tree's own kernel release. Needs root (chroot, mounts) and mmdebstrap; prints why it is
//! skipped otherwise.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks at the tree from outside")]
#![allow(clippy::print_stdout, reason = "says what it skips and counts")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{differ, snapshot};

const PACKAGES: &str = "systemd,systemd-sysv,udev,kmod,initramfs-tools,zstd,linux-image-amd64,grub-pc,grub2-common";

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

fn can_run() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root: chroot and mounts are needed".into());
    }
    for program in ["mmdebstrap", "unshare", "chroot"] {
        if Command::new(program).arg("--version").output().is_err() {
            return Err(format!("{program} is not installed (./test.sh installs it)"));
        }
    }
    Ok(())
}

/// The tree as mmdebstrap made it, kept between runs.
fn base() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-12");
    if dir.join("boot/grub").is_dir() {
        return dir;
    }
    let making = dir.with_extension("making");
    let _ = std::fs::remove_dir_all(&making);
    println!("making a Debian 12 tree (a minute or two; kept for later runs)");
    run(Command::new("mmdebstrap").args([
        "--mode=root",
        "--variant=minbase",
        "--aptopt=APT::Install-Recommends \"false\"",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        &format!("--include={PACKAGES}"),
        "--essential-hook=echo 'grub-pc grub-pc/install_devices_empty boolean true' | chroot \"$1\" debconf-set-selections",
        "bookworm",
    ]).arg(&making));
    // The initrd of every kernel is made in the test itself; MODULES=dep would look for this machine's disk.
    std::fs::rename(&making, &dir).expect("the finished tree takes its name");
    dir
}

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
