//! The image's own /etc/ld.so.conf and what it includes: directories, in ldconfig's order (glibc, elf/ldconfig.c).
//! Hostile input: files, their sizes, depth and directories are bounded; fifos and devices are never opened.

use crate::root::{Root, SMALL_FILE};

pub const CONF: &str = "/etc/ld.so.conf";
pub const DROP_INS: &str = "/etc/ld.so.conf.d";
/// What we write ourselves there, and do not read as the image's.
pub const OWN: &str = "00-thruway.conf";
pub const OWN_COMPAT: &str = "00-thruway-compat.conf";

const FILES: usize = 256;
const DEPTH: usize = 8;
const DIRECTORIES: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// Absolute, in the order of search, as written but for trailing slashes.
    pub directories: Vec<String>,
    /// Whether a file of ours in /etc/ld.so.conf.d would be read.
    pub drop_ins: bool,
    /// /etc/ld.so.conf, where it is a file that we have read whole.
    pub text: Option<Vec<u8>>,
    pub warnings: Vec<String>,
}

pub fn read(root: &Root) -> Conf {
    let mut reading = Reading { root, conf: Conf::default(), files: 0 };
    reading.file(CONF, 0);
    reading.conf
}

/// One line: ldconfig knows no quoting.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    Include(Vec<&'a str>),
    Directory(&'a str),
    Nothing,
}

pub fn line(text: &str) -> Line<'_> {
    let text = text.split('#').next().unwrap_or_default().trim_ascii_start();
    if let Some(rest) = text.strip_prefix("include").filter(|rest| rest.starts_with([' ', '\t'])) {
        return Line::Include(rest.split([' ', '\t']).filter(|pattern| !pattern.is_empty()).collect());
    }
    let word = text.get(..5).unwrap_or_default();
    if word.eq_ignore_ascii_case("hwcap") && text[5..].starts_with([' ', '\t']) {
        return Line::Nothing;
    }
    // "DIR=libc6" was once a way to say what is in it
    let path = text.split('=').next().unwrap_or_default();
    let path = path.trim_ascii_end().trim_end_matches('/');
    if path.starts_with('/') { Line::Directory(path) } else { Line::Nothing }
}

struct Reading<'a, 'b> {
    root: &'a Root<'b>,
    conf: Conf,
    files: usize,
}

impl Reading<'_, '_> {
    fn warn(&mut self, text: String) {
        if self.conf.warnings.len() < 8 {
            self.conf.warnings.push(text);
        }
    }

    fn file(&mut self, path: &str, depth: usize) {
        if self.files >= FILES || depth > DEPTH {
            return self.warn(format!("{path} is included too deep or too often; it was not read"));
        }
        self.files += 1;
        let (mut bytes, whole) = match self.root.read(path, SMALL_FILE) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => return self.warn(error.to_string()),
        };
        if !whole {
            // the line that was cut off would be another directory
            let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            bytes.truncate(end);
            self.warn(format!("{path} is larger than {} KiB; only its start was read", SMALL_FILE >> 10));
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if path == CONF && whole {
            self.conf.text = Some(bytes);
        }
        for text in text.lines() {
            match line(text) {
                Line::Directory(dir) if self.conf.directories.len() < DIRECTORIES => {
                    self.conf.directories.push(dir.to_owned());
                }
                Line::Directory(_) | Line::Nothing => {}
                Line::Include(patterns) => {
                    let base = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                    for pattern in patterns {
                        let pattern =
                            if pattern.starts_with('/') { pattern.to_owned() } else { format!("{base}/{pattern}") };
                        self.include(&pattern, depth + 1);
                    }
                }
            }
        }
    }

    fn include(&mut self, pattern: &str, depth: usize) {
        for path in glob(self.root, pattern) {
            if path != format!("{DROP_INS}/{OWN}") && path != format!("{DROP_INS}/{OWN_COMPAT}") {
                self.file(&path, depth);
            }
        }
        let ours = pattern.strip_prefix(DROP_INS).and_then(|rest| rest.strip_prefix('/'));
        self.conf.drop_ins |= ours.is_some_and(|rest| matches(rest, OWN) && matches(rest, OWN_COMPAT));
    }
}

/// glob(3) without its home directories: each component of the pattern, names sorted.
fn glob(root: &Root, pattern: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty()).take(64) {
        if !part.contains(['*', '?', '[', '\\']) {
            for path in &mut found {
                path.push('/');
                path.push_str(part);
            }
            continue;
        }
        let mut next = Vec::new();
        for path in &found {
            let dir = if path.is_empty() { "/" } else { path };
            let Ok(mut names) = root.open_dir(dir).and_then(|dir| root.list(&dir)) else { continue };
            names.sort_by(|a, b| a.name.cmp(&b.name));
            next.extend(
                names.iter().filter(|name| matches(part, &name.name)).map(|name| format!("{path}/{}", name.name)),
            );
            if next.len() > FILES {
                break;
            }
        }
        next.truncate(FILES);
        found = next;
    }
    found.retain(|path| !path.is_empty());
    found
}

/// fnmatch(3) for one name: `*`, `?`, `[a-z]`, `[!a]`, `\x`; a leading dot must be written.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    if name.first() == Some(&'.') && pattern.first() != Some(&'.') {
        return false;
    }
    // the last star, and where in the name it began: no other needs to be tried again
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => match class(&pattern[p..], name[n]) {
                Some((true, length)) => Some(p + length),
                Some((false, _)) => None,
                None => (name[n] == '[').then_some(p + 1),
            },
            Some('\\') if pattern.get(p + 1).is_some() => (pattern[p + 1] == name[n]).then_some(p + 2),
            Some(same) => (*same == name[n]).then_some(p + 1),
            None => None,
        };
        match (step, star) {
            (Some(next), _) => (p, n) = (next, n + 1),
            (None, Some((after, from))) => {
                (p, n) = (after, from + 1);
                star = Some((after, from + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|rest| *rest == '*')
}

/// Whether a character is in the class that the pattern starts with, and the class's length. None: it has no end.
fn class(pattern: &[char], character: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let start = if negated { 2 } else { 1 };
    let mut at = start;
    let mut inside = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > start {
            return Some((inside != negated, at + 1));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(high)) if *high != ']' => {
                inside |= (low..=*high).contains(&character);
                at += 3;
            }
            _ => {
                inside |= low == character;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_ldconfig_reads_them() {
        assert_eq!(line("  /opt/lib/  # ours"), Line::Directory("/opt/lib"));
        assert_eq!(line("include ld.so.conf.d/*.conf\tother"), Line::Include(vec!["ld.so.conf.d/*.conf", "other"]));
        assert_eq!(line("/opt/lib=libc6"), Line::Directory("/opt/lib"));
        for nothing in ["", "#x", "hwcap 1 nosegneg", "relative/dir", "include", "/", "HWCAP\t0 x"] {
            assert_eq!(line(nothing), Line::Nothing, "{nothing:?}");
        }
        assert_eq!(line("hwcä"), Line::Nothing, "no boundary of a character is cut");
    }

    #[test]
    fn patterns_match_as_glob_does() {
        for (pattern, name, is) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".a.conf", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("[a", "[a", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("?", "ab", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
        // no time grows with the number of stars
        assert!(!matches(&"*a".repeat(2000), &"a".repeat(1999)));
    }
}
