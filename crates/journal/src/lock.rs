//! One writer at a time.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, STATE_DIR};

/// How often, and how long apart, the lock is tried again while its file names nobody alive: the holder has just
/// taken it and not yet written its number, or has just gone.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Takes the lock or says who has it.
pub(crate) fn take(dir: &OwnedFd) -> Result<std::fs::File, Error> {
    let path = format!("{STATE_DIR}/lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, "lock", flags, Mode::from_raw_mode(0o600));
    let file = std::fs::File::from(fd.map_err(|errno| Error::io(&path, errno))?);
    for _ in 0..TRIES {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // Only for the others' message: not worth failing for, least of all on a full disk. One write, never
                // shorter than what it covers, so that nobody reads half a number.
                let _ = file.write_all_at(format!("{:<20}\n", std::process::id()).as_bytes(), 0);
                return Ok(file);
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(Error::io(&path, errno)),
        }
        match holder(&file) {
            // Let go, and for a moment still held by a child of ours that is not yet another program; or held indeed.
            Some(pid) if pid == std::process::id() => {}
            Some(pid) => return Err(Error::Busy(format!("process {pid}"))),
            None => {}
        }
        std::thread::sleep(PAUSE);
    }
    Err(Error::Busy(match holder(&file) {
        Some(pid) => format!("process {pid}"),
        None => "a process that does not say its number".into(),
    }))
}

/// Who has the lock, without making or keeping anything.
pub(crate) fn holding(root: &Path) -> Option<String> {
    let file = std::fs::File::open(root.join(&STATE_DIR[1..]).join("lock")).ok()?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => {
            Some(holder(&file).map_or_else(|| "another thruway".to_owned(), |pid| format!("process {pid}")))
        }
        // let go with the file
        _ => None,
    }
}

/// The number in the lock file, where a process of this number lives.
fn holder(file: &std::fs::File) -> Option<u32> {
    let mut bytes = [0; 32];
    let length = file.read_at(&mut bytes, 0).ok()?;
    let pid: u32 = std::str::from_utf8(bytes.get(..length)?).ok()?.lines().next()?.trim().parse().ok()?;
    let mut name = String::new();
    std::fs::File::open(Path::new("/proc").join(pid.to_string()).join("comm")).ok()?.read_to_string(&mut name).ok()?;
    Some(pid)
}
