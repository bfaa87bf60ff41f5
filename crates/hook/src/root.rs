//! A container's root, held by one descriptor. No name inside it is ever put together with a path outside: the kernel
//! resolves each below the descriptor (openat2(2): RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS), links in it included, and
//! what comes back is a descriptor again. Bytes are written under a name of our own (O_EXCL) and renamed.
//!
//! A kernel without openat2 (older than 5.6) is refused: resolving component by component in user space would be a second
//! implementation of what has to be right once.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::writable::writable;

/// What of the image is read: no file of it is believed to be small.
pub const SMALL_FILE: u64 = 64 << 10;
/// A real cache has a few hundred KiB.
pub const CACHE_FILE: u64 = 16 << 20;
/// Names of one directory that are looked at.
const NAMES: usize = 20_000;
/// What is not renamed yet is named so.
const TEMPORARY: &str = ".thruway-hook";
/// Directories that are made on the way to one name.
const DEPTH: usize = 40;

/// What could not be done at which path of the container.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {cause}")]
pub struct RootError {
    pub what: &'static str,
    /// In the container.
    pub path: String,
    pub cause: Errno,
}

impl RootError {
    /// The user's own mount or a read-only file system stands there, or the image has made another kind of thing of it:
    /// it is left as it is, and the container may start.
    pub fn left_alone(&self) -> bool {
        matches!(self.cause, Errno::ROFS | Errno::XDEV | Errno::BUSY | Errno::ISDIR)
    }
}

pub type Result<T> = std::result::Result<T, RootError>;

/// The root of one container.
pub struct Root<'a> {
    fd: BorrowedFd<'a>,
    /// The root's own mount once more, where the container's is read-only already.
    writable: Option<OwnedFd>,
}

/// A directory of the container, and its path there as it was asked for.
pub struct Dir {
    pub fd: OwnedFd,
    pub path: String,
}

/// What a directory entry is, without following it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub name: String,
    pub kind: FileType,
}

/// What a directory held when it was listed.
pub type Listing = HashMap<String, FileType>;

/// An open regular file.
pub struct File {
    pub fd: OwnedFd,
    pub stat: Stat,
}

/// What was read of a file.
pub struct Content {
    pub bytes: Vec<u8>,
    /// Whether that is all of it.
    pub whole: bool,
    /// Seconds and nanoseconds.
    pub written: (i64, u64),
}

fn resolve() -> ResolveFlags {
    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
}

