//! Numbers as the PTX ISA has them: widths, signs, comparisons and conversions of a lane's 64 bits.
#![allow(unsafe_code, reason = "one function is compiled for CPUs with FMA and called on no other")]

use super::run::{Lanes, WARP};
use super::{Compare, Kind, Type};
use crate::errors::{Code, MISALIGNED_ADDRESS};

pub(super) fn bytes(of: Type) -> usize {
    (of.bits / 8).max(1) as usize
}

pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

pub(super) fn aligned(place: u64, size: usize) -> Result<u64, Code> {
    if place.is_multiple_of(size as u64) { Ok(place) } else { Err(MISALIGNED_ADDRESS) }
}

/// The low bits.
pub(super) fn cut(value: u64, bits: u32) -> u64 {
    if bits >= 64 { value } else { value & ((1 << bits) - 1) }
}

/// The low bits as the type's number, in 64.
pub(super) fn extend(value: u64, of: Type) -> u64 {
    let value = cut(value, of.bits);
    if of.kind == Kind::Signed && of.bits < 64 && value >> (of.bits - 1) & 1 == 1 {
        value | u64::MAX << of.bits
    } else {
        value
    }
}

pub(super) fn holds(compare: Compare, of: Type, a: u64, b: u64) -> bool {
    let by = |order: Option<std::cmp::Ordering>| match (compare, order) {
        // what is no number compares with nothing, and is unequal to nothing too (`ne`, not `neu`)
        (_, None) => false,
        (Compare::Eq, Some(order)) => order.is_eq(),
        (Compare::Ne, Some(order)) => order.is_ne(),
        (Compare::Lt, Some(order)) => order.is_lt(),
        (Compare::Le, Some(order)) => order.is_le(),
        (Compare::Gt, Some(order)) => order.is_gt(),
        (Compare::Ge, Some(order)) => order.is_ge(),
    };
    match (of.kind, of.bits) {
        (Kind::Float, 32) => by(f32::from_bits(a as u32).partial_cmp(&f32::from_bits(b as u32))),
        (Kind::Float, _) => by(f64::from_bits(a).partial_cmp(&f64::from_bits(b))),
        (Kind::Signed, _) => by(Some((extend(a, of) as i64).cmp(&(extend(b, of) as i64)))),
        (Kind::Unsigned, _) => by(Some(extend(a, of).cmp(&extend(b, of)))),
    }
}

pub(super) fn convert(value: u64, from: Type, to: Type) -> u64 {
    let whole = |number: f64| match to.kind {
        Kind::Signed => cut(number as i64 as u64, to.bits),
        _ => cut(number as u64, to.bits),
    };
    match (from.kind, to.kind) {
        (Kind::Float, Kind::Float) => {
            let number = if from.bits == 32 { f64::from(f32::from_bits(value as u32)) } else { f64::from_bits(value) };
            if to.bits == 32 { u64::from((number as f32).to_bits()) } else { number.to_bits() }
        }
        (Kind::Float, _) => {
            whole(if from.bits == 32 { f64::from(f32::from_bits(value as u32)) } else { f64::from_bits(value) })
        }
        (kind, Kind::Float) => {
            let value = extend(value, from);
            match (kind, to.bits) {
                (Kind::Signed, 32) => u64::from((value as i64 as f32).to_bits()),
                (Kind::Signed, _) => (value as i64 as f64).to_bits(),
                (_, 32) => u64::from((value as f32).to_bits()),
                (..) => (value as f64).to_bits(),
            }
        }
        _ => cut(extend(value, from), to.bits),
    }
}

/// a · b + c of single precision, rounded once.
pub(super) fn fma(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn fast(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
            each(a, b, c)
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: this CPU has both features.
            return unsafe { fast(a, b, c) };
        }
    }
    each(a, b, c)
}

#[inline(always)]
fn each(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    let mut lanes = [0; WARP];
    for lane in 0..WARP {
        let [a, b, c] = [a[lane], b[lane], c[lane]].map(|bits| f32::from_bits(bits as u32));
        lanes[lane] = u64::from(a.mul_add(b, c).to_bits());
    }
    lanes
}
