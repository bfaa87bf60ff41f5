//! A tree of our own making: where the simulator lays its machines out. The one place outside the journal that
//! writes files, and it never writes outside the directory that it made or was given empty.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A directory that is being filled. Paths are absolute inside it; `..` is refused.
pub struct Scratch {
    root: PathBuf,
    /// Removed with everything in it on drop; `None` where the caller owns the directory.
    temporary: Option<tempfile::TempDir>,
}

/// POSIX shared memory's file system, if it may be used and has room for many machines.
fn in_memory() -> Option<&'static Path> {
    const ROOM: u64 = 512 << 20;
    let place = Path::new("/dev/shm");
    if std::env::var_os("TMPDIR").is_some() {
        return None;
    }
    let stat = rustix::fs::statvfs(place).ok()?;
    (stat.f_bavail.saturating_mul(stat.f_frsize) >= ROOM).then_some(place)
}

impl Scratch {
    /// A new directory, removed on drop: below `TMPDIR` where that is set, else in memory where there is room, else
    /// below the system's temporary directory. A laid-out machine is a thousand small files, which a disk makes slow.
    pub fn temporary() -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("thruway-");
        let dir = match in_memory() {
            Some(place) => builder.tempdir_in(place).or_else(|_| builder.tempdir())?,
            None => builder.tempdir()?,
        };
        Ok(Scratch { root: dir.path().to_owned(), temporary: Some(dir) })
    }

    /// An empty or absent directory that stays.
    pub fn at(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        if std::fs::read_dir(root)?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is not empty", root.display())));
        }
        Ok(Scratch { root: root.to_owned(), temporary: None })
    }

    /// A tree that a Scratch made before (the simulator's next boot changes it).
    pub fn again(root: &Path) -> io::Result<Self> {
        if !root.join(crate::SIM_DIR.trim_start_matches('/')).is_dir() {
            return Err(io::Error::other(format!("{} was not made by the simulator", root.display())));
        }
        Ok(Scratch { root: root.to_owned(), temporary: None })
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    fn inside(&self, path: &str) -> io::Result<PathBuf> {
        let relative = path.trim_start_matches('/');
        if relative.split('/').any(|part| part == "..") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path}: leaves the tree")));
        }
        // No part of the way may be a link, or a tree's own link would lead the write out of it.
        let mut here = self.root.clone();
        let parts: Vec<&str> = relative.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        for part in &parts[..parts.len().saturating_sub(1)] {
            here.push(part);
            if here.is_symlink() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path}: {part} is a link")));
            }
        }
        Ok(self.root.join(relative))
    }

    /// Writes a file (parents made), replacing whatever name was there.
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let full = self.ready(path)?;
        std::fs::write(&full, bytes)?;
        std::fs::set_permissions(&full, std::fs::Permissions::from_mode(mode))
    }

    /// Sets a file's time of last change, in seconds since the epoch.
    pub fn set_mtime(&self, path: &str, seconds: i64) -> io::Result<()> {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.max(0) as u64);
        std::fs::File::options().write(true).open(self.inside(path)?)?.set_modified(time)
    }

    pub fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let full = self.ready(path)?;
        std::os::unix::fs::symlink(target, full)
    }

    pub fn mkdir(&self, path: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.inside(path)?)
    }

    /// Removes a file, a link or a whole directory; nothing where nothing is.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let full = self.inside(path)?;
        let removed = if full.is_dir() && !full.is_symlink() {
            std::fs::remove_dir_all(full)
        } else {
            std::fs::remove_file(full)
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn ready(&self, path: &str) -> io::Result<PathBuf> {
        let full = self.inside(path)?;
        if let Some(parent) = full.parent() {
            std::fs::create_dir_all(parent)?;
        }
        self.remove(path)?;
        Ok(full)
    }
}
