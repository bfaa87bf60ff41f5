//! PTX: its text, read as the driver's compiler reads it and refused as that refuses it, and its instructions carried out.
//!
//! Source: Parallel Thread Execution ISA. What of it is here is what plain integer and floating point kernels need; the
//! rest is refused with CUDA_ERROR_NOT_SUPPORTED and a word on stderr, never run wrong.

mod decode;
mod number;
mod run;
mod text;

use std::sync::Arc;

pub use run::{Grid, launch};
pub use text::parse;

use crate::errors::Code;

/// A module as loaded.
#[derive(Debug)]
pub struct Module {
    pub entries: Vec<Arc<Entry>>,
}

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    /// Bytes of each parameter, and where it lies in the parameters' space.
    pub params: Vec<(String, usize, usize)>,
    pub(crate) registers: usize,
    pub(crate) code: Vec<Instruction>,
}

/// Why a text is no module: the code, and what the compiler's log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: Code,
    pub log: String,
}

/// What a driver and a card compile.
#[derive(Clone, Copy, Debug)]
pub struct Compiler {
    /// The newest PTX version: (9, 0).
    pub newest: (i32, i32),
    /// Of the card: 90 of sm_90.
    pub sm: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unsigned,
    Signed,
    Float,
}

/// An instruction's type. Untyped bits count as unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Type {
    pub kind: Kind,
    /// Bits; 1 for a predicate.
    pub bits: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Register(usize),
    Value(u64),
    Special(Special),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Two {
    Add,
    Sub,
    MulLo,
    MulHi,
    MulWide,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    Min,
    Max,
    Div,
    Rem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    Min,
    Max,
    Exchange,
}

/// An address: a register or a number, and an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub base: Source,
    pub offset: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Move {
        to: usize,
        from: Source,
    },
    Not {
        to: usize,
        from: Source,
        bits: u32,
    },
    Negate {
        to: usize,
        from: Source,
        of: Type,
    },
    Two {
        op: Two,
        of: Type,
        to: usize,
        a: Source,
        b: Source,
    },
    /// a · b + c
    Mad {
        wide: bool,
        of: Type,
        to: usize,
        a: Source,
        b: Source,
        c: Source,
    },
    Fma {
        bits: u32,
        to: usize,
        a: Source,
        b: Source,
        c: Source,
    },
    Funnel {
        left: bool,
        clamp: bool,
        to: usize,
        low: Source,
        high: Source,
        by: Source,
    },
    Set {
        compare: Compare,
        of: Type,
        to: usize,
        a: Source,
        b: Source,
    },
    Select {
        to: usize,
        a: Source,
        b: Source,
        by: usize,
    },
    Convert {
        to: usize,
        to_type: Type,
        from: Source,
        from_type: Type,
    },
    LoadParam {
        to: usize,
        at: usize,
        of: Type,
    },
    Load {
        to: Vec<usize>,
        at: Address,
        of: Type,
    },
    Store {
        from: Vec<Source>,
        at: Address,
        of: Type,
    },
    Atomic {
        op: Atomic,
        to: Option<usize>,
        at: Address,
        by: Source,
        of: Type,
    },
    Branch {
        to: usize,
    },
    Return,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// A predicate's register, and whether it is to be false.
    pub guard: Option<(usize, bool)>,
    pub op: Op,
}
