//! A statement's words, made an instruction.

use std::collections::HashMap;

use super::text::Token;
use super::{Address, Atomic, Compare, Instruction, Kind, Op, Source, Special, Two, Type};

/// An entry's body as read.
pub(super) struct Body<'a> {
    pub params: &'a [(String, usize, usize)],
    pub registers: HashMap<String, usize>,
    /// To the number of the statement behind it.
    pub labels: HashMap<String, usize>,
    pub statements: Vec<Vec<Token>>,
}

pub(super) enum Wrong {
    /// (line, what), as the compiler says it.
    Errors(Vec<(usize, String)>),
    /// The ISA has it, and this does not.
    Unknown(String),
}

/// The ISA's instructions, by their first word.
const KNOWN: &str = " abs activemask add addc alloca and applypriority atom bar barrier bfe bfi bfind bmsk bra brev brkpt brx \
    call clz cnot copysign cos cp createpolicy cvt cvta discard div dp2a dp4a elect ex2 exit fence fma fns griddepcontrol \
    isspacep ld ldmatrix ldu lg2 lop3 mad mad24 madc mapa match max mbarrier membar min mma mov movmatrix mul mul24 \
    nanosleep neg not or pmevent popc prefetch prefetchu prmt rcp red redux rem ret rsqrt sad selp set setmaxnreg setp shf \
    shfl shl shr sin slct sqrt st stmatrix sub subc suld suq sured sust szext tanh tcgen05 testp tex tld4 trap txq vote \
    wgmma wmma xor ";

/// Those of them that are run here.
const RUN: &str = " mov cvta not neg add sub mul div rem and or xor shl shr min max mad fma shf setp selp cvt ld st atom red \
    bra ret exit ";

pub(super) fn code(body: &Body<'_>) -> Result<Vec<Instruction>, Wrong> {
    let (mut code, mut shapes, mut symbols) = (Vec::new(), Vec::new(), Vec::new());
    for statement in &body.statements {
        match one(body, statement) {
            Ok(instruction) => code.push(instruction),
            Err(Bad::Unknown(what)) => return Err(Wrong::Unknown(what)),
            Err(Bad::Shape(line, what)) => shapes.push((line, what)),
            Err(Bad::Symbol(line, name, base)) => {
                if name.starts_with('%') {
                    shapes.push((line, format!("Arguments mismatch for instruction '{base}'")));
                }
                symbols.push((line, format!("Unknown symbol '{name}'")));
            }
        }
    }
    shapes.extend(symbols);
    if shapes.is_empty() { Ok(code) } else { Err(Wrong::Errors(shapes)) }
}

enum Bad {
    Unknown(String),
    Shape(usize, String),
    /// Line, name, instruction.
    Symbol(usize, String, String),
}

struct Words<'a> {
    body: &'a Body<'a>,
    tokens: &'a [Token],
    next: usize,
    line: usize,
    base: &'a str,
}

type Got<T> = Result<T, Bad>;

fn one(body: &Body<'_>, statement: &[Token]) -> Got<Instruction> {
    let line = statement.first().map_or(0, |token| token.line);
    let mut words = Words { body, tokens: statement, next: 0, line, base: "" };
    let guard = if words.accept("@") {
        let negated = words.accept("!");
        let register = words.register()?;
        Some((register, negated))
    } else {
        None
    };
    let Some(token) = words.tokens.get(words.next) else { return words.mismatch() };
    words.next += 1;
    let mut parts = token.text.split('.');
    let base = parts.next().unwrap_or_default();
    words.base = base;
    let suffixes: Vec<&str> = parts.collect();
    if base.is_empty() || !KNOWN.contains(&format!(" {base} ")) {
        return Err(Bad::Shape(line, format!("Not a name of any known instruction: '{base}'")));
    }
    let op = op(&mut words, base, &suffixes)?;
    if words.next != words.tokens.len() {
        return words.mismatch();
    }
    Ok(Instruction { guard, op })
}

fn type_of(word: &str) -> Option<Type> {
    let kind = match word.get(..1)? {
        "u" | "b" => Kind::Unsigned,
        "s" => Kind::Signed,
        "f" => Kind::Float,
        "p" if word == "pred" => return Some(Type { kind: Kind::Unsigned, bits: 1 }),
        _ => return None,
    };
    let bits = word.get(1..)?.parse().ok().filter(|bits| [8, 16, 32, 64].contains(bits))?;
    (kind != Kind::Float || bits >= 32).then_some(Type { kind, bits })
}

