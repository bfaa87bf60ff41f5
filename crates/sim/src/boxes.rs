//! Boxes: one short TOML file describes one machine. The schema is [`Box`]; `extends` chains are flattened here.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::efivars::EfiVars;
use crate::pci::Pci;

include!(concat!(env!("OUT_DIR"), "/boxes.rs"));

/// How long a chain of `extends` may be.
const CHAIN: usize = 8;

/// A machine as data. Paths are absolute, inside the machine's root.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Box {
    /// The file's name without `.toml`.
    #[serde(skip)]
    pub name: String,
    pub title: String,
    /// Another box's name; everything here adds to or overrides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<String>,
    /// Checks that are Warn or Fail on this machine, by id. Not inherited.
    pub fails: Vec<String>,
    /// Checks that are Pass on this machine. Not inherited.
    pub passes: Vec<String>,
    /// Names (with all below them) that `extends` or the PCI list gave and that are not there.
    pub absent: Vec<String>,
    /// Directories that are there though empty.
    pub dirs: Vec<String>,
    /// Path → text.
    pub files: BTreeMap<String, String>,
    /// Path → bytes in hex, white space ignored: EFI variables, ACPI tables.
    pub hex: BTreeMap<String, String>,
    /// Path → the variable store of a UEFI guest, a file in place of the disk.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub efivars: BTreeMap<String, EfiVars>,
    /// Path → permission bits in octal text; 0644 where left out.
    pub modes: BTreeMap<String, String>,
    /// Path → seconds since the epoch; [`Box::TIME`] where left out.
    pub mtimes: BTreeMap<String, i64>,
    pub links: BTreeMap<String, String>,
    /// Device nodes: path → "char 195:0 0666".
    pub devices: BTreeMap<String, String>,
    /// Question key → JSON text of the answer's payload.
    pub answers: BTreeMap<String, String>,
    /// Question key → a file in boxes/answers/ with that JSON.
    pub answers_from: BTreeMap<String, String>,
    /// IOMMU group → text of its `type` file ("DMA" where left out).
    pub group_type: BTreeMap<String, String>,
    /// IOMMU group → text of its `reserved_regions` file.
    pub group_reserved: BTreeMap<String, String>,
    pub pci: Vec<Pci>,
}