/// Opens a name of a container below its root's descriptor: links in it lead nowhere but into the root.
///
/// # Errors
/// openat2(2)'s; EAGAIN where something goes on being renamed meanwhile.
pub fn open_below(root: BorrowedFd<'_>, path: &str, flags: OFlags, more: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    // EAGAIN: something was renamed meanwhile, and the kernel cannot say whether ".." stayed inside (openat2(2)).
    for _ in 0..64 {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve() | more) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

impl<'a> Root<'a> {
    /// # Errors
    /// A kernel without openat2; something that is no directory; the machine's own root.
    pub fn at(fd: BorrowedFd<'a>) -> Result<Self> {
        let mut root = Root { fd, writable: None };
        let here = root.open_dir("/")?;
        let stat = fstat(&here.fd, "/")?;
        let machine = rustix::fs::stat("/").map_err(|cause| failed("look at the machine's", "/", cause))?;
        if (stat.st_dev, stat.st_ino) == (machine.st_dev, machine.st_ino) {
            return Err(failed("take the machine's own root for a container's", "/", Errno::PERM));
        }
        root.writable = writable(fd);
        Ok(root)
    }

    /// The one place in which a name of the container is opened.
    fn open(&self, path: &str, flags: OFlags, more: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        open_below(self.fd, path, flags, more)
    }

    /// Links in `path` are followed inside the root.
    pub fn open_dir(&self, path: &str) -> Result<Dir> {
        self.open_dir_by(path, ResolveFlags::empty())
    }

    fn open_dir_by(&self, path: &str, more: ResolveFlags) -> Result<Dir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = self.open(path, flags, more).map_err(|cause| failed("open the directory", path, cause))?;
        Ok(Dir { fd, path: path.to_owned() })
    }

    /// A directory on the root's own mount, with what is missing on the way made (0755). Other mounts are the user's:
    /// a bind of the machine's own /etc is not written. `tmpfs` allows those that are in memory, as /dev is.
    pub fn make_dir(&self, path: &str, tmpfs: bool) -> Result<Dir> {
        match self.open_own(path, tmpfs) {
            Err(error) if error.cause == Errno::NOENT => {}
            other => return other,
        }
        let mut missing = Vec::new();
        let mut above = path;
        let mut dir = loop {
            let (parent, name) = split(above).ok_or_else(|| failed("make", path, Errno::INVAL))?;
            missing.push(name);
            if missing.len() > DEPTH {
                return Err(failed("make", path, Errno::NAMETOOLONG));
            }
            above = if parent.is_empty() { "/" } else { parent };
            match self.open_own(above, tmpfs) {
                Err(error) if error.cause == Errno::NOENT && above != "/" => {}
                other => break other?,
            }
        };
        for name in missing.into_iter().rev() {
            match rustix::fs::mkdirat(&dir.fd, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(cause) => return Err(failed("make the directory", path, cause)),
            }
            // A link that stands there now, or leads nowhere, is not followed: what we made is a directory.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat2(&dir.fd, name, flags, Mode::empty(), resolve() | ResolveFlags::NO_SYMLINKS)
                .map_err(|cause| failed("open the directory", path, cause))?;
            dir = Dir { fd, path: format!("{}/{name}", dir.path.trim_end_matches('/')) };
        }
        Ok(Dir { fd: dir.fd, path: path.to_owned() })
    }

    fn open_own(&self, path: &str, tmpfs: bool) -> Result<Dir> {
        match self.open_dir_by(path, ResolveFlags::NO_XDEV) {
            Err(error) if error.cause == Errno::XDEV && tmpfs => {
                let dir = self.open_dir(path)?;
                let fs = rustix::fs::fstatfs(&dir.fd).map_err(|cause| failed("look at", path, cause))?;
                // TMPFS_MAGIC, linux/magic.h
                if fs.f_type == 0x0102_1994 { Ok(dir) } else { Err(error) }
            }
            Ok(dir) => match &self.writable {
                Some(writable) => {
                    let flags = OFlags::PATH | OFlags::DIRECTORY;
                    let fd = open_below(writable.as_fd(), path, flags, ResolveFlags::NO_XDEV)
                        .map_err(|cause| failed("open the directory", path, cause))?;
                    Ok(Dir { fd, ..dir })
                }
                None => Ok(dir),
            },
            other => other,
        }
    }

    /// Opens a regular file for reading; None where there is none, or something else. A fifo or a device is never
    /// opened but as a name (O_PATH).
    pub fn open_file(&self, path: &str) -> Result<Option<File>> {
        let named = match self.open(path, OFlags::PATH, ResolveFlags::empty()) {
            Ok(fd) => fd,
            Err(cause) if is_none(cause) => return Ok(None),
            Err(cause) => return Err(failed("open", path, cause)),
        };
        let first = fstat(&named, path)?;
        if FileType::from_raw_mode(first.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        match self.open_known(path)? {
            Some(file) if (file.stat.st_dev, file.stat.st_ino) == (first.st_dev, first.st_ino) => Ok(Some(file)),
            _ => Ok(None),
        }
    }

    /// As `open_file`, for a name that a directory has just called a regular file.
    fn open_known(&self, path: &str) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        checked(self.open(path, flags, ResolveFlags::empty()), path)
    }

    /// A regular file of a directory; links are followed inside the root.
    pub fn open_in(&self, dir: &Dir, name: &str, kind: FileType) -> Result<Option<File>> {
        if kind != FileType::RegularFile {
            return self.open_file(&dir.join(name));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(&dir.fd, name, flags, Mode::empty(), resolve() | ResolveFlags::NO_SYMLINKS);
        checked(found, name)
    }

    /// At most `limit` bytes of a regular file, and whether that was all. None where there is none.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<(Vec<u8>, bool)>> {
        Ok(self.read_dated(path, limit)?.map(|content| (content.bytes, content.whole)))
    }

    /// As `read`, and when it was last written.
    pub fn read_dated(&self, path: &str, limit: u64) -> Result<Option<Content>> {
        let Some(file) = self.open_file(path)? else { return Ok(None) };
        let (bytes, whole) = file.read(limit).map_err(|cause| failed("read", path, cause))?;
        Ok(Some(Content { bytes, whole, written: (file.stat.st_mtime, file.stat.st_mtime_nsec) }))
    }

    /// Whether something is there, links followed inside the root.
    pub fn is_there(&self, path: &str) -> Result<bool> {
        match self.open(path, OFlags::PATH, ResolveFlags::empty()) {
            Ok(_) => Ok(true),
            Err(cause) if is_none(cause) => Ok(false),
            Err(cause) => Err(failed("look for", path, cause)),
        }
    }

    /// What a path leads to, links followed inside the root.
    pub fn identity_of(&self, path: &str) -> Option<(u64, u64)> {
        let stat = fstat(self.open(path, OFlags::PATH, ResolveFlags::empty()).ok()?, path).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }

    /// A descriptor that names a regular file (O_PATH), if no link is on the way to it.
    pub fn name_file(&self, path: &str) -> Result<Option<OwnedFd>> {
        match self.open(path, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => {
                let stat = fstat(&fd, path)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => Ok(Some(fd)),
                    _ => Err(failed("cover what is no file", path, Errno::INVAL)),
                }
            }
            Err(Errno::NOENT) => Ok(None),
            Err(cause) => Err(failed("open", path, cause)),
        }
    }

    /// The names in a directory; those that are not UTF-8 are left out.
    pub fn list(&self, dir: &Dir) -> Result<Vec<Name>> {
        let fd = rustix::fs::openat2(
            &dir.fd,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            resolve(),
        )
        .map_err(|cause| failed("read the directory", &dir.path, cause))?;
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|cause| failed("read the directory", &dir.path, cause))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match stat_in(&dir.fd, entry.file_name()) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(_) => continue,
                },
                kind => kind,
            };
            names.push(Name { name: name.to_owned(), kind });
            if names.len() >= NAMES {
                break;
            }
        }
        Ok(names)
    }

    pub fn listing(&self, dir: &Dir) -> Result<Listing> {
        Ok(self.list(dir)?.into_iter().map(|name| (name.name, name.kind)).collect())
    }

    /// What stands at a name, not followed.
    pub fn kind(&self, dir: &Dir, name: &str) -> Result<Option<FileType>> {
        match rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(cause) if is_none(cause) => Ok(None),
            Err(cause) => Err(failed("look at", &dir.join(name), cause)),
        }
    }

    /// Puts bytes at a name of a directory, in one step: what stands there is replaced, a link itself and not its target.
    pub fn write(&self, dir: &Dir, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let path = dir.join(name);
        let (fd, temporary) = self
            .temporary(dir, |own| {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat2(&dir.fd, own, flags, Mode::from_raw_mode(0o600), resolve())
            })
            .map_err(|cause| failed("write", &path, cause))?;
        let done = write_whole(&fd, bytes)
            .and_then(|()| rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)))
            .and_then(|()| rustix::fs::renameat(&dir.fd, temporary.as_str(), &dir.fd, name));
        done.map_err(|cause| {
            let _ = rustix::fs::unlinkat(&dir.fd, temporary.as_str(), AtFlags::empty());
            failed("write", &path, cause)
        })
    }

    /// Makes a link of that text. False: it stands there already. A file or another link there is replaced, a directory not.
    pub fn link(&self, dir: &Dir, name: &str, text: &str) -> Result<bool> {
        let wrong = |cause| failed("make the link", &dir.join(name), cause);
        match rustix::fs::symlinkat(text, &dir.fd, name) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => {}
            Err(cause) => return Err(wrong(cause)),
        }
        if self.link_text(dir, name).is_some_and(|there| there == text) {
            return Ok(false);
        }
        let ((), temporary) = self.temporary(dir, |own| rustix::fs::symlinkat(text, &dir.fd, own)).map_err(wrong)?;
        rustix::fs::renameat(&dir.fd, temporary.as_str(), &dir.fd, name).map_err(|cause| {
            let _ = rustix::fs::unlinkat(&dir.fd, temporary.as_str(), AtFlags::empty());
            wrong(cause)
        })?;
        Ok(true)
    }

    /// A link's own text.
    pub fn link_text(&self, dir: &Dir, name: &str) -> Option<String> {
        let text = rustix::fs::readlinkat(&dir.fd, name, Vec::new()).ok()?;
        text.into_string().ok()
    }

    pub fn remove(&self, dir: &Dir, name: &str) -> Result<bool> {
        match rustix::fs::unlinkat(&dir.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(cause) => Err(failed("remove", &dir.join(name), cause)),
        }
    }

    /// Makes something under a name of our own. What a run that was killed has left there is taken away; where that cannot
    /// be, a name is used that nobody can have foreseen. Whatever stands there: it is neither followed nor written (O_EXCL).
    fn temporary<T>(&self, dir: &Dir, make: impl Fn(&str) -> rustix::io::Result<T>) -> rustix::io::Result<(T, String)> {
        for _ in 0..2 {
            match make(TEMPORARY) {
                Ok(made) => return Ok((made, TEMPORARY.to_owned())),
                Err(Errno::EXIST) => match rustix::fs::unlinkat(&dir.fd, TEMPORARY, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(_) => break,
                },
                Err(cause) => return Err(cause),
            }
        }
        for _ in 0..16 {
            let mut random = [0_u8; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK)?;
            let name = format!("{TEMPORARY}-{:016x}", u64::from_le_bytes(random));
            match make(&name) {
                Ok(made) => return Ok((made, name)),
                Err(Errno::EXIST) => {}
                Err(cause) => return Err(cause),
            }
        }
        Err(Errno::EXIST)
    }
}

