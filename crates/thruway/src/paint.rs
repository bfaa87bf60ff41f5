//! Text on a terminal: colour where it is wanted, lines wrapped to its width.

use std::fmt::Write as _;

/// A report under construction. Colours are always written; the stream strips them where they are not wanted.
#[derive(Default)]
pub struct Page {
    text: String,
}

/// What a piece of text is, not how it looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Bad,
    Warn,
    /// Something to paste.
    Code,
}

impl Tone {
    fn codes(self) -> (&'static str, &'static str) {
        const RESET: &str = "\x1b[0m";
        match self {
            Tone::Plain => ("", ""),
            Tone::Strong => ("\x1b[1m", RESET),
            Tone::Faint => ("\x1b[2m", RESET),
            Tone::Good => ("\x1b[32m", RESET),
            Tone::Bad => ("\x1b[1;31m", RESET),
            Tone::Warn => ("\x1b[33m", RESET),
            Tone::Code => ("\x1b[36m", RESET),
        }
    }
}

/// Untrusted text (a capture's, a sysfs file's) must not move the cursor: control characters are shown, not sent.
pub fn tame(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() && c != '\t' { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

pub fn paint(tone: Tone, text: &str) -> String {
    let (on, off) = tone.codes();
    format!("{on}{}{off}", tame(text))
}

/// Columns of the terminal, at most 110: longer lines are hard to read. 100 where there is no terminal.
pub fn width() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col >= 40 => (size.ws_col as usize).min(110),
        _ => 100,
    }
}

impl Page {
    pub fn new() -> Self {
        Page::default()
    }

    pub fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    pub fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A paragraph with a label before its first line and the rest hanging under the text.
    pub fn hang(&mut self, indent: usize, label: &str, column: usize, tone: Tone, text: &str) {
        let room = width().saturating_sub(indent + column).max(30);
        for (n, line) in wrap(text, room).into_iter().enumerate() {
            let label = if n == 0 { label } else { "" };
            // A label as long as its column still stands apart from the text.
            let pad = " ".repeat(column.saturating_sub(label.chars().count()).max(usize::from(!label.is_empty())));
            let label = paint(Tone::Faint, label);
            let _ = writeln!(self.text, "{:indent$}{label}{pad}{}", "", paint(tone, &line));
        }
    }

    /// As [`Page::hang`], one line that is never broken (to be pasted, or a path).
    pub fn whole(&mut self, indent: usize, label: &str, column: usize, tone: Tone, text: &str) {
        let pad = " ".repeat(column.saturating_sub(label.chars().count()));
        let _ = writeln!(self.text, "{:indent$}{}{pad}{}", "", paint(Tone::Faint, label), paint(tone, text));
    }

    /// A unified diff, coloured by its signs.
    pub fn diff(&mut self, indent: usize, diff: &str) {
        for line in diff.lines() {
            let tone = match line.as_bytes().first() {
                Some(b'+') => Tone::Good,
                Some(b'-') => Tone::Bad,
                Some(b'@') => Tone::Faint,
                _ => Tone::Plain,
            };
            // Bold red is for what is broken; a removed line is only red.
            let tone = if tone == Tone::Bad { Tone::Warn } else { tone };
            let _ = writeln!(self.text, "{:indent$}{}", "", paint(tone, line));
        }
    }

    pub fn text(self) -> String {
        self.text
    }
}

/// Breaks at blanks; a word longer than the room stands alone on its line. Line ends in the text are kept.
pub fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ').filter(|word| !word.is_empty()) {
            let long = line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && long > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// "304 MiB", "80 GiB", "512 KiB".
pub fn bytes(count: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if count >> shift > 0 {
            let whole = count >> shift;
            let rest = count & ((1 << shift) - 1);
            return match rest {
                0 => format!("{whole} {unit}"),
                _ => format!("{:.1} {unit}", count as f64 / (1u64 << shift) as f64),
            };
        }
    }
    format!("{count} B")
}

pub fn plural(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_keeps_every_word() {
        let text = "the quick brown fox jumps over the lazy dog";
        let lines = wrap(text, 12);
        assert!(lines.iter().all(|line| line.chars().count() <= 12), "{lines:?}");
        assert_eq!(lines.join(" "), text);
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(bytes(304 << 20), "304 MiB");
        assert_eq!(bytes(81559 << 20), "79.6 GiB");
        assert_eq!(bytes(100), "100 B");
    }

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(tame("a\x1b[2Jb"), "a\\u{1b}[2Jb");
    }
}
