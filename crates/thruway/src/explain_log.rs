//! `thruway explain < LOG`, `thruway explain --log FILE`: known error texts in a log, and the checks that confirm them.

use std::io::{IsTerminal as _, Read};
use std::path::Path;

use anyhow::Context as _;
use decode::Explained;
use serde::Serialize;

use crate::cli::Global;
use crate::paint::{Page, Tone, paint, plural};
use crate::{DONE, FOUND, say, warn};

/// More of a log than this is not read: 32 MiB.
const LIMIT: u64 = 32 << 20;

/// The report's JSON form.
#[derive(Serialize)]
struct Report<'r> {
    schema: u32,
    /// The file, or "standard input".
    log: &'r str,
    lines: usize,
    /// The log is longer than what was read.
    cut: bool,
    found: &'r [Explained],
}

/// What stands on standard input, where it is no terminal and has anything: none where there is nothing to explain.
pub fn piped() -> anyhow::Result<Option<String>> {
    if std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let text = read(&mut std::io::stdin().lock()).context("cannot read standard input")?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A file's text, or that of standard input for "-".
#[allow(
    clippy::disallowed_types,
    reason = "a log that was named is an argument, no part of a machine; bounded by take"
)]
pub fn file(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return read(&mut std::io::stdin().lock()).context("cannot read standard input");
    }
    let open = std::fs::File::open(path).and_then(|mut file| read(&mut file));
    open.with_context(|| format!("cannot read {}", path.display()))
}

fn read(from: &mut dyn Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.take(LIMIT + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// 0 something known was found, 1 nothing known was (which does not mean that all is well).
pub fn explain(global: &Global, name: &str, text: &str) -> anyhow::Result<u8> {
    let cut = text.len() as u64 > LIMIT;
    if cut {
        warn(&format!("Only the first 32 MiB of {name} were read."))?;
    }
    let found = decode::explain(text)?;
    let status = if found.is_empty() { FOUND } else { DONE };
    let lines = text.lines().count();
    if global.json {
        let report = Report { schema: 1, log: name, lines, cut, found: &found };
        return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| status);
    }
    let mut page = Page::new();
    lines_of(&mut page, name, &found);
    page.gap();
    if found.is_empty() {
        let many = plural(lines, "line", "lines");
        page.hang(0, "?", 2, Tone::Warn, &format!("{name}, {many}: no error that thruway knows."));
        let means = "This does not mean that all is well. `thruway doctor` looks at the machine itself; a text that should \
                     be known is one row of crates/decode/errors.toml.";
        page.hang(2, "", 0, Tone::Plain, means);
    } else {
        let known = plural(found.len(), "known error", "known errors");
        page.hang(
            0,
            "",
            0,
            Tone::Faint,
            &format!("{known} in {}. `thruway explain ID` says more of a check.", plural(lines, "line", "lines")),
        );
    }
    say(&page.text())?;
    Ok(status)
}

/// Each error with its line, fix and checks; `name` is the log's.
pub fn lines_of(page: &mut Page, name: &str, found: &[Explained]) {
    const COLUMN: usize = 7;
    for one in found {
        page.gap();
        let (mark, tone) = if one.weak { ("·", Tone::Plain) } else { ("✗", Tone::Bad) };
        page.hang(0, mark, 2, tone, &one.says);
        page.whole(2, "", 0, Tone::Faint, &format!("{} ({})", one.id, one.who));
        let times = if one.times > 1 { format!(" ({} times)", one.times) } else { String::new() };
        page.hang(4, "line", COLUMN, Tone::Plain, &format!("{name}:{}{times}: {}", one.line, one.text.trim()));
        page.hang(4, "fix", COLUMN, Tone::Plain, &one.fix);
        for paste in &one.paste {
            page.whole(4 + COLUMN + 2, "", 0, Tone::Code, paste);
        }
        match one.checks.as_slice() {
            [] => page.hang(4, "check", COLUMN, Tone::Faint, "no check of thruway looks at this"),
            checks => page.hang(4, "check", COLUMN, Tone::Plain, &format!("{} (thruway doctor)", checks.join(", "))),
        }
    }
    if found.iter().any(|one| one.weak) && found.iter().all(|one| one.weak) {
        page.gap();
        page.line(paint(Tone::Faint, "The cause itself is not in what was read."));
    }
}
