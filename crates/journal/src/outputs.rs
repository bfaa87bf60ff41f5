//! What generators write: kept before they run, put back where they leave it cut short.

use machine::{Machine as _, MachineExt as _};
use model::{ArgsTool, Op, Tool};
use rustix::fs::fstat;

use crate::files::image_of;
use crate::wal::Output;
use crate::write::Like;
use crate::{Error, Image, Journal};

/// Copies of generated files are kept up to this many bytes for one run of a generator. A kernel's initramfs is 30 to
/// 200 MB; what lies beyond the bound is not kept, and a failure that would have needed it says so.
const KEEP_LIMIT: u64 = 1 << 30;

/// Where a generator writes: directory, beginning and end of the names.
/// Sources: grub-mkconfig's wrappers (Debian, Fedora, SUSE), update-initramfs(8), dracut(8), mkinitcpio(8),
/// kernel-install(8), booster's regenerate_images, grubby(8), kernelstub.
type Place = (&'static str, &'static str, &'static str);

const GRUB: &[Place] = &[("/boot/grub", "grub.cfg", ""), ("/boot/grub2", "grub.cfg", "")];
const ENTRIES: &[Place] = &[
    ("/boot/loader/entries", "", ".conf"),
    ("/boot/efi/loader/entries", "", ".conf"),
    ("/efi/loader/entries", "", ".conf"),
];

fn places(op: &Op) -> &'static [Place] {
    let tool = match op {
        Op::Regenerate(tool) => tool,
        Op::KernelArgs { by: ArgsTool::Grubby, .. } => {
            return &[
                ("/boot/loader/entries", "", ".conf"),
                ("/boot/grub2", "grubenv", ""),
                ("/etc/default", "grub", ""),
                ("/etc/kernel", "cmdline", ""),
            ];
        }
        Op::KernelArgs { by: ArgsTool::Kernelstub, .. } => {
            return &[("/etc/kernelstub", "configuration", ""), ("/boot/efi/loader/entries", "", ".conf")];
        }
        // rpm-ostree makes a new deployment and leaves the old one bootable.
        _ => return &[],
    };
    match tool {
        Tool::UpdateGrub | Tool::GrubMkconfig | Tool::Grub2Mkconfig | Tool::UpdateBootloader => GRUB,
        Tool::UpdateInitramfs => &[("/boot", "initrd.img-", "")],
        Tool::Dracut => &[("/boot", "initramfs-", ".img"), ("/boot", "initrd-", "")],
        Tool::Mkinitcpio => {
            &[("/boot", "initramfs-", ".img"), ("/boot/EFI/Linux", "", ".efi"), ("/efi/EFI/Linux", "", ".efi")]
        }
        Tool::Booster => &[("/boot", "booster-", ".img")],
        Tool::KernelInstall | Tool::Sdbootutil => ENTRIES,
        // It mounts its ESPs itself, one after the other; a failure leaves the others as they were. An ostree
        // initramfs belongs to a new deployment.
        Tool::ProxmoxBootTool | Tool::UdevReload | Tool::OstreeInitramfs => &[],
    }
}

impl Journal<'_> {
    /// Keeps what the generator may overwrite. A disk without room for that is a reason not to run it.
    pub(crate) fn picture(&self, op: &Op) -> Result<Vec<Output>, Error> {
        let mut outputs = Vec::new();
        let mut left = KEEP_LIMIT;
        for (dir, start, end) in places(op) {
            for name in self.files.machine.names(dir) {
                if !name.starts_with(start) || !name.ends_with(end) {
                    continue;
                }
                let path = format!("{dir}/{name}");
                // A link's target is a file of its own.
                if self.files.machine.link(&path).is().is_some() {
                    continue;
                }
                let real = self.files.real(&path)?;
                let (at, last) = self.files.place(&real)?;
                let Ok(Some(mut file)) = self.files.open_file(&at, last, &path) else { continue };
                let size = fstat(&file).map_err(|errno| Error::io(&path, errno))?.st_size as u64;
                let image = match left.checked_sub(size) {
                    Some(rest) => {
                        left = rest;
                        let digest = self.store.keep_file(&mut file, &path)?;
                        Some(image_of(&file, digest).map_err(|errno| Error::io(&path, errno))?)
                    }
                    None => None,
                };
                outputs.push(Output { path, image });
            }
        }
        Ok(outputs)
    }

    /// Puts back what differs from its kept copy; the paths that it put back.
    pub(crate) fn put_back(&self, outputs: &[Output]) -> Result<Vec<String>, Error> {
        let mut back = Vec::new();
        for Output { path, image } in outputs {
            let Some(image @ Image::File { digest, mode, .. }) = image else { continue };
            if self.files.image(path)?.0.digest() == Some(digest) {
                continue;
            }
            let bytes = self.store.blob(digest)?;
            self.with_room(|| self.files.write(path, &bytes, &Like { mode: *mode, image: Some(image), time: true }))?;
            back.push(path.clone());
        }
        Ok(back)
    }

    /// Tries again with the space set aside, where the disk is full.
    pub(crate) fn with_room(&self, write: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        match write() {
            Err(error) if error.is_full() && self.store.spend() => write(),
            other => other,
        }
    }
}

/// The paths of which no copy was kept.
pub(crate) fn unkept(outputs: &[Output]) -> Vec<&str> {
    outputs.iter().filter(|output| output.image.is_none()).map(|output| output.path.as_str()).collect()
}
