//! What a line must hold: literal text, `*` for anything between, case of ASCII letters aside.

/// A text's literal parts, folded once: a log of a million lines is tried against each.
pub fn parts(pattern: &str) -> Vec<String> {
    pattern.to_ascii_lowercase().split('*').map(str::to_owned).collect()
}

/// Finds a pattern's parts somewhere in the line; gives what each `*` stood for. `folded` is the line in ASCII lower
/// case.
pub fn find(parts: &[String], line: &str, folded: &str) -> Option<Vec<String>> {
    let (first, rest) = parts.split_first()?;
    let mut at = folded.find(first.as_str())? + first.len();
    let mut words = Vec::new();
    for part in rest {
        // A `*` at the very end takes the rest of the line.
        let next = if part.is_empty() { folded.len() } else { at + folded.get(at..)?.find(part.as_str())? };
        words.push(line.get(at..next)?.trim().to_owned());
        at = next + part.len();
    }
    Some(words)
}

/// Puts what the stars stood for in the places `{1}`, `{2}`, … of a sentence.
pub fn fill(text: &str, words: &[String]) -> String {
    words.iter().enumerate().fold(text.to_owned(), |text, (n, word)| text.replace(&format!("{{{}}}", n + 1), word))
}

/// As [`fill`], for a command: a place is `{1:NAME}`, and a word that a shell could take for more than a word becomes
/// NAME, for the reader to fill in.
pub fn fill_command(text: &str, words: &[String]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, tail) = rest.split_at(open);
        let place = tail.get(1..).and_then(|tail| tail.split_once('}'));
        let parsed = place.and_then(|(inner, after)| {
            let (number, name) = inner.split_once(':')?;
            Some((number.parse::<usize>().ok()?, name, after))
        });
        out.push_str(before);
        let Some((number, name, after)) = parsed else {
            out.push_str(tail);
            return out;
        };
        let word = number.checked_sub(1).and_then(|at| words.get(at)).filter(|word| plain(word));
        out.push_str(word.map_or(name, String::as_str));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// A word that a shell passes on as it is, and that no program takes for an option.
fn plain(word: &str) -> bool {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '/' | '-');
    !word.is_empty() && word.len() <= 64 && !word.starts_with('-') && word.chars().all(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pattern: &str, line: &str) -> Option<Vec<String>> {
        find(&parts(pattern), line, &line.to_ascii_lowercase())
    }

    #[test]
    fn stars_stand_for_what_is_between() {
        assert_eq!(words("group * is not viable", "vfio: Group 31 is NOT viable"), Some(vec!["31".to_owned()]));
        assert_eq!(words("a*b*c", "a1b2c"), Some(vec!["1".to_owned(), "2".to_owned()]));
        assert_eq!(words("invalid: *", "invalid: the rest"), Some(vec!["the rest".to_owned()]));
        assert_eq!(words("a*b", "b a"), None);
        assert_eq!(words("no", "yes"), None);
    }

    #[test]
    fn only_plain_words_reach_a_command() {
        let fill = |word: &str| fill_command("qm stop {1:VMID} # {2:X}", &[word.to_owned()]);
        assert_eq!(fill("101"), "qm stop 101 # X");
        for hostile in ["$(reboot)", "1;2", "--all", "", "a b", "`x`", &"a".repeat(65)] {
            assert_eq!(fill(hostile), "qm stop VMID # X", "{hostile:?}");
        }
        assert_eq!(fill_command("broken {1", &[]), "broken {1");
    }
}
