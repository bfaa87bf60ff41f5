//! `/etc/docker/daemon.json`: strict JSON, edited in place. Only the bytes of the value that changes are touched; order,
//! indentation, line ends and unknown keys stay as they are.

use std::fmt;

/// Why a text is no daemon.json, or why it cannot be edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// 1-based.
    pub line: u32,
    pub says: String,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.says)
    }
}

impl std::error::Error for JsonError {}

/// A parsed daemon.json with the text it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct DaemonJson {
    text: String,
    root: Node,
}

#[derive(Clone, Debug, PartialEq)]
struct Node {
    start: usize,
    end: usize,
    kind: NodeKind,
}

#[derive(Clone, Debug, PartialEq)]
enum NodeKind {
    Object(Vec<Member>),
    Array(Vec<Node>),
    Scalar,
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    key: String,
    key_start: usize,
    value: Node,
}

/// How deep a file may nest: daemon.json needs four.
const DEPTH: usize = 64;

impl DaemonJson {
    /// Reads the file. White space alone is what dockerd takes for no settings: it reads as `{}` does.
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|bad| JsonError { line: line_at(bytes, bad.valid_up_to()), says: "is no UTF-8".into() })?;
        if text.trim().is_empty() {
            let root = Node { start: text.len(), end: text.len(), kind: NodeKind::Object(Vec::new()) };
            return Ok(DaemonJson { text: text.to_owned(), root });
        }
        let mut reader = Reader { text: text.as_bytes(), at: 0 };
        let root = reader.value(0)?;
        reader.space();
        if reader.at < text.len() {
            return Err(reader.bad("something follows after the closing brace"));
        }
        if !matches!(root.kind, NodeKind::Object(_)) {
            return Err(JsonError {
                line: line_at(bytes, root.start),
                says: "the whole is no object in braces".into(),
            });
        }
        Ok(DaemonJson { text: text.to_owned(), root })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value under these keys.
    pub fn get(&self, path: &[&str]) -> Option<serde_json::Value> {
        let node = self.node(path)?;
        serde_json::from_str(self.text.get(node.start..node.end)?).ok()
    }

    /// The 1-based line where this key stands.
    pub fn line(&self, path: &[&str]) -> Option<u32> {
        let (last, front) = path.split_last()?;
        let member = member(self.node(front)?, last)?;
        Some(line_at(self.text.as_bytes(), member.key_start))
    }

    /// The keys of the object under this path, in their order.
    pub fn keys(&self, path: &[&str]) -> Vec<&str> {
        match self.node(path).map(|node| &node.kind) {
            Some(NodeKind::Object(members)) => members.iter().map(|member| member.key.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    fn node(&self, path: &[&str]) -> Option<&Node> {
        let mut here = &self.root;
        for key in path {
            here = &member(here, key)?.value;
        }
        Some(here)
    }

    /// The file with `value` under `path`, objects on the way made where they are missing. The same bytes where it says
    /// so already.
    pub fn set(&self, path: &[&str], value: &serde_json::Value) -> Result<DaemonJson, JsonError> {
        let line = line_at(self.text.as_bytes(), self.root.start);
        let mut here = &self.root;
        let mut depth = 0;
        for key in path {
            if !matches!(here.kind, NodeKind::Object(_)) {
                let line = line_at(self.text.as_bytes(), here.start);
                return Err(JsonError {
                    line,
                    says: format!("\"{}\" cannot be put into what is no object", clip(key)),
                });
            }
            match member(here, key) {
                Some(found) => here = &found.value,
                None => break,
            }
            depth += 1;
        }
        let mut missing = path.get(depth..).unwrap_or_default().iter();
        let edited = match missing.next() {
            None if self.get(path).as_ref() == Some(value) => return Ok(self.clone()),
            None => self.splice(here.start, here.end, &self.render(value, path.len())),
            Some(key) => {
                let wrapped = missing.rev().fold(value.clone(), |inner, key| serde_json::json!({ *key: inner }));
                self.insert(here, key, &wrapped, depth + 1)
            }
        };
        let edited = DaemonJson::parse(edited.as_bytes())?;
        match edited.get(path) {
            Some(now) if now == *value => Ok(edited),
            _ => Err(JsonError { line, says: format!("\"{}\" could not be set", clip(&path.join("."))) }),
        }
    }

    /// The text with a new last member in an object that is nested `depth` - 1 deep.
    fn insert(&self, object: &Node, key: &str, value: &serde_json::Value, depth: usize) -> String {
        let newline = self.newline();
        let one_line = |node: &Node| !self.text.get(node.start..node.end).unwrap_or_default().contains('\n');
        let member = format!("{}: {}", serde_json::Value::from(key), self.render(value, depth));
        let NodeKind::Object(members) = &object.kind else { return self.text.clone() };
        if object.start == object.end {
            // An empty file.
            return format!("{{{newline}{}{member}{newline}}}{newline}", self.indent());
        }
        match members.last() {
            // A short object on one line stays on one line.
            Some(last) if one_line(object) => {
                let member = format!("{}: {}", serde_json::Value::from(key), value);
                self.splice(last.value.end, last.value.end, &format!(", {member}"))
            }
            Some(last) => {
                let lead = format!(",{newline}{}", self.indent().repeat(depth));
                self.splice(last.value.end, last.value.end, &format!("{lead}{member}"))
            }
            None => {
                let inner = self.indent().repeat(depth);
                let outer = self.indent().repeat(depth.saturating_sub(1));
                self.splice(object.start, object.end, &format!("{{{newline}{inner}{member}{newline}{outer}}}"))
            }
        }
    }

    fn splice(&self, start: usize, end: usize, new: &str) -> String {
        let front = self.text.get(..start).unwrap_or_default();
        let back = self.text.get(end..).unwrap_or_default();
        format!("{front}{new}{back}")
    }

    /// A value in this file's own indentation and line ends; its first line stands `depth` deep.
    fn render(&self, value: &serde_json::Value, depth: usize) -> String {
        let mut out = String::new();
        self.render_into(value, depth, &mut out);
        out
    }

    fn render_into(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        let (newline, indent) = (self.newline(), self.indent());
        match value {
            serde_json::Value::Object(map) if !map.is_empty() => {
                out.push('{');
                for (index, (key, value)) in map.iter().enumerate() {
                    out.push_str(if index == 0 { newline } else { "," });
                    if index > 0 {
                        out.push_str(newline);
                    }
                    out.push_str(&indent.repeat(depth + 1));
                    out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                    out.push_str(": ");
                    self.render_into(value, depth + 1, out);
                }
                out.push_str(newline);
                out.push_str(&indent.repeat(depth));
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
    }

    fn newline(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// The white space before the first key that begins a line; two spaces where there is none.
    fn indent(&self) -> String {
        let NodeKind::Object(members) = &self.root.kind else { return "  ".into() };
        for member in members {
            let front = self.text.get(..member.key_start).unwrap_or_default();
            let Some(at) = front.rfind('\n') else { continue };
            let white = front.get(at + 1..).unwrap_or_default();
            if !white.is_empty() && white.chars().all(|c| c == ' ' || c == '\t') {
                return white.to_owned();
            }
        }
        "  ".into()
    }
}

/// The last member of this name, as Go's decoder has it.
fn member<'a>(node: &'a Node, key: &str) -> Option<&'a Member> {
    match &node.kind {
        NodeKind::Object(members) => members.iter().rev().find(|member| member.key == key),
        _ => None,
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn bad(&self, says: impl Into<String>) -> JsonError {
        JsonError { line: line_at(self.text, self.at), says: says.into() }
    }

    fn space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8, says: &str) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.bad(match self.peek() {
            None => format!("the file ends where {says} should stand"),
            Some(b'/' | b'#') => "comments are not allowed in this file".into(),
            Some(_) => format!("{says} is missing"),
        }))
    }

    fn value(&mut self, depth: usize) -> Result<Node, JsonError> {
        self.space();
        let start = self.at;
        let kind = match self.peek() {
            _ if depth > DEPTH => return Err(self.bad("it is nested too deep")),
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => {
                self.string()?;
                NodeKind::Scalar
            }
            Some(b'/' | b'#') => return Err(self.bad("comments are not allowed in this file")),
            None => return Err(self.bad("the file ends where a value should stand")),
            Some(_) => self.word()?,
        };
        Ok(Node { start, end: self.at, kind })
    }

    fn object(&mut self, depth: usize) -> Result<NodeKind, JsonError> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(NodeKind::Object(members));
        }
        loop {
            self.space();
            let key_start = self.at;
            match self.peek() {
                Some(b'"') => {}
                Some(b'}') => return Err(self.bad("a comma stands before the closing brace")),
                _ => return Err(self.expect(b'"', "a key in double quotes").err().unwrap_or(self.bad("no key"))),
            }
            let key = self.string()?;
            self.space();
            self.expect(b':', "a colon after the key")?;
            let value = self.value(depth + 1)?;
            members.push(Member { key, key_start, value });
            self.space();
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(NodeKind::Object(members));
            }
            self.expect(b',', "a comma or the closing brace")?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<NodeKind, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(NodeKind::Array(items));
        }
        loop {
            self.space();
            if self.peek() == Some(b']') {
                return Err(self.bad("a comma stands before the closing bracket"));
            }
            items.push(self.value(depth + 1)?);
            self.space();
            if self.peek() == Some(b']') {
                self.at += 1;
                return Ok(NodeKind::Array(items));
            }
            self.expect(b',', "a comma or the closing bracket")?;
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None | Some(b'\n') => return Err(self.bad("a text's closing quote is missing")),
                Some(b'\\') => self.at += 2,
                Some(b'"') => break,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let raw = self.text.get(start..self.at).unwrap_or_default();
        serde_json::from_slice(raw).map_err(|_| JsonError {
            line: line_at(self.text, start),
            says: "a text holds a bad escape or control character".into(),
        })
    }

    fn word(&mut self) -> Result<NodeKind, JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b)) {
            self.at += 1;
        }
        let raw = self.text.get(start..self.at).unwrap_or_default();
        match serde_json::from_slice::<serde_json::Value>(raw) {
            Ok(_) => Ok(NodeKind::Scalar),
            Err(_) => {
                let says = format!("\"{}\" is no JSON value", clip(&String::from_utf8_lossy(raw)));
                Err(JsonError { line: line_at(self.text, start), says })
            }
        }
    }
}

