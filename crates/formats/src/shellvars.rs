//! Files of shell assignments that a script sources: `/etc/default/grub`, `/etc/default/grub.d/*.cfg`, os-release.
//!
//! Understood: `NAME=value`, `NAME+=value`, `export`, single and double quotes, backslashes, `$NAME` and `${NAME}`,
//! continued lines, comments, several assignments in a line. Not run: commands; their text stands for their output,
//! and [`Assignment::guess`] says so. All other lines are kept as they are.

use std::collections::BTreeMap;
use std::fmt;

/// A file, cut so that one value can be replaced and no other byte moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellVars {
    text: String,
    assignments: Vec<Assignment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// 1-based.
    pub line: u32,
    pub name: String,
    /// `+=`.
    pub append: bool,
    /// True where the value holds a command or an operator of `${…}`, which we do not run.
    pub guess: bool,
    parts: Vec<Part>,
    /// Byte range of the value as written, quotes included.
    start: usize,
    end: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Var(String),
}

/// A file that no shell would accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ShellError {
    /// 1-based.
    pub line: u32,
    pub what: &'static str,
}

impl ShellVars {
    pub fn parse(text: &str) -> Result<Self, ShellError> {
        let mut scan = Scan { text, bytes: text.as_bytes(), at: 0 };
        let mut assignments = Vec::new();
        while scan.at < scan.bytes.len() {
            scan.blanks();
            if text[scan.at..].starts_with("export ") {
                scan.at += "export ".len();
                scan.blanks();
            }
            let mut line = Vec::new();
            while let Some(found) = scan.assignment()? {
                line.push(found);
                scan.blanks();
            }
            // `NAME=value command` sets NAME for that command alone.
            match scan.peek() {
                None | Some(b'\n' | b'\r' | b';' | b'#') => assignments.append(&mut line),
                _ => {}
            }
            if scan.peek() == Some(b';') {
                scan.at += 1;
                continue;
            }
            scan.line_end()?;
        }
        Ok(ShellVars { text: text.to_owned(), assignments })
    }

    pub fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }

    /// The last assignment of a name: the one that counts.
    pub fn last(&self, name: &str) -> Option<&Assignment> {
        self.assignments.iter().rev().find(|a| a.name == name)
    }

    /// Carries the assignments out, in order, over what earlier files left.
    pub fn eval(&self, env: &mut BTreeMap<String, String>) {
        for assignment in &self.assignments {
            let mut value = String::new();
            if assignment.append {
                value.push_str(env.get(&assignment.name).map(String::as_str).unwrap_or_default());
            }
            for part in &assignment.parts {
                match part {
                    Part::Text(text) => value.push_str(text),
                    Part::Var(name) => value.push_str(env.get(name).map(String::as_str).unwrap_or_default()),
                }
                // `A="$A$A"` over and over doubles: no real file comes near this.
                if value.len() > 1 << 16 {
                    break;
                }
            }
            env.insert(assignment.name.clone(), value);
        }
    }

    /// The file's text with the last assignment's value replaced (in double quotes), or with a new line at the end.
    /// `value` is taken as it is: `$` in it is written as `\$`.
    pub fn set(&self, name: &str, value: &str) -> String {
        let mut quoted = String::from("\"");
        for c in value.chars() {
            if matches!(c, '"' | '\\' | '$' | '`') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        quoted.push('"');
        match self.last(name) {
            Some(found) => {
                let front = self.text.get(..found.start).unwrap_or_default();
                let back = self.text.get(found.end..).unwrap_or_default();
                format!("{front}{quoted}{back}")
            }
            None => {
                let end = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
                let gap = if self.text.is_empty() || self.text.ends_with('\n') { "" } else { end };
                format!("{}{gap}{name}={quoted}{end}", self.text)
            }
        }
    }
}

