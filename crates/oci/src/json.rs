//! JSON that is mostly carried through: a text is taken apart one level at a time, and only where it is edited.
//!
//! A runtime's config.json is read by a program that knows more of it than we do, and newer fields come every year. So
//! what is not edited stays the very text that it was: order, unknown fields, numbers beyond any type, duplicates. That
//! is also what makes looking cheap: a container without a request costs one pass over its text.

use std::borrow::Cow;
use std::fmt;

/// A text is not the JSON that it would have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadJson {
    /// Byte offset in the text that was read; of a part, in that part.
    pub at: usize,
    pub says: &'static str,
}

impl fmt::Display for BadJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.says)
    }
}

impl std::error::Error for BadJson {}

/// Deeper than any configuration; nesting is counted, never followed by recursion.
const DEEP: usize = 512;

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Scan<'a> {
        Scan { text, at: 0 }
    }

    fn bad(&self, says: &'static str) -> BadJson {
        BadJson { at: self.at, says }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn slice(&self, from: usize) -> Result<&'a str, BadJson> {
        self.text.get(from..self.at).ok_or(BadJson { at: from, says: "a character is cut in two" })
    }

    /// From the opening quote to behind the closing one.
    fn string(&mut self) -> Result<&'a str, BadJson> {
        let from = self.at;
        let bytes = self.text.as_bytes();
        if self.peek() != Some(b'"') {
            return Err(self.bad("a string is expected"));
        }
        let mut at = from + 1;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
                None => return Err(BadJson { at: from, says: "a string does not end" }),
            }
        }
        self.at = at + 1;
        self.slice(from)
    }

    /// Any value, without a look at what is in it but for the ends of strings and brackets.
    fn value(&mut self) -> Result<&'a str, BadJson> {
        self.blanks();
        let from = self.at;
        match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => {}
            Some(b'}' | b']' | b',' | b':') | None => return Err(self.bad("a value is expected")),
            Some(_) => {
                while !matches!(self.peek(), Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t') | None) {
                    self.at += 1;
                }
                return self.slice(from);
            }
        }
        // one bit a level: is it an object
        let mut levels = [0u64; DEEP / 64];
        let mut depth = 0usize;
        let bytes = self.text.as_bytes();
        loop {
            // most of a configuration is neither a bracket nor a quote
            while bytes.get(self.at).is_some_and(|byte| !matches!(byte, b'{' | b'[' | b'}' | b']' | b'"')) {
                self.at += 1;
            }
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    let Some(word) = levels.get_mut(depth / 64) else {
                        return Err(self.bad("it is nested too deeply"));
                    };
                    let bit = 1 << (depth % 64);
                    *word = if open == b'{' { *word | bit } else { *word & !bit };
                    depth += 1;
                    self.at += 1;
                }
                Some(close @ (b'}' | b']')) => {
                    depth -= 1;
                    let object = levels.get(depth / 64).is_some_and(|word| word & (1 << (depth % 64)) != 0);
                    if object != (close == b'}') {
                        return Err(self.bad("a bracket closes another"));
                    }
                    self.at += 1;
                    if depth == 0 {
                        return self.slice(from);
                    }
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(_) => self.at += 1,
                None => return Err(BadJson { at: from, says: "an object or array does not end" }),
            }
        }
    }

    fn open(&mut self, with: u8, says: &'static str) -> Result<(), BadJson> {
        self.blanks();
        if self.peek() != Some(with) {
            return Err(self.bad(says));
        }
        self.at += 1;
        Ok(())
    }

    /// After an opening bracket or a value: whether another value comes.
    fn more(&mut self, first: bool, close: u8) -> Result<bool, BadJson> {
        self.blanks();
        match self.peek() {
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                self.blanks();
                Ok(true)
            }
            Some(_) if first => Ok(true),
            _ => Err(self.bad("a comma or a closing bracket is expected")),
        }
    }
}

/// The members of an object, in order: the key as it is written, quotes included, and the value's text.
pub fn members(text: &str) -> Result<Vec<(&str, &str)>, BadJson> {
    let mut scan = Scan::new(text);
    let mut found = Vec::new();
    scan.open(b'{', "an object is expected")?;
    while scan.more(found.is_empty(), b'}')? {
        let key = scan.string()?;
        scan.open(b':', "a colon is expected")?;
        found.push((key, scan.value()?));
    }
    Ok(found)
}

/// The elements of an array, in order.
pub fn elements(text: &str) -> Result<Vec<&str>, BadJson> {
    let mut scan = Scan::new(text);
    let mut found = Vec::new();
    scan.open(b'[', "an array is expected")?;
    while scan.more(found.is_empty(), b']')? {
        found.push(scan.value()?);
    }
    Ok(found)
}

/// A string's content; `None` where the text is no string.
pub fn string(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(text).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// A text as a JSON string.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quote(text, &mut out);
    out
}

/// A text as a JSON string, at the end of another.
pub fn quote(text: &str, out: &mut String) {
    if text.bytes().any(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        out.push_str(&serde_json::Value::String(text.to_owned()).to_string());
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

/// Texts as a JSON array of strings, at the end of another.
pub fn quote_all<'t>(texts: impl IntoIterator<Item = &'t str>, out: &mut String) {
    out.push('[');
    for (index, text) in texts.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        quote(text, out);
    }
    out.push(']');
}

