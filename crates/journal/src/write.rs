//! Writing a file: whole or not at all where its name can be replaced, recoverably where it cannot.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use base64::Engine as _;
use rustix::fs::{AtFlags, FallocateFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::files::Files;
use crate::{Error, Image};

/// Metadata for a file about to be written.
pub(crate) struct Like<'i> {
    pub mode: u32,
    /// Owner and xattrs of what was there; `None` for a new file.
    pub image: Option<&'i Image>,
    /// Put the modification time back too (undo).
    pub time: bool,
}

impl Files {
    /// Writes a file: beside, fsync, rename, fsync of the directory. Where the name cannot be replaced (a bind mount)
    /// or must not be (another hard link would keep the old bytes), the bytes are written in place instead: a crash
    /// then leaves a mix of old and new, which recovery knows and replaces from the blobs.
    pub(crate) fn write(&self, path: &str, bytes: &[u8], like: &Like<'_>) -> Result<(), Error> {
        let real = self.real(path)?;
        let (dir, name) = self.place(&real)?;
        let fail = |errno: Errno| Error::io(path, errno);
        match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_nlink > 1 => return self.in_place(path, &dir, name, bytes, like),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let temporary = temporary_name(name);
        remove_if_there(&dir, &temporary).map_err(fail)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
        let mut file = std::fs::File::from(fd);
        let written = file
            .write_all(bytes)
            .map_err(|source| Error::io(path, source))
            .and_then(|()| dress(&file, like).map_err(fail))
            .and_then(|()| self.disk.file(&file).map_err(fail));
        let renamed = written.map(|()| rustix::fs::renameat(&dir, &temporary, &dir, name));
        if !matches!(renamed, Ok(Ok(()))) {
            // Nothing half-written stays behind on a full disk.
            let _ = remove_if_there(&dir, &temporary);
        }
        match renamed? {
            Ok(()) => self.disk.directory(&dir).map_err(fail),
            Err(Errno::BUSY | Errno::XDEV) => self.in_place(path, &dir, name, bytes, like),
            Err(errno) => Err(fail(errno)),
        }
    }

    fn in_place(&self, path: &str, dir: &OwnedFd, name: &str, bytes: &[u8], like: &Like<'_>) -> Result<(), Error> {
        let fail = |errno: Errno| Error::io(path, errno);
        let broken = |source: io::Error| Error::io(path, source);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(fail)?;
        let mut file = std::fs::File::from(fd);
        let mut old = Vec::new();
        file.read_to_end(&mut old).map_err(broken)?;
        if bytes.len() > old.len() {
            // The space first: a full disk is to be found before the first byte is overwritten.
            match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes.len() as u64) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        // Over the old bytes and only then to length: at no moment is the file shorter than the shorter of the two.
        if let Err(error) = overwrite(&mut file, bytes) {
            let _ = overwrite(&mut file, &old).and_then(|()| self.disk.file(&file).map_err(io::Error::from));
            return Err(broken(error));
        }
        dress(&file, like).map_err(fail)?;
        self.disk.file(&file).map_err(fail)
    }

    /// What a crash may have left undressed or not yet durable: the file has the right bytes already.
    pub(crate) fn finish_write(&self, path: &str, like: &Like<'_>) -> Result<(), Error> {
        let real = self.real(path)?;
        let (dir, name) = self.place(&real)?;
        let fail = |errno: Errno| Error::io(path, errno);
        if let Some(file) = self.open_file(&dir, name, path)? {
            dress(&file, like).map_err(fail)?;
            self.disk.file(&file).map_err(fail)?;
        }
        self.disk.directory(&dir).map_err(fail)
    }

    /// Removes the name; a link goes, not what it leads to.
    pub(crate) fn remove(&self, path: &str) -> Result<(), Error> {
        let real = self.unfollowed(path)?;
        let (dir, name) = self.place(&real)?;
        remove_if_there(&dir, name).map_err(|errno| Error::io(path, errno))?;
        self.disk.directory(&dir).map_err(|errno| Error::io(path, errno))
    }

