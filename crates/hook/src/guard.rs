//! The ModifyDeviceFiles guard. Where /proc/driver/nvidia/params says 1, NVIDIA's libraries make device nodes of cards that
//! the container was not given. A copy that says 0 is bound over it, read-only.
//!
//! The copy lives in a tmpfs that is mounted nowhere (fsopen(2), fsmount(2)), and both ends of the bind are descriptors
//! (open_tree(2), move_mount(2)): no path of the image is a mount's source or target.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};

use crate::root::{Root, SMALL_FILE};
use crate::{Error, Report};

const PARAMS: &str = "/proc/driver/nvidia/params";

/// Covers the file where it is there and says 1.
pub fn cover(root: &Root, report: &mut Report) -> Result<(), Error> {
    let Some(target) = root.name_file(PARAMS).map_err(|error| Error::Guard(error.to_string()))? else {
        return Ok(());
    };
    let Some((text, _)) = root.read(PARAMS, SMALL_FILE)?.filter(|(_, whole)| *whole) else { return Ok(()) };
    // procfs says 0 for a size: what is there is read to its end
    let Some(copy) = without_modifying(&text) else { return Ok(()) };
    let put = || -> rustix::io::Result<()> {
        let clone = detached(&copy)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&clone, "", &target, "", flags)
    };
    put().map_err(|cause| {
        Error::Guard(format!("binding a copy over {PARAMS} was refused ({cause}): the hook needs CAP_SYS_ADMIN there"))
    })?;
    report.changed.push(PARAMS.to_owned());
    Ok(())
}

/// The text with `ModifyDeviceFiles: 0`. None: it does not say 1.
pub fn without_modifying(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut found = false;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let value = line.strip_prefix(b"ModifyDeviceFiles:").map(<[u8]>::trim_ascii);
        if value.is_some_and(|value| value != b"0") {
            found = true;
            out.extend(b"ModifyDeviceFiles: 0\n");
        } else {
            out.extend(line);
        }
    }
    found.then_some(out)
}

/// A mount of one read-only file with these bytes, in no place yet.
pub fn detached(bytes: &[u8]) -> rustix::io::Result<OwnedFd> {
    let tmpfs = memory()?;
    fill(&tmpfs, bytes)?;
    match clone(tmpfs.as_fd()) {
        // Before Linux 6.15 only a mount of the caller's own namespace can be cloned.
        Err(Errno::INVAL) => clone_attached(&tmpfs),
        other => other,
    }
}

fn memory() -> rustix::io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("source", "thruway"), ("size", "64k"), ("nr_inodes", "8"), ("mode", "0555")] {
        rustix::mount::fsconfig_set_string(fs.as_fd(), key, value)?;
    }
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Writes the file, and makes the whole file system read-only: no remount of the bind makes it writable.
fn fill(tmpfs: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(tmpfs, "params", flags, Mode::from_raw_mode(0o444))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&file, rest)?..];
    }
    drop(file);
    let picked =
        rustix::mount::fspick(tmpfs.as_fd(), "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
    rustix::mount::fsconfig_set_flag(picked.as_fd(), "ro")?;
    rustix::mount::fsconfig_reconfigure(picked.as_fd())
}

fn clone(tmpfs: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    rustix::mount::open_tree(tmpfs, "params", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
}

/// In a thread with a mount namespace of its own, where the tmpfs is attached for a moment: the descriptor of the clone
/// outlives both.
pub fn clone_attached(tmpfs: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            // SAFETY: CLONE_NEWNS and CLONE_FS change this thread's view of mounts and its working directory; no
            // descriptor is shared less than before, and the thread does nothing else and ends.
            #[allow(unsafe_code, reason = "unshare(2) is unsafe for CLONE_FILES, which is not asked for")]
            unsafe {
                rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)?;
            }
            let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", propagation)?;
            rustix::mount::move_mount(tmpfs, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            clone(tmpfs.as_fd())
        });
        let thread = thread.map_err(|_| Errno::AGAIN)?;
        thread.join().unwrap_or(Err(Errno::IO))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_line_is_changed() {
        let text = b"ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileMode: 438\n";
        let wanted = b"ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 0\nDeviceFileMode: 438\n";
        assert_eq!(without_modifying(text).as_deref(), Some(&wanted[..]));
        assert_eq!(without_modifying(wanted), None);
        assert_eq!(without_modifying(b""), None);
    }

    /// Both ways to the mount, the one of Linux 6.15 and the one of before, seen in a mount namespace of the test's own.
    #[test]
    fn the_copy_is_a_file_that_nobody_writes() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: needs root for mounts");
            return;
        }
        type Make = fn() -> rustix::io::Result<OwnedFd>;
        let older: Make = || {
            let tmpfs = memory()?;
            fill(&tmpfs, b"ModifyDeviceFiles: 0\n")?;
            clone_attached(&tmpfs)
        };
        for make in [|| detached(b"ModifyDeviceFiles: 0\n"), older] {
            let target = tempfile::NamedTempFile::new().expect("a file");
            let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts").lines().count();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // SAFETY: as in `clone_attached`; the thread ends with the closure.
                    #[allow(unsafe_code, reason = "a namespace for the test")]
                    unsafe {
                        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS).expect("a namespace");
                    }
                    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                        .expect("private");
                    let before = mounts();
                    let clone = make().expect("a mount");
                    assert_eq!(mounts(), before, "it is in no place yet");
                    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                    rustix::mount::move_mount(&clone, "", CWD, target.path(), flags).expect("moved");
                    assert_eq!(std::fs::read_to_string(target.path()).expect("read"), "ModifyDeviceFiles: 0\n");
                    let written = std::fs::write(target.path(), "x").expect_err("read-only");
                    assert_eq!(written.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
                });
            });
        }
    }
}
