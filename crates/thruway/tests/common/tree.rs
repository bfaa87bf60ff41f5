//! A real Debian 12 tree, made once by mmdebstrap and kept below target/. Needs root (chroot, mounts).
#![allow(clippy::disallowed_methods, clippy::disallowed_types, dead_code, reason = "tests; each uses a part of it")]
#![allow(clippy::print_stdout, reason = "says that it takes a while")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PACKAGES: &str = "systemd,systemd-sysv,udev,kmod,initramfs-tools,zstd,linux-image-amd64,grub-pc,grub2-common";

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// # Errors
/// Why there can be no tree here.
pub fn can_run() -> Result<(), String> {
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
pub fn base() -> PathBuf {
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

/// The smallest tree of a suite, made once and kept.
pub fn small(suite: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("run-{suite}"));
    if !dir.is_dir() {
        let making = dir.with_extension("making");
        let _ = std::fs::remove_dir_all(&making);
        let aptopt = "--aptopt=APT::Install-Recommends \"false\"";
        run(Command::new("mmdebstrap")
            .args(["--quiet", "--mode=root", "--variant=minbase", aptopt, suite])
            .arg(&making));
        std::fs::rename(&making, &dir).expect("the finished tree takes its name");
    }
    dir
}

/// A copy of it without its kernel, whose dpkg unpacks documentation too.
pub fn copy(root: &Path) {
    std::fs::create_dir(root).expect("a directory");
    let pipe = "tar -C \"$1\" --exclude=./boot/* --exclude=./usr/lib/modules/* --exclude=./proc/* --exclude=./sys/* -cf - . | \
                tar -C \"$2\" -xf -";
    run(Command::new("sh").args(["-c", pipe, "sh"]).arg(base()).arg(root));
    std::fs::remove_file(root.join("etc/dpkg/dpkg.cfg.d/99mmdebstrap")).expect("what mmdebstrap told dpkg");
    // every machine that was not told so has it; a directory that goes with its last file goes from other packages' lists too
    std::fs::create_dir(root.join("usr/share/man/man1")).expect("a directory");
}

/// A shell script in the tree, with file systems of its own below /proc, /sys, /dev and /tmp.
pub fn inside(root: &Path, script: &str) -> Output {
    const MOUNTS: &str = "mount -t proc proc \"$1/proc\" && mount -t sysfs sysfs \"$1/sys\" && mount --bind /dev \"$1/dev\" && \
                          mount -t tmpfs tmpfs \"$1/tmp\" && exec chroot \"$1\" /bin/sh -ec \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", MOUNTS, "sh"]);
    command.arg(root).arg(script).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
    command.env("NO_COLOR", "1").env("DEBIAN_FRONTEND", "noninteractive");
    command.stdin(Stdio::null()).output().expect("unshare, of util-linux")
}
