//! The guest's disk and what its kernel starts with: sshd, runc and busybox of Debian, thruway's three programs, and a
//! simulated driver laid out as Debian has it. Made anew for each run, so that keys are nobody else's.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use simdriver::{Built, Layout, lay};

use super::super::cpio::Cpio;
use super::super::{LabError, image, parts};

/// The cdylibs of the simulated driver.
pub const LIBRARIES: [&str; 4] = ["libsimnvml.so", "libsimcuda.so", "libsimcuvid.so", "libsimnvenc.so"];
/// thruway's programs beside the one that runs the lab.
pub const PROGRAMS: [&str; 2] = ["thruway-runtime", "thruway-hook"];
/// What the guest's kernel needs beside what is built in: its disk, its network, its power button.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_blk", "virtio_net", "button", "evdev"];
const START: &str = include_str!("start.sh");
const INIT: &str = include_str!("guest.sh");
const CONTAINER: &str = include_str!("container.json");
/// The card of the lab, as simulated NVML has it; where it is, is said at boot.
const CARD: &str = include_str!("../../../../simcards/boxes/gt1030.toml");
const MULTIARCH: &str = "usr/lib/x86_64-linux-gnu";
const MEGABYTES: u64 = 512;

const FILES: &[(&str, &str, u32)] = &[
    ("etc/hostname", "gpu-guest\n", 0o644),
    ("etc/hosts", "127.0.0.1 localhost\n", 0o644),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nsshd:x:74:74::/run/sshd:/bin/false\n", 0o644),
    ("etc/group", "root:x:0:\ntty:x:5:\nvideo:x:44:\nrender:x:105:\nsshd:x:74:\n", 0o644),
    ("etc/shadow", "root:*:19000::::::\nsshd:!:19000::::::\n", 0o600),
    ("etc/machine-id", "7e5700001ab040008000000000000002\n", 0o444),
    (
        "etc/ssh/sshd_config",
        "HostKey /etc/ssh/host_key\nAuthorizedKeysFile /etc/ssh/authorized_keys\nPermitRootLogin prohibit-password\n\
         PasswordAuthentication no\nUsePAM no\nUseDNS no\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
        0o644,
    ),
    ("lab/init", INIT, 0o755),
    (
        "lab/container",
        "#!/bin/sh\n# A container of runc, by thruway's runtime and the guest's CDI spec: thruway smi in it.\n\
         cd /lab/bundle || exit\nrunc delete -f lab >/dev/null 2>&1\nexec thruway-runtime run lab </dev/null 2>&1\n",
        0o755,
    ),
    ("lab/bundle/config.json", CONTAINER, 0o644),
    ("lab/driver/box.toml", CARD, 0o644),
];

/// What the guest is made of.
pub struct Parts<'a> {
    /// Debian's programs with their libraries, by their paths.
    pub debian: &'a Path,
    pub busybox: &'a [u8],
    /// `thruway`, stripped.
    pub thruway: &'a Path,
    /// The other two, by the names of `PROGRAMS`.
    pub programs: &'a [(String, PathBuf)],
    /// The directory with `LIBRARIES`.
    pub libraries: &'a Path,
    /// Its private host key, and the public key of who may come in.
    pub host_key: &'a Path,
    pub authorized: &'a Path,
}

