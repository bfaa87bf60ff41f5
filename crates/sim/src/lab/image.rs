//! The guest's initramfs: busybox, the kernel modules, thruway with its libraries, and the script.

use std::path::Path;

use super::LabError;
use super::cpio::Cpio;
use super::parts::{self, Kernel};

/// What the guest runs.
pub const SCRIPT: &str = include_str!("guest.sh");

/// What the script binds to, and a sound driver, so that binding has something to take away.
const MODULES: &[&str] = &["vfio_iommu_type1", "vfio-pci", "snd_hda_intel"];

/// The whole initramfs as bytes. Not compressed: QEMU copies faster than the guest unpacks.
pub fn build(kernel: &Kernel, busybox: &[u8], thruway: &Path) -> Result<Vec<u8>, LabError> {
    let mut cpio = Cpio::default();
    for dir in ["/proc", "/sys", "/tmp", "/etc", "/var/lib", "/run"] {
        cpio.directory(dir);
    }
    cpio.character_device("/dev/console", 5, 1);
    cpio.file("/init", 0o755, SCRIPT.as_bytes());
    cpio.file("/bin/busybox", 0o755, busybox);
    let mut order = String::new();
    for file in kernel.modules(MODULES)? {
        let (name, content) = parts::module(&file)?;
        cpio.file(&format!("/modules/{name}"), 0o644, &content);
        order.push_str(&name);
        order.push('\n');
    }
    cpio.file("/modules/order", 0o644, order.as_bytes());
    cpio.file("/bin/thruway", 0o755, &parts::bytes(thruway)?);
    for library in parts::libraries(thruway)? {
        let content = parts::bytes(Path::new(&library))?;
        // The loader is found by the path in the program, everything else in /lib by LD_LIBRARY_PATH.
        let name = library.rsplit('/').next().unwrap_or(&library);
        let at = if name.starts_with("ld-linux") { library.clone() } else { format!("/lib/{name}") };
        cpio.file(&at, 0o755, &content);
    }
    Ok(cpio.finish())
}
