//! Hints in a line of QEMU arguments, such as `args:` of a Proxmox VE machine.
//!
//! Proxmox VE parts that line as a shell would (PVE::Tools, split_args: Text::ParseWords), so a quoted blank is no end
//! of a word. `smbios1` of the same file is type 1 alone; type 11 can only be given here, and only root@pam may.

use std::ops::Range;

use super::{MOST, PREFIX};

/// What stands before a hint: a word of its own for each, so that each can be taken out alone.
const VALUE: &str = "type=11,value=";

/// The hints in a line of arguments, in its order.
pub fn in_args(line: &str) -> Vec<String> {
    ours(line).into_iter().map(|(_, hint)| hint).take(MOST).collect()
}

/// The line with these hints in place of those that it has; every other byte stays. The new ones come last.
pub fn with_args(line: &str, hints: &[String]) -> String {
    if in_args(line) == hints {
        return line.to_owned();
    }
    let mut text = line.to_owned();
    while let Some((span, _)) = ours(&text).pop() {
        // with the blanks before it; the first word of the line with those behind it
        let before = text.get(..span.start).unwrap_or_default().trim_end().len();
        let end = match before {
            0 => text.len() - text.get(span.end..).unwrap_or_default().trim_start().len(),
            _ => span.end,
        };
        text.replace_range(before..end, "");
    }
    for hint in hints {
        if !text.is_empty() && !text.ends_with(' ') {
            text.push(' ');
        }
        text.push_str(&format!("-smbios {VALUE}{hint}"));
    }
    text
}

/// Where each `-smbios type=11,value=HINT` stands, both words, and the hint.
fn ours(line: &str) -> Vec<(Range<usize>, String)> {
    let words = words(line);
    let pairs = words.windows(2).filter_map(|pair| {
        let [(option, name), (span, value)] = pair else { return None };
        let hint = value.strip_prefix(VALUE).filter(|hint| hint.starts_with(PREFIX) && !hint.contains(','))?;
        matches!(name.as_str(), "-smbios" | "--smbios").then(|| (option.start..span.end, hint.to_owned()))
    });
    pairs.collect()
}

/// The words of a line with their places, quotes and backslashes taken off. What is not closed ends with the line.
fn words(line: &str) -> Vec<(Range<usize>, String)> {
    let mut words: Vec<(Range<usize>, String)> = Vec::new();
    let mut quote: Option<char> = None;
    let mut inside = false;
    let mut letters = line.char_indices();
    while let Some((at, letter)) = letters.next() {
        if quote.is_none() && letter.is_whitespace() {
            inside = false;
            continue;
        }
        if !inside {
            words.push((at..at, String::new()));
            inside = true;
        }
        let Some((span, word)) = words.last_mut() else { continue };
        span.end = at + letter.len_utf8();
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None | Some('"'), '\\') => {
                if let Some((at, next)) = letters.next() {
                    span.end = at + next.len_utf8();
                    word.push(next);
                }
            }
            (_, letter) => word.push(letter),
        }
    }
    words
}
