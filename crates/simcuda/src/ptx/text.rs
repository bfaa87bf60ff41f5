//! A module's text: tokens, directives, entries.

use std::collections::HashMap;
use std::sync::Arc;

use super::decode::{self, Body, Wrong};
use super::{Compiler, Entry, Module, Refused};
use crate::errors::{Code, INVALID_IMAGE, INVALID_PTX, NOT_SUPPORTED, UNSUPPORTED_PTX_VERSION};

const ABORTED: &str = "\nptxas fatal   : Ptx assembly aborted due to errors";
/// Far above any kernel of ours, far below what would hurt.
const REGISTERS: usize = 4096;

/// A word, a number or one sign, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub text: String,
    pub line: usize,
}

fn refused<T>(code: Code, log: String) -> Result<T, Refused> {
    Err(Refused { code, log })
}

fn at(line: usize, what: &str) -> String {
    format!("ptxas application ptx input, line {line}; {what}")
}

fn syntax<T>(token: Option<&Token>, last: usize) -> Result<T, Refused> {
    let (line, near) = token.map_or((last, ""), |token| (token.line, token.text.as_str()));
    refused(INVALID_PTX, at(line, &format!("fatal   : Parsing error near '{near}': syntax error")) + ABORTED)
}

/// What the ISA has and this does not.
fn unknown_here<T>(what: &str) -> Result<T, Refused> {
    refused(NOT_SUPPORTED, format!("the simulated driver cannot run this: {what}"))
}

/// Splits a text; comments are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            '/' if chars.peek() == Some(&'/') => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            '/' if chars.peek() == Some(&'*') => {
                let mut before = ' ';
                for c in chars.by_ref() {
                    line += usize::from(c == '\n');
                    if before == '*' && c == '/' {
                        break;
                    }
                    before = c;
                }
            }
            c if c.is_whitespace() => {}
            c if word(c) => {
                let mut text = String::from(c);
                while let Some(c) = chars.next_if(|c| word(*c)) {
                    text.push(c);
                }
                found.push(Token { text, line });
            }
            c => found.push(Token { text: c.into(), line }),
        }
    }
    found
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

struct Reader {
    tokens: Vec<Token>,
    next: usize,
    last: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn is(&self, text: &str) -> bool {
        self.peek().is_some_and(|token| token.text == text)
    }

