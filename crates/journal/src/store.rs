//! The state directory: lock, log file, blobs, the space kept for taking back.

use std::cell::{Cell, RefCell};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use machine::Root;
use model::Digest;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::disk::Disk;
use crate::files::Files;
use crate::log::{Log, is_name};
use crate::wal::{self, Entry};
use crate::write::remove_if_there;
use crate::{Error, Image, STATE_DIR, Transaction, lock};

/// Room for the log's own lines while something is taken back, in bytes.
const LOG_ROOM: u64 = 64 << 10;

pub(crate) struct Store {
    dir: OwnedFd,
    blobs: OwnedFd,
    wal: RefCell<std::fs::File>,
    pub log: Log,
    disk: Disk,
    /// The log's end is unknown (a failed fsync, or half a line that could not be cut off): nothing may follow it.
    broken: Cell<bool>,
    /// Something is being taken back: the space set aside may be used.
    pub back: Cell<bool>,
    /// Held until drop.
    _lock: std::fs::File,
}

fn wal_path() -> String {
    format!("{STATE_DIR}/journal")
}

impl Store {
    pub fn open(files: &Files) -> Result<Self, Error> {
        let state = files.real(STATE_DIR)?;
        let wanted = format!("{state}/blobs/x");
        files.make_dirs(&files.missing_dirs(&wanted)?)?;
        let (blobs, _) = files.place(&wanted)?;
        let path = wal_path();
        let real = format!("{state}/journal");
        let (dir, name) = files.place(&real)?;
        let lock = lock::take(&dir)?;
        files.sync_way(&state)?;
        let disk = files.disk.clone();
        let bytes = match files.open_file(&dir, name, &path)? {
            Some(mut file) => read(&mut file).map_err(|source| Error::io(&path, source))?,
            None => Vec::new(),
        };
        let parsed = wal::parse(&path, &bytes)?;
        let (valid, old) = (parsed.valid, parsed.old);
        let log = Log::replay(&path, parsed)?;
        if valid == 0 {
            begin(&dir, &disk).map_err(|source| Error::io(&path, source))?;
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, "journal", flags, Mode::empty());
        let file = std::fs::File::from(fd.map_err(|errno| Error::io(&path, errno))?);
        let fail = |source: io::Error| Error::io(&path, source);
        let end = valid.max(wal::HEADER.len());
        if end < bytes.len() {
            // A torn tail was never acted on: what it announced comes after its fsync.
            file.set_len(end as u64).map_err(fail)?;
        }
        if old {
            // One digit changes: a sector is written whole or not at all, and no space is needed.
            file.write_all_at(wal::HEADER.as_bytes(), 0).map_err(fail)?;
        }
        // Whole lines may be there that an earlier run had no time to make durable.
        disk.file(&file).map_err(|errno| Error::io(&path, errno))?;
        disk.directory(&dir).map_err(|errno| Error::io(&path, errno))?;
        let broken = Cell::new(false);
        let (wal, back) = (RefCell::new(file), Cell::new(false));
        let store = Store { dir, blobs, wal, log, disk, broken, back, _lock: lock };
        store.release();
        Ok(store)
    }

    /// Appends an entry and makes it durable.
    pub fn append(&mut self, entry: Entry) -> Result<(), Error> {
        let line = wal::line(&entry);
        let written = match self.add(line.as_bytes()) {
            Err(error) if is_full(&error) && self.back.get() && self.spend() => self.add(line.as_bytes()),
            other => other,
        };
        written.map_err(|source| Error::io(wal_path(), source))?;
        self.log.take(entry).map_err(|what| Error::Damaged { path: wal_path(), line: 0, what })
    }

    fn add(&self, line: &[u8]) -> io::Result<()> {
        if self.broken.get() {
            return Err(io::Error::other("an earlier write to it failed; run thruway again to recover"));
        }
        let mut file = self.wal.borrow_mut();
        let end = file.seek(io::SeekFrom::End(0))?;
        if let Err(error) = file.write_all(line) {
            // A full disk: half a line must not stand in the middle of the log.
            if file.set_len(end).is_err() {
                self.broken.set(true);
            }
            return Err(error);
        }
        // After a failed fsync nobody knows what is on the disk, and a second one would say all is well.
        self.disk.file(&*file).map_err(|errno| {
            self.broken.set(true);
            io::Error::from(errno)
        })
    }

