//! A text's documents as trees whose nodes know their place: for whoever edits a file and must leave the rest of it,
//! comments and order, as it stands.

use std::ops::Range;

use granit_parser::{Event, Marker, Options, Parser, ScalarStyle, Span, StructureStyle, Tag};

use super::{Error, MAX_DEPTH, MAX_NODES, MAX_TEXT};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    /// Bytes of the text. A scalar: what stands there, with its quotes or its `|`, blank
    /// lines at a block's end left out. A mapping or list in flow form: with its
    /// brackets. In block form: from the first key or dash to the end of what is in it, its last line feed left out.
    pub span: Range<usize>,
    /// Of the first byte, from 1; the column in characters.
    pub line: usize,
    pub column: usize,
    /// `{…}` and `[…]`.
    pub flow: bool,
    /// The number of the anchor that stands before it.
    pub anchor: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In the text's order; keys are not yet compared.
    Map(Vec<(Node, Node)>),
    List(Vec<Node>),
    Scalar {
        text: String,
        plain: bool,
        /// The core schema's word after `!!`; any other tag is refused.
        tag: Option<String>,
    },
    Alias(usize),
}

impl Node {
    /// The value of a mapping's key, and of no alias.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|(_, value)| value)
    }

    /// Key and value of a mapping's entry.
    pub fn entry(&self, name: &str) -> Option<&(Node, Node)> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().find(|(key, _)| key.text() == Some(name))
    }

    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// A value that is not written: `key:` and nothing after it.
    pub fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Scalar { plain: true, .. }) && self.span.is_empty()
    }

    pub(super) fn is_merge(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true, .. } if text == "<<")
    }
}

/// The trees of a text's documents.
pub fn documents(text: &str) -> Result<Vec<Node>, Error> {
    if text.len() > MAX_TEXT {
        return Err(Error::new(0, 0, format!("the text has {} bytes; at most {MAX_TEXT} are read", text.len())));
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut events = Events { parser: Parser::new_from_str_with_options(text, options), nodes: 0, text };
    let mut documents = Vec::new();
    loop {
        match events.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
            (event, span) => documents.push(events.node(event, &span, 0)?),
        }
    }
}

struct Events<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    nodes: usize,
    text: &'a str,
}

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Error> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(bad)) => {
                let says: String = bad.kind().to_string().chars().take(200).flat_map(char::escape_debug).collect();
                Err(at(bad.marker(), format!("this is no YAML: {says}")))
            }
            None => Err(Error::new(0, 0, "the text ends in the middle")),
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Error> {
        self.nodes += 1;
        if depth > MAX_DEPTH {
            return Err(at(&span.start, "it is nested too deeply"));
        }
        if self.nodes > MAX_NODES {
            return Err(at(&span.start, format!("more than {MAX_NODES} values")));
        }
        let bytes = span.byte_range().unwrap_or(0..0);
        let mut node = Node {
            kind: Kind::List(Vec::new()),
            span: bytes,
            line: span.start.line(),
            column: span.start.col() + 1,
            flow: false,
            anchor: None,
        };
        let mut anchored = |anchor: usize| node.anchor = (anchor > 0).then_some(anchor);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                anchored(anchor);
                if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                    // the parser's end stands before the next token
                    let stands = self.text.get(node.span.clone()).unwrap_or_default();
                    node.span.end = node.span.start + stands.trim_end().len();
                }
                let tag = tag.map(|tag| core(&tag, &tag_mark(span))).transpose()?;
                node.kind = Kind::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain, tag };
            }
            Event::Alias(anchor) => node.kind = Kind::Alias(anchor),
            Event::SequenceStart(style, anchor, tag) => {
                anchored(anchor);
                collection(tag.as_deref(), "seq", &tag_mark(span))?;
                node.flow = style == StructureStyle::Flow;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, span) => {
                            node.span.end = self.closed(&node, &span, items.last());
                            break;
                        }
                        (event, span) => items.push(self.node(event, &span, depth + 1)?),
                    }
                }
                node.kind = Kind::List(items);
            }
            Event::MappingStart(style, anchor, tag) => {
                anchored(anchor);
                collection(tag.as_deref(), "map", &tag_mark(span))?;
                node.flow = style == StructureStyle::Flow;
                let mut entries: Vec<(Node, Node)> = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, span) => {
                            let last = entries.last().map(|(key, value)| if value.is_empty() { key } else { value });
                            node.span.end = self.closed(&node, &span, last);
                            break;
                        }
                        (event, span) => self.node(event, &span, depth + 1)?,
                    };
                    let (event, span) = self.next()?;
                    let value = self.node(event, &span, depth + 1)?;
                    entries.push((key, value));
                }
                // a block mapping begins where its first key does
                if let Some((key, _)) = entries.first().filter(|_| !node.flow) {
                    (node.span.start, node.line, node.column) = (key.span.start, key.line, key.column);
                }
                node.kind = Kind::Map(entries);
            }
            _ => return Err(at(&span.start, "this is no value")),
        }
        Ok(node)
    }

    /// Where a collection ends: a flow one at its bracket, a block one with the last thing in it (the parser's own end
    /// stands at whatever comes next, comments and blank lines behind it).
    fn closed(&self, node: &Node, end: &Span, last: Option<&Node>) -> usize {
        match last {
            Some(last) if !node.flow => last.span.end,
            _ => end.byte_range().map_or(node.span.end, |range| range.end).min(self.text.len()),
        }
    }
}

fn at(mark: &Marker, message: impl Into<String>) -> Error {
    Error::new(mark.line(), mark.col() + 1, message)
}

fn tag_mark(span: &Span) -> Marker {
    span.tag_start().unwrap_or(span.start)
}

fn core(tag: &Tag, mark: &Marker) -> Result<String, Error> {
    match tag.core_suffix() {
        Some(word) if ["str", "int", "float", "bool", "null"].contains(&word) => Ok(word.to_owned()),
        // "!" alone: text, whatever it looks like
        _ if tag.original() == "!" => Ok("str".to_owned()),
        _ => Err(at(mark, "a tag of this kind is not read")),
    }
}

fn collection(tag: Option<&Tag>, word: &str, mark: &Marker) -> Result<(), Error> {
    match tag {
        Some(tag) if tag.core_suffix() != Some(word) => Err(at(mark, "a tag of this kind is not read")),
        _ => Ok(()),
    }
}
