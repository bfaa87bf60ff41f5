//! YAML read as kubectl reads it: a text in, JSON values out, with the line and column of what is wrong. The one reader
//! of the house for configuration files and manifests; [`tree`] keeps every node's place for editing.
//!
//! Scalars: YAML 1.2's core schema (`null`, `~`, `true`, `false`, decimal, `0x`, `0o`, floats), and what kubectl's reader
//! takes besides: YAML 1.1's booleans (`yes`, `no`, `on`, `off`, `y`, `n`, each also as `Yes` and `YES`), `0b1`, octal
//! with a leading zero (`defaultMode: 0644` is 420), `_` between digits. Only plain scalars are typed; quoted ones and
//! blocks are text. A timestamp is text. `.inf` and `.nan` are refused: JSON has no such number. A key that is a number
//! or a boolean becomes its text.
//!
//! Stricter than many readers: a key twice in one mapping is an error (kubectl's strict form; the last silently winning
//! hides a mistake), so is a second document in [`parse`], a tag beyond the core schema, and an alias within its own
//! anchor. `<<` merges mappings; a key beside it wins. Aliases are expanded within the bounds below, so that a few lines
//! cannot become gigabytes.

mod scalar;
pub mod tree;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use tree::{Kind, Node};

/// The longest text that is read, in bytes.
pub const MAX_TEXT: usize = 4 << 20;
/// The most nodes of one text, aliases expanded.
pub const MAX_NODES: usize = 200_000;
/// The most bytes of text in its scalars, aliases expanded.
pub const MAX_EXPANDED: usize = 16 << 20;
/// The deepest nesting.
pub const MAX_DEPTH: usize = 100;

/// What is wrong and where. Line and column count from 1; both are 0 where the text as a whole is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl Error {
    fn new(line: usize, column: usize, message: impl Into<String>) -> Error {
        Error { line, column, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}, column {}: {}", self.column, self.message),
        }
    }
}

impl std::error::Error for Error {}

/// The one document of a text. A text of blanks and comments alone is `Null`; so is an empty document.
pub fn parse(text: &str) -> Result<Value, Error> {
    let documents = tree::documents(text)?;
    if let Some(second) = documents.get(1) {
        return Err(Error::new(second.line, second.column, "a second document begins here, and one is expected"));
    }
    match documents.first() {
        Some(document) => value(document),
        None => Ok(Value::Null),
    }
}

/// All documents of a text (`---` between them), empty ones left out, as kubectl does.
pub fn parse_all(text: &str) -> Result<Vec<Value>, Error> {
    let mut values = Vec::new();
    for document in tree::documents(text)? {
        let value = value(&document)?;
        if !value.is_null() {
            values.push(value);
        }
    }
    Ok(values)
}

/// A document's tree as a value: aliases put in, merges carried out, scalars typed.
pub fn value(document: &Node) -> Result<Value, Error> {
    let mut reader = Reader { anchors: BTreeMap::new(), open: Vec::new(), nodes: 0, bytes: 0 };
    reader.gather(document);
    reader.value(document, 0)
}

struct Reader<'a> {
    /// Anchor → its node. Later ones of the same name have numbers of their own.
    anchors: BTreeMap<usize, &'a Node>,
    /// The anchors whose nodes are being read: an alias of one of them would have no end.
    open: Vec<usize>,
    nodes: usize,
    bytes: usize,
}

impl<'a> Reader<'a> {
    fn gather(&mut self, node: &'a Node) {
        if let Some(anchor) = node.anchor {
            self.anchors.insert(anchor, node);
        }
        match &node.kind {
            Kind::Map(entries) => entries.iter().for_each(|(key, value)| {
                self.gather(key);
                self.gather(value);
            }),
            Kind::List(items) => items.iter().for_each(|item| self.gather(item)),
            Kind::Scalar { .. } | Kind::Alias(_) => {}
        }
    }