/// Whether a key as it is written is this name.
pub fn is_key(written: &str, name: &str) -> bool {
    string(written).is_some_and(|key| key == name)
}

/// The value of the last member of this name, as Go's and most other decoders have it.
pub fn member<'a>(text: &'a str, name: &str) -> Result<Option<&'a str>, BadJson> {
    Ok(members(text)?.into_iter().rev().find(|(key, _)| is_key(key, name)).map(|(_, value)| value))
}

/// A value that can be edited: taken apart only on the way to what is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree<'a> {
    Text(Cow<'a, str>),
    /// Keys as they are written, quotes included.
    Object(Vec<(Cow<'a, str>, Tree<'a>)>),
    Array(Vec<Tree<'a>>),
}

impl<'a> Tree<'a> {
    pub fn of(text: &'a str) -> Tree<'a> {
        Tree::Text(Cow::Borrowed(text))
    }

    pub fn owned(text: String) -> Tree<'a> {
        Tree::Text(Cow::Owned(text))
    }

    /// The members, to be changed. `null` becomes an empty object, as decoders read it.
    pub fn object(&mut self) -> Result<&mut Vec<(Cow<'a, str>, Tree<'a>)>, BadJson> {
        if let Tree::Text(text) = self {
            *self = match text {
                text if text.trim() == "null" => Tree::Object(Vec::new()),
                Cow::Borrowed(text) => Tree::Object(
                    members(text)?.into_iter().map(|(key, value)| (Cow::Borrowed(key), Tree::of(value))).collect(),
                ),
                Cow::Owned(text) => Tree::Object(
                    members(text)?
                        .into_iter()
                        .map(|(key, value)| (Cow::Owned(key.to_owned()), Tree::owned(value.to_owned())))
                        .collect(),
                ),
            };
        }
        match self {
            Tree::Object(members) => Ok(members),
            _ => Err(BadJson { at: 0, says: "an object is expected" }),
        }
    }

    /// The elements, to be changed. `null` becomes an empty array, as decoders read it.
    pub fn array(&mut self) -> Result<&mut Vec<Tree<'a>>, BadJson> {
        if let Tree::Text(text) = self {
            *self = match text {
                text if text.trim() == "null" => Tree::Array(Vec::new()),
                Cow::Borrowed(text) => Tree::Array(elements(text)?.into_iter().map(Tree::of).collect()),
                Cow::Owned(text) => {
                    Tree::Array(elements(text)?.into_iter().map(|text| Tree::owned(text.to_owned())).collect())
                }
            };
        }
        match self {
            Tree::Array(elements) => Ok(elements),
            _ => Err(BadJson { at: 0, says: "an array is expected" }),
        }
    }

    /// The member of this name, if the value is an object that has it.
    pub fn find(&mut self, name: &str) -> Result<Option<&mut Tree<'a>>, BadJson> {
        let members = self.object()?;
        Ok(members.iter_mut().rev().find(|(key, _)| is_key(key, name)).map(|(_, value)| value))
    }

    /// The member of this name; made `null` at the end where there is none.
    pub fn entry(&mut self, name: &str) -> Result<&mut Tree<'a>, BadJson> {
        let members = self.object()?;
        let at = match members.iter().rposition(|(key, _)| is_key(key, name)) {
            Some(at) => at,
            None => {
                members.push((Cow::Owned(quoted(name)), Tree::of("null")));
                members.len() - 1
            }
        };
        members.get_mut(at).map(|(_, value)| value).ok_or(BadJson { at: 0, says: "a member is gone" })
    }

    /// The text as it is now.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.print(&mut out);
        out
    }

    pub fn print(&self, out: &mut String) {
        match self {
            Tree::Text(text) => out.push_str(text),
            Tree::Object(members) => {
                out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(key);
                    out.push(':');
                    value.print(out);
                }
                out.push('}');
            }
            Tree::Array(elements) => {
                out.push('[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    element.print(out);
                }
                out.push(']');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_changed_and_all_else_stays_the_text_it_was() {
        let text = r#"{"a": 18446744073709551616,"b" :{"x":1e400, "y":[1,2 , 3],"y2":"\u00e9\"}"},"c":null,"d":-0.0}"#;
        let mut tree = Tree::of(text);
        tree.entry("b").unwrap().entry("y").unwrap().array().unwrap().push(Tree::of("4"));
        assert_eq!(
            tree.text(),
            r#"{"a":18446744073709551616,"b":{"x":1e400,"y":[1,2,3,4],"y2":"\u00e9\"}"},"c":null,"d":-0.0}"#
        );
        assert_eq!(Tree::of(text).text(), text);
    }

    #[test]
    fn the_last_of_two_members_counts_and_both_stay() {
        let text = r#"{"a":1,"\u0061":2}"#;
        assert_eq!(member(text, "a").unwrap(), Some("2"));
        let mut tree = Tree::of(text);
        *tree.entry("a").unwrap() = Tree::of("3");
        assert_eq!(tree.text(), r#"{"a":1,"\u0061":3}"#);
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in ["", "{", "[1", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":1 "b":2}"#, r#"{"a":[}]"#, "{\"a", "{\"a\\", "[}"]
        {
            assert!(members(text).is_err() && elements(text).is_err(), "{text}");
        }
        assert!(members(&format!("{{\"a\":{}", "[".repeat(100_000))).is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(members(&deep).is_ok());
    }
}
