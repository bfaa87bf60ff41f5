//! The driver by NVIDIA's own `.run` file: checked before anything, run unattended, taken back by its uninstaller.
//!
//! The file is simulated: NVIDIA's head (makeself 1.6.0-nv) with true sums, and behind it a small installer that takes and
//! refuses the words that the real one does, writes a module, a library and an uninstaller, and says that it is simulated.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs the program")]

mod common;
#[path = "common/live.rs"]
mod live;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{stderr, stdout};
use live::{Live, namespaces};

const INSTALLER: &str = r#"
echo "a simulated installer" >> /var/log/nvidia-installer.log
release=; uninstall=; silent=
for word in "$@"; do
  case "$word" in
    --silent) silent=1;;
    --uninstall) uninstall=1;;
    --kernel-name=*) release=${word#*=};;
    --no-x-check|--no-nouveau-check|--dkms|--skip-module-load) ;;
    --kernel-module-type=open|--kernel-module-type=proprietary) ;;
    *) echo "ERROR: Unrecognized option $word" >> /var/log/nvidia-installer.log; exit 1;;
  esac
done
echo "words: $*" >> /var/log/nvidia-installer.log
if [ -n "$uninstall" ]; then rm -rf /var/lib/nvidia; exit 0; fi
[ -n "$silent" ] || { echo "ERROR: it would ask, and nobody is there" >> /var/log/nvidia-installer.log; exit 1; }
if [ -e /usr/fail ]; then
  echo "ERROR: Unable to build the NVIDIA kernel module." >> /var/log/nvidia-installer.log
  exit 1
fi
dir=/usr/lib/modules/$release/updates/dkms
mkdir -p "$dir" /var/lib/nvidia
echo nothing > /var/lib/nvidia/log
echo module > "$dir/nvidia.ko"
echo "updates/dkms/nvidia.ko:" >> "/usr/lib/modules/$release/modules.dep"
echo library > /usr/lib/libnvidia-simulated.so
cat > /usr/bin/nvidia-uninstall <<END
#!/bin/sh
[ "\$1" = --silent ] || exit 1
rm -rf "$dir/nvidia.ko" "/usr/lib/modules/$release/modules.dep" /usr/lib/libnvidia-simulated.so /var/lib/nvidia /usr/bin/nvidia-uninstall
END
chmod 755 /usr/bin/nvidia-uninstall
exit 0
"#;

fn sum(program: &str, bytes: &[u8]) -> String {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("of coreutils");
    child.stdin.take().expect("its input").write_all(bytes).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().expect("a sum").to_owned()
}

/// A file of this version, with an archive of zeros behind its script.
fn made(folder: &Path, version: &str) -> PathBuf {
    let mut rest = format!(
        "skip=1\nskip_decompress=1\nsize_decompress=0\n\
         label=\"NVIDIA Accelerated Graphics Driver for Linux-x86_64 {version}\"\nversion_string={version}\n\
         pkg_version=0\nscript=./nvidia-installer\nTARGET_OS=\"Linux\"\nTARGET_ARCH=\"{}\"\n{INSTALLER}",
        std::env::consts::ARCH
    )
    .into_bytes();
    rest.extend(std::iter::repeat_n(0, 3 << 20));
    let head = format!("#! /bin/sh\nCRCsum={}\nMD5={}\n", sum("cksum", &rest), sum("md5sum", &rest));
    let path = folder.join(format!("NVIDIA-Linux-{version}.run"));
    std::fs::write(&path, [head.as_bytes(), &rest].concat()).expect("writes");
    path
}

/// A guest with a GT 1030 and no driver, which has all that builds modules.
fn guest() -> Live {
    let live = Live::new("guest-nouveau", "gt1030");
    std::fs::remove_dir_all(live.state().parent().expect("a folder")).expect("no driver, so no NVML");
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut status = std::fs::read_to_string("/var/lib/dpkg/status").unwrap_or_default();
    let flavour: Vec<&str> =
        release.split('-').skip(1).skip_while(|it| it.starts_with(|c: char| c.is_ascii_digit())).collect();
    for name in [
        "build-essential",
        "dkms",
        &format!("linux-headers-{release}"),
        &format!("linux-headers-{}", flavour.join("-")),
    ] {
        status += &format!("\nPackage: {name}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n");
    }
    live.lay("/var/lib/dpkg/status", status.as_bytes());
    live
}

