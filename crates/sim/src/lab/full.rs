//! The full lab: a Debian host boots through its own GRUB, broken; thruway mends it over one reboot, a guest
//! of the host gets the card, and it is taken back over another reboot.

use std::path::Path;

use super::qemu::Boot;
use super::{Event, LabError, Options, disk, nested, parts};

/// What the guest runs at each of its boots.
const SCRIPT: &str = include_str!("full.sh");
/// The VM that is to have the card.
const DOMAIN: &str = include_str!("full.xml");

/// Every step of the script, in order: its id and what it shows.
pub const STEPS: &[(&str, &str)] = &[
    ("boot", "Debian boots through its own GRUB"),
    ("off", "its kernel runs no IOMMU"),
    ("card", "the card is on the PCI bus"),
    ("audio", "a sound driver holds the audio function"),
    ("doctor-fails", "thruway doctor names the broken link"),
    ("plan", "thruway host plan shows the way out and changes nothing"),
    ("apply", "thruway host apply writes it and runs update-grub and update-initramfs"),
    ("generated", "GRUB's menu and the initramfs have it"),
    ("pending", "thruway host verify says pending before the reboot"),
    ("reboot", "GRUB boots the new command line"),
    ("iommu", "the kernel runs the IOMMU and remaps interrupts"),
    ("group", "the card's two functions share one IOMMU group and nobody else does"),
    ("bound-gpu", "vfio-pci holds the GPU"),
    ("bound-audio", "vfio-pci holds the audio function"),
    ("early", "the initramfs gave them to it, before the root file system was mounted"),
    ("node", "the group's node is there"),
    ("verified", "thruway host verify says held"),
    ("doctor-well", "thruway doctor finds nothing wrong"),
    ("again", "a second plan is empty"),
    ("kvm", "the host has KVM"),
    ("guest-boots", "a guest with the card boots"),
    ("guest-gpu", "its thruway names the GPU"),
    ("guest-audio", "and its audio function"),
    ("guest-gone", "after it, vfio-pci has the card as before"),
    ("undo", "thruway undo takes it back"),
    ("files", "/etc and /boot are as before"),
    ("reboot-back", "GRUB boots the old command line"),
    ("drivers-back", "both functions have the drivers that they had"),
    ("node-gone", "no group, no module and no node of vfio is left but what was there at first"),
    ("seen-back", "thruway sees the card as before"),
];

/// The guest's kernel release and what QEMU boots.
pub fn prepare(options: &Options, dir: &Path, tell: &mut dyn FnMut(Event)) -> Result<(String, Boot), LabError> {
    let host = disk::host(&options.cache, &options.interrupted, tell)?;
    let inner = parts::kernel(parts::CLOUD, &options.cache, tell)?;
    let busybox = parts::busybox(&options.cache, tell)?;
    let thruway = parts::stripped(&options.thruway, dir);
    tell(Event::Preparing("packing thruway, QEMU, and a guest for it".into()));
    let mut files = vec![
        ("guest/vmlinuz".to_owned(), parts::bytes(&inner.image)?),
        ("guest/initramfs".to_owned(), nested::guest(&busybox, &thruway)?),
        ("jellyfin.xml".to_owned(), DOMAIN.as_bytes().to_vec()),
    ];
    for file in nested::FILES {
        files.push((format!("share/{}", file.rsplit('/').next().unwrap_or(file)), nested::firmware(file)?));
    }
    let tools = disk::tools(dir, SCRIPT, &[("thruway", &thruway), ("qemu", Path::new(nested::QEMU))], &files)?;
    Ok((host.release, Boot::Disk { root: host.image, tools, scratch: dir.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_says_every_step() {
        for (id, _) in STEPS {
            let said = [format!("judge {id} "), format!("LAB: {id} ")].iter().any(|line| SCRIPT.contains(line));
            assert!(said, "{id} is in no line of the script");
        }
    }
}
