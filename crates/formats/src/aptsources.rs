//! apt's sources: the one-line form (sources.list, *.list) and the deb822 form (*.sources). Read only; what is added
//! goes into a file of its own.
//!
//! Source: sources.list(5).

/// One archive: a line, or one pair of URI and suite of a stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub uri: String,
    pub suite: String,
    pub components: Vec<String>,
    /// `signed-by`: a keyring's path, as it stands there. Keys that stand in the stanza itself are not kept.
    pub signed_by: Option<String>,
    /// Where it stands, 1-based.
    pub line: u32,
}

/// The `deb` lines that are in force.
pub fn one_line(text: &str) -> Vec<Entry> {
    let mut all = Vec::new();
    for (number, line) in (1u32..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else { continue };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else { continue };
        let signed_by = signed_by.map(|path| path.trim_matches('"').to_owned());
        all.push(Entry { uri, suite, components: words.collect(), signed_by, line: number });
    }
    all
}

/// The stanzas of type `deb` that are in force.
pub fn deb822(text: &str) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut stanza: Vec<(String, String, u32)> = Vec::new();
    for (number, line) in (1u32..).zip(text.lines().chain([""])) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            all.extend(entries(&stanza));
            stanza.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value, _)) = stanza.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((field, value)) = line.split_once(':') {
            stanza.push((field.trim().to_ascii_lowercase(), value.trim().to_owned(), number));
        }
    }
    all
}

fn entries(stanza: &[(String, String, u32)]) -> Vec<Entry> {
    let field = |name: &str| stanza.iter().find(|(field, ..)| field == name).map_or("", |(_, value, _)| value.as_str());
    let words = |name: &str| field(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let off = matches!(field("enabled"), "no" | "false" | "0");
    if off || !words("types").iter().any(|word| word == "deb") {
        return Vec::new();
    }
    let line = stanza.first().map_or(0, |(_, _, line)| *line);
    let signed_by = Some(field("signed-by").to_owned()).filter(|path| path.starts_with('/') && !path.contains(' '));
    let pairs =
        words("uris").into_iter().flat_map(|uri| words("suites").into_iter().map(move |suite| (uri.clone(), suite)));
    let entry =
        |(uri, suite)| Entry { uri, suite, components: words("components"), signed_by: signed_by.clone(), line };
    pairs.map(entry).collect()
}

/// One stanza in deb822 form.
pub fn stanza(entry: &Entry, components: &[&str]) -> String {
    let mut text =
        format!("Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n", entry.uri, entry.suite, components.join(" "));
    if let Some(path) = &entry.signed_by {
        text.push_str(&format!("Signed-By: {path}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let lines = "# deb http://old x main\ndeb [arch=amd64 signed-by=/usr/share/keyrings/d.gpg] http://deb.debian.org/debian bookworm main contrib # c\n\
            deb-src http://deb.debian.org/debian bookworm main\ndeb http://deb.debian.org/debian\n";
        let [line] = one_line(lines).try_into().expect("one entry");
        let stanzas = "# a comment\nTypes: deb deb-src\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\n contrib\n\
            Signed-By: /usr/share/keyrings/d.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://x\nSuites: y\nComponents: main\n";
        let [stanza] = deb822(stanzas).try_into().expect("one entry");
        assert_eq!(line, stanza);
        assert_eq!((line.line, line.components.join(" ").as_str()), (2, "main contrib"));
    }

    #[test]
    fn a_stanza_for_each_suite_and_what_is_written_is_read() {
        let text = "Types: deb\nURIs: http://a/debian\nSuites: trixie trixie-updates\nComponents: main\n";
        let all = deb822(text);
        assert_eq!(all.iter().map(|entry| entry.suite.as_str()).collect::<Vec<_>>(), ["trixie", "trixie-updates"]);
        let entry = all.first().expect("an entry");
        let again = deb822(&stanza(entry, &["non-free"]));
        assert_eq!(again, [Entry { components: vec!["non-free".into()], ..entry.clone() }]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(deb |Types: deb\n|URIs: a\n|Suites: b c\n|[ -~]{0,12}\n|\n){0,20}") {
            let lines = text.lines().count() as u32;
            for entry in one_line(&text).into_iter().chain(deb822(&text)) {
                prop_assert!(entry.line >= 1 && entry.line <= lines);
            }
        }
    }
}