/// Why a box is no machine.
#[derive(Debug, thiserror::Error)]
pub enum BoxError {
    #[error("there is no box \"{name}\"; the boxes are: {known}")]
    Unknown { name: String, known: String },
    #[error("boxes/{file}.toml:{line}: {message}")]
    Bad { file: String, line: u32, message: String },
    #[error("boxes/{file}.toml: {path} could not be laid out")]
    Io {
        file: String,
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl Box {
    /// The time of all files of a box: 16 February 2022, 08:26:40 UTC.
    pub const TIME: i64 = 1_645_000_000;

    /// The names of all boxes, sorted.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BOXES.iter().map(|(name, _)| *name)
    }

    /// Reads a box and all that it extends, and joins them into one.
    pub fn load(name: &str) -> Result<Box, BoxError> {
        let mut chain = vec![Box::own(name)?];
        while let Some(base) = chain.last().and_then(|last| last.extends.clone()) {
            if chain.len() == CHAIN || chain.iter().any(|link| link.name == base) {
                let line = line_of(text_of(name).unwrap_or_default(), "extends");
                let message = format!("\"extends\" runs in a circle, or over more than {CHAIN} boxes, at \"{base}\"");
                return Err(BoxError::Bad { file: name.into(), line, message });
            }
            chain.push(Box::own(&base)?);
        }
        let mut joined = chain.pop().unwrap_or_default();
        while let Some(next) = chain.pop() {
            joined = joined.extended_by(next);
        }
        Ok(joined)
    }

    /// The box as its own file has it.
    pub fn own(name: &str) -> Result<Box, BoxError> {
        let text = text_of(name).ok_or_else(|| BoxError::Unknown {
            name: name.into(),
            known: Box::names().collect::<Vec<_>>().join(", "),
        })?;
        Box::parse(name, text)
    }

    /// Parses a box's text; `name` is for its error messages.
    pub fn parse(name: &str, text: &str) -> Result<Box, BoxError> {
        let mut this: Box = toml::from_str(text).map_err(|error| BoxError::Bad {
            file: name.into(),
            line: line_at(text, error.span()),
            message: error.message().to_owned(),
        })?;
        this.name = name.into();
        let bad = |needle: &str, message: String| {
            Err(BoxError::Bad { file: name.into(), line: line_of(text, needle), message })
        };
        if this.title.is_empty() {
            return bad("title", "a box needs a title".into());
        }
        let paths = this.files.keys().chain(this.hex.keys()).chain(this.modes.keys()).chain(this.mtimes.keys());
        let paths = paths.chain(this.efivars.keys());
        let paths = paths.chain(this.links.keys()).chain(this.devices.keys()).chain(&this.absent).chain(&this.dirs);
        for path in paths {
            if !path.starts_with('/') || path.ends_with('/') || path.split('/').any(|part| part == ".." || part == ".")
            {
                return bad(path, format!("\"{path}\" is no absolute path"));
            }
        }
        for (key, file) in &this.answers_from {
            let Some((_, answer)) = ANSWERS.iter().find(|(known, _)| known == file) else {
                return bad(file, format!("there is no boxes/answers/{file}"));
            };
            this.answers.insert(key.clone(), (*answer).to_owned());
        }
        this.answers_from.clear();
        for (path, vars) in std::mem::take(&mut this.efivars) {
            this.hex.insert(path, vars.bytes().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        for function in &this.pci {
            if let Err(message) = function.check() {
                return bad(&function.bdf.to_string(), message);
            }
        }
        if let Err((needle, message)) = crate::lay::check(&this) {
            return bad(&needle, message);
        }
        Ok(this)
    }

    /// This machine with `next`'s differences.
    fn extended_by(mut self, next: Box) -> Box {
        for gone in &next.absent {
            let below = format!("{gone}/");
            let stays = |path: &String| path != gone && !path.starts_with(&below);
            self.files.retain(|path, _| stays(path));
            self.hex.retain(|path, _| stays(path));
            self.modes.retain(|path, _| stays(path));
            self.mtimes.retain(|path, _| stays(path));
            self.links.retain(|path, _| stays(path));
            self.devices.retain(|path, _| stays(path));
            self.dirs.retain(stays);
        }
        // A name has one kind: the later box's.
        for path in next.files.keys().chain(next.hex.keys()).chain(next.links.keys()).chain(next.devices.keys()) {
            self.files.remove(path);
            self.hex.remove(path);
            self.links.remove(path);
            self.devices.remove(path);
            self.absent.retain(|gone| gone != path);
        }
        self.name = next.name;
        self.title = next.title;
        self.extends = None;
        self.fails = next.fails;
        self.passes = next.passes;
        self.absent.extend(next.absent);
        self.dirs.extend(next.dirs);
        self.files.extend(next.files);
        self.hex.extend(next.hex);
        self.modes.extend(next.modes);
        self.mtimes.extend(next.mtimes);
        self.links.extend(next.links);
        self.devices.extend(next.devices);
        // An empty text takes the base's answer away: nobody answers.
        self.answers.extend(next.answers);
        self.answers.retain(|_, text| !text.trim().is_empty());
        self.group_type.extend(next.group_type);
        self.group_reserved.extend(next.group_reserved);
        for function in next.pci {
            self.pci.retain(|ours| ours.bdf != function.bdf);
            if !function.gone {
                self.pci.push(function);
            }
        }
        self.pci.sort_by_key(|function| function.bdf);
        self
    }
}

fn text_of(name: &str) -> Option<&'static str> {
    BOXES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

fn line_at(text: &str, span: Option<Range<usize>>) -> u32 {
    let end = span.map_or(0, |span| span.start);
    text.bytes().take(end).filter(|byte| *byte == b'\n').count() as u32 + 1
}

/// The first line that has this text; 1 where none does.
fn line_of(text: &str, needle: &str) -> u32 {
    text.lines().position(|line| line.contains(needle)).map_or(1, |at| at as u32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_errors_with_file_and_line() {
        let error = Box::parse("x", "title = \"t\"\n\n[files]\n\n[flies]\n").unwrap_err().to_string();
        assert!(error.starts_with("boxes/x.toml:5: "), "{error}");
        let error = Box::parse("x", "title = \"t\"\n[[pci]]\nbdf = \"0000:00:00.0\"\nid = \"1:2\"\n").unwrap_err();
        assert!(error.to_string().starts_with("boxes/x.toml:4: "), "{error}");
        let error = Box::parse("x", "title = \"t\"\n[files]\n\"etc/x\" = \"\"\n").unwrap_err().to_string();
        assert_eq!(error, "boxes/x.toml:3: \"etc/x\" is no absolute path");
        let error = Box::parse("x", "title = \"t\"\n[answers]\nnvlm = '{}'\n").unwrap_err().to_string();
        assert!(error.starts_with("boxes/x.toml:3: \"nvlm\" is no question"), "{error}");
        let error =
            Box::parse("x", "title = \"t\"\n[devices]\n\"/dev/x\" = \"char 1 0666\"\n").unwrap_err().to_string();
        assert!(error.starts_with("boxes/x.toml:3: "), "{error}");
    }

    #[test]
    fn a_later_box_takes_away_and_overrides() {
        let text = "title = \"a\"\n[files]\n\"/etc/a\" = \"1\"\n\"/etc/d/b\" = \"2\"\n[links]\n\"/etc/l\" = \"a\"\n";
        let base = Box::parse("a", text).unwrap();
        let text = "title = \"b\"\nabsent = [\"/etc/d\"]\n[files]\n\"/etc/l\" = \"3\"\n\"/etc/d/c\" = \"4\"\n";
        let joined = base.extended_by(Box::parse("b", text).unwrap());
        assert_eq!(joined.files.keys().collect::<Vec<_>>(), ["/etc/a", "/etc/d/c", "/etc/l"]);
        assert!(joined.links.is_empty());
        assert_eq!(joined.title, "b");
    }
}