    fn take(&mut self) -> Result<Token, Refused> {
        match self.tokens.get(self.next) {
            Some(token) => {
                self.next += 1;
                Ok(token.clone())
            }
            None => syntax(None, self.last),
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), Refused> {
        if self.is(text) {
            self.next += 1;
            return Ok(());
        }
        syntax(self.peek(), self.last)
    }
}

/// Reads a module as the compiler of a driver and a card would.
pub fn parse(text: &str, compiler: Compiler) -> Result<Module, Refused> {
    let tokens = tokens(text);
    let last = text.lines().count() + usize::from(text.ends_with('\n'));
    let mut reader = Reader { tokens, next: 0, last };
    if !reader.is(".version") {
        return refused(INVALID_IMAGE, "error   : Binary format for key='0', ident='' is not recognized".into());
    }
    let version = header(&mut reader, compiler)?;
    target(&mut reader, compiler, version)?;
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    while let Some(token) = reader.peek().cloned() {
        reader.next += 1;
        match token.text.as_str() {
            ".address_size" => {
                if reader.take()?.text != "64" {
                    return unknown_here("addresses of 32 bits");
                }
            }
            ".visible" | ".weak" => {}
            ".entry" => {
                let entry = entry(&mut reader)?;
                entries.push(Arc::new(entry));
            }
            ".func" | ".global" | ".const" | ".shared" | ".extern" | ".file" | ".alias" | ".section" => {
                return unknown_here(&format!("the directive {} in line {}", token.text, token.line));
            }
            _ => return syntax(Some(&token), last),
        }
    }
    Ok(Module { entries })
}

fn header(reader: &mut Reader, compiler: Compiler) -> Result<(i32, i32), Refused> {
    reader.next += 1;
    let token = reader.take()?;
    let parts = token.text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let Some(version) = parts else { return syntax(Some(&token), reader.last) };
    if version > compiler.newest {
        let (major, minor) = compiler.newest;
        let what = format!("fatal   : Unsupported .version {}; current version is '{major}.{minor}'", token.text);
        return refused(UNSUPPORTED_PTX_VERSION, at(token.line, &what));
    }
    Ok(version)
}

/// The PTX version that brought a target. Source: PTX ISA, release notes.
fn since(sm: u32) -> Option<(i32, i32)> {
    Some(match sm {
        20 => (2, 0),
        30 => (3, 0),
        35 => (3, 1),
        32 | 50 => (4, 0),
        37 | 52 => (4, 1),
        53 => (4, 2),
        60..=62 => (5, 0),
        70 => (6, 0),
        72 => (6, 1),
        75 => (6, 3),
        80 => (7, 0),
        86 => (7, 1),
        87 => (7, 4),
        89 | 90 => (7, 8),
        100 | 101 => (8, 6),
        120 => (8, 7),
        103 | 121 => (8, 8),
        _ => return None,
    })
}

fn target(reader: &mut Reader, compiler: Compiler, version: (i32, i32)) -> Result<(), Refused> {
    if !reader.is(".target") {
        let line = reader.peek().map_or(reader.last, |token| token.line);
        let what = "fatal   : Missing .target directive at start of file 'application ptx input'";
        return refused(INVALID_PTX, at(line, what) + ABORTED);
    }
    reader.next += 1;
    let token = reader.take()?;
    while reader.is(",") {
        reader.next += 1;
        reader.take()?;
    }
    let number = token.text.strip_prefix("sm_").map(|text| text.trim_end_matches(['a', 'f']));
    let Some(sm) = number.and_then(|text| text.parse().ok()) else { return syntax(Some(&token), reader.last) };
    if since(sm).is_none_or(|since| since > version) {
        let (major, minor) = version;
        let what = format!("error   : PTX .version {major}.{minor} does not support .target {}", token.text);
        return refused(INVALID_PTX, at(token.line, &what) + ABORTED);
    }
    if sm > compiler.sm {
        let what = "ptxas fatal   : SM version specified by .target is higher than default SM version assumed";
        return refused(INVALID_PTX, what.into());
    }
    Ok(())
}

/// Bytes of a type by its word: ".u64".
fn size(word: &str) -> Option<usize> {
    Some(match word.get(2..)? {
        "8" => 1,
        "16" => 2,
        "32" => 4,
        "64" => 8,
        _ => return None,
    })
}

fn entry(reader: &mut Reader) -> Result<Entry, Refused> {
    let name = reader.take()?.text;
    let mut params: Vec<(String, usize, usize)> = Vec::new();
    let mut end = 0_usize;
    if reader.is("(") {
        reader.next += 1;
        while !reader.is(")") {
            reader.expect(".param")?;
            let kind = reader.take()?;
            let Some(bytes) = size(&kind.text) else {
                return unknown_here(&format!("a parameter of {} in line {}", kind.text, kind.line));
            };
            let place = end.next_multiple_of(bytes);
            params.push((reader.take()?.text, bytes, place));
            end = place + bytes;
            if reader.is("[") {
                return unknown_here("a parameter that is an array");
            }
            if !reader.is(")") {
                reader.expect(",")?;
            }
        }
        reader.next += 1;
    }
    // .maxntid and its like: promises to the compiler
    while !reader.is("{") {
        reader.take()?;
    }
    let mut body = Body { params: &params, registers: HashMap::new(), labels: HashMap::new(), statements: Vec::new() };
    let mut depth = 0_usize;
    loop {
        let token = reader.take()?;
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            ".reg" => registers(reader, &mut body)?,
            ".pragma" | ".loc" => while reader.take()?.text != ";" {},
            ".shared" | ".local" | ".param" => {
                return unknown_here(&format!("the directive {} in line {}", token.text, token.line));
            }
            text if reader.is(":") && !text.starts_with('%') => {
                reader.next += 1;
                body.labels.insert(token.text, body.statements.len());
            }
            _ => {
                let mut statement = vec![token];
                while !reader.is(";") {
                    if reader.is("}") && !statement.iter().any(|token| token.text == "{") || reader.is(":") {
                        return syntax(reader.peek(), reader.last);
                    }
                    statement.push(reader.take()?);
                    if statement.last().is_some_and(|token| token.text == "}") && reader.is("}") {
                        return syntax(reader.peek(), reader.last);
                    }
                }
                reader.next += 1;
                body.statements.push(statement);
            }
        }
    }
    let registers = body.registers.len();
    match decode::code(&body) {
        Ok(code) => Ok(Entry { name, params, registers, code }),
        Err(Wrong::Unknown(what)) => unknown_here(&what),
        Err(Wrong::Errors(errors)) => {
            let lines: Vec<String> =
                errors.iter().map(|(line, what)| at(*line, &format!("error   : {what}"))).collect();
            refused(INVALID_PTX, lines.join("\n") + ABORTED)
        }
    }
}

/// `.reg .b32 %r<16>, %x;` behind its first word.
fn registers(reader: &mut Reader, body: &mut Body<'_>) -> Result<(), Refused> {
    reader.take()?;
    loop {
        let name = reader.take()?;
        if reader.is("<") {
            reader.next += 1;
            let count = reader.take()?;
            let Ok(number) = count.text.parse::<usize>() else { return syntax(Some(&count), reader.last) };
            if number + body.registers.len() > REGISTERS {
                return unknown_here(&format!("{number} registers"));
            }
            for n in 0..number {
                let next = body.registers.len();
                body.registers.entry(format!("{}{n}", name.text)).or_insert(next);
            }
            reader.expect(">")?;
        } else {
            let next = body.registers.len();
            body.registers.entry(name.text).or_insert(next);
        }
        match reader.take()?.text.as_str() {
            "," => {}
            ";" => return Ok(()),
            _ => return syntax(reader.tokens.get(reader.next - 1), reader.last),
        }
    }
}