fn op(words: &mut Words<'_>, base: &str, suffixes: &[&str]) -> Got<Op> {
    let types: Vec<Type> = suffixes.iter().filter_map(|word| type_of(word)).collect();
    let has = |word: &str| suffixes.contains(&word);
    let full = || format!("{base}.{} in line {}", suffixes.join("."), words.line);
    let unknown = Err(Bad::Unknown(full()));
    let only = |allowed: &[&str]| suffixes.iter().all(|word| type_of(word).is_some() || allowed.contains(word));
    let last = types.last().copied();
    let of = match last {
        Some(of) => of,
        None if matches!(base, "bra" | "ret" | "exit") => Type { kind: Kind::Unsigned, bits: 32 },
        None if RUN.contains(&format!(" {base} ")) => return words.mismatch(),
        None => return unknown,
    };
    let two = |words: &mut Words<'_>, op| {
        let (to, a, b) = (words.to()?, words.comma_source(of)?, words.comma_source(of)?);
        Ok(Op::Two { op, of, to, a, b })
    };
    match base {
        "mov" => Ok(Op::Move { to: words.to()?, from: words.comma_source(of)? }),
        "cvta" => Ok(Op::Move { to: words.to()?, from: words.comma_source(of)? }),
        "not" => Ok(Op::Not { to: words.to()?, from: words.comma_source(of)?, bits: of.bits }),
        "neg" if only(&[]) => Ok(Op::Negate { to: words.to()?, from: words.comma_source(of)?, of }),
        // rounding to nearest alone; no flush of subnormals, no saturation
        "add" if only(&["rn"]) => two(words, Two::Add),
        "sub" if only(&["rn"]) => two(words, Two::Sub),
        "mul" if of.kind == Kind::Float && only(&["rn"]) => two(words, Two::MulLo),
        "mul" if has("lo") => two(words, Two::MulLo),
        "mul" if has("hi") => two(words, Two::MulHi),
        "mul" if has("wide") => two(words, Two::MulWide),
        "div" if of.kind != Kind::Float || has("rn") => two(words, Two::Div),
        "rem" => two(words, Two::Rem),
        "and" => two(words, Two::And),
        "or" => two(words, Two::Or),
        "xor" => two(words, Two::Xor),
        "shl" => two(words, Two::Shl),
        "shr" => two(words, Two::Shr),
        "min" if only(&[]) => two(words, Two::Min),
        "max" if only(&[]) => two(words, Two::Max),
        "mad" | "fma" if of.kind == Kind::Float && only(&["rn"]) => Ok(Op::Fma {
            bits: of.bits,
            to: words.to()?,
            a: words.comma_source(of)?,
            b: words.comma_source(of)?,
            c: words.comma_source(of)?,
        }),
        "mad" if only(&["lo", "wide"]) => {
            let wide = has("wide");
            let sum = if wide { Type { bits: of.bits * 2, ..of } } else { of };
            let (to, a, b) = (words.to()?, words.comma_source(of)?, words.comma_source(of)?);
            Ok(Op::Mad { wide, of, to, a, b, c: words.comma_source(sum)? })
        }
        "shf" if has("l") || has("r") => Ok(Op::Funnel {
            left: has("l"),
            clamp: has("clamp"),
            to: words.to()?,
            low: words.comma_source(of)?,
            high: words.comma_source(of)?,
            by: words.comma_source(of)?,
        }),
        "setp" => {
            let word = suffixes.first().copied().unwrap_or_default();
            let compare = match word {
                "eq" => Compare::Eq,
                "ne" => Compare::Ne,
                "lt" | "lo" => Compare::Lt,
                "le" | "ls" => Compare::Le,
                "gt" | "hi" => Compare::Gt,
                "ge" | "hs" => Compare::Ge,
                _ => return unknown,
            };
            if suffixes.len() != 2 {
                return unknown;
            }
            Ok(Op::Set { compare, of, to: words.to()?, a: words.comma_source(of)?, b: words.comma_source(of)? })
        }
        "selp" => {
            let (to, a, b) = (words.to()?, words.comma_source(of)?, words.comma_source(of)?);
            words.comma()?;
            Ok(Op::Select { to, a, b, by: words.register()? })
        }
        "cvt" if types.len() == 2 && only(&["rn", "rzi"]) => {
            let (to_type, from_type) = (types.first().copied().unwrap_or(of), of);
            let (to, from) = (words.to()?, words.comma_source(from_type)?);
            Ok(Op::Convert { to, to_type, from, from_type })
        }
        "ld" if has("param") => {
            let to = words.to()?;
            words.comma()?;
            words.sign("[")?;
            let name = words.word()?;
            let found = words.body.params.iter().find(|(known, ..)| known == name);
            let Some((_, _, at)) = found else { return Err(words.symbol(name)) };
            words.sign("]")?;
            Ok(Op::LoadParam { to, at: *at, of })
        }
        "ld" if !has("shared") && !has("local") && !has("const") => {
            let to = words.many(|words| words.register())?;
            words.comma()?;
            Ok(Op::Load { to, at: words.address()?, of })
        }
        "st" if !has("shared") && !has("local") && !has("param") => {
            let at = words.address()?;
            words.comma()?;
            Ok(Op::Store { from: words.many(|words| words.source(of))?, at, of })
        }
        "atom" | "red" if !has("shared") => {
            let found = suffixes.iter().find_map(|word| {
                Some(match *word {
                    "add" => Atomic::Add,
                    "min" => Atomic::Min,
                    "max" => Atomic::Max,
                    "exch" => Atomic::Exchange,
                    _ => return None,
                })
            });
            let Some(atomic) = found.filter(|_| of.kind != Kind::Float) else { return unknown };
            let to = if base == "atom" { Some(words.to()?) } else { None };
            if to.is_some() {
                words.comma()?;
            }
            let at = words.address()?;
            Ok(Op::Atomic { op: atomic, to, at, by: words.comma_source(of)?, of })
        }
        "bra" => {
            let name = words.word()?;
            let Some(to) = words.body.labels.get(name) else { return Err(words.symbol(name)) };
            Ok(Op::Branch { to: *to })
        }
        "ret" | "exit" => Ok(Op::Return),
        _ => unknown,
    }
}

