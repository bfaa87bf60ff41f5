//! A launch: warp after warp, 32 lanes at a time. Lanes that go apart are carried on by the one that is furthest behind,
//! and go together again where they meet.

use std::sync::Arc;

use super::number::{aligned, bytes, convert, cut, extend, fma, holds, number};
use super::{Atomic, Entry, Instruction, Kind, Op, Source, Special, Two, Type};
use crate::errors::Answer;
use crate::memory::Memory;

pub(super) const WARP: usize = 32;
pub(super) type Lanes = [u64; WARP];

/// A launch's shape: blocks, and threads of a block.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub threads: [u32; 3],
}

/// Runs a kernel to its end. `params`: the parameters' space. `wrong_bits`: a fault of the card's multipliers.
/// `look` is asked between two blocks; an error of it ends the launch.
pub fn launch(
    entry: &Arc<Entry>,
    grid: Grid,
    params: &[u8],
    memory: &mut Memory,
    wrong_bits: u32,
    look: &mut dyn FnMut() -> Answer,
) -> Answer {
    let mut warp =
        Warp { registers: vec![[0; WARP]; entry.registers], tid: [[0; WARP]; 3], grid, block: [0; 3], wrong_bits };
    let threads: u32 = grid.threads.iter().product();
    for z in 0..grid.blocks[2] {
        for y in 0..grid.blocks[1] {
            for x in 0..grid.blocks[0] {
                look()?;
                warp.block = [x, y, z];
                for first in (0..threads).step_by(WARP) {
                    let count = (threads - first).min(WARP as u32);
                    warp.start(first);
                    warp.run(&entry.code, params, memory, u32::MAX >> (32 - count))?;
                }
            }
        }
    }
    Ok(())
}

struct Warp {
    registers: Vec<Lanes>,
    tid: [Lanes; 3],
    grid: Grid,
    block: [u32; 3],
    wrong_bits: u32,
}

/// Lanes that are at one place.
#[derive(Clone, Copy)]
struct Group {
    at: usize,
    mask: u32,
}

impl Warp {
    fn start(&mut self, first: u32) {
        let [nx, ny, _] = self.grid.threads;
        for lane in 0..WARP {
            let thread = first + lane as u32;
            self.tid[0][lane] = u64::from(thread % nx);
            self.tid[1][lane] = u64::from(thread / nx % ny);
            self.tid[2][lane] = u64::from(thread / nx / ny);
        }
        for register in &mut self.registers {
            *register = [0; WARP];
        }
    }

    fn run(&mut self, code: &[Instruction], params: &[u8], memory: &mut Memory, mask: u32) -> Answer {
        let mut groups = vec![Group { at: 0, mask }];
        while let Some(behind) = (0..groups.len()).min_by_key(|n| groups[*n].at) {
            let mut group = groups.swap_remove(behind);
            groups.retain(|other| {
                let here = other.at == group.at;
                group.mask |= if here { other.mask } else { 0 };
                !here
            });
            let until = groups.iter().map(|other| other.at).min().unwrap_or(usize::MAX);
            while group.mask != 0 && group.at < until {
                // behind the last statement is the end, as `ret` is
                let Some(instruction) = code.get(group.at) else {
                    group.mask = 0;
                    break;
                };
                let mask = match instruction.guard {
                    None => group.mask,
                    Some((register, negated)) => group.mask & self.mask(register, negated),
                };
                match instruction.op {
                    Op::Branch { to } => {
                        let rest = group.mask & !mask;
                        if mask == 0 {
                            group.at += 1;
                        } else if rest == 0 {
                            let back = to <= group.at || to > until;
                            group.at = to;
                            if back && until != usize::MAX {
                                break;
                            }
                        } else {
                            groups.push(Group { at: to, mask });
                            group = Group { at: group.at + 1, mask: rest };
                            break;
                        }
                    }
                    Op::Return => {
                        group.mask &= !mask;
                        group.at += 1;
                    }
                    ref op => {
                        if mask != 0 {
                            self.step(op, params, memory, mask)?;
                        }
                        group.at += 1;
                    }
                }
            }
            if group.mask != 0 {
                groups.push(group);
            }
        }
        Ok(())
    }

    fn mask(&self, register: usize, negated: bool) -> u32 {
        let bits =
            self.registers[register].iter().enumerate().fold(0, |all, (lane, bit)| all | ((*bit as u32 & 1) << lane));
        if negated { !bits } else { bits }
    }

