//! A Proxmox VE machine's file, `/etc/pve/qemu-server/VMID.conf`.
//!
//! The part before the first `[section]` is what the next start uses; `[PENDING]` holds what waits for a stop and
//! start; any other section is a snapshot. Lines with `#` are the description. Lines that are not understood stay.
//! Source: PVE::QemuServer, parse_vm_config and write_vm_config.

pub use crate::pvesections::{Section, sections};

/// Why a file cannot be read as a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct BadConf {
    /// 1-based.
    pub line: u32,
    pub message: String,
}

/// One machine's file. `parse` then `print` gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// With its line end, if it has one.
    raw: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Blank,
    Comment,
    /// The section's name.
    Section(String),
    /// Byte ranges of key and value in `raw`.
    Setting {
        key: usize,
        from: usize,
        to: usize,
    },
    Odd,
}

/// One setting as it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub key: &'a str,
    pub value: &'a str,
    /// 1-based.
    pub line: u32,
}

impl Conf {
    /// Reads a machine's file. Only bytes that are no UTF-8 are an error.
    pub fn parse(bytes: &[u8]) -> Result<Conf, BadConf> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            BadConf { line: line_number(before), message: "bytes that are no UTF-8".into() }
        })?;
        let lines = text.split_inclusive('\n').map(|raw| Line { kind: kind(raw), raw: raw.to_owned() }).collect();
        Ok(Conf { lines })
    }

    pub fn print(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.raw.bytes()).collect()
    }

    /// The settings that the next start uses, in the file's order.
    pub fn current(&self) -> impl Iterator<Item = Entry<'_>> {
        self.entries(0, self.main_end())
    }

    /// A setting that the next start uses; the last line wins, as in Proxmox VE.
    pub fn get(&self, key: &str) -> Option<Entry<'_>> {
        self.current().filter(|entry| entry.key == key).last()
    }

    /// Settings under `[PENDING]`: written while the machine ran, in force after a stop and start.
    pub fn pending(&self) -> Vec<Entry<'_>> {
        let is_pending =
            |line: &Line| matches!(&line.kind, Kind::Section(name) if name.eq_ignore_ascii_case("PENDING"));
        let Some(head) = self.lines.iter().position(is_pending) else { return Vec::new() };
        let rest = self.lines.get(head + 1..).unwrap_or_default();
        let len = rest.iter().position(|line| matches!(line.kind, Kind::Section(_))).unwrap_or(rest.len());
        self.entries(head + 1, head + 1 + len).filter(|entry| entry.key != "delete").collect()
    }

    /// Keys that go at the next stop and start (`delete:` under `[PENDING]`).
    pub fn pending_deletes(&self) -> Vec<String> {
        let is_pending =
            |line: &Line| matches!(&line.kind, Kind::Section(name) if name.eq_ignore_ascii_case("PENDING"));
        let Some(head) = self.lines.iter().position(is_pending) else { return Vec::new() };
        let rest = self.lines.get(head + 1..).unwrap_or_default();
        let len = rest.iter().position(|line| matches!(line.kind, Kind::Section(_))).unwrap_or(rest.len());
        let deletes = self.entries(head + 1, head + 1 + len).filter(|entry| entry.key == "delete");
        let words = deletes.flat_map(|entry| entry.value.split([',', ';', ' ']));
        // `!key` is a forced deletion, of the volume too
        words.map(|word| word.trim().trim_start_matches('!').to_owned()).filter(|word| !word.is_empty()).collect()
    }

    /// The names of the snapshots, in the file's order.
    pub fn snapshots(&self) -> Vec<&str> {
        let names = self.lines.iter().filter_map(|line| match &line.kind {
            Kind::Section(name) => Some(name.as_str()),
            _ => None,
        });
        names.filter(|name| !name.eq_ignore_ascii_case("PENDING") && !name.contains(':')).collect()
    }

    /// The description: the `#` lines of the main part, without the mark.
    pub fn description(&self) -> String {
        let main = self.lines.iter().take(self.main_end()).filter(|line| line.kind == Kind::Comment);
        main.map(|line| line.raw.trim_end().trim_start_matches('#')).collect::<Vec<_>>().join("\n")
    }

    /// Lines that are neither setting, comment nor section: (line, text). Proxmox VE warns of them and goes on.
    pub fn odd(&self) -> Vec<(u32, &str)> {
        let numbered = self.lines.iter().zip(1u32..);
        numbered
            .filter(|(line, _)| line.kind == Kind::Odd)
            .map(|(line, number)| (number, line.raw.trim_end()))
            .collect()
    }

    /// Sets a key of the main part: the value of its last line is changed in place, else a line is put where
    /// Proxmox VE, which sorts keys, would have it. False, and nothing changed, where it would not read back: a key that
    /// is none, a value that is empty, or has a line end or space around it.
    pub fn set(&mut self, key: &str, value: &str) -> bool {
        if !is_key(key) || value.is_empty() || value.contains('\n') || value.trim() != value {
            return false;
        }
        let end = self.main_end();
        let has_key =
            |line: &Line| matches!(line.kind, Kind::Setting { key: len, .. } if line.raw.get(..len) == Some(key));
        if let Some(line) = self.lines.iter_mut().take(end).rev().find(|line| has_key(line)) {
            if let Kind::Setting { from, to, .. } = line.kind
                && line.raw.get(from..to).is_some_and(|old| old != value)
            {
                line.raw.replace_range(from..to, value);
                line.kind = kind(&line.raw);
            }
            return true;
        }
        let at = self.place_for(key, end);
        let newline = if self.lines.iter().any(|line| line.raw.ends_with("\r\n")) { "\r\n" } else { "\n" };
        // a file whose last line has no line end keeps it so, and removing the line again gives the same bytes
        let mut end_of_line = newline;
        if let Some(last) = at.checked_sub(1).and_then(|at| self.lines.get_mut(at))
            && !last.raw.ends_with('\n')
        {
            last.raw.push_str(newline);
            end_of_line = "";
        }
        let raw = format!("{key}: {value}{end_of_line}");
        self.lines.insert(at, Line { kind: kind(&raw), raw });
        true
    }

    /// Removes every line of a key from the main part; true where there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let end = self.main_end();
        let before = self.lines.len();
        let open = self.lines.last().is_some_and(|line| !line.raw.ends_with('\n'));
        let mut index = 0;
        self.lines.retain(|line| {
            index += 1;
            let is_key = matches!(line.kind, Kind::Setting { key: len, .. } if line.raw.get(..len) == Some(key));
            index > end || !is_key
        });
        let removed = self.lines.len() != before;
        if let Some(last) = self.lines.last_mut().filter(|_| open && removed) {
            let bare = last.raw.strip_suffix("\r\n").or(last.raw.strip_suffix('\n')).map(str::len);
            last.raw.truncate(bare.unwrap_or(last.raw.len()));
        }
        removed
    }

    /// Before the first greater key that follows only smaller ones; else after the last setting of the main part.
    fn place_for(&self, key: &str, end: usize) -> usize {
        let mut after = 0;
        for (index, line) in self.lines.iter().take(end).enumerate() {
            match line.kind {
                Kind::Setting { key: len, .. } => {
                    if line.raw.get(..len).is_some_and(|other| other > key) {
                        return if after == 0 { index } else { after };
                    }
                    after = index + 1;
                }
                Kind::Comment | Kind::Odd => after = index + 1,
                Kind::Blank | Kind::Section(_) => {}
            }
        }
        after
    }

    fn main_end(&self) -> usize {
        self.lines.iter().position(|line| matches!(line.kind, Kind::Section(_))).unwrap_or(self.lines.len())
    }

    fn entries(&self, from: usize, to: usize) -> impl Iterator<Item = Entry<'_>> {
        let numbered = self.lines.iter().zip(1u32..).skip(from).take(to.saturating_sub(from));
        numbered.filter_map(|(line, number)| match line.kind {
            Kind::Setting { key, from, to } => {
                Some(Entry { key: line.raw.get(..key)?, value: line.raw.get(from..to)?, line: number })
            }
            _ => None,
        })
    }
}

/// What a line is. Keys begin with a small letter and hold letters, digits, `_` and `-`.
fn kind(raw: &str) -> Kind {
    let text = raw.trim_end();
    if text.trim_start().is_empty() {
        return Kind::Blank;
    }
    if text.starts_with('#') {
        return Kind::Comment;
    }
    if let Some(name) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return if name.is_empty() || name.contains(['[', ']']) { Kind::Odd } else { Kind::Section(name.to_owned()) };
    }
    let Some(key) = text.find(':') else { return Kind::Odd };
    let name = text.get(..key).unwrap_or_default();
    let rest = text.get(key + 1..).unwrap_or_default();
    let from = key + 1 + (rest.len() - rest.trim_start().len());
    if !is_key(name) || from >= text.len() {
        return Kind::Odd;
    }
    Kind::Setting { key, from, to: text.len() }
}

fn is_key(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

pub(crate) fn line_number(before: &[u8]) -> u32 {
    before.iter().filter(|byte| **byte == b'\n').count().try_into().unwrap_or(u32::MAX).saturating_add(1)
}
