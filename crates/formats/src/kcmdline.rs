//! The kernel's command line, as `/proc/cmdline`, `/etc/kernel/cmdline` and a boot entry's `options` hold it.
//!
//! The rules are those of the kernel's `next_arg` (lib/cmdline.c): arguments are separated by white space outside of
//! double quotes; the first `=` outside of quotes ends the name; a dash equals an underscore in a name; what follows
//! a lone `--` is for init. The text is kept as it stands: printing what was parsed gives the same bytes.

use std::fmt;

/// A command line that keeps its own spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    text: String,
    tokens: Vec<Token>,
}

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Byte range in the text.
    start: usize,
    end: usize,
    /// The name as written, quotes off.
    pub name: String,
    /// What follows the first `=`, quotes off; `None` for a flag such as `quiet`.
    pub value: Option<String>,
    /// False behind a lone `--`: then it is init's.
    pub kernel: bool,
}

impl Cmdline {
    pub fn parse(text: &str) -> Self {
        let mut tokens = Vec::new();
        let bytes = text.as_bytes();
        let mut at = 0;
        let mut kernel = true;
        while at < bytes.len() {
            if bytes[at].is_ascii_whitespace() {
                at += 1;
                continue;
            }
            let start = at;
            let mut quoted = false;
            let mut equals = None;
            while at < bytes.len() && (quoted || !bytes[at].is_ascii_whitespace()) {
                match bytes[at] {
                    b'"' => quoted = !quoted,
                    b'=' if equals.is_none() && !quoted => equals = Some(at),
                    _ => {}
                }
                at += 1;
            }
            let raw = &text[start..at];
            if raw == "--" {
                kernel = false;
            }
            // A quote before the name spans the `=` too: `"dyndbg=file x +p"` is one argument with a value.
            let (name, value) = match (equals, raw.strip_prefix('"')) {
                (Some(cut), _) => (text[start..cut].to_owned(), Some(unquote(&text[cut + 1..at]))),
                (None, Some(inner)) => {
                    let inner = inner.strip_suffix('"').unwrap_or(inner);
                    match inner.split_once('=') {
                        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                        None => (inner.to_owned(), None),
                    }
                }
                (None, None) => (raw.to_owned(), None),
            };
            tokens.push(Token { start, end: at, name, value, kernel: kernel && raw != "--" });
        }
        Cmdline { text: text.to_owned(), tokens }
    }

    /// The kernel's arguments, in order, duplicates included.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter().filter(|token| token.kernel)
    }

    /// A token's own spelling.
    pub fn raw(&self, token: &Token) -> &str {
        self.text.get(token.start..token.end).unwrap_or_default()
    }

    /// Every value given to `name`, in order; a flag without `=` counts as "".
    pub fn values<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.tokens().filter(move |token| same_name(&token.name, name)).map(|t| t.value.as_deref().unwrap_or_default())
    }

    /// The value that stands last: for nearly all parameters the one that counts.
    pub fn last(&self, name: &str) -> Option<&str> {
        let given = self.tokens().filter(|token| same_name(&token.name, name));
        given.map(|token| token.value.as_deref().unwrap_or_default()).last()
    }

    /// True where this very argument is given (`intel_iommu=on`, also as one word of `intel_iommu=on,sm_on`).
    pub fn has(&self, token: &str) -> bool {
        match token.split_once('=') {
            None => self.tokens().any(|t| t.value.is_none() && same_name(&t.name, token)),
            Some((name, value)) => self.values(name).any(|v| v == value || v.split(',').any(|word| word == value)),
        }
    }

    /// The text with `token` at its end (before a lone `--`); unchanged where it is given already.
    pub fn with(&self, token: &str) -> String {
        if self.has(token) {
            return self.text.clone();
        }
        let at = match self.tokens.iter().find(|t| !t.kernel) {
            Some(dashes) => dashes.start,
            None => self.text.trim_end().len(),
        };
        let (front, back) = self.text.split_at(at);
        let gap = if front.is_empty() || front.ends_with(|c: char| c.is_ascii_whitespace()) { "" } else { " " };
        let gap_after = if back.is_empty() || back.starts_with(|c: char| c.is_ascii_whitespace()) { "" } else { " " };
        format!("{front}{gap}{token}{gap_after}{back}")
    }

    /// The text without the arguments that `drop` picks, each with the white space before it.
    pub fn without(&self, drop: impl Fn(&Token) -> bool) -> String {
        let mut out = String::new();
        let mut from = 0;
        for token in self.tokens.iter().filter(|token| token.kernel && drop(token)) {
            let front = self.text.get(from..token.start).unwrap_or_default();
            out.push_str(front.trim_end_matches([' ', '\t']));
            from = token.end;
        }
        let rest = self.text.get(from..).unwrap_or_default();
        out.push_str(if out.is_empty() && from > 0 { rest.trim_start_matches([' ', '\t']) } else { rest });
        out
    }
}