    fn get(&self, source: Source) -> Lanes {
        match source {
            Source::Register(register) => self.registers[register],
            Source::Value(value) => [value; WARP],
            Source::Special(special) => match special {
                Special::Tid(axis) => self.tid[axis],
                Special::Ntid(axis) => [u64::from(self.grid.threads[axis]); WARP],
                Special::Ctaid(axis) => [u64::from(self.block[axis]); WARP],
                Special::Nctaid(axis) => [u64::from(self.grid.blocks[axis]); WARP],
                Special::Lane => std::array::from_fn(|lane| lane as u64),
            },
        }
    }

    fn put(&mut self, to: usize, lanes: &Lanes, mask: u32) {
        let register = &mut self.registers[to];
        if mask == u32::MAX {
            *register = *lanes;
            return;
        }
        for lane in 0..WARP {
            if mask >> lane & 1 == 1 {
                register[lane] = lanes[lane];
            }
        }
    }

    #[inline]
    fn map2(&mut self, to: usize, a: Source, b: Source, mask: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.get(a), self.get(b));
        let mut lanes = [0; WARP];
        for lane in 0..WARP {
            lanes[lane] = f(a[lane], b[lane]);
        }
        self.put(to, &lanes, mask);
    }

    #[inline]
    fn map3(&mut self, to: usize, [a, b, c]: [Source; 3], mask: u32, f: impl Fn(u64, u64, u64) -> u64) {
        let (a, b, c) = (self.get(a), self.get(b), self.get(c));
        let mut lanes = [0; WARP];
        for lane in 0..WARP {
            lanes[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.put(to, &lanes, mask);
    }

    fn step(&mut self, op: &Op, params: &[u8], memory: &mut Memory, mask: u32) -> Answer {
        match *op {
            Op::Move { to, from } => {
                let lanes = self.get(from);
                self.put(to, &lanes, mask);
            }
            Op::Not { to, from, bits } => self.map2(to, from, from, mask, |a, _| cut(!a, bits)),
            Op::Negate { to, from, of } => self.map2(to, from, from, mask, |a, _| match (of.kind, of.bits) {
                (Kind::Float, 32) => a ^ 1 << 31,
                (Kind::Float, _) => a ^ 1 << 63,
                (_, bits) => cut(a.wrapping_neg(), bits),
            }),
            Op::Two { op, of, to, a, b } => self.two(op, of, to, a, b, mask),
            Op::Mad { wide: false, of, to, a, b, c } if of.bits == 32 => {
                let wrong = self.wrong_bits;
                self.map3(to, [a, b, c], mask, |a, b, c| {
                    u64::from((a as u32).wrapping_mul(b as u32).wrapping_add(c as u32) ^ wrong)
                });
            }
            Op::Mad { wide, of, to, a, b, c } => self.map3(to, [a, b, c], mask, |a, b, c| {
                let (a, b) = (extend(a, of), extend(b, of));
                cut(a.wrapping_mul(b).wrapping_add(c), if wide { of.bits * 2 } else { of.bits })
            }),
            Op::Fma { bits: 32, to, a, b, c } => {
                let lanes = fma(&self.get(a), &self.get(b), &self.get(c));
                self.put(to, &lanes, mask);
            }
            Op::Fma { to, a, b, c, .. } => self.map3(to, [a, b, c], mask, |a, b, c| {
                f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
            }),
            Op::Funnel { left, clamp, to, low, high, by } => self.map3(to, [low, high, by], mask, |low, high, by| {
                let by = if clamp { (by as u32).min(32) } else { by as u32 & 31 };
                let both = high << 32 | low & 0xffff_ffff;
                if left { both << by >> 32 } else { both >> by & 0xffff_ffff }
            }),
            Op::Set { compare, of, to, a, b } => self.map2(to, a, b, mask, |a, b| u64::from(holds(compare, of, a, b))),
            Op::Select { to, a, b, by } => {
                self.map3(to, [a, b, Source::Register(by)], mask, |a, b, by| if by & 1 == 1 { a } else { b });
            }
            Op::Convert { to, to_type, from, from_type } => {
                self.map2(to, from, from, mask, |a, _| convert(a, from_type, to_type));
            }
            Op::LoadParam { to, at, of } => {
                let value = number(params.get(at..at + bytes(of)).unwrap_or_default());
                self.put(to, &[cut(extend(value, of), of.bits.max(32)); WARP], mask);
            }
            Op::Load { ref to, at, of } => {
                let base = self.get(at.base);
                let size = bytes(of);
                let mut buffer = [0_u8; 32];
                for lane in lanes_of(mask) {
                    let place = aligned(base[lane].wrapping_add_signed(at.offset), size * to.len())?;
                    let whole = buffer.get_mut(..size * to.len()).unwrap_or_default();
                    memory.read(place, whole)?;
                    for (register, part) in to.iter().zip(whole.chunks_exact(size)) {
                        let value = number(part);
                        self.registers[*register][lane] =
                            if of.kind == Kind::Signed { cut(extend(value, of), of.bits.max(32)) } else { value };
                    }
                }
            }
            Op::Store { ref from, at, of } => {
                let base = self.get(at.base);
                let size = bytes(of);
                let values: Vec<Lanes> = from.iter().map(|source| self.get(*source)).collect();
                let mut buffer = [0_u8; 32];
                for lane in lanes_of(mask) {
                    let place = aligned(base[lane].wrapping_add_signed(at.offset), size * from.len())?;
                    let whole = buffer.get_mut(..size * from.len()).unwrap_or_default();
                    for (part, value) in whole.chunks_exact_mut(size).zip(&values) {
                        part.copy_from_slice(value[lane].to_le_bytes().get(..size).unwrap_or_default());
                    }
                    memory.write(place, whole)?;
                }
            }
            Op::Atomic { op, to, at, by, of } => {
                let (base, by) = (self.get(at.base), self.get(by));
                let size = bytes(of);
                for lane in lanes_of(mask) {
                    let place = aligned(base[lane].wrapping_add_signed(at.offset), size)?;
                    let mut buffer = [0; 8];
                    let whole = buffer.get_mut(..size).unwrap_or_default();
                    memory.read(place, whole)?;
                    let old = number(whole);
                    let (a, b) = (extend(old, of), extend(by[lane], of));
                    let less = if of.kind == Kind::Signed { (a as i64) < (b as i64) } else { a < b };
                    let new = match op {
                        Atomic::Add => a.wrapping_add(b),
                        Atomic::Min => {
                            if less {
                                a
                            } else {
                                b
                            }
                        }
                        Atomic::Max => {
                            if less {
                                b
                            } else {
                                a
                            }
                        }
                        Atomic::Exchange => b,
                    };
                    memory.write(place, new.to_le_bytes().get(..size).unwrap_or_default())?;
                    if let Some(to) = to {
                        self.registers[to][lane] = old;
                    }
                }
            }
            Op::Branch { .. } | Op::Return => {}
        }
        Ok(())
    }

    fn two(&mut self, op: Two, of: Type, to: usize, a: Source, b: Source, mask: u32) {
        match (of.kind, of.bits, op) {
            (Kind::Float, 32, op) => self.map2(to, a, b, mask, |a, b| {
                let (a, b) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
                let value = match op {
                    Two::Add => a + b,
                    Two::Sub => a - b,
                    Two::MulLo => a * b,
                    Two::Min => a.min(b),
                    Two::Max => a.max(b),
                    _ => a / b,
                };
                u64::from(value.to_bits())
            }),
            (Kind::Float, _, op) => self.map2(to, a, b, mask, |a, b| {
                let (a, b) = (f64::from_bits(a), f64::from_bits(b));
                let value = match op {
                    Two::Add => a + b,
                    Two::Sub => a - b,
                    Two::MulLo => a * b,
                    Two::Min => a.min(b),
                    Two::Max => a.max(b),
                    _ => a / b,
                };
                value.to_bits()
            }),
            // the commonest have loops of their own, which the compiler makes vectors of
            (_, 32, Two::Add) => self.map2(to, a, b, mask, |a, b| u64::from((a as u32).wrapping_add(b as u32))),
            (_, 32, Two::Sub) => self.map2(to, a, b, mask, |a, b| u64::from((a as u32).wrapping_sub(b as u32))),
            (_, _, Two::Xor) => self.map2(to, a, b, mask, |a, b| a ^ b),
            (_, _, Two::And) => self.map2(to, a, b, mask, |a, b| a & b),
            (_, _, Two::Or) => self.map2(to, a, b, mask, |a, b| a | b),
            (Kind::Unsigned, 32, Two::Shr) => {
                self.map2(to, a, b, mask, |a, b| u64::from((a as u32).checked_shr(b as u32).unwrap_or(0)))
            }
            (_, bits, op) => self.map2(to, a, b, mask, |a, b| {
                let (x, y) = (extend(a, of), extend(b, of));
                let signed = of.kind == Kind::Signed;
                let less = if signed { (x as i64) < (y as i64) } else { x < y };
                let value = match op {
                    Two::Add => x.wrapping_add(y),
                    Two::Sub => x.wrapping_sub(y),
                    Two::MulLo => x.wrapping_mul(y),
                    Two::MulWide => return cut(x.wrapping_mul(y), bits * 2),
                    Two::MulHi if signed => ((i128::from(x as i64) * i128::from(y as i64)) >> bits) as u64,
                    Two::MulHi => ((u128::from(x) * u128::from(y)) >> bits) as u64,
                    Two::Min => {
                        if less {
                            x
                        } else {
                            y
                        }
                    }
                    Two::Max => {
                        if less {
                            y
                        } else {
                            x
                        }
                    }
                    // a shift's amount is 32 unsigned bits, and more than the width shifts all out
                    Two::Shl => x.checked_shl(b as u32).unwrap_or(0),
                    Two::Shr if signed => ((x as i64) >> (b as u32).min(63)) as u64,
                    Two::Shr => x.checked_shr(b as u32).unwrap_or(0),
                    Two::Div if y == 0 => u64::MAX,
                    Two::Div if signed => (x as i64).wrapping_div(y as i64) as u64,
                    Two::Div => x / y,
                    Two::Rem if y == 0 => x,
                    Two::Rem if signed => (x as i64).wrapping_rem(y as i64) as u64,
                    Two::Rem => x % y,
                    Two::And | Two::Or | Two::Xor => 0,
                };
                cut(value, bits)
            }),
        }
    }
}

fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..WARP).filter(move |lane| mask >> lane & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::super::{Compiler, Module, Refused, parse};
    use super::*;
    use crate::errors::MISALIGNED_ADDRESS;
    use crate::errors::{ILLEGAL_ADDRESS, INVALID_PTX, NOT_SUPPORTED};

    const HEAD: &str = ".version 6.0\n.target sm_50\n.address_size 64\n";

    fn read(body: &str) -> Result<Module, Refused> {
        let registers = ".reg .pred %p<4>; .reg .b32 %r<16>; .reg .b64 %d<16>; .reg .f32 %f<16>;";
        let text = format!("{HEAD}.visible .entry k(.param .u64 to, .param .u32 n) {{ {registers}\n{body} }}");
        parse(&text, Compiler { newest: (9, 0), sm: 61 })
    }

    /// What each of 40 threads stored in its word.
    fn run(body: &str) -> Answer<Vec<u32>> {
        let before = "ld.param.u64 %d1, [to]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.s64 %d1, %d1, %d2;";
        let module = read(&format!("{before} {body}")).unwrap_or_else(|refused| panic!("{}", refused.log));
        let mut memory = Memory::new(0, 1 << 30, 1 << 30);
        let to = memory.alloc(160).expect("room");
        let mut params = to.to_le_bytes().to_vec();
        params.extend(7_u32.to_le_bytes());
        let grid = Grid { blocks: [1; 3], threads: [40, 1, 1] };
        launch(&module.entries[0], grid, &params, &mut memory, 0, &mut || Ok(()))?;
        let mut bytes = [0; 160];
        memory.read(to, &mut bytes)?;
        Ok(bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four"))).collect())
    }

    #[test]
    fn lanes_that_part_meet_again() {
        // odd lanes go round as often as their number says, even ones not at all
        let body = "and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0; mov.u32 %r3, 100; mov.u32 %r4, 0; @%p1 bra END;\n\
                    LOOP: add.u32 %r3, %r3, 10; add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, %r1; @%p2 bra LOOP;\n\
                    END: add.u32 %r3, %r3, 1; st.global.u32 [%d1], %r3; ret;";
        let words = run(body).expect("runs");
        for (lane, word) in words.iter().enumerate() {
            let rounds = if lane % 2 == 1 { lane as u32 } else { 0 };
            assert_eq!(*word, 101 + 10 * rounds, "{lane}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_isa() {
        let first = |body: &str| run(&format!("{body} st.global.u32 [%d1], %r9; ret;")).expect("runs")[3];
        for (body, want) in [
            ("mov.u32 %r9, -5; shr.s32 %r9, %r9, 1;", -3_i32 as u32),
            ("mov.u32 %r9, -5; shr.u32 %r9, %r9, 1;", (-5_i32 as u32) >> 1),
            ("mov.u32 %r9, 1; shl.b32 %r9, %r9, 32;", 0),
            ("mov.u32 %r2, -7; mov.u32 %r3, 2; div.s32 %r9, %r2, %r3;", -3_i32 as u32),
            ("mov.u32 %r2, -7; rem.s32 %r9, %r2, 4;", -3_i32 as u32),
            ("mov.u32 %r2, 4000000000; mul.hi.u32 %r9, %r2, %r2;", (4_000_000_000_u64.pow(2) >> 32) as u32),
            ("mov.u32 %r2, 0x80000001; shf.l.wrap.b32 %r9, %r2, %r2, 33;", 3),
            ("cvt.rn.f32.u32 %f1, %r1; add.f32 %f1, %f1, 0f3F000000; mov.b32 %r9, %f1;", 3.5_f32.to_bits()),
            ("mov.f32 %f1, 0f40600000; cvt.rzi.s32.f32 %r9, %f1;", 3),
            ("mov.f32 %f1, 0f4B800001; fma.rn.f32 %f1, %f1, %f1, %f1; mov.b32 %r9, %f1;", {
                let f = f32::from_bits(0x4b80_0001);
                f.mul_add(f, f).to_bits()
            }),
            ("setp.gt.s32 %p1, %r1, 2; selp.b32 %r9, 7, 8, %p1;", 7),
            ("ld.param.u32 %r9, [n];", 7),
            ("mov.u32 %r2, 1; atom.global.add.u32 %r9, [%d1], %r2; ld.global.u32 %r9, [%d1]; add.u32 %r9, %r9, 5;", 6),
        ] {
            assert_eq!(first(body), want, "{body}");
        }
    }

    #[test]
    fn faults_end_the_launch() {
        assert_eq!(run("mov.u64 %d1, 16; st.global.u32 [%d1], %r1; ret;"), Err(ILLEGAL_ADDRESS));
        assert_eq!(run("add.u64 %d1, %d1, 2; st.global.u32 [%d1], %r1; ret;"), Err(MISALIGNED_ADDRESS));
    }

    #[test]
    fn what_is_not_run_is_refused_and_what_is_nonsense_too() {
        let code = |body: &str| read(body).map(|_| ()).map_err(|refused| refused.code);
        assert_eq!(code("sin.approx.f32 %f1, %f1; ret;"), Err(NOT_SUPPORTED));
        assert_eq!(code("bar.sync 0; ret;"), Err(NOT_SUPPORTED));
        assert_eq!(code("add.rz.f32 %f1, %f1, %f1; ret;"), Err(NOT_SUPPORTED), "rounds otherwise");
        for nonsense in [
            "add.u32 %r1, %r2; ret;",
            "add.u32 %r1, %r2, %r99; ret;",
            "frob.u32 %r1; ret;",
            "ret",
            "add.u32 %r1,,; ret;",
        ] {
            assert_eq!(code(nonsense), Err(INVALID_PTX), "{nonsense}");
        }
        assert_eq!(code("ret;"), Ok(()));
    }

    #[test]
    fn no_text_panics() {
        let text = format!(
            "{HEAD}.visible .entry k(.param .u64 a, .param .u32 b) {{ .reg .pred %p; .reg .b32 %r<4>; .reg .b64 %d<4>;\n\
             ld.param.u64 %d1, [a]; L: setp.ne.u32 %p, %r1, 0x1f; @!%p bra L; st.global.v2.u32 [%d1+8], {{%r1, -5}}; ret; }}"
        );
        let compiler = Compiler { newest: (9, 0), sm: 90 };
        assert!(parse(&text, compiler).is_ok());
        let mut refused = 0;
        for n in 0..text.len() {
            refused += usize::from(parse(text.get(..n).unwrap_or_default(), compiler).is_err());
            for other in ["{", "}", ";", ",", "<", "99999999999", "%r1", "\u{e9}"] {
                let changed = format!("{}{other}{}", &text[..n], text.get(n + 1..).unwrap_or_default());
                refused += usize::from(parse(&changed, compiler).is_err());
            }
        }
        assert!(refused > text.len(), "{refused}");
    }
}
