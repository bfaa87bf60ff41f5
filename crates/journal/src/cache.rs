//! Files that are made again from what is there: specs in /run and the like. No plan, no log, no undo: whoever deletes one gets
//! the same again. They are written as the journal writes, beside and by rename, so that a reader sees a whole file, the old or
//! the new, whenever the writer dies.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use machine::{Machine as _, MachineExt as _};
use model::Seen;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, makedev};
use rustix::io::Errno;

use crate::Error;
use crate::files::Files;
use crate::write::{Like, is_temporary, remove_if_there};

/// The generated files below one root.
pub struct Cache {
    files: Files,
}

impl Cache {
    /// # Errors
    /// The root cannot be opened.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Ok(Cache { files: Files::open(root)? })
    }

    /// Has the file hold these bytes, mode 0644; false where it does already, and then it is not touched.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<bool, Error> {
        if self.files.machine.read(path).get().is_some_and(|there| there == bytes) {
            return Ok(false);
        }
        self.folder(path)?;
        self.files.write(path, bytes, &Like { mode: 0o644, image: None, time: false })?;
        Ok(true)
    }

    /// Has the directory to itself, for as long as the descriptor is held, among those that ask so: two writers that make the
    /// same again would tread on each other. What one that was killed left half-written is removed. `make`: the directory is
    /// made where it is not there; else there is nothing to hold.
    ///
    /// # Errors
    /// As [`Cache::put`].
    pub fn sole(&self, dir: &str, make: bool) -> Result<Option<OwnedFd>, Error> {
        let inside = format!("{}/.", dir.trim_end_matches('/'));
        if make {
            self.folder(&inside)?;
        } else if !self.files.machine.stat(dir).is_there() {
            return Ok(None);
        }
        let fail = |errno: Errno| Error::io(dir, errno);
        let held = self.files.dir(&self.files.real(dir)?).map_err(fail)?;
        // flock(2) takes no O_PATH descriptor
        let own = rustix::fs::openat(&held, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
        rustix::fs::flock(&own, FlockOperation::LockExclusive).map_err(fail)?;
        for name in self.files.machine.names(dir).iter().filter(|name| is_temporary(name)) {
            remove_if_there(&held, name).map_err(fail)?;
        }
        Ok(Some(own))
    }

    /// Has no file of this name; false where there was none.
    ///
    /// # Errors
    /// As [`Cache::put`].
    pub fn remove(&self, path: &str) -> Result<bool, Error> {
        if self.files.machine.lstat(path).is_absent() {
            return Ok(false);
        }
        self.files.remove(path).map(|()| true)
    }

    /// Has the symbolic link say this; false where it does already. What is no link is left as it is.
    ///
    /// # Errors
    /// As [`Cache::put`]; `AlreadyExists` where something else has the name.
    pub fn link(&self, path: &str, target: &str) -> Result<bool, Error> {
        match self.files.machine.link(path) {
            Seen::Is(there) if there == target => return Ok(false),
            Seen::Is(_) => {}
            _ if self.files.machine.lstat(path).is_absent() => {}
            _ => return Err(Error::io(path, io::Error::from(io::ErrorKind::AlreadyExists))),
        }
        self.folder(path)?;
        self.files.link(path, target, (0, 0))?;
        Ok(true)
    }

    /// Has the character device of these numbers at this name, for everybody to open; false where it is there already.
    ///
    /// # Errors
    /// As [`Cache::put`]; `AlreadyExists` where the name has another device or a file.
    pub fn node(&self, path: &str, major: u32, minor: u32) -> Result<bool, Error> {
        match self.files.machine.lstat(path) {
            Seen::Is(stat) if stat.rdev == Some((major, minor)) => return Ok(false),
            Seen::Is(_) => return Err(Error::io(path, io::Error::from(io::ErrorKind::AlreadyExists))),
            _ => {}
        }
        self.folder(path)?;
        let (dir, name) = self.files.place(path)?;
        let fail = |errno: Errno| Error::io(path, errno);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(&dir, name, FileType::CharacterDevice, mode, makedev(major, minor)).map_err(fail)?;
        // as asked for, whatever the umask
        rustix::fs::chmodat(&dir, name, mode, AtFlags::empty()).map_err(fail)?;
        Ok(true)
    }

    /// The directories above a name, 0755.
    fn folder(&self, path: &str) -> Result<(), Error> {
        let parent = path.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent);
        if parent.is_empty() || self.files.machine.stat(parent).is_there() {
            return Ok(());
        }
        self.folder(parent)?;
        let real = self.files.unfollowed(parent)?;
        let (dir, name) = self.files.place(&real)?;
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::io(parent, errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_is_so_already_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert!(cache.put("/run/cdi/a.json", b"one").unwrap());
        let inode = || std::fs::metadata(folder.path().join("run/cdi/a.json")).unwrap().ino();
        let before = inode();
        assert!(!cache.put("/run/cdi/a.json", b"one").unwrap());
        assert_eq!(inode(), before);
        assert!(cache.put("/run/cdi/a.json", b"two").unwrap());
        assert_ne!(inode(), before, "replaced by name, never written in place");
        assert!(cache.remove("/run/cdi/a.json").unwrap());
        assert!(!cache.remove("/run/cdi/a.json").unwrap());
        assert_eq!(std::fs::read_dir(folder.path().join("run/cdi")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_writer_left_is_swept_and_two_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert!(cache.sole("/run/cdi", false).unwrap().is_none(), "nothing is made for nothing");
        let held = cache.sole("/run/cdi", true).unwrap();
        assert!(held.is_some());
        std::fs::write(folder.path().join("run/cdi/.a.json.thruway-new"), "half").unwrap();
        std::fs::write(folder.path().join("run/cdi/.mine"), "kept").unwrap();
        let path = folder.path().to_owned();
        let second =
            std::thread::spawn(move || Cache::open(&path).unwrap().sole("/run/cdi", true).map(|_| ()).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!second.is_finished(), "the second waits");
        drop(held);
        second.join().unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path().join("run/cdi")).unwrap().flatten().collect();
        assert_eq!(left.iter().map(|entry| entry.file_name()).collect::<Vec<_>>(), [".mine"]);
    }

    #[test]
    fn a_link_is_put_right_and_a_file_in_its_place_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert!(cache.link("/dev/char/195:0", "../nvidia1").unwrap());
        assert!(cache.link("/dev/char/195:0", "../nvidia0").unwrap());
        assert!(!cache.link("/dev/char/195:0", "../nvidia0").unwrap());
        cache.put("/dev/char/195:255", b"mine").unwrap();
        assert!(cache.link("/dev/char/195:255", "../nvidiactl").is_err());
    }

    #[test]
    fn a_node_is_made_once_and_another_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        match cache.node("/dev/nvidiactl", 195, 255) {
            Ok(made) => assert!(made),
            Err(why) => {
                println!("SKIP: {why}");
                return;
            }
        }
        assert!(!cache.node("/dev/nvidiactl", 195, 255).unwrap());
        assert!(cache.node("/dev/nvidiactl", 195, 254).is_err());
    }
}
