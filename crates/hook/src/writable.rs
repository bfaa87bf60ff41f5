//! A root that is mounted read-only before its hooks run, as crun does for `--read-only`: the image's layer under it can be
//! written all the same. A clone of that one mount, in no place of any namespace, is made writable; the mount that the
//! container gets stays as it is. Mounts on top of the root (the user's volumes) are not in the clone.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::OpenTreeFlags;

/// linux/mount.h
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;

/// None: the root can be written as it is, or cannot be written in this way either (a kernel before 5.12, a file system
/// that is read-only itself, a mount of a more privileged namespace). Writing then says why.
pub fn writable(root: BorrowedFd<'_>) -> Option<OwnedFd> {
    let vfs = rustix::fs::fstatvfs(root).ok()?;
    if !vfs.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return None;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let clone = rustix::mount::open_tree(root, "", flags).ok()?;
    let wanted = MountAttr { set: 0, clear: MOUNT_ATTR_RDONLY, propagation: 0, userns: 0 };
    // SAFETY: mount_setattr(2) reads the empty path and the structure, whose size is given; it changes the flags of the
    // mount that the descriptor names, which nobody else has.
    #[allow(unsafe_code, reason = "rustix has no mount_setattr")]
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            clone.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const wanted,
            size_of::<MountAttr>(),
        )
    };
    (done == 0).then_some(clone)
}