impl fmt::Display for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A dash equals an underscore in a parameter's name, as the kernel's `parameq` has it.
pub fn same_name(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left
            .bytes()
            .zip(right.bytes())
            .all(|(a, b)| a == b || (matches!(a, b'-' | b'_') && matches!(b, b'-' | b'_')))
}

fn unquote(value: &str) -> String {
    match value.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').unwrap_or(inner).to_owned(),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_dashes_and_init_are_the_kernels() {
        let line =
            Cmdline::parse("root=/dev/sda1 dyndbg=\"file a.c +p\" \"x=y z\" vfio-pci.ids=10de:1d01 quiet -- single\n");
        assert_eq!(line.last("dyndbg"), Some("file a.c +p"));
        assert_eq!(line.last("x"), Some("y z"));
        assert_eq!(line.last("vfio_pci.ids"), Some("10de:1d01"));
        assert!(line.has("quiet"));
        assert!(!line.has("single"), "what follows -- is init's");
    }

    #[test]
    fn the_last_one_wins_and_a_word_of_a_list_counts() {
        let line = Cmdline::parse("intel_iommu=off intel_iommu=on,sm_on");
        assert_eq!(line.last("intel_iommu"), Some("on,sm_on"));
        assert!(line.has("intel_iommu=on"));
        assert!(!Cmdline::parse("intel_iommu=only").has("intel_iommu=on"));
    }

    #[test]
    fn a_token_is_added_once_before_the_dashes_and_before_the_line_end() {
        assert_eq!(Cmdline::parse("quiet\n").with("a=b"), "quiet a=b\n");
        assert_eq!(Cmdline::parse("").with("a=b"), "a=b");
        assert_eq!(Cmdline::parse("quiet -- single").with("a=b"), "quiet a=b -- single");
        assert_eq!(Cmdline::parse("a=b").with("a=b"), "a=b");
    }

    #[test]
    fn a_token_goes_with_its_space_and_nothing_else_moves() {
        let line = Cmdline::parse("quiet  amd_iommu=on splash\n");
        assert_eq!(line.without(|t| t.name == "amd_iommu"), "quiet splash\n");
        assert_eq!(line.without(|t| t.name == "quiet"), "amd_iommu=on splash\n");
        assert_eq!(line.without(|_| false), line.to_string());
    }

    proptest! {
        #[test]
        fn any_text_is_kept_and_none_panics(text in "\\PC*|[ \"=a\\-\n]{0,40}", token in "[a-z=]{1,8}") {
            let line = Cmdline::parse(&text);
            prop_assert_eq!(line.to_string(), text.clone());
            line.without(|t| t.value.is_none());
            let more = line.with(&token);
            prop_assert!(more.len() >= text.len());
        }

        #[test]
        fn what_was_added_is_there_once(words in proptest::collection::vec("[a-z]{1,5}(=[a-z0-9]{1,3})?", 0..6)) {
            let text = words.join(" ");
            let more = Cmdline::parse(&text).with("zz_new=1");
            let line = Cmdline::parse(&more);
            prop_assert_eq!(line.values("zz-new").count(), 1);
            prop_assert_eq!(line.without(|t| t.name == "zz_new"), text);
        }
    }
}