    fn count(&mut self, node: &Node, bytes: usize, depth: usize) -> Result<(), Error> {
        self.nodes += 1;
        self.bytes += bytes;
        let bad = |message: &str| Err(Error::new(node.line, node.column, message));
        if depth > MAX_DEPTH {
            return bad("it is nested too deeply");
        }
        if self.nodes > MAX_NODES || self.bytes > MAX_EXPANDED {
            return bad("the text is too large once its aliases are put in");
        }
        Ok(())
    }

    fn value(&mut self, node: &'a Node, depth: usize) -> Result<Value, Error> {
        match &node.kind {
            Kind::Scalar { text, plain, tag } => {
                self.count(node, text.len(), depth)?;
                scalar::resolve(text, *plain, tag.as_deref())
                    .map_err(|message| Error::new(node.line, node.column, message))
            }
            Kind::List(items) => {
                self.count(node, 0, depth)?;
                self.enter(node);
                let list = items.iter().map(|item| self.value(item, depth + 1)).collect::<Result<_, _>>();
                self.leave(node);
                Ok(Value::Array(list?))
            }
            Kind::Map(entries) => {
                self.count(node, 0, depth)?;
                self.enter(node);
                let map = self.map(entries, depth);
                self.leave(node);
                Ok(Value::Object(map?))
            }
            Kind::Alias(anchor) => {
                let target = self.target(*anchor, node)?;
                self.value(target, depth + 1)
            }
        }
    }

    fn target(&self, anchor: usize, alias: &Node) -> Result<&'a Node, Error> {
        if self.open.contains(&anchor) {
            return Err(Error::new(alias.line, alias.column, "the alias stands within its own anchor"));
        }
        let unknown = || Error::new(alias.line, alias.column, "the alias names no anchor before it");
        self.anchors.get(&anchor).copied().ok_or_else(unknown)
    }

    fn enter(&mut self, node: &Node) {
        self.open.extend(node.anchor);
    }

    fn leave(&mut self, node: &Node) {
        if node.anchor.is_some() {
            self.open.pop();
        }
    }

    fn map(&mut self, entries: &'a [(Node, Node)], depth: usize) -> Result<Map<String, Value>, Error> {
        let mut map = Map::new();
        let mut merges = Vec::new();
        for (key, value) in entries {
            if key.is_merge() {
                merges.push(value);
                continue;
            }
            let name = self.key(key, depth)?;
            if map.contains_key(&name) {
                let name: String = name.chars().take(80).flat_map(char::escape_debug).collect();
                return Err(Error::new(key.line, key.column, format!("the key {name} stands twice in one mapping")));
            }
            let value = self.value(value, depth + 1)?;
            map.insert(name, value);
        }
        for merged in merges {
            self.merge(merged, &mut map, depth)?;
        }
        Ok(map)
    }

    fn key(&mut self, key: &'a Node, depth: usize) -> Result<String, Error> {
        match self.value(key, depth + 1)? {
            Value::String(text) => Ok(text),
            Value::Bool(flag) => Ok(flag.to_string()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                Err(Error::new(key.line, key.column, "the key is no text"))
            }
        }
    }

    /// `<<: *base` or `<<: [*a, *b]`: entries that the mapping has not itself, earlier ones first.
    fn merge(&mut self, node: &'a Node, into: &mut Map<String, Value>, depth: usize) -> Result<(), Error> {
        match self.value(node, depth + 1)? {
            Value::Object(base) => {
                for (key, value) in base {
                    into.entry(key).or_insert(value);
                }
                Ok(())
            }
            Value::Array(bases) if bases.iter().all(Value::is_object) => {
                for (key, value) in bases
                    .into_iter()
                    .filter_map(|base| match base {
                        Value::Object(map) => Some(map),
                        _ => None,
                    })
                    .flatten()
                {
                    into.entry(key).or_insert(value);
                }
                Ok(())
            }
            _ => Err(Error::new(node.line, node.column, "<< takes a mapping or a list of mappings")),
        }
    }
}

#[cfg(test)]
mod tests;