impl<'a> Words<'a> {
    fn mismatch<T>(&self) -> Got<T> {
        Err(Bad::Shape(self.line, format!("Arguments mismatch for instruction '{}'", self.base)))
    }

    fn symbol(&self, name: &str) -> Bad {
        Bad::Symbol(self.line, name.into(), self.base.into())
    }

    fn accept(&mut self, sign: &str) -> bool {
        let is = self.tokens.get(self.next).is_some_and(|token| token.text == sign);
        self.next += usize::from(is);
        is
    }

    fn sign(&mut self, sign: &str) -> Got<()> {
        if self.accept(sign) { Ok(()) } else { self.mismatch() }
    }

    fn comma(&mut self) -> Got<()> {
        self.sign(",")
    }

    fn word(&mut self) -> Got<&'a str> {
        match self.tokens.get(self.next) {
            Some(token) => {
                self.next += 1;
                Ok(&token.text)
            }
            None => self.mismatch(),
        }
    }

    fn register(&mut self) -> Got<usize> {
        let name = self.word()?;
        self.body.registers.get(name).copied().ok_or_else(|| self.symbol(name))
    }

    fn to(&mut self) -> Got<usize> {
        self.register()
    }

    fn comma_source(&mut self, of: Type) -> Got<Source> {
        self.comma()?;
        self.source(of)
    }

    fn source(&mut self, of: Type) -> Got<Source> {
        let negative = self.accept("-");
        let name = self.word()?;
        if let Some(special) = special(name) {
            return Ok(Source::Special(special));
        }
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            let Some(value) = number(name, of) else { return self.mismatch() };
            return Ok(Source::Value(if negative { value.wrapping_neg() } else { value }));
        }
        self.body.registers.get(name).map(|register| Source::Register(*register)).ok_or_else(|| self.symbol(name))
    }

    /// `[%d1]`, `[%d1+16]`
    fn address(&mut self) -> Got<Address> {
        self.sign("[")?;
        let base = self.source(Type { kind: Kind::Unsigned, bits: 64 })?;
        let mut offset = 0;
        if self.accept("+") {
            let negative = self.accept("-");
            let Ok(number) = self.word()?.parse::<i64>() else { return self.mismatch() };
            offset = if negative { -number } else { number };
        }
        self.sign("]")?;
        Ok(Address { base, offset })
    }

    /// One, or `{a, b, c, d}`.
    fn many<T>(&mut self, each: impl Fn(&mut Self) -> Got<T>) -> Got<Vec<T>> {
        if !self.accept("{") {
            return Ok(vec![each(self)?]);
        }
        let mut all = vec![each(self)?];
        while self.accept(",") {
            all.push(each(self)?);
        }
        self.sign("}")?;
        if [2, 4].contains(&all.len()) { Ok(all) } else { self.mismatch() }
    }
}

fn special(name: &str) -> Option<Special> {
    let (register, axis) = name
        .split_once('.')
        .map_or((name, None), |(register, axis)| (register, ["x", "y", "z"].iter().position(|known| *known == axis)));
    match (register, axis) {
        ("%tid", Some(axis)) => Some(Special::Tid(axis)),
        ("%ntid", Some(axis)) => Some(Special::Ntid(axis)),
        ("%ctaid", Some(axis)) => Some(Special::Ctaid(axis)),
        ("%nctaid", Some(axis)) => Some(Special::Nctaid(axis)),
        ("%laneid", None) => Some(Special::Lane),
        _ => None,
    }
}

/// "16", "0x1f", "0f3F800000" (the bits of a float), "2.5".
fn number(text: &str, of: Type) -> Option<u64> {
    for (prefix, digits) in [("0f", 8), ("0F", 8), ("0d", 16), ("0D", 16)] {
        if let Some(hex) = text.strip_prefix(prefix).filter(|hex| hex.len() == digits) {
            return u64::from_str_radix(hex, 16).ok();
        }
    }
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex.trim_end_matches('U'), 16).ok();
    }
    if text.contains('.') {
        let value: f64 = text.parse().ok()?;
        return Some(if of.bits == 32 { u64::from((value as f32).to_bits()) } else { value.to_bits() });
    }
    text.trim_end_matches('U').parse().ok()
}
