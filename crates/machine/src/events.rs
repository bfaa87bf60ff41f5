//! What happens on a machine: the kernel's own announcements (uevents), and names that come, go or change.
//!
//! Sources: the kernel's lib/kobject_uevent.c (group 1, `ACTION@DEVPATH`, then `KEY=value`, each ended by a zero byte),
//! netlink(7), inotify(7). procfs and sysfs announce no change of their files: who cares about one looks at it again.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

/// The kernel's group of uevents; udev's own is 2.
const KERNEL_GROUP: u32 = 1;
/// The kernel's limit of one uevent is 2 KiB.
const MESSAGE: usize = 8192;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// "bind", "pci", "/devices/pci0000:00/0000:00:06.0".
    Kernel { action: String, subsystem: String, path: String },
    /// Something came, went or was written in this directory (as [`Watcher::watch`] was told it).
    File { dir: String, name: String },
    /// More happened than could be told apart: look at everything.
    Overflow,
}

/// Listens. Changes nothing.
pub struct Watcher {
    root: PathBuf,
    uevents: Option<OwnedFd>,
    inotify: Option<OwnedFd>,
    dirs: BTreeMap<i32, String>,
}

impl Watcher {
    /// For the machine below this root. The kernel's announcements are of the machine that runs, whatever the root.
    pub fn new(root: &Path) -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Watcher {
            root: root.to_owned(),
            uevents: listen().ok(),
            inotify: inotify::init(flags).ok(),
            dirs: BTreeMap::new(),
        }
    }

    /// Hears of files alone.
    pub fn of_files(root: &Path) -> Self {
        let mut watcher = Self::new(root);
        watcher.uevents = None;
        watcher
    }

    /// False where netlink is not to be had: in some containers, and where a unit's RestrictAddressFamilies forbids it.
    pub fn hears_kernel(&self) -> bool {
        self.uevents.is_some()
    }

    /// Watches a directory; a directory that is not there yet is asked for again by whoever wants it. True: it is watched.
    pub fn watch(&mut self, dir: &str) -> bool {
        if self.dirs.values().any(|known| known == dir) {
            return true;
        }
        let Some(inotify) = &self.inotify else { return false };
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::ONLYDIR;
        match inotify::add_watch(inotify, self.root.join(dir.trim_start_matches('/')), flags) {
            Ok(number) => {
                self.dirs.insert(number, dir.to_owned());
                true
            }
            Err(_) => false,
        }
    }

    /// What happened, waited for no longer than this; empty where the time is over or a signal came.
    pub fn wait(&mut self, limit: Duration) -> Vec<Happened> {
        let mut found = Vec::new();
        let until = Instant::now() + limit;
        while found.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let sources = [self.uevents.as_ref(), self.inotify.as_ref()];
            let mut fds: Vec<PollFd<'_>> =
                sources.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut fds, Some(&time)) {
                Ok(ready) if ready > 0 => {}
                // over, or a signal: whoever waits looks why
                _ => break,
            }
            self.kernel(&mut found);
            self.files(&mut found);
        }
        found
    }

    fn kernel(&self, found: &mut Vec<Happened>) {
        let Some(socket) = &self.uevents else { return };
        let mut buffer = vec![0_u8; MESSAGE];
        loop {
            match rustix::net::recvfrom(socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((_, length, from)) => {
                    // Another program may send to the group too; only the kernel's port is 0.
                    let sender = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    if sender.is_some_and(|sender| sender.pid() == 0) {
                        found.extend(uevent(buffer.get(..length).unwrap_or_default()));
                    }
                }
                Err(rustix::io::Errno::NOBUFS) => found.push(Happened::Overflow),
                Err(_) => return,
            }
        }
    }

    fn files(&mut self, found: &mut Vec<Happened>) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify.as_fd(), &mut buffer);
        let mut gone = Vec::new();
        while let Ok(event) = reader.next() {
            if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                found.push(Happened::Overflow);
            }
            if event.events().contains(inotify::ReadFlags::IGNORED) {
                gone.push(event.wd());
            }
            let Some(dir) = self.dirs.get(&event.wd()) else { continue };
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            found.push(Happened::File { dir: dir.clone(), name });
        }
        for number in gone {
            self.dirs.remove(&number);
        }
    }
}

fn listen() -> Result<OwnedFd, rustix::io::Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

/// `bind@/devices/…\0ACTION=bind\0DEVPATH=…\0SUBSYSTEM=pci\0…`
fn uevent(bytes: &[u8]) -> Option<Happened> {
    let mut parts = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let head = parts.next()?;
    let (action, path) = head.split_once('@')?;
    let subsystem = parts.find_map(|part| part.strip_prefix("SUBSYSTEM=").map(str::to_owned))?;
    Some(Happened::Kernel { action: action.to_owned(), subsystem, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_read() {
        let bytes = b"bind@/devices/pci0000:00/0000:00:06.0\0ACTION=bind\0SUBSYSTEM=pci\0DRIVER=nvidia\0";
        let wanted = Happened::Kernel {
            action: "bind".into(),
            subsystem: "pci".into(),
            path: "/devices/pci0000:00/0000:00:06.0".into(),
        };
        assert_eq!(uevent(bytes), Some(wanted));
        // udev's own form begins otherwise
        assert_eq!(uevent(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(uevent(b""), None);
    }

    #[test]
    fn a_file_that_comes_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("ledger")).unwrap();
        let mut watcher = Watcher::new(folder.path());
        assert!(watcher.watch("/ledger"));
        assert!(!watcher.watch("/not-there"));
        std::fs::write(folder.path().join("ledger/a.json"), "{}").unwrap();
        let heard = watcher.wait(Duration::from_secs(5));
        assert!(heard.contains(&Happened::File { dir: "/ledger".into(), name: "a.json".into() }), "{heard:?}");
    }

    /// The kernel itself announces again whatever its `uevent` file is told.
    #[test]
    fn the_kernel_is_heard() {
        let mut watcher = Watcher::new(Path::new("/"));
        if !watcher.hears_kernel() {
            println!("SKIP: no netlink here");
            return;
        }
        if std::fs::write("/sys/devices/virtual/mem/null/uevent", "change").is_err() {
            println!("SKIP: only root may have the kernel announce a device");
            return;
        }
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            let heard = watcher.wait(Duration::from_secs(1));
            let is_null =
                |happened: &Happened| matches!(happened, Happened::Kernel { path, .. } if path.ends_with("/mem/null"));
            if heard.iter().any(is_null) {
                return;
            }
        }
        panic!("not heard");
    }
}