    /// Makes a link as it was, over whatever has the name.
    pub(crate) fn link(&self, path: &str, target: &str, owner: (u32, u32)) -> Result<(), Error> {
        let real = self.unfollowed(path)?;
        let (dir, name) = self.place(&real)?;
        let temporary = temporary_name(name);
        let made = remove_if_there(&dir, &temporary)
            .and_then(|()| rustix::fs::symlinkat(target, &dir, &temporary))
            .and_then(|()| {
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                let stat = rustix::fs::statat(&dir, &temporary, AtFlags::SYMLINK_NOFOLLOW)?;
                if (stat.st_uid, stat.st_gid) == owner {
                    return Ok(());
                }
                rustix::fs::chownat(&dir, &temporary, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            })
            .and_then(|()| rustix::fs::renameat(&dir, &temporary, &dir, name))
            .and_then(|()| self.disk.directory(&dir));
        made.map_err(|errno| Error::io(path, errno))
    }

    /// Removes what a killed write left beside its target.
    pub(crate) fn sweep(&self, path: &str) -> Result<(), Error> {
        for real in [self.real(path)?, self.unfollowed(path)?] {
            if let Ok((dir, name)) = self.place(&real) {
                remove_if_there(&dir, &temporary_name(name)).map_err(|errno| Error::io(path, errno))?;
            }
        }
        Ok(())
    }
}

/// Could a write in place, cut off, have left this? Each byte is the old one, the new one or a hole, and the length
/// lies between the two. Nobody's edit looks so by accident.
pub(crate) fn torn_between(now: &[u8], old: &[u8], new: &[u8]) -> bool {
    let (short, long) = (old.len().min(new.len()), old.len().max(new.len()));
    (short..=long).contains(&now.len())
        && now.iter().enumerate().all(|(i, byte)| *byte == 0 || old.get(i) == Some(byte) || new.get(i) == Some(byte))
}

fn overwrite(file: &mut std::fs::File, bytes: &[u8]) -> io::Result<()> {
    file.seek(io::SeekFrom::Start(0))?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

/// Hidden, and ending in nothing that modprobe, udev, GRUB or systemd would read as its own.
fn temporary_name(name: &str) -> String {
    format!(".{name}.thruway-new")
}

/// Whether a name is one of those.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".thruway-new")
}

pub(crate) fn remove_if_there(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Gives the file exactly the mode, owner, xattrs and, for undo, the time that it should have.
fn dress(file: &std::fs::File, like: &Like<'_>) -> Result<(), Errno> {
    let fd = file.as_fd();
    let Some(Image::File { uid, gid, xattrs: wanted, mtime, .. }) = like.image else {
        return rustix::fs::fchmod(fd, Mode::from_raw_mode(like.mode & 0o7777));
    };
    let now = rustix::fs::fstat(fd)?;
    if (now.st_uid, now.st_gid) != (*uid, *gid) {
        rustix::fs::fchown(fd, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
    }
    let has = xattrs(file)?;
    // What the directory gave the new file by itself (a default ACL), and what someone gave it since.
    for name in has.keys().filter(|name| !wanted.contains_key(*name)) {
        match rustix::fs::fremovexattr(fd, name.as_str()) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            // A label of the security module is its own to take away.
            Err(Errno::PERM | Errno::ACCESS) if name.starts_with("security.") => {}
            Err(errno) => return Err(errno),
        }
    }
    for (name, text) in wanted.iter().filter(|(name, text)| has.get(*name) != Some(text)) {
        let Ok(value) = base64::engine::general_purpose::STANDARD.decode(text) else { continue };
        match rustix::fs::fsetxattr(fd, name.as_str(), &value, XattrFlags::empty()) {
            // A file system without xattrs had none to lose.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    // Last: chown clears setuid bits, and an ACL writes the group's.
    rustix::fs::fchmod(fd, Mode::from_raw_mode(like.mode & 0o7777))?;
    if like.time {
        // The time of access is not kept, and not made up.
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
        let last_modification = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1 as _ };
        rustix::fs::futimens(fd, &Timestamps { last_access, last_modification })?;
    }
    Ok(())
}

/// Extended attributes by name, their values in base64. Those that we may not read are left out.
pub(crate) fn xattrs(file: &std::fs::File) -> Result<BTreeMap<String, String>, Errno> {
    let mut names = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(file, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Err(errno) => return Err(errno),
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let mut value = vec![0u8; 64 << 10];
        match rustix::fs::fgetxattr(file, name, value.as_mut_slice()) {
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
