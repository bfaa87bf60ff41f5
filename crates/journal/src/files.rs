//! Files inside a machine's root: where they are, and what they are with all their metadata. Writing is `write`'s.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use machine::{MachineExt as _, Root};
use model::{Digest, Seen};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::disk::Disk;
use crate::write::xattrs;

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
    /// A symbolic link that was removed as such. Since form 2.
    Link {
        target: String,
        uid: u32,
        gid: u32,
    },
}

impl Image {
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Image::File { digest, .. } => Some(digest),
            Image::Absent | Image::Link { .. } => None,
        }
    }

    /// The same bytes, the same link or the same absence; owner, mode and times are not looked at.
    pub(crate) fn same(&self, other: &Image) -> bool {
        match (self, other) {
            (Image::Absent, Image::Absent) => true,
            (Image::File { digest: one, .. }, Image::File { digest: two, .. }) => one == two,
            (Image::Link { target: one, .. }, Image::Link { target: two, .. }) => one == two,
            _ => false,
        }
    }
}

/// The door for writes below one root.
pub struct Files {
    root: OwnedFd,
    pub(crate) machine: Root,
    path: PathBuf,
    pub(crate) disk: Disk,
}

/// Follows no link at all: used only on paths that were resolved first. Whoever swaps a directory for a link in
/// between is refused (ELOOP), not followed.
const STRAIGHT: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

impl Files {
    pub fn open(root: &Path) -> Result<Self, Error> {
        let fail = |source: io::Error| Error::io(root.display().to_string(), source);
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| fail(errno.into()))?;
        let machine = if root == Path::new("/") { Root::live() } else { Root::tree(root) }.map_err(fail)?;
        Ok(Files { root: fd, machine, path: root.to_owned(), disk: Disk::default() })
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

    pub(crate) fn dir(&self, path: &str) -> Result<OwnedFd, Errno> {
        let inside = match path.trim_matches('/') {
            "" => ".",
            inside => inside,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // EAGAIN: a rename somewhere below the root came between; the kernel asks to try again.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.root, inside, flags, Mode::empty(), STRAIGHT) {
                Err(Errno::AGAIN) => continue,
                done => return done,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The path with the links above its last part resolved: names a link itself, not what it leads to.
    pub(crate) fn unfollowed(&self, path: &str) -> Result<String, Error> {
        let trimmed = path.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        let parent = if parent.is_empty() { String::new() } else { self.real(parent)? };
        Ok(format!("{}/{name}", parent.trim_end_matches('/')))
    }

    /// The directory a resolved path lies in, and the name in it.
    pub(crate) fn place<'p>(&self, real: &'p str) -> Result<(OwnedFd, &'p str), Error> {
        let (dir, name) = real.rsplit_once('/').unwrap_or(("", real));
        if name.is_empty() || name == ".." || name == "." {
            return Err(Error::io(real, io::Error::from(io::ErrorKind::InvalidInput)));
        }
        Ok((self.dir(dir).map_err(|errno| Error::io(real, errno))?, name))
    }

    /// What is at the path now, with its bytes; a link is followed.
    pub fn image(&self, path: &str) -> Result<(Image, Vec<u8>), Error> {
        self.look(path, &self.real(path)?)
    }

    /// What is at the path itself: a link is a link, its target its bytes.
    pub(crate) fn here(&self, path: &str) -> Result<(Image, Vec<u8>), Error> {
        self.look(path, &self.unfollowed(path)?)
    }

    fn look(&self, path: &str, real: &str) -> Result<(Image, Vec<u8>), Error> {
        let fail = |errno: Errno| Error::io(path, errno);
        let (dir, name) = match self.place(real) {
            Ok(place) => place,
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok((Image::Absent, Vec::new()));
            }
            Err(error) => return Err(error),
        };
        let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok((Image::Absent, Vec::new())),
            Err(errno) => return Err(fail(errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = rustix::fs::readlinkat(&dir, name, Vec::new()).map_err(fail)?;
            let target =
                target.into_string().map_err(|_| Error::io(path, io::Error::other("is a link to no UTF-8")))?;
            let bytes = target.clone().into_bytes();
            return Ok((Image::Link { target, uid: stat.st_uid, gid: stat.st_gid }, bytes));
        }
        let Some(file) = self.open_file(&dir, name, path)? else { return Ok((Image::Absent, Vec::new())) };
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).map_err(|source| Error::io(path, source))?;
        Ok((image_of(&file, Digest::of(&bytes)).map_err(fail)?, bytes))
    }

    /// A regular file, opened for reading; `None` where nothing is.
    pub(crate) fn open_file(&self, dir: &OwnedFd, name: &str, path: &str) -> Result<Option<std::fs::File>, Error> {
        // NONBLOCK: a pipe in a file's place must not hang us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Error::io(path, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::io(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::io(path, io::Error::other("is no regular file")));
        }
        Ok(Some(std::fs::File::from(fd)))
    }

    /// The directories above this resolved path that are not there yet, outermost first.
    pub(crate) fn missing_dirs(&self, real: &str) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        let mut here = real;
        while let Some((parent, _)) = here.rsplit_once('/') {
            if parent.is_empty() {
                break;
            }
            match self.dir(parent) {
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
            let real = self.unfollowed(path)?;
            let (parent, name) = self.place(&real)?;
            let fail = |errno: Errno| Error::io(path, errno);
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                // The umask took its bits from the call above.
                Ok(()) => {
                    rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty()).map_err(fail)?;
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(fail(errno)),
            }
            self.disk.directory(&parent).map_err(fail)?;
        }
        Ok(())
    }

    /// Removes directories that we made, innermost first, if nobody put anything into them. What has become a link
    /// since is somebody's own and stays.
    pub(crate) fn remove_dirs(&self, dirs: &[String]) -> Result<(), Error> {
        for path in dirs.iter().rev() {
            let real = self.unfollowed(path)?;
            let Ok((parent, name)) = self.place(&real) else { continue };
            let fail = |errno: Errno| Error::io(path, errno);
            match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                Ok(()) => self.disk.directory(&parent).map_err(fail)?,
                Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::BUSY) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        Ok(())
    }

    /// Makes the names on the way to this resolved directory durable: an earlier run may have been cut off between
    /// making them and saying so.
    pub(crate) fn sync_way(&self, real: &str) -> Result<(), Error> {
        let mut here = real;
        loop {
            let dir = self.dir(here).map_err(|errno| Error::io(here, errno))?;
            self.disk.directory(&dir).map_err(|errno| Error::io(here, errno))?;
            match here.rsplit_once('/') {
                Some((parent, _)) => here = parent,
                None => return Ok(()),
            }
        }
    }

    /// After a program wrote what we do not know by name: all of the file systems that boot files lie on.
    pub(crate) fn sync_everything(&self) -> Result<(), Error> {
        let there = |path: &&str| self.real(path).ok().and_then(|real| self.dir(&real).ok());
        let dirs: Vec<OwnedFd> = ["/", "/boot", "/boot/efi", "/efi"].iter().filter_map(there).collect();
        self.disk.everything(&dirs).map_err(|errno| Error::io("/boot", errno))
    }
}

/// The metadata of an open file, its bytes known by their digest.
pub(crate) fn image_of(file: &std::fs::File, digest: Digest) -> Result<Image, Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok(Image::File {
        digest,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        xattrs: xattrs(file)?,
    })
}
