//! The guest's initramfs: busybox, the kernel modules, thruway with its libraries, and the script.

use std::path::Path;

use super::LabError;
use super::cpio::Cpio;
use super::parts::{self, Kernel};

/// What the guest runs.
pub const SCRIPT: &str = concat!(include_str!("head.sh"), include_str!("guest.sh"));

/// What the script binds to, and a sound driver, so that binding has something to take away.
const MODULES: &[&str] = &["vfio_iommu_type1", "vfio-pci", "snd_hda_intel"];

/// The short form's initramfs as bytes. Not compressed: QEMU copies faster than the guest unpacks.
pub fn build(kernel: &Kernel, busybox: &[u8], thruway: &Path) -> Result<Vec<u8>, LabError> {
    host(kernel, busybox, thruway, SCRIPT, &[]).map(Cpio::finish)
}

/// A host that can give the card away, with this script for its first process, and with these modules beside its own.
pub fn host(kernel: &Kernel, busybox: &[u8], thruway: &Path, script: &str, modules: &[&str]) -> Result<Cpio, LabError> {
    let mut cpio = base(busybox, script);
    let mut order = String::new();
    for file in kernel.modules(&[MODULES, modules].concat())? {
        let (name, content) = parts::module(&file)?;
        cpio.file(&format!("/modules/{name}"), 0o644, &content);
        order.push_str(&name);
        order.push('\n');
    }
    cpio.file("/modules/order", 0o644, order.as_bytes());
    program(&mut cpio, "/bin/thruway", thruway)?;
    Ok(cpio)
}

/// What every guest has: its directories, a console, busybox, and a script for its first process.
pub fn base(busybox: &[u8], script: &str) -> Cpio {
    let mut cpio = Cpio::default();
    for dir in ["/proc", "/sys", "/tmp", "/etc", "/var/lib", "/run"] {
        cpio.directory(dir);
    }
    cpio.character_device("/dev/console", 5, 1);
    cpio.file("/init", 0o755, script.as_bytes());
    cpio.file("/bin/busybox", 0o755, busybox);
    cpio
}

/// A program and its libraries. The loader is found by the path in the program, all else in /lib by LD_LIBRARY_PATH.
pub fn program(cpio: &mut Cpio, at: &str, file: &Path) -> Result<(), LabError> {
    cpio.file(at, 0o755, &parts::bytes(file)?);
    for library in parts::libraries(file)? {
        let content = parts::bytes(Path::new(&library))?;
        let name = library.rsplit('/').next().unwrap_or(&library);
        let at = if name.starts_with("ld-linux") { library.clone() } else { format!("/lib/{name}") };
        // A library of two programs stands once.
        if !cpio.has(&at) {
            cpio.file(&at, 0o755, &content);
        }
    }
    Ok(())
}
