//! The kubelet's directory: something came, went or was put in its place.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

/// Watches the directory, and its parent for the moment at which another directory takes its name.
pub struct Directory {
    path: PathBuf,
    fd: AsyncFd<OwnedFd>,
}

impl Directory {
    /// # Errors
    /// inotify is not to be had: fs.inotify.max_user_instances is used up.
    pub fn new(path: &Path) -> io::Result<Directory> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let directory = Directory { path: path.to_owned(), fd: registered(inotify::init(flags)?)? };
        directory.watch();
        Ok(directory)
    }

    /// Watches what has the name now; the kernel gives the same watch again for the same directory, so it may be asked
    /// for at any time. False: no such directory.
    pub fn watch(&self) -> bool {
        let names = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF
            | inotify::WatchFlags::ONLYDIR;
        if let Some(parent) = self.path.parent() {
            let _ = inotify::add_watch(self.fd.as_fd(), parent, names);
        }
        inotify::add_watch(self.fd.as_fd(), &self.path, names).is_ok()
    }

    /// Returns when something happened. What it was is not asked: who wants to know looks.
    pub async fn changed(&self) {
        loop {
            let Ok(mut ready) = self.fd.readable().await else { return std::future::pending().await };
            let heard = ready.try_io(|fd| drain(fd.get_ref()));
            if let Ok(heard) = heard {
                if matches!(heard, Ok(true)) {
                    return;
                }
                ready.clear_ready();
            }
        }
    }
}

#[allow(unsafe_code, reason = "tokio asks that the descriptor be the same for as long as it is registered")]
fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one descriptor for its whole life, and AsyncFd takes it out of the loop before it drops it; nothing
    // here exchanges it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }?)
}

/// True: there were events; all are read.
fn drain(fd: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(fd.as_fd(), &mut buffer);
    let mut any = false;
    loop {
        match reader.next() {
            Ok(_) => any = true,
            Err(rustix::io::Errno::AGAIN) if any => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}