fn line_at(text: &[u8], at: usize) -> u32 {
    let front = text.get(..at.min(text.len())).unwrap_or_default();
    1 + front.iter().filter(|byte| **byte == b'\n').count() as u32
}

fn clip(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const FOUND: &str = "{\n  \"exec-opts\": [\"native.cgroupdriver=systemd\"],\n  \"log-opts\": {\n    \
                         \"max-size\": \"100m\"\n  },\n  \"storage-driver\": \"overlay2\"\n}\n";

    fn set(text: &str, path: &[&str], value: serde_json::Value) -> String {
        DaemonJson::parse(text.as_bytes()).unwrap().set(path, &value).unwrap().text().to_owned()
    }

    #[test]
    fn a_runtime_is_added_and_nothing_else_moves() {
        let now = set(
            FOUND,
            &["runtimes", "nvidia"],
            json!({"path": "/usr/bin/nvidia-container-runtime", "runtimeArgs": []}),
        );
        let wanted = FOUND.replace(
            "\"overlay2\"\n",
            "\"overlay2\",\n  \"runtimes\": {\n    \"nvidia\": {\n      \"path\": \"/usr/bin/nvidia-container-runtime\",\n      \
             \"runtimeArgs\": []\n    }\n  }\n",
        );
        assert_eq!(now, wanted);
        assert_eq!(set(&now, &["default-runtime"], json!("nvidia")).lines().count(), now.lines().count() + 1);
    }

    #[test]
    fn style_is_kept() {
        assert_eq!(set("{}", &["features", "cdi"], json!(true)), "{\n  \"features\": {\n    \"cdi\": true\n  }\n}");
        assert_eq!(set("", &["features", "cdi"], json!(true)), "{\n  \"features\": {\n    \"cdi\": true\n  }\n}\n");
        assert_eq!(set("{\"a\": 1}\n", &["b"], json!(2)), "{\"a\": 1, \"b\": 2}\n");
        assert_eq!(set("{\r\n\t\"a\":1\r\n}\r\n", &["b"], json!(2)), "{\r\n\t\"a\":1,\r\n\t\"b\": 2\r\n}\r\n");
        let off = "{\n    \"features\": { \"cdi\" : false , \"x\": 1 }\n}";
        assert_eq!(set(off, &["features", "cdi"], json!(true)), off.replace("false", "true"));
        let same = "{\"features\":{\"cdi\":true}}";
        assert_eq!(set(same, &["features", "cdi"], json!(true)), same);
    }

    #[test]
    fn errors_have_their_line() {
        let bad = |text: &str| DaemonJson::parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(bad("{\n  \"a\": 1,\n}\n"), "line 3: a comma stands before the closing brace");
        assert_eq!(bad("{\n  \"a\": 1\n  \"b\": 2\n}"), "line 3: a comma or the closing brace is missing");
        assert_eq!(bad("{\n  // hello\n}"), "line 2: comments are not allowed in this file");
        assert_eq!(bad("{\"a\": 'x'}"), "line 1: \"\" is no JSON value");
        assert_eq!(bad("{\"a\": 1"), "line 1: the file ends where a comma or the closing brace should stand");
        assert_eq!(bad("{\"a\": tru}"), "line 1: \"tru\" is no JSON value");
        assert_eq!(bad("{}\n{}"), "line 2: something follows after the closing brace");
        assert_eq!(bad("[]"), "line 1: the whole is no object in braces");
        assert!(bad(&"[".repeat(100_000)).contains("nested too deep"));
    }

    #[test]
    fn a_scalar_in_the_way_is_an_error() {
        let file = DaemonJson::parse(b"{\n \"features\": 3\n}").unwrap();
        assert_eq!(file.set(&["features", "cdi"], &json!(true)).unwrap_err().line, 2);
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            ".{0,6}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                proptest::collection::btree_map("[a-c]{1,2}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = DaemonJson::parse(&bytes);
        }

        #[test]
        fn what_the_judge_of_json_takes_we_take(text in "[\\[\\]{}\":,a0 .-]{0,24}") {
            let ours = DaemonJson::parse(text.as_bytes());
            let theirs = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
            if !text.trim().is_empty() {
                prop_assert_eq!(ours.is_ok(), theirs.is_ok());
            }
        }

        #[test]
        fn setting_changes_that_value_only(root in any_json(), value in any_json(), pretty in any::<bool>()) {
            let mut root = match root {
                serde_json::Value::Object(map) => map,
                other => serde_json::Map::from_iter([("a".to_owned(), other)]),
            };
            let text = if pretty { serde_json::to_string_pretty(&root) } else { serde_json::to_string(&root) }.unwrap();
            let file = DaemonJson::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(file.text(), &text);
            let now = file.set(&["zz"], &value).unwrap();
            root.insert("zz".into(), value.clone());
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(now.text()).unwrap(), &serde_json::Value::Object(root));
            prop_assert_eq!(&now.set(&["zz"], &value).unwrap(), &now);
        }
    }
}
