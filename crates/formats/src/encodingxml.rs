//! Jellyfin's encoding.xml: one root element, one element a setting, and lists of `<string>`. Edits are splices into
//! the bytes as they are, so that the byte order mark, comments, line ends and unknown settings stay.

use std::fmt;

/// An encoding.xml that can be read and edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodingXml {
    text: String,
    /// The root's start tag closes here; a self-closed root has `close == None`.
    root: Element,
    items: Vec<Element>,
}

/// An element by the places of its parts in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Element {
    name: String,
    /// Of the `<` of the start tag.
    start: usize,
    /// Of the `<` of the end tag; `None` where the element is self-closed.
    close: Option<usize>,
    /// Right after the whole element.
    end: usize,
    /// The texts of `<string>` children.
    strings: Vec<String>,
    /// Its text, entities resolved.
    value: String,
    has_children: bool,
}

/// Why a text is no encoding.xml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadXml {
    /// 1-based.
    pub line: u32,
    pub what: String,
}

impl fmt::Display for BadXml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for BadXml {}

const ROOT: &str = "EncodingOptions";
/// How deep elements may lie: the root, a setting, an entry, and a margin.
const DEEP: usize = 16;

impl EncodingXml {
    pub fn parse(bytes: &[u8]) -> Result<Self, BadXml> {
        let text = std::str::from_utf8(bytes).map_err(|bad| {
            let good = bytes.get(..bad.valid_up_to()).unwrap_or_default();
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count() as u32;
            BadXml { line, what: "is not UTF-8".into() }
        })?;
        Scanner { text, at: 0 }.document()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.text.clone().into_bytes()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first element of this name: .NET's serializer reads the first and passes the others by.
    fn item(&self, key: &str) -> Option<&Element> {
        self.items.iter().find(|item| item.name == key)
    }

    /// A setting's value, trimmed; `None` where it has no element, `Some("")` where the element is empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.item(key).map(|item| item.value.trim())
    }

    /// A list's entries.
    pub fn list(&self, key: &str) -> Option<&[String]> {
        self.item(key).map(|item| item.strings.as_slice())
    }

    /// Where a setting stands, 1-based.
    pub fn line(&self, key: &str) -> Option<u32> {
        self.item(key).map(|item| line_at(&self.text, item.start))
    }

    /// Gives a setting a value; nothing changes where it has it. True where the text changed.
    pub fn set(&mut self, key: &str, value: &str) -> bool {
        if self.get(key) == Some(value) {
            return false;
        }
        let element = if value.is_empty() { format!("<{key} />") } else { format!("<{key}>{}</{key}>", escape(value)) };
        self.put(key, &element)
    }

    /// Gives a list these entries, in this order; nothing changes where it has them, in any order.
    pub fn set_list(&mut self, key: &str, entries: &[&str]) -> bool {
        let sorted = |mut list: Vec<String>| {
            list.sort_unstable();
            list
        };
        let wanted: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        if self.list(key).is_some_and(|now| sorted(now.to_vec()) == sorted(wanted.clone())) {
            return false;
        }
        let (newline, indent) = (self.newline(), self.indent());
        let mut element = format!("<{key}>");
        for entry in entries {
            element.push_str(&format!("{newline}{indent}{indent}<string>{}</string>", escape(entry)));
        }
        if entries.is_empty() {
            element = format!("<{key} />");
        } else {
            element.push_str(&format!("{newline}{indent}</{key}>"));
        }
        self.put(key, &element)
    }

    /// Replaces the element of this name, or puts it before the root's end.
    fn put(&mut self, key: &str, element: &str) -> bool {
        let (newline, indent) = (self.newline(), self.indent());
        let (from, to, piece) = match (self.item(key), self.root.close) {
            (Some(item), _) => (item.start, item.end, element.to_owned()),
            (None, Some(close)) => {
                // After the last thing before the root's end tag, so that the end tag keeps its own line.
                let head = self.text.get(..close).unwrap_or_default();
                let at = head.trim_end().len();
                (at, close, format!("{newline}{indent}{element}{newline}"))
            }
            (None, None) => {
                let piece = format!("<{ROOT}>{newline}{indent}{element}{newline}</{ROOT}>");
                (self.root.start, self.root.end, piece)
            }
        };
        let mut text = self.text.clone();
        text.replace_range(from..to, &piece);
        // What we spliced is well-formed; were it not, the old text stands.
        match EncodingXml::parse(text.as_bytes()) {
            Ok(edited) => {
                *self = edited;
                true
            }
            Err(_) => false,
        }
    }