impl fmt::Display for ShellVars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Always stands on a character boundary: it stops only at ASCII.
struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn ahead(&self, by: usize) -> Option<u8> {
        self.bytes.get(self.at + by).copied()
    }

    /// Length of a line's end here: 1, 2 (CRLF) or 0.
    fn newline(&self, by: usize) -> usize {
        match (self.ahead(by), self.ahead(by + 1)) {
            (Some(b'\n'), _) => 1,
            (Some(b'\r'), Some(b'\n')) => 2,
            _ => 0,
        }
    }

    fn error(&self, at: usize, what: &'static str) -> ShellError {
        let line = self.bytes.iter().take(at).filter(|b| **b == b'\n').count() + 1;
        ShellError { line: u32::try_from(line).unwrap_or(u32::MAX), what }
    }

    fn blanks(&mut self) {
        loop {
            match self.peek() {
                Some(b' ' | b'\t') => self.at += 1,
                Some(b'\\') if self.newline(1) > 0 => self.at += 1 + self.newline(1),
                _ => return,
            }
        }
    }

    fn name(&self, from: usize) -> usize {
        let mut at = from;
        while self
            .bytes
            .get(at)
            .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_' || (at > from && b.is_ascii_digit()))
        {
            at += 1;
        }
        at
    }

    fn assignment(&mut self) -> Result<Option<Assignment>, ShellError> {
        let end = self.name(self.at);
        if end == self.at {
            return Ok(None);
        }
        let (append, value) = match (self.bytes.get(end), self.bytes.get(end + 1)) {
            (Some(b'='), _) => (false, end + 1),
            (Some(b'+'), Some(b'=')) => (true, end + 2),
            _ => return Ok(None),
        };
        let name = self.text[self.at..end].to_owned();
        let line = self.error(self.at, "").line;
        self.at = value;
        let mut parts = Parts::default();
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' => break,
                b'\r' if self.newline(0) > 0 => break,
                b'\'' => {
                    let from = self.at + 1;
                    let Some(len) = self.text[from..].find('\'') else {
                        return Err(self.error(self.at, "a single quote is not closed"));
                    };
                    parts.text(&self.text[from..from + len]);
                    self.at = from + len + 1;
                }
                b'"' => self.double(&mut parts)?,
                b'\\' if self.newline(1) > 0 => self.at += 1 + self.newline(1),
                b'\\' => {
                    self.at += 1;
                    self.literal(&mut parts);
                }
                b'$' => self.dollar(&mut parts)?,
                b'`' => self.command(&mut parts, 1, b'`')?,
                _ => self.literal(&mut parts),
            }
        }
        let Parts { parts, guess } = parts;
        Ok(Some(Assignment { line, name, append, guess, parts, start: value, end: self.at }))
    }

    fn double(&mut self, parts: &mut Parts) -> Result<(), ShellError> {
        let open = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.error(open, "a double quote is not closed")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') if self.newline(1) > 0 => self.at += 1 + self.newline(1),
                Some(b'\\') if matches!(self.ahead(1), Some(b'"' | b'\\' | b'$' | b'`')) => {
                    self.at += 1;
                    self.literal(parts);
                }
                Some(b'$') => self.dollar(parts)?,
                Some(b'`') => self.command(parts, 1, b'`')?,
                Some(_) => self.literal(parts),
            }
        }
    }

    /// One character as it stands.
    fn literal(&mut self, parts: &mut Parts) {
        if let Some(c) = self.text[self.at..].chars().next() {
            parts.text(&self.text[self.at..self.at + c.len_utf8()]);
            self.at += c.len_utf8();
        }
    }

    fn dollar(&mut self, parts: &mut Parts) -> Result<(), ShellError> {
        match self.ahead(1) {
            Some(b'(') => self.command(parts, 2, b')'),
            Some(b'{') => {
                let from = self.at + 2;
                let end = self.name(from);
                if end > from && self.bytes.get(end) == Some(&b'}') {
                    parts.parts.push(Part::Var(self.text[from..end].to_owned()));
                    self.at = end + 1;
                    return Ok(());
                }
                self.command(parts, 2, b'}')
            }
            _ => {
                let from = self.at + 1;
                let end = self.name(from);
                if end == from {
                    self.literal(parts);
                } else {
                    parts.parts.push(Part::Var(self.text[from..end].to_owned()));
                    self.at = end;
                }
                Ok(())
            }
        }
    }

    /// Text up to `close`, kept as it stands: we run nothing.
    fn command(&mut self, parts: &mut Parts, skip: usize, close: u8) -> Result<(), ShellError> {
        let open = self.bytes.get(self.at + skip - 1).copied().filter(|open| *open != close);
        let mut depth = 1usize;
        let mut at = self.at + skip;
        while depth > 0 {
            match self.bytes.get(at) {
                None => return Err(self.error(self.at, "a command or an expansion is not closed")),
                Some(byte) if *byte == close => depth -= 1,
                Some(byte) if Some(*byte) == open => depth += 1,
                Some(_) => {}
            }
            at += 1;
        }
        parts.text(&self.text[self.at..at]);
        parts.guess = true;
        self.at = at;
        Ok(())
    }

    /// Past this line's end; quotes on a line of commands may run over several.
    fn line_end(&mut self) -> Result<(), ShellError> {
        let mut word = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => {
                    self.at += 1;
                    return Ok(());
                }
                b'#' if !word => match self.text[self.at..].find('\n') {
                    Some(len) => self.at += len,
                    None => self.at = self.bytes.len(),
                },
                b'\\' => {
                    let over = self.newline(1).max(1);
                    self.at += 1 + over;
                    while self.at < self.bytes.len() && !self.text.is_char_boundary(self.at) {
                        self.at += 1;
                    }
                    self.at = self.at.min(self.bytes.len());
                }
                b'\'' => match self.text[self.at + 1..].find('\'') {
                    Some(len) => self.at += len + 2,
                    None => return Err(self.error(self.at, "a single quote is not closed")),
                },
                b'"' => self.double(&mut Parts::default())?,
                _ => self.at += 1,
            }
            word = !matches!(byte, b' ' | b'\t' | b';');
        }
        Ok(())
    }
}

