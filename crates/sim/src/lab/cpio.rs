//! Writes an initramfs: cpio's "newc" form, which the kernel unpacks. Source: the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in memory. Directories come of themselves, before what is in them.
#[derive(Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Cpio {
    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        self.parents(path);
        self.entry(path, DIRECTORY, (0, 0), &[]);
        self.directories.insert(path.to_owned());
    }

    /// Whether a file is in it already.
    pub fn has(&self, path: &str) -> bool {
        self.files.contains(path)
    }

    /// A file with these permission bits.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        self.files.insert(path.to_owned());
        self.entry(path, FILE | mode & 0o7777, (0, 0), content);
    }

    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The archive with its trailer.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.trim_matches('/').rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let path = path.trim_matches('/');
        let [size, name] = [content.len(), path.len() + 1].map(|length| u32::try_from(length).unwrap_or(u32::MAX));
        // Inode, mode, owner, group, links, time, size, device of the file, device that it is, length of the name,
        // checksum (unused in this form).
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_their_parents_come_first() {
        let mut cpio = Cpio::default();
        cpio.file("/usr/lib/libc.so.6", 0o755, b"ELF");
        cpio.character_device("/dev/console", 5, 1);
        cpio.file("/usr/init", 0o755, b"");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 4, 0);
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701", "at {at}");
            let field = |n: usize| {
                let from = at + 6 + 8 * n;
                let text = std::str::from_utf8(&bytes[from..from + 8]).expect("digits");
                usize::from_str_radix(text, 16).expect("hexadecimal")
            };
            let (size, name) = (field(6), field(11));
            names.push(String::from_utf8_lossy(&bytes[at + 110..at + 110 + name - 1]).into_owned());
            at = (at + 110 + name).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        let wanted = ["usr", "usr/lib", "usr/lib/libc.so.6", "dev", "dev/console", "usr/init", "TRAILER!!!"];
        assert_eq!(names, wanted);
    }
}
