//! The nested lab: the host gives the card to a guest of its own, QEMU in QEMU, and takes it back. Before that, what
//! can go wrong at a guest's start is staged, and QEMU's own words for it are explained by `thruway vm check`.
//!
//! The outer QEMU emulates a CPU with SVM, so that the host has a KVM of its own: an emulator in an emulator took four
//! times as long.

use std::path::Path;

use super::qemu::Boot;
use super::{Event, LabError, Options, image, parts};

/// What the host runs.
const SCRIPT: &str = concat!(include_str!("head.sh"), include_str!("nested.sh"));
/// What the guest's guest runs.
const GUEST: &str = include_str!("inner.sh");

/// The guest as libvirt would have it.
const DOMAIN: &str = include_str!("nested.xml");

/// At its own place: it looks for its firmware from there.
pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// What QEMU loads beside its libraries: firmware, and the pieces with which it boots a kernel.
pub const FILES: &[&str] = &[
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
];

/// Every step of the script, in order: its id and what it shows.
pub const STEPS: &[(&str, &str)] = &[
    ("boot", "the kernel boots with an IOMMU"),
    ("card", "the card is on the PCI bus"),
    ("group", "its two functions share one IOMMU group and nobody else does"),
    ("audio", "a sound driver holds the audio function"),
    ("kvm", "the host has KVM"),
    ("foretold", "thruway vm check says before the start that the card is not vfio-pci's"),
    ("no-node", "QEMU finds no node of the group while its own driver has the card"),
    ("no-node-why", "thruway vm check says why, out of the logs"),
    ("not-viable", "QEMU finds the group not viable while a sound driver has a part of it"),
    ("not-viable-why", "thruway vm check says why, out of the logs"),
    ("bind", "thruway host bind gives the card to vfio-pci, whole"),
    ("no-memory", "QEMU cannot pin a guest's memory beyond the user's limit"),
    ("no-memory-why", "thruway vm check says why, out of the logs"),
    ("no-memory-kernel", "and has the kernel's own word for it"),
    ("started", "QEMU starts a guest with both functions"),
    ("held-by-vm", "thruway says that a VM has the card"),
    ("busy", "a second QEMU finds the group busy"),
    ("busy-why", "thruway vm check says why, out of the logs"),
    ("old-words", "what the kernel said of an earlier start is no part of it"),
    ("guest-boots", "the guest's kernel boots"),
    ("guest-gpu", "the guest's thruway names the GPU"),
    ("guest-audio", "and its audio function"),
    ("guest-told", "and where it sits on the host, as the host told it"),
    ("unbind", "thruway host unbind takes the card back"),
    ("drivers-back", "both functions have the drivers that they had"),
];

/// The host's kernel release and what QEMU boots.
pub fn prepare(options: &Options, dir: &Path, tell: &mut dyn FnMut(Event)) -> Result<(String, Boot), LabError> {
    let kernel = parts::kernel(parts::GENERIC, &options.cache, tell)?;
    let inner = parts::kernel(parts::CLOUD, &options.cache, tell)?;
    let busybox = parts::busybox(&options.cache, tell)?;
    let thruway = parts::stripped(&options.thruway, dir);
    tell(Event::Preparing("packing QEMU, and a guest for it, into the initramfs".into()));
    let guest = guest(&busybox, &thruway)?;
    let mut host = image::host(&kernel, &busybox, &thruway, SCRIPT, &["kvm-amd"])?;
    image::program(&mut host, QEMU, Path::new(QEMU))?;
    for file in FILES {
        host.file(file, 0o644, &firmware(file)?);
    }
    host.file("/etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n");
    host.file("/etc/libvirt/qemu/lab.xml", 0o600, DOMAIN.as_bytes());
    host.file("/guest/vmlinuz", 0o644, &parts::bytes(&inner.image)?);
    host.file("/guest/initramfs", 0o644, &guest);
    let initramfs = dir.join("initramfs.cpio");
    std::fs::write(&initramfs, host.finish()).map_err(LabError::io(initramfs.display().to_string()))?;
    Ok((kernel.release, Boot::Kernel { kernel: kernel.image, initramfs, memory: "3G" }))
}

/// One of those files.
pub fn firmware(file: &str) -> Result<Vec<u8>, LabError> {
    std::fs::read(file).map_err(|_| LabError::Missing { what: file.to_owned(), package: "qemu-system-x86" })
}

/// The guest's initramfs: busybox, thruway with its libraries, and a script.
pub fn guest(busybox: &[u8], thruway: &Path) -> Result<Vec<u8>, LabError> {
    let mut guest = image::base(busybox, GUEST);
    image::program(&mut guest, "/bin/thruway", thruway)?;
    Ok(guest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_says_every_step() {
        for (id, _) in STEPS {
            let said = ["judge", "explained"].iter().any(|word| SCRIPT.contains(&format!("{word} {id} ")));
            assert!(said, "{id} is in no line of the script");
        }
    }
}
