//! Conveniences over [`Machine`] that every observer uses.

use model::{Fact, Reason, Seen, Source};

use crate::{FileKind, Machine};

/// How many links one path may pass, as the kernel has it (MAXSYMLINKS).
const LINKS: usize = 40;

pub trait MachineExt: Machine {
    /// A file as text. Bytes that are no UTF-8 become U+FFFD: never use the result to write the file again.
    fn text(&self, path: &str) -> Seen<String> {
        self.read(path).map(|bytes| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(bad) => String::from_utf8_lossy(bad.as_bytes()).into_owned(),
        })
    }

    /// A one-value file (sysfs, procfs), white space trimmed.
    fn value(&self, path: &str) -> Seen<String> {
        self.text(path).map(|text| text.trim().to_owned())
    }

    /// As [`MachineExt::value`], with where it came from.
    fn value_fact(&self, path: &str) -> Fact<String> {
        Fact::new(self.value(path), Source::file(path))
    }

    /// A one-value file holding a number, decimal or `0x…`.
    fn number(&self, path: &str) -> Seen<i64> {
        self.value(path).and_then(|text| {
            let parsed = match text.strip_prefix("0x") {
                Some(hex) => i64::from_str_radix(hex, 16).ok(),
                None => text.parse().ok(),
            };
            match parsed {
                Some(number) => Seen::Is(number),
                None => Seen::Unreadable(Reason::Malformed(format!("{path}: \"{}\" is no number", clip(&text)))),
            }
        })
    }

    /// The last part of a link's target: sysfs's way to name a driver or an IOMMU group.
    fn link_name(&self, path: &str) -> Seen<String> {
        self.link(path).map(|target| target.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// True where something is certainly there (links followed).
    fn exists(&self, path: &str) -> bool {
        self.stat(path).is_there()
    }

    fn is_dir(&self, path: &str) -> bool {
        matches!(self.stat(path), Seen::Is(stat) if stat.kind == FileKind::Dir)
    }

    /// The names in a directory, or nothing where it is absent or unreadable.
    fn names(&self, path: &str) -> Vec<String> {
        self.list(path).is().unwrap_or_default()
    }

    /// The path with every link in it resolved inside the root: `/sys/bus/pci/devices/X` → `/sys/devices/pci…/X`.
    fn resolve(&self, path: &str) -> Seen<String> {
        if let Some(real) = self.real(path) {
            return Seen::Is(real);
        }
        let mut todo: Vec<String> = parts(path).rev().map(str::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let here = format!("/{}{}{}", done.join("/"), if done.is_empty() { "" } else { "/" }, part);
            match self.link(&here) {
                Seen::Is(target) => {
                    links += 1;
                    if links > LINKS {
                        return Seen::Unreadable(Reason::BadLink);
                    }
                    if target.starts_with('/') {
                        done.clear();
                    }
                    todo.extend(parts(&target).rev().map(str::to_owned));
                }
                Seen::Absent => done.push(part),
                Seen::Unreadable(reason) => return Seen::Unreadable(reason),
            }
        }
        Seen::Is(format!("/{}", done.join("/")))
    }
}

impl<M: Machine + ?Sized> MachineExt for M {}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// The start of an untrusted text, fit for a message.
fn clip(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}