fn apply(live: &Live, file: &Path, more: &[&str]) -> Output {
    let file = file.to_str().expect("is text");
    live.thruway(&[&["guest", "apply", "--yes", "--driver-file", file], more].concat())
}

#[test]
fn a_driver_file_is_installed_and_taken_back() {
    if !namespaces() {
        return;
    }
    let live = guest();
    let folder = tempfile::tempdir().expect("a directory");
    let file = made(folder.path(), "580.65.06");
    let planned = live.thruway(&["guest", "plan", "--driver-file", file.to_str().expect("is text")]);
    let text = stdout(&planned);
    assert!(text.contains("--kernel-module-type=proprietary --skip-module-load"), "{text}{}", stderr(&planned));
    assert!(text.contains("its own sums hold"), "{text}");
    assert_eq!(live.left("/usr/bin/nvidia-uninstall"), None, "a plan runs nothing");
    let done = apply(&live, &file, &[]);
    assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    assert_eq!(live.left("/usr/lib/libnvidia-simulated.so").as_deref(), Some("library\n"));
    let log = live.left("/var/log/nvidia-installer.log").expect("it wrote one");
    assert!(log.contains("words: --silent --no-x-check --no-nouveau-check --kernel-name="), "{log}");
    let undone = live.thruway(&["guest", "undo", "--yes"]);
    assert!(undone.status.success(), "{}{}", stdout(&undone), stderr(&undone));
    assert_eq!((live.left("/usr/lib/libnvidia-simulated.so"), live.left("/usr/bin/nvidia-uninstall")), (None, None));
}

#[test]
fn a_file_that_is_damaged_changed_or_does_not_fit_is_refused() {
    if !namespaces() {
        return;
    }
    let live = guest();
    let folder = tempfile::tempdir().expect("a directory");
    let file = made(folder.path(), "580.65.06");
    let whole = std::fs::read(&file).expect("reads");
    let mut damaged = whole.clone();
    *damaged.last_mut().expect("not empty") = 1;
    std::fs::write(&file, &damaged).expect("writes");
    let told = apply(&live, &file, &[]);
    assert!(stderr(&told).contains("the file is damaged"), "{}", stderr(&told));
    // a branch that ignores a Pascal card
    let newer = made(folder.path(), "590.44.01");
    let told = apply(&live, &newer, &[]);
    assert_eq!(told.status.code(), Some(1));
    assert!(stdout(&told).contains("driver 590.44.01 does not run the cards here"), "{}", stdout(&told));
    // another file than the one that was looked at
    std::fs::write(&file, &whole).expect("writes");
    let plan = folder.path().join("plan.json");
    let (plan, path) = (plan.to_str().expect("is text"), file.to_str().expect("is text"));
    assert!(live.thruway(&["guest", "plan", "--driver-file", path, "--out", plan]).status.success());
    std::fs::rename(made(folder.path(), "580.76.05"), &file).expect("renames");
    let told = live.thruway(&["apply", plan, "--yes"]);
    assert!(stderr(&told).contains("another"), "{}{}", stdout(&told), stderr(&told));
    assert_eq!(live.left("/usr/bin/nvidia-uninstall"), None);
    assert!(live.left("/etc/modprobe.d/thruway-nouveau.conf").is_none(), "the steps before it are taken back");
}

#[test]
fn an_installer_that_fails_says_why() {
    if !namespaces() {
        return;
    }
    let live = guest();
    live.lay("/usr/fail", b"");
    let folder = tempfile::tempdir().expect("a directory");
    let told = apply(&live, &made(folder.path(), "580.65.06"), &[]);
    assert!(!told.status.success());
    assert!(stderr(&told).contains("Unable to build the NVIDIA kernel module"), "{}", stderr(&told));
    assert!(live.left("/etc/modprobe.d/thruway-nouveau.conf").is_none());
}
