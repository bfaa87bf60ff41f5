//! Reading with a bound; replacing a file whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// No configuration, spec or state is larger.
pub const LARGEST: u64 = 16 << 20;

/// A file's text, up to [`LARGEST`] bytes.
pub fn read(path: &Path) -> io::Result<String> {
    text(File::open(path)?)
}

/// What a stream holds, up to [`LARGEST`] bytes, as UTF-8.
pub fn text(from: impl Read) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(32 << 10);
    from.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// Replaces a file by rename, keeping mode and owner: whoever reads it sees the old text or the new one, never a half.
///
/// It is not forced to disk. The runtime that reads it is this very process a moment later, and it reads what is cached;
/// after a power cut no container is left that it could be read for.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut old = std::fs::symlink_metadata(path)?;
    let real;
    let path = if old.is_symlink() {
        // the file itself, where the name is a link to it
        real = std::fs::canonicalize(path)?;
        old = std::fs::metadata(&real)?;
        &real
    } else {
        path
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let new = folder.join(format!(".config.json.thruway-{}", std::process::id()));
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    let written = (|| {
        let mut file = match open() {
            // a leftover of another life under our number
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&new)?;
                open()?
            }
            other => other?,
        };
        file.write_all(text.as_bytes())?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o7777))?;
        std::fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real"), folder.path().join("config.json"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let held = File::open(&file).unwrap();
        replace(&link, "new").unwrap();
        assert_eq!(read(&file).unwrap(), "new");
        assert!(link.is_symlink());
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o640);
        assert_eq!(text(held).unwrap(), "old", "whoever had it open reads on in the old one");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn what_cannot_be_replaced_stays() {
        let folder = tempfile::tempdir().unwrap();
        assert!(replace(&folder.path().join("absent"), "x").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