    /// Sets space aside, so that what is about to be done can be taken back on a disk that fills up meanwhile:
    /// `bytes` for files, and the log's own lines. Taken before the first change; without it nothing is begun.
    /// It serves files on the file system of the state directory only, and one that copies on write may need more.
    pub fn reserve(&self, bytes: u64) -> Result<(), Error> {
        let fail = |source: io::Error| Error::io(format!("{STATE_DIR}/reserve (space for taking back)"), source);
        let length = bytes + LOG_ROOM;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, "reserve", flags, Mode::from_raw_mode(0o600));
        let mut file = std::fs::File::from(fd.map_err(|errno| fail(errno.into()))?);
        let taken = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => io::copy(&mut io::repeat(0x5a).take(length), &mut file).map(|_| ()),
            other => other.map_err(io::Error::from),
        };
        taken.map_err(|source| {
            self.spend();
            fail(source)
        })
    }

    /// Gives the space back; was there any? While a plan is carried out it is kept: then a full disk is a failed step.
    pub fn spend(&self) -> bool {
        rustix::fs::unlinkat(&self.dir, "reserve", rustix::fs::AtFlags::empty()).is_ok()
    }

    /// Drops the copies of generated files that nothing can want any more. They are big; those of configuration files
    /// are small and stay. What cannot be dropped now is dropped on a later run.
    pub fn release(&self) {
        for digest in self.log.spent_outputs() {
            let _ = remove_if_there(&self.blobs, &digest.0);
        }
    }

    pub fn next_number(&self) -> Result<u64, Error> {
        let used_up = || Error::Damaged { path: wal_path(), line: 0, what: "its numbers are used up".into() };
        self.log.next_number().ok_or_else(used_up)
    }

    /// Keeps bytes under their digest, durably, before anything is changed.
    pub fn keep(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let fail = |source: io::Error| Error::io(blob_path(&digest), source);
        if self.blob(&digest).is_ok() {
            // There, but perhaps by a run that was cut off before it was durable.
            let file = self.open_blob(&digest)?;
            self.disk.file(&file).and_then(|()| self.disk.directory(&self.blobs)).map_err(|e| fail(e.into()))?;
            return Ok(digest);
        }
        let temporary = format!("{digest}.new");
        self.write_blob(&temporary, |file| file.write_all(bytes)).map_err(fail)?;
        self.name_blob(&temporary, &digest)?;
        Ok(digest)
    }

    /// Keeps a big file: shared blocks where the file system can (reflink), else a copy. Never a hard link: a
    /// generator that writes in place would write into it.
    pub fn keep_file(&self, source: &mut std::fs::File, path: &str) -> Result<Digest, Error> {
        let fail = |source: io::Error| Error::io(format!("{STATE_DIR}/blobs (a copy of {path})"), source);
        let temporary = "output.new";
        let mut copy = self
            .write_blob(temporary, |file| match rustix::fs::ioctl_ficlone(&*file, &*source) {
                Ok(()) => Ok(()),
                Err(_) => io::copy(source, file).map(|_| ()),
            })
            .map_err(fail)?;
        copy.seek(io::SeekFrom::Start(0)).map_err(fail)?;
        let digest = digest_of(&mut copy).map_err(fail)?;
        self.name_blob(temporary, &digest)?;
        Ok(digest)
    }

    fn write_blob(
        &self,
        name: &str,
        fill: impl FnOnce(&mut std::fs::File) -> io::Result<()>,
    ) -> io::Result<std::fs::File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Blobs hold what configuration files hold, secrets too: for their owner alone.
        let fd = rustix::fs::openat(&self.blobs, name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = std::fs::File::from(fd);
        let filled = fill(&mut file).and_then(|()| self.disk.file(&file).map_err(io::Error::from));
        if filled.is_err() {
            let _ = remove_if_there(&self.blobs, name);
        }
        filled.map(|()| file)
    }

    fn name_blob(&self, temporary: &str, digest: &Digest) -> Result<(), Error> {
        let named = rustix::fs::renameat(&self.blobs, temporary, &self.blobs, &digest.0);
        named.and_then(|()| self.disk.directory(&self.blobs)).map_err(|errno| Error::io(blob_path(digest), errno))
    }

    fn open_blob(&self, digest: &Digest) -> Result<std::fs::File, Error> {
        if !is_name(digest) {
            return Err(Error::Damaged { path: wal_path(), line: 0, what: "a blob's name is no SHA-256".into() });
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.blobs, &digest.0, flags, Mode::empty());
        Ok(std::fs::File::from(fd.map_err(|errno| Error::io(blob_path(digest), errno))?))
    }

    /// A kept blob, its bytes checked against its name.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let mut file = self.open_blob(digest)?;
        let bytes = read(&mut file).map_err(|source| Error::io(blob_path(digest), source))?;
        if Digest::of(&bytes) != *digest {
            let what = "the blob is not what its name says".into();
            return Err(Error::Damaged { path: blob_path(digest), line: 1, what });
        }
        Ok(bytes)
    }

    /// The bytes of an image: a file's from its blob, a link's target, nothing.
    pub fn bytes_of(&self, image: &Image) -> Result<Vec<u8>, Error> {
        match image {
            Image::File { digest, .. } => self.blob(digest),
            Image::Link { target, .. } => Ok(target.clone().into_bytes()),
            Image::Absent => Ok(Vec::new()),
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("{STATE_DIR}/blobs/{digest}")
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn read(file: &mut std::fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// SHA-256 of a file of any size.
pub(crate) fn digest_of(file: &mut std::fs::File) -> io::Result<Digest> {
    use sha2::Digest as _;
    use std::fmt::Write as _;
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(Digest(hex))
}

/// A new log appears with its first line or not at all.
fn begin(dir: &OwnedFd, disk: &Disk) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, "journal.new", flags, Mode::from_raw_mode(0o600))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(wal::HEADER.as_bytes())?;
    disk.file(&file)?;
    rustix::fs::renameat(dir, "journal.new", dir, "journal")?;
    disk.directory(dir)?;
    Ok(())
}

/// The log as it stands, for readers that change nothing.
pub(crate) fn read_only(root: &Root) -> Result<Vec<Transaction>, Error> {
    let path = wal_path();
    let files = Files::open(root.path())?;
    let real = files.real(&path)?;
    let (dir, name) = match files.place(&real) {
        Ok(place) => place,
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    match files.open_file(&dir, name, &path)? {
        Some(mut file) => {
            let bytes = read(&mut file).map_err(|source| Error::io(&path, source))?;
            Ok(Log::replay(&path, wal::parse(&path, &bytes)?)?.transactions)
        }
        None => Ok(Vec::new()),
    }
}