#[derive(Default)]
struct Parts {
    parts: Vec<Part>,
    guess: bool,
}

impl Parts {
    fn text(&mut self, text: &str) {
        match self.parts.last_mut() {
            Some(Part::Text(have)) => have.push_str(text),
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn eval(text: &str) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        ShellVars::parse(text).unwrap().eval(&mut env);
        env
    }

    #[test]
    fn quoting_is_the_shells() {
        let env = eval(concat!(
            "# GRUB_X=no\nA=\"quiet splash\" # tail\nB='a \"b\"'\nexport C=x\\ y\nD=\"$A ${B}!\"\nE+=one\nE+=\" two\"\n",
            "F=\"long \\\nline\"\nG=`lsb_release -i`\nH=1 env\nI=1; J=\"2\"\nif true; then\n  K=yes\nfi\necho \"L=1\n M=2\"\n"
        ));
        assert_eq!(env["A"], "quiet splash");
        assert_eq!(env["B"], "a \"b\"");
        assert_eq!(env["C"], "x y");
        assert_eq!(env["D"], "quiet splash a \"b\"!");
        assert_eq!(env["E"], "one two");
        assert_eq!(env["F"], "long line");
        assert_eq!(env["G"], "`lsb_release -i`");
        assert!(!env.contains_key("H"), "set for one command only");
        assert_eq!((env["I"].as_str(), env["J"].as_str(), env["K"].as_str()), ("1", "2", "yes"));
        assert!(!env.contains_key("L") && !env.contains_key("M") && !env.contains_key("GRUB_X"));
    }

    #[test]
    fn one_value_changes_and_no_other_byte() {
        let text = "# first\r\nA=1\r\nGRUB_CMDLINE_LINUX_DEFAULT='quiet'   # mine\r\nB=\"x\"\r\n";
        let file = ShellVars::parse(text).unwrap();
        assert_eq!(file.last("GRUB_CMDLINE_LINUX_DEFAULT").unwrap().line, 3);
        let edited = file.set("GRUB_CMDLINE_LINUX_DEFAULT", "quiet a=\"$b\"");
        assert_eq!(edited, text.replace("'quiet'", "\"quiet a=\\\"\\$b\\\"\""));
        assert_eq!(eval(&edited)["GRUB_CMDLINE_LINUX_DEFAULT"], "quiet a=\"$b\"");
        assert!(file.set("NEW", "1").ends_with("B=\"x\"\r\nNEW=\"1\"\r\n"));
        assert_eq!(ShellVars::parse("A=1").unwrap().set("B", "2"), "A=1\nB=\"2\"\n");
    }

    #[test]
    fn what_no_shell_reads_is_an_error_with_its_line() {
        assert_eq!(ShellVars::parse("A=1\nB=\"2\n").unwrap_err().to_string(), "line 2: a double quote is not closed");
        assert_eq!(ShellVars::parse("A='").unwrap_err().line, 1);
        assert_eq!(ShellVars::parse("\n\nA=$(x").unwrap_err().line, 3);
    }

    proptest! {
        #[test]
        fn random_text_never_panics_and_is_kept(text in "\\PC*|[A-C=\"'$`(){}\\\\+#; \r\nä]{0,40}") {
            if let Ok(file) = ShellVars::parse(&text) {
                prop_assert_eq!(file.to_string(), text);
                file.eval(&mut BTreeMap::new());
            }
        }

        #[test]
        fn what_was_set_is_read_back(value in "[ -~ä]{0,30}", front in "[A-Z]{1,4}=[a-z]{0,4}\n") {
            let file = ShellVars::parse(&front).unwrap();
            let env = eval(&file.set("ZZ_VAR", &value));
            prop_assert_eq!(&env["ZZ_VAR"], &value);
        }
    }
}
