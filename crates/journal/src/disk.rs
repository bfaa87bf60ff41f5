//! The one place where the journal waits for the disk.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::io::Errno;

/// What is about to be, or has been, made durable.
#[derive(Clone, Copy, Debug)]
pub enum Barrier<'f> {
    /// One file's bytes, length and metadata.
    File(BorrowedFd<'f>),
    /// The names in one directory.
    Directory(BorrowedFd<'f>),
    /// All that any program wrote (syncfs), after a generator has run.
    Everything,
}

/// Sees every barrier: a power-cut test knows from this alone what may be lost at any moment, since nothing is durable
/// before its barrier.
pub trait Watch: Send + Sync {
    fn before(&self, barrier: Barrier<'_>);
    fn after(&self, barrier: Barrier<'_>);
}

/// Waits for the disk, and lets the watcher, if there is one, see it.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    watch: Option<Arc<dyn Watch>>,
}

impl Disk {
    pub fn watched(watch: Arc<dyn Watch>) -> Self {
        Disk { watch: Some(watch) }
    }

    fn barrier(&self, barrier: Barrier<'_>, sync: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        if let Some(watch) = &self.watch {
            watch.before(barrier);
        }
        sync()?;
        if let Some(watch) = &self.watch {
            watch.after(barrier);
        }
        Ok(())
    }

    pub fn file(&self, file: impl AsFd) -> Result<(), Errno> {
        let fd = file.as_fd();
        self.barrier(Barrier::File(fd), || rustix::fs::fsync(fd))
    }

    pub fn directory(&self, dir: impl AsFd) -> Result<(), Errno> {
        let fd = dir.as_fd();
        self.barrier(Barrier::Directory(fd), || match rustix::fs::fsync(fd) {
            // Some file systems (FUSE: pmxcfs) cannot sync a directory; a read-only one has nothing to sync.
            Err(Errno::INVAL | Errno::ROFS) => Ok(()),
            other => other,
        })
    }

    /// Everything on the file systems that these directories lie on.
    pub fn everything<D: AsFd>(&self, dirs: &[D]) -> Result<(), Errno> {
        self.barrier(Barrier::Everything, || dirs.iter().try_for_each(rustix::fs::syncfs))
    }
}
