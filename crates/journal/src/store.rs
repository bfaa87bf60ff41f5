//! The state directory: lock, log file, blobs.

use std::cell::RefCell;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;

use machine::{Machine as _, Root};
use model::{Digest, Seen};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::files::Files;
use crate::log::Log;
use crate::wal::{self, Entry};
use crate::{Error, STATE_DIR, Transaction};

pub(crate) struct Store {
    dir: OwnedFd,
    blobs: OwnedFd,
    wal: RefCell<std::fs::File>,
    pub log: Log,
    /// Held until drop.
    _lock: std::fs::File,
}

fn wal_path() -> String {
    format!("{STATE_DIR}/journal")
}

impl Store {
    pub fn open(files: &Files) -> Result<Self, Error> {
        let wanted = format!("{STATE_DIR}/blobs/x");
        files.make_dirs(&files.missing_dirs(&wanted)?)?;
        let (blobs, _) = files.place(&files.real(&wanted)?).map(|(fd, _)| (fd, ()))?;
        let (dir, _) = files.place(&files.real(&wal_path())?).map(|(fd, _)| (fd, ()))?;
        let lock = lock(&dir)?;
        let path = wal_path();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, "journal", flags, Mode::from_raw_mode(0o600));
        let mut file = std::fs::File::from(fd.map_err(|errno| Error::io(&path, errno))?);
        let fail = |source: io::Error| Error::io(&path, source);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail)?;
        let (entries, valid) = wal::parse(&path, &bytes)?;
        // A torn last line was never acted on: the write it announced comes after its fsync.
        file.set_len(valid as u64).map_err(fail)?;
        file.seek(io::SeekFrom::End(0)).map_err(fail)?;
        if valid == 0 {
            file.write_all(wal::HEADER.as_bytes()).map_err(fail)?;
        }
        file.sync_all().map_err(fail)?;
        rustix::fs::fsync(&dir).map_err(|errno| Error::io(&path, errno))?;
        Ok(Store { dir, blobs, wal: RefCell::new(file), log: Log::replay(entries), _lock: lock })
    }

    /// Appends an entry and makes it durable.
    pub fn append(&mut self, entry: Entry) -> Result<(), Error> {
        let fail = |source: io::Error| Error::io(wal_path(), source);
        let mut file = self.wal.borrow_mut();
        let end = file.seek(io::SeekFrom::End(0)).map_err(fail)?;
        let line = wal::line(&entry);
        if let Err(error) = file.write_all(line.as_bytes()).and_then(|()| file.sync_data()) {
            // A full disk: half a line must not stand in the middle of the log.
            let _ = file.set_len(end);
            return Err(fail(error));
        }
        drop(file);
        self.log.take(entry);
        Ok(())
    }

    pub fn next_number(&self) -> u64 {
        self.log.transactions.iter().map(|t| t.number).max().unwrap_or(0) + 1
    }

    /// Keeps bytes under their digest, durably, before anything is changed.
    pub fn keep(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let path = format!("{STATE_DIR}/blobs/{digest}");
        if self.blob(&digest).is_ok() {
            return Ok(digest);
        }
        let temporary = format!("{digest}.new");
        let fail = |errno: Errno| Error::io(&path, errno);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Blobs hold what configuration files hold, secrets too: for their owner alone.
        let fd = rustix::fs::openat(&self.blobs, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
        let mut file = std::fs::File::from(fd);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|source| Error::io(&path, source))?;
        rustix::fs::renameat(&self.blobs, &temporary, &self.blobs, &digest.0).map_err(fail)?;
        rustix::fs::fsync(&self.blobs).map_err(fail)?;
        Ok(digest)
    }

    /// A kept blob, its bytes checked against its name.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = format!("{STATE_DIR}/blobs/{digest}");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.blobs, &digest.0, flags, Mode::empty());
        let mut file = std::fs::File::from(fd.map_err(|errno| Error::io(&path, errno))?);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| Error::io(&path, source))?;
        if Digest::of(&bytes) != *digest {
            return Err(Error::Damaged { path, line: 1, what: "the blob is not what its name says".into() });
        }
        Ok(bytes)
    }

    pub fn sync(&self) -> Result<(), Error> {
        rustix::fs::fsync(&self.dir).map_err(|errno| Error::io(STATE_DIR, errno))
    }
}

/// Takes the lock or says who has it.
fn lock(dir: &OwnedFd) -> Result<std::fs::File, Error> {
    let path = format!("{STATE_DIR}/lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, "lock", flags, Mode::from_raw_mode(0o600));
    let fd = fd.map_err(|errno| Error::io(&path, errno))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut who = String::new();
            let _ = std::fs::File::from(fd).take(64).read_to_string(&mut who);
            let who = who.trim();
            return Err(Error::Busy(if who.is_empty() { "unknown process".into() } else { format!("process {who}") }));
        }
        Err(errno) => return Err(Error::io(&path, errno)),
    }
    let mut file = std::fs::File::from(fd);
    let pid = std::process::id().to_string();
    file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(|source| Error::io(&path, source))?;
    Ok(file)
}

/// The log as it stands, for readers that change nothing.
pub(crate) fn read_only(root: &Root) -> Result<Vec<Transaction>, Error> {
    let path = wal_path();
    match root.read(&path) {
        Seen::Is(bytes) => Ok(Log::replay(wal::parse(&path, &bytes)?.0).transactions),
        Seen::Absent => Ok(Vec::new()),
        Seen::Unreadable(reason) => Err(Error::io(path, io::Error::other(reason.to_string()))),
    }
}