/// The guest's disk below this directory: one ext4 file system, no partition.
pub fn disk(dir: &Path, parts: &Parts) -> Result<PathBuf, LabError> {
    let tree = dir.join("guest");
    driver(dir, &tree, parts.libraries)?;
    copy(parts.debian, &tree)?;
    // The newer of two C libraries serves both: this machine built thruway.
    for (name, program) in [("thruway".to_owned(), parts.thruway.to_owned())].iter().chain(parts.programs) {
        file(&tree, &format!("usr/bin/{name}"), &parts::bytes(program)?, 0o755)?;
    }
    let rootfs = tree.join("lab/bundle/rootfs");
    let mut needed = parts::libraries(parts.thruway)?;
    for name in LIBRARIES {
        needed.extend(parts::libraries(&parts.libraries.join(name))?);
    }
    needed.sort();
    needed.dedup();
    for library in needed {
        let content = parts::bytes(Path::new(&library))?;
        let at =
            if library.starts_with("/lib64/") { library.trim_start_matches('/').to_owned() } else { named(&library) };
        file(&tree, &at, &content, 0o755)?;
        file(&rootfs, &at, &content, 0o755)?;
    }
    // Where the container's NVML looks for the card: beside itself.
    for place in [&tree.join(MULTIARCH).join("nvidia/current"), &rootfs.join(MULTIARCH)] {
        file(place, "thruway-sim/nvml.toml", CARD.as_bytes(), 0o644)?;
    }
    for (root, name) in [(&tree, "usr/bin/busybox"), (&rootfs, "usr/bin/busybox")] {
        file(root, name, parts.busybox, 0o755)?;
        symlink("usr/bin", root.join("bin")).map_err(LabError::io("bin"))?;
        symlink("busybox", root.join("usr/bin/sh")).map_err(LabError::io("sh"))?;
    }
    symlink("usr/sbin", tree.join("sbin")).map_err(LabError::io("sbin"))?;
    // Specs that are written at run time are found below /var/run.
    let var = tree.join("var");
    std::fs::create_dir_all(&var).map_err(LabError::io("var"))?;
    symlink("../run", var.join("run")).map_err(LabError::io("var/run"))?;
    for (path, text, mode) in FILES {
        file(&tree, path, text.as_bytes(), *mode)?;
    }
    file(&tree, "etc/ssh/host_key", &parts::bytes(parts.host_key)?, 0o600)?;
    file(&tree, "etc/ssh/authorized_keys", &parts::bytes(parts.authorized)?, 0o644)?;
    for name in ["dev", "proc", "sys", "run", "tmp", "root", "var/lib", "usr/sbin"] {
        let path = tree.join(name);
        std::fs::create_dir_all(&path).map_err(LabError::io(path.display().to_string()))?;
    }
    let image = dir.join("guest.img");
    let mut mke2fs = parts::admin("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg(format!("{MEGABYTES}M"));
    parts::run(&mut mke2fs, "e2fsprogs")?;
    Ok(image)
}

/// The guest's initramfs: what brings it to its disk.
pub fn initramfs(kernel: &parts::Kernel, busybox: &[u8]) -> Result<Vec<u8>, LabError> {
    let mut cpio: Cpio = image::base(busybox, START);
    let mut order = String::new();
    for path in kernel.modules(&MODULES)? {
        let (name, content) = parts::module(&path)?;
        cpio.file(&format!("/modules/{name}"), 0o644, &content);
        order.push_str(&name);
        order.push('\n');
    }
    cpio.file("/modules/order", 0o644, order.as_bytes());
    Ok(cpio.finish())
}

/// Lays the simulated driver out in the tree; what its kernel module would show goes to /lab/driver.
fn driver(dir: &Path, tree: &Path, libraries: &Path) -> Result<(), LabError> {
    let small = dir.join("libraries");
    std::fs::create_dir_all(&small).map_err(LabError::io(small.display().to_string()))?;
    for name in LIBRARIES {
        let stripped = parts::stripped(&libraries.join(name), &small);
        let to = small.join(name);
        std::fs::copy(&stripped, &to).map_err(LabError::io(to.display().to_string()))?;
    }
    let failed = |what: &Path| LabError::io(what.display().to_string());
    lay(tree, CARD, Layout::Debian, &Built(small)).map_err(failed(tree))?;
    let kept = tree.join("lab/driver");
    std::fs::create_dir_all(&kept).map_err(failed(&kept))?;
    std::fs::rename(tree.join("proc"), kept.join("proc")).map_err(failed(&kept))?;
    for name in ["sys", "dev"] {
        std::fs::remove_dir_all(tree.join(name)).map_err(failed(tree))?;
    }
    Ok(())
}

/// The place of this machine's library in the guest.
fn named(library: &str) -> String {
    format!("lib/x86_64-linux-gnu/{}", library.rsplit('/').next().unwrap_or(library))
}

fn file(root: &Path, path: &str, content: &[u8], mode: u32) -> Result<(), LabError> {
    let path = root.join(path);
    let failed = || LabError::io(path.display().to_string());
    path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed())?;
    std::fs::write(&path, content).map_err(failed())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(failed())
}

/// Every file below a directory, executable.
fn copy(from: &Path, to: &Path) -> Result<(), LabError> {
    for entry in std::fs::read_dir(from).map_err(LabError::io(from.display().to_string()))?.flatten() {
        let path = entry.path();
        let at = to.join(entry.file_name());
        if path.is_dir() {
            copy(&path, &at)?;
        } else {
            file(to, &entry.file_name().to_string_lossy(), &parts::bytes(&path)?, 0o755)?;
        }
    }
    Ok(())
}
