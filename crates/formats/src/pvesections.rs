//! Proxmox VE's section files (storage.cfg, jobs.cfg, mapping/pci.cfg): a header line and indented properties below it.
//!
//! A section ends at an empty line; properties that follow one belong to nothing, as Proxmox VE has it ("ignore config
//! line"). A line of blanks alone does not end it. `#` lines count nowhere. Source: PVE::SectionConfig, parse_config;
//! PVE::Mapping::PCI, whose headers are the id alone.

use crate::pveconf::{BadConf, line_number};

/// One section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// `lvmthin` of `lvmthin: local-lvm`; empty where the header is the id alone (mapping/pci.cfg).
    pub kind: String,
    pub id: String,
    /// The header's line, 1-based.
    pub line: u32,
    /// (key, value, line), in the file's order; a key may come more than once (`map`).
    pub props: Vec<(String, String, u32)>,
}

impl Section {
    /// The first value of a property.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.props.iter().find(|(name, _, _)| name == key).map(|(_, value, _)| value.as_str())
    }
}

/// Reads a section file. Lines outside a section are left out; nothing is an error.
pub fn sections(text: &str) -> Vec<Section> {
    let mut found: Vec<Section> = Vec::new();
    let mut inside = false;
    for (line, number) in text.split('\n').zip(1u32..) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            inside = false;
            continue;
        }
        if line.trim_start().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        if line.starts_with(char::is_whitespace) {
            let Some(section) = found.last_mut().filter(|_| inside) else { continue };
            let line = line.trim();
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            section.props.push((key.to_owned(), value.trim().to_owned(), number));
            continue;
        }
        if inside {
            // without an empty line before it Proxmox VE takes a header for a bad property, and leaves it out
            continue;
        }
        let line = line.trim_end();
        let (kind, id) = line.split_once(':').map_or(("", line), |(kind, id)| (kind.trim(), id.trim()));
        found.push(Section { kind: kind.to_owned(), id: id.to_owned(), line: number, props: Vec::new() });
        inside = true;
    }
    found
}

/// A section file that can be edited line by line. `parse` then `print` gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionFile {
    text: String,
}

impl SectionFile {
    /// Only bytes that are no UTF-8 are an error.
    pub fn parse(bytes: &[u8]) -> Result<SectionFile, BadConf> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(SectionFile { text: text.to_owned() }),
            Err(error) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                Err(BadConf { line: line_number(before), message: "bytes that are no UTF-8".into() })
            }
        }
    }

    pub fn print(&self) -> &str {
        &self.text
    }

    pub fn sections(&self) -> Vec<Section> {
        sections(&self.text)
    }

    /// Changes the value of the property on this line; every other byte stays, its own indent and line end too. False
    /// where no property stands there, or where the value is empty or holds a line end.
    pub fn set_line(&mut self, line: u32, value: &str) -> bool {
        let known = self.sections().iter().any(|one| one.props.iter().any(|(_, _, at)| *at == line));
        if !known || value.trim().is_empty() || value.contains(['\n', '\r']) {
            return false;
        }
        let Some((from, raw)) = self.raw_line(line) else { return false };
        let indent = raw.len() - raw.trim_start().len();
        let body = raw.get(indent..).unwrap_or_default();
        let key = body.find(char::is_whitespace).unwrap_or(body.len());
        let rest = body.get(key..).unwrap_or_default();
        let old = rest.trim();
        if old.is_empty() {
            self.text.insert_str(from + indent + key, &format!(" {value}"));
        } else {
            let start = from + indent + key + (rest.len() - rest.trim_start().len());
            self.text.replace_range(start..start + old.len(), value);
        }
        true
    }

    /// Adds a property as the last line of a section, with the indent of the line above it, or a tab. Returns its line;
    /// none where there is no such section, or where key or value would not read back.
    pub fn add(&mut self, id: &str, key: &str, value: &str) -> Option<u32> {
        let bad_key = key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '#');
        if bad_key || value.contains(['\n', '\r']) || value.trim() != value {
            return None;
        }
        let section = self.sections().into_iter().find(|one| one.id == id)?;
        let last = section.props.last().map_or(section.line, |(_, _, line)| *line);
        let (from, raw) = self.raw_line(last)?;
        let indent = raw.get(..raw.len() - raw.trim_start().len()).filter(|indent| !indent.is_empty()).unwrap_or("\t");
        let newline = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let gap = if value.is_empty() { "" } else { " " };
        let added = format!("{indent}{key}{gap}{value}");
        let end = from + raw.len();
        match self.text.get(end..).and_then(|rest| rest.find('\n')) {
            Some(more) => self.text.insert_str(end + more + 1, &format!("{added}{newline}")),
            None => self.text.push_str(&format!("{newline}{added}")),
        }
        last.checked_add(1)
    }

    /// Takes the property on this line out, with its line end. False where no property stands there.
    pub fn remove_line(&mut self, line: u32) -> bool {
        if !self.sections().iter().any(|one| one.props.iter().any(|(_, _, at)| *at == line)) {
            return false;
        }
        let Some((mut from, raw)) = self.raw_line(line) else { return false };
        let mut end = from + raw.len();
        match self.text.get(end..).and_then(|rest| rest.find('\n')) {
            Some(more) => end += more + 1,
            // the last line has no line end: then the one before it has none either, as `add` found it
            None => {
                let before = self.text.get(..from).unwrap_or_default();
                from = before.strip_suffix('\n').map_or(from, |rest| rest.strip_suffix('\r').unwrap_or(rest).len());
                end = self.text.len();
            }
        }
        self.text.replace_range(from..end, "");
        true
    }

    /// A line's start and its text without the line end; 1-based.
    fn raw_line(&self, line: u32) -> Option<(usize, &str)> {
        let mut from = 0usize;
        for (raw, number) in self.text.split_inclusive('\n').zip(1u32..) {
            if number == line {
                let bare = raw.strip_suffix('\n').map_or(raw, |rest| rest.strip_suffix('\r').unwrap_or(rest));
                return Some((from, bare));
            }
            from += raw.len();
        }
        None
    }
}
