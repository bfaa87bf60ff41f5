//! Files inside a machine's root: read with all their metadata, replaced atomically, put back as they were.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use machine::{MachineExt as _, Root};
use model::{Digest, Seen};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Error;

/// What stood at a path: enough to put it back as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Image {
    Absent,
    File {
        digest: Digest,
        mode: u32,
        uid: u32,
        gid: u32,
        /// Seconds and nanoseconds.
        mtime: (i64, i64),
        /// Extended attributes, values in base64: ACLs and SELinux labels are among them.
        xattrs: BTreeMap<String, String>,
    },
}

impl Image {
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Image::File { digest, .. } => Some(digest),
            Image::Absent => None,
        }
    }
}

/// The door for writes below one root.
pub struct Files {
    root: OwnedFd,
    pub(crate) machine: Root,
    path: PathBuf,
}

/// Follows no link at all: used only on paths that were resolved first.
const STRAIGHT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

impl Files {
    pub fn open(root: &Path) -> Result<Self, Error> {
        let fail = |source: io::Error| Error::io(root.display().to_string(), source);
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| fail(errno.into()))?;
        let machine = if root == Path::new("/") { Root::live() } else { Root::tree(root) }.map_err(fail)?;
        Ok(Files { root: fd, machine, path: root.to_owned() })
    }

    pub fn root(&self) -> &Path {
        &self.path
    }

    /// The path with its links resolved inside the root, so that a link is written through and stays a link.
    pub(crate) fn real(&self, path: &str) -> Result<String, Error> {
        match self.machine.resolve(path) {
            Seen::Is(real) => Ok(real),
            Seen::Absent => Ok(path.to_owned()),
            Seen::Unreadable(reason) => Err(Error::io(path, io::Error::other(reason.to_string()))),
        }
    }

    fn dir(&self, path: &str) -> Result<OwnedFd, Errno> {
        let inside = match path.trim_matches('/') {
            "" => ".",
            inside => inside,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.root, inside, flags, Mode::empty(), STRAIGHT)
    }

    /// The directory a resolved path lies in, and the name in it.
    pub(crate) fn place<'p>(&self, real: &'p str) -> Result<(OwnedFd, &'p str), Error> {
        let (dir, name) = real.rsplit_once('/').unwrap_or(("", real));
        if name.is_empty() || name == ".." || name == "." {
            return Err(Error::io(real, io::Error::from(io::ErrorKind::InvalidInput)));
        }
        Ok((self.dir(dir).map_err(|errno| Error::io(real, errno))?, name))
    }

    /// What is at the path now, with its bytes.
    pub fn image(&self, path: &str) -> Result<(Image, Vec<u8>), Error> {
        let real = self.real(path)?;
        let (dir, name) = match self.place(&real) {
            Ok(place) => place,
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok((Image::Absent, Vec::new()));
            }
            Err(error) => return Err(error),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok((Image::Absent, Vec::new())),
            Err(errno) => return Err(Error::io(path, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::io(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::io(path, io::Error::other("is no regular file")));
        }
        let xattrs = xattrs(&fd).map_err(|errno| Error::io(path, errno))?;
        let mut bytes = Vec::new();
        std::fs::File::from(fd).read_to_end(&mut bytes).map_err(|source| Error::io(path, source))?;
        let image = Image::File {
            digest: Digest::of(&bytes),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            xattrs,
        };
        Ok((image, bytes))
    }

    /// The directories above the path that are not there yet, outermost first.
    pub(crate) fn missing_dirs(&self, path: &str) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        let mut here = path;
        while let Some((parent, _)) = here.rsplit_once('/') {
            if parent.is_empty() {
                break;
            }
            match self.dir(&self.real(parent)?) {
                Ok(_) => break,
                Err(Errno::NOENT) => missing.push(parent.to_owned()),
                Err(errno) => return Err(Error::io(parent, errno)),
            }
            here = parent;
        }
        missing.reverse();
        Ok(missing)
    }

    pub(crate) fn make_dirs(&self, dirs: &[String]) -> Result<(), Error> {
        for path in dirs {
            let (parent, name) = self.place(&self.real(path)?).map(|(fd, name)| (fd, name.to_owned()))?;
            match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => sync(&parent, path)?,
                Err(errno) => return Err(Error::io(path, errno)),
            }
        }
        Ok(())
    }

    /// Removes directories that we made, innermost first, if nobody put anything into them.
    pub(crate) fn remove_dirs(&self, dirs: &[String]) -> Result<(), Error> {
        for path in dirs.iter().rev() {
            let real = self.real(path)?;
            let Ok((parent, name)) = self.place(&real) else { continue };
            match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                Ok(()) => sync(&parent, path)?,
                Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(errno) => return Err(Error::io(path, errno)),
            }
        }
        Ok(())
    }

    /// Writes a file whole or not at all. `like` gives mode, owner and xattrs; `mtime` is put back too when given.
    pub(crate) fn write(&self, path: &str, bytes: &[u8], like: &Like<'_>) -> Result<(), Error> {
        let real = self.real(path)?;
        let (dir, name) = self.place(&real)?;
        let temporary = temporary_name(name);
        let fail = |errno: Errno| Error::io(path, errno);
        remove_if_there(&dir, &temporary).map_err(fail)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
        let mut file = std::fs::File::from(fd);
        let written = file
            .write_all(bytes)
            .map_err(|source| Error::io(path, source))
            .and_then(|()| dress(&file, like).map_err(fail))
            .and_then(|()| file.sync_all().map_err(|source| Error::io(path, source)));
        let renamed = written.and_then(|()| match rustix::fs::renameat(&dir, &temporary, &dir, name) {
            // A bind-mounted file cannot be replaced by name: its bytes are, and the blob holds the old ones.
            Err(Errno::BUSY | Errno::XDEV) => {
                remove_if_there(&dir, &temporary).map_err(fail)?;
                let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(fail)?;
                let mut file = std::fs::File::from(fd);
                file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| Error::io(path, source))?;
                dress(&file, like).map_err(fail)
            }
            other => other.map_err(fail),
        });
        if renamed.is_err() {
            // Nothing half-written stays behind on a full disk.
            let _ = remove_if_there(&dir, &temporary);
        }
        renamed?;
        sync(&dir, path)
    }

    pub(crate) fn remove(&self, path: &str) -> Result<(), Error> {
        let real = self.real(path)?;
        let (dir, name) = self.place(&real)?;
        remove_if_there(&dir, name).map_err(|errno| Error::io(path, errno))?;
        sync(&dir, path)
    }

    /// Removes what a killed write left beside its target.
    pub(crate) fn sweep(&self, path: &str) -> Result<(), Error> {
        let real = self.real(path)?;
        if let Ok((dir, name)) = self.place(&real) {
            remove_if_there(&dir, &temporary_name(name)).map_err(|errno| Error::io(path, errno))?;
        }
        Ok(())
    }
}

