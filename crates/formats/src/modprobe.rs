//! modprobe.d(5): `alias`, `blacklist`, `options`, `install`, `remove`, `softdep`; a backslash before the line's end
//! continues it. Text that is no such line is kept and told by [`Directive::Other`].

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modprobe {
    /// All bytes of the file, cut into logical lines, line ends included.
    pieces: Vec<String>,
    /// Piece number of each directive.
    at: Vec<usize>,
    directives: Vec<Line>,
}

/// A directive, and the physical line (1-based) on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub line: u32,
    pub what: Directive,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    Alias {
        alias: String,
        module: String,
    },
    Blacklist {
        module: String,
    },
    /// `key=value` words, in order.
    Options {
        module: String,
        options: Vec<String>,
    },
    /// The command that runs instead of loading: `/bin/false` keeps the module out altogether.
    Install {
        module: String,
        command: String,
    },
    Remove {
        module: String,
        command: String,
    },
    Softdep {
        module: String,
        pre: Vec<String>,
        post: Vec<String>,
    },
    /// A word that modprobe does not know, or a known one without what it needs.
    Other(String),
}

impl Modprobe {
    pub fn parse(text: &str) -> Self {
        let mut this = Modprobe { pieces: Vec::new(), at: Vec::new(), directives: Vec::new() };
        let mut piece = String::new();
        let mut logical = String::new();
        let mut begins = 1u32;
        let mut line = 0u32;
        for physical in text.split_inclusive('\n') {
            line = line.saturating_add(1);
            if piece.is_empty() {
                begins = line;
            }
            piece.push_str(physical);
            let bare = physical.trim_end_matches(['\n', '\r']);
            match bare.strip_suffix('\\') {
                Some(front) if physical.ends_with('\n') => {
                    logical.push_str(front);
                    logical.push(' ');
                }
                _ => {
                    logical.push_str(bare);
                    this.take(&mut piece, &mut logical, begins);
                }
            }
        }
        if !piece.is_empty() {
            this.take(&mut piece, &mut logical, begins);
        }
        this
    }

    fn take(&mut self, piece: &mut String, logical: &mut String, line: u32) {
        if let Some(what) = directive(logical) {
            self.at.push(self.pieces.len());
            self.directives.push(Line { line, what });
        }
        self.pieces.push(std::mem::take(piece));
        logical.clear();
    }

    pub fn lines(&self) -> &[Line] {
        &self.directives
    }

    /// The file's text without the directives that `gone` picks; everything else stands as it stood.
    pub fn without(&self, gone: impl Fn(&Directive) -> bool) -> String {
        let drop: Vec<usize> =
            self.at.iter().zip(&self.directives).filter(|(_, l)| gone(&l.what)).map(|(at, _)| *at).collect();
        self.pieces.iter().enumerate().filter(|(at, _)| !drop.contains(at)).map(|(_, piece)| piece.as_str()).collect()
    }
}

impl fmt::Display for Modprobe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| f.write_str(piece))
    }
}

fn directive(logical: &str) -> Option<Directive> {
    let text = logical.trim();
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    let other = || Some(Directive::Other(text.to_owned()));
    let mut words = text.split_whitespace();
    let command = words.next().unwrap_or_default();
    let Some(module) = words.next().map(str::to_owned) else { return other() };
    let rest: Vec<String> = words.map(str::to_owned).collect();
    match command {
        "blacklist" => Some(Directive::Blacklist { module }),
        "alias" => match rest.into_iter().next() {
            Some(target) => Some(Directive::Alias { alias: module, module: target }),
            None => other(),
        },
        "options" if !rest.is_empty() => Some(Directive::Options { module, options: rest }),
        "install" => Some(Directive::Install { module, command: rest.join(" ") }),
        "remove" => Some(Directive::Remove { module, command: rest.join(" ") }),
        "softdep" => {
            let (mut pre, mut post) = (Vec::new(), Vec::new());
            let mut into: Option<bool> = None;
            for word in rest {
                match (word.as_str(), into) {
                    ("pre:", _) => into = Some(true),
                    ("post:", _) => into = Some(false),
                    (_, Some(true)) => pre.push(word),
                    (_, Some(false)) => post.push(word),
                    (_, None) => {}
                }
            }
            Some(Directive::Softdep { module, pre, post })
        }
        _ => other(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_line() {
        let text = "# card\noptions vfio-pci \\\n  ids=10de:1d01,10de:0fb8 disable_vga=1\nblacklist nouveau\n\
                    softdep nouveau pre: vfio-pci post: x y\ninstall nvidia /bin/false\nalias pci:v1* off\nnonsense\noptions a\n";
        let file = Modprobe::parse(text);
        let lines: Vec<u32> = file.lines().iter().map(|l| l.line).collect();
        assert_eq!(lines, [2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(
            file.lines()[0].what,
            Directive::Options {
                module: "vfio-pci".into(),
                options: vec!["ids=10de:1d01,10de:0fb8".into(), "disable_vga=1".into()]
            }
        );
        assert_eq!(
            file.lines()[2].what,
            Directive::Softdep {
                module: "nouveau".into(),
                pre: vec!["vfio-pci".into()],
                post: vec!["x".into(), "y".into()]
            }
        );
        assert_eq!(file.lines()[3].what, Directive::Install { module: "nvidia".into(), command: "/bin/false".into() });
        assert_eq!(file.lines()[6].what, Directive::Other("options a".into()));
        let without = file.without(|d| matches!(d, Directive::Options { .. }));
        assert!(without.starts_with("# card\nblacklist nouveau\n") && without.ends_with("nonsense\noptions a\n"));
    }

    proptest! {
        #[test]
        fn any_text_is_kept(text in "\\PC*|(options|blacklist|[a-z\\\\ #\r\n]){0,40}") {
            let file = Modprobe::parse(&text);
            prop_assert_eq!(file.to_string(), text.clone());
            prop_assert_eq!(file.without(|_| false), text);
        }
    }
}