impl Dir {
    pub fn join(&self, name: &str) -> String {
        format!("{}/{name}", self.path.trim_end_matches('/'))
    }

    /// Two paths of one directory have the same.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let stat = fstat(&self.fd, &self.path)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// When a name in it last came or went: seconds and nanoseconds.
    pub fn changed(&self) -> Result<(i64, u64)> {
        let stat = fstat(&self.fd, &self.path)?;
        Ok((stat.st_mtime, stat.st_mtime_nsec))
    }
}

impl File {
    /// At most `limit` bytes, and whether that was all.
    pub fn read(&self, limit: u64) -> rustix::io::Result<(Vec<u8>, bool)> {
        // procfs tells no sizes
        let size = u64::try_from(self.stat.st_size).unwrap_or(0);
        let mut bytes = vec![0; if size == 0 { limit + 1 } else { size.min(limit) } as usize];
        let got = self.read_at(0, &mut bytes)?;
        bytes.truncate(got.min(limit as usize));
        Ok((bytes, size.max(got as u64) <= limit))
    }

    /// Fills the buffer as far as the file goes.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        let mut got = 0;
        while got < buffer.len() {
            match rustix::io::pread(&self.fd, &mut buffer[got..], offset.saturating_add(got as u64)) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(Errno::INTR) => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(got)
    }
}