    fn newline(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// The white space before the first setting; two blanks where there is none.
    fn indent(&self) -> String {
        let before = self.items.first().and_then(|item| self.text.get(..item.start)).unwrap_or_default();
        let blank = before.rsplit('\n').next().unwrap_or_default();
        if !blank.is_empty() && blank.chars().all(|c| c == ' ' || c == '\t') { blank.to_owned() } else { "  ".into() }
    }
}

fn line_at(text: &str, at: usize) -> u32 {
    1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() as u32
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn unescape(text: &str) -> String {
    let plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    plain.replace("&amp;", "&")
}

/// What stands at a place of the text.
enum Token<'a> {
    Text(&'a str),
    /// A comment, a processing instruction, the declaration.
    Aside,
    Start {
        name: &'a str,
        empty: bool,
    },
    End(&'a str),
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn bad(&self, what: impl Into<String>) -> BadXml {
        BadXml { line: line_at(self.text, self.at), what: what.into() }
    }

    /// The text up to `end`, which is passed too.
    fn until(&mut self, skip: usize, end: &str, what: &str) -> Result<&'a str, BadXml> {
        let body = self.rest().get(skip..).unwrap_or_default();
        let length = body.find(end).ok_or_else(|| self.bad(format!("{what} has no end")))?;
        self.at += skip + length + end.len();
        Ok(body.get(..length).unwrap_or_default())
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, BadXml> {
        let rest = self.rest();
        if rest.is_empty() {
            return Ok(None);
        }
        if !rest.starts_with('<') {
            let length = rest.find('<').unwrap_or(rest.len());
            self.at += length;
            return Ok(Some(Token::Text(rest.get(..length).unwrap_or_default())));
        }
        if rest.starts_with("<!--") {
            self.until(4, "-->", "a comment")?;
            return Ok(Some(Token::Aside));
        }
        if rest.starts_with("<?") {
            self.until(2, "?>", "a processing instruction")?;
            return Ok(Some(Token::Aside));
        }
        if rest.starts_with("<![CDATA[") {
            return Err(self.bad("CDATA is not what Jellyfin writes; it is left alone"));
        }
        if rest.starts_with("<!") {
            return Err(self.bad("a document type is not read"));
        }
        let close = self.tag_end().ok_or_else(|| self.bad("a tag has no end"))?;
        let tag = rest.get(1..close).unwrap_or_default();
        let (tag, end_tag) = match tag.strip_prefix('/') {
            Some(tag) => (tag, true),
            None => (tag, false),
        };
        let (tag, empty) = match tag.strip_suffix('/') {
            Some(tag) if !end_tag => (tag, true),
            _ => (tag, false),
        };
        let name = tag.split(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
        let sound = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
        if name.is_empty() || !name.chars().all(sound) {
            return Err(self.bad("a tag has no name"));
        }
        self.at += close + 1;
        Ok(Some(if end_tag { Token::End(name) } else { Token::Start { name, empty } }))
    }

    /// Where the tag's `>` stands, quotes minded.
    fn tag_end(&self) -> Option<usize> {
        let mut quote = None;
        for (at, byte) in self.rest().bytes().enumerate() {
            match (quote, byte) {
                (Some(open), _) if byte == open => quote = None,
                (None, b'"' | b'\'') => quote = Some(byte),
                (None, b'>') => return Some(at),
                _ => {}
            }
        }
        None
    }

    fn document(mut self) -> Result<EncodingXml, BadXml> {
        let mut open: Vec<Element> = Vec::new();
        let mut items = Vec::new();
        let mut root = None;
        loop {
            let before = self.at;
            let Some(token) = self.next()? else { break };
            match token {
                Token::Aside => {}
                Token::Text(text) => match open.last_mut() {
                    Some(element) => element.value.push_str(text),
                    None if text.trim_matches(['\u{feff}', ' ', '\t', '\r', '\n']).is_empty() => {}
                    None => {
                        self.at = before;
                        return Err(self.bad("text outside the root element"));
                    }
                },
                Token::Start { name, empty } => {
                    if open.is_empty() && (root.is_some() || name != ROOT) {
                        self.at = before;
                        return Err(self.bad(format!("the root element is not {ROOT}")));
                    }
                    if open.len() >= DEEP {
                        return Err(self.bad("elements lie too deep"));
                    }
                    if let Some(parent) = open.last_mut() {
                        parent.has_children = true;
                    }
                    let element = Element {
                        name: name.to_owned(),
                        start: before,
                        close: None,
                        end: self.at,
                        strings: Vec::new(),
                        value: String::new(),
                        has_children: false,
                    };
                    if empty { shut(element, &mut open, &mut items, &mut root) } else { open.push(element) }
                }
                Token::End(name) => {
                    let Some(mut element) = open.pop().filter(|element| element.name == name) else {
                        self.at = before;
                        return Err(self.bad(format!("</{name}> closes nothing")));
                    };
                    element.close = Some(before);
                    element.end = self.at;
                    shut(element, &mut open, &mut items, &mut root);
                }
            }
        }
        if let Some(element) = open.last() {
            self.at = element.start;
            return Err(self.bad(format!("<{}> is not closed", element.name)));
        }
        let root = root.ok_or_else(|| self.bad(format!("there is no {ROOT} element")))?;
        Ok(EncodingXml { text: self.text.to_owned(), root, items })
    }
}

/// Files a whole element where it belongs: the root, a setting, an entry of a list.
fn shut(mut element: Element, open: &mut [Element], items: &mut Vec<Element>, root: &mut Option<Element>) {
    element.value = if element.has_children { String::new() } else { unescape(&element.value) };
    match open.len() {
        0 => *root = Some(element),
        1 => items.push(element),
        _ if element.name == "string" => {
            if let Some(parent) = open.last_mut() {
                parent.strings.push(element.value.trim().to_owned());
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<EncodingOptions xmlns:xsi=\"http://a/>b\">\r\n  \
        <!-- mine -->\r\n  <HardwareAccelerationType>nvenc</HardwareAccelerationType>\r\n  <EncoderPreset />\r\n  \
        <HardwareDecodingCodecs>\r\n    <string>h264</string>\r\n    <string>vc1</string>\r\n  </HardwareDecodingCodecs>\r\n</EncodingOptions>\r\n";

    fn read(text: &str) -> EncodingXml {
        EncodingXml::parse(text.as_bytes()).expect("reads")
    }

    #[test]
    fn settings_and_lists_are_read() {
        let xml = read(TEXT);
        assert_eq!(xml.get("HardwareAccelerationType"), Some("nvenc"));
        assert_eq!(xml.line("HardwareAccelerationType"), Some(4));
        assert_eq!(xml.get("EncoderPreset"), Some(""));
        assert_eq!(xml.get("H264Crf"), None);
        assert_eq!(xml.list("HardwareDecodingCodecs"), Some(&["h264".to_owned(), "vc1".to_owned()][..]));
    }

    #[test]
    fn edits_touch_only_what_they_name() {
        let mut xml = read(TEXT);
        assert!(!xml.set("HardwareAccelerationType", "nvenc"));
        assert!(!xml.set_list("HardwareDecodingCodecs", &["vc1", "h264"]));
        assert_eq!(xml.as_str(), TEXT);
        assert!(xml.set("EncoderPreset", "auto"));
        assert!(xml.set("EnableHardwareEncoding", "false"));
        assert!(xml.set_list("HardwareDecodingCodecs", &["h264", "hevc"]));
        let wanted = TEXT
            .replace("<EncoderPreset />", "<EncoderPreset>auto</EncoderPreset>")
            .replace("<string>vc1</string>", "<string>hevc</string>")
            .replace(
                "\r\n</EncodingOptions>",
                "\r\n  <EnableHardwareEncoding>false</EnableHardwareEncoding>\r\n</EncodingOptions>",
            );
        assert_eq!(xml.as_str(), wanted);
    }

    #[test]
    fn an_empty_root_is_opened() {
        let mut xml = read("<EncodingOptions />\n");
        assert!(xml.set("EnableTonemapping", "true"));
        assert_eq!(
            xml.as_str(),
            "<EncodingOptions>\n  <EnableTonemapping>true</EnableTonemapping>\n</EncodingOptions>\n"
        );
    }

    #[test]
    fn what_is_no_encoding_xml_says_where() {
        let bad = |text: &str| EncodingXml::parse(text.as_bytes()).map_err(|bad| bad.to_string()).err();
        assert_eq!(bad("<EncodingOptions>\n<A>\n</B>"), Some("line 3: </B> closes nothing".into()));
        assert_eq!(bad("<Other/>"), Some("line 1: the root element is not EncodingOptions".into()));
        assert_eq!(bad("<EncodingOptions>\n<A>"), Some("line 2: <A> is not closed".into()));
        assert_eq!(bad(""), Some("line 1: there is no EncodingOptions element".into()));
        assert_eq!(
            bad("<!DOCTYPE x [<!ENTITY a \"b\">]><EncodingOptions/>"),
            Some("line 1: a document type is not read".into())
        );
        assert!(EncodingXml::parse(b"<EncodingOptions>\n\xff</EncodingOptions>").is_err_and(|bad| bad.line == 2));
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic_and_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(xml) = EncodingXml::parse(&bytes) {
                prop_assert_eq!(xml.to_bytes(), bytes);
            }
        }

        #[test]
        fn near_xml_comes_back_and_takes_a_setting(
            body in "(<A>[a-z&;]{0,3}</A>|<B />|<!-- c -->|\r?\n|<L>(<string>x</string>){0,2}</L>|<|>| ){0,8}",
            value in "[ -~]{1,12}",
        ) {
            let text = format!("<EncodingOptions>{body}</EncodingOptions>");
            if let Ok(mut xml) = EncodingXml::parse(text.as_bytes()) {
                prop_assert_eq!(xml.as_str(), &text);
                let value = value.trim();
                xml.set("Z", value);
                prop_assert_eq!(xml.get("Z").unwrap_or(""), value);
                let once = xml.to_bytes();
                prop_assert!(value.is_empty() || !xml.set("Z", value));
                prop_assert_eq!(xml.to_bytes(), once);
            }
        }
    }
}