/// Metadata for a file about to be written.
pub(crate) struct Like<'i> {
    pub mode: u32,
    /// Owner and xattrs of what was there; `None` for a new file.
    pub image: Option<&'i Image>,
    /// Put the modification time back too (undo).
    pub time: bool,
}

/// Hidden, and ending in nothing that modprobe, udev, GRUB or systemd would read as its own.
fn temporary_name(name: &str) -> String {
    format!(".{name}.thruway-new")
}

fn remove_if_there(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn sync(dir: &OwnedFd, path: &str) -> Result<(), Error> {
    match rustix::fs::fsync(dir) {
        // Some file systems (FUSE: pmxcfs) cannot sync a directory.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(Error::io(path, errno)),
    }
}

/// Gives the new file the mode, owner, xattrs and, for undo, the time that it should have.
fn dress(file: &std::fs::File, like: &Like<'_>) -> Result<(), Errno> {
    let fd = file.as_fd();
    if let Some(Image::File { uid, gid, xattrs, mtime, .. }) = like.image {
        let now = rustix::fs::fstat(fd)?;
        if (now.st_uid, now.st_gid) != (*uid, *gid) {
            rustix::fs::fchown(fd, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
        }
        // After chown, which clears setuid bits.
        rustix::fs::fchmod(fd, Mode::from_raw_mode(like.mode))?;
        for (name, value) in xattrs {
            let Ok(value) = base64::engine::general_purpose::STANDARD.decode(value) else { continue };
            match rustix::fs::fsetxattr(fd, name.as_str(), &value, XattrFlags::empty()) {
                // A file system without xattrs had none to lose.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(errno) => return Err(errno),
            }
        }
        if like.time {
            let time = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1 as _ };
            rustix::fs::futimens(fd, &Timestamps { last_access: time, last_modification: time })?;
        }
        Ok(())
    } else {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(like.mode))
    }
}

fn xattrs(fd: &OwnedFd) -> Result<BTreeMap<String, String>, Errno> {
    let mut names = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Err(errno) => return Err(errno),
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let mut value = vec![0u8; 64 << 10];
        match rustix::fs::fgetxattr(fd, name, value.as_mut_slice()) {
            Ok(length) => {
                let text = base64::engine::general_purpose::STANDARD.encode(&value[..length]);
                found.insert(name.to_owned(), text);
            }
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}