/// "/usr/lib/x" is ("/usr/lib", "x"). None for what names no entry of a directory: "/", "/a/..", "".
pub fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.trim_end_matches('/').rsplit_once('/')?;
    (!matches!(name, "" | "." | "..") && path.starts_with('/')).then_some((parent, name))
}

fn checked(found: rustix::io::Result<OwnedFd>, path: &str) -> Result<Option<File>> {
    match found {
        Ok(fd) => {
            let stat = fstat(&fd, path)?;
            let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            Ok(regular.then_some(File { fd, stat }))
        }
        Err(cause) if is_none(cause) => Ok(None),
        Err(cause) => Err(failed("open", path, cause)),
    }
}

/// Nothing is there, or nothing that could be a file of ours: a link into itself, a magic link, a path through a file, a
/// device without its driver.
fn is_none(cause: Errno) -> bool {
    matches!(
        cause,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::ISDIR | Errno::NXIO | Errno::NODEV
    )
}

fn stat_in(dir: impl AsFd, name: &CStr) -> rustix::io::Result<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn fstat(fd: impl AsFd, path: &str) -> Result<Stat> {
    rustix::fs::fstat(fd).map_err(|cause| failed("look at", path, cause))
}

fn write_whole(fd: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

fn failed(what: &'static str, path: &str, cause: Errno) -> RootError {
    let what = if cause == Errno::NOSYS { "resolve names safely (openat2 needs Linux 5.6): cannot open" } else { what };
    RootError { what, path: path.to_owned(), cause }
}
