//! The kernels, and what the CPU says that they must give.

use std::ffi::CString;

const PTX: &str = include_str!("kernels.ptx");
/// Rounds written out in one turn of a kernel's loop.
const UNROLLED: usize = 8;

/// x = x·a + y, turned by 13; y = y·b + x, mixed with its own upper bits.
const INT_ROUND: &str = "    mad.lo.u32 %r4, %r4, 1664525, %r5;
    shf.l.wrap.b32 %r4, %r4, %r4, 13;
    mad.lo.u32 %r5, %r5, 22695477, %r4;
    shr.u32 %r6, %r5, 7;
    xor.b32 %r5, %r5, %r6;
";
/// What one round counts, a multiply-add as two.
pub const INT_OPS: u64 = 7;

/// Constants: 5, 7, 2^-20, 1.5·2^23 (adding it rounds to a whole number) and -2^20.
const FLOAT_ROUND: &str = "    fma.rn.f32 %fN, %fN, 0f40A00000, 0f40E00000;
    fma.rn.f32 %f8, %fN, 0f35800000, 0f4B400000;
    sub.rn.f32 %f8, %f8, 0f4B400000;
    fma.rn.f32 %fN, %f8, 0fC9800000, %fN;
";
const CHAINS: usize = 4;
/// What one round of all chains counts, a multiply-add as two.
pub const FLOAT_OPS: u64 = 7 * CHAINS as u64;

/// All kernels as the driver's compiler takes them. `broken`: each has one wrong constant, so that results of every kind
/// must be found wrong.
pub fn ptx(broken: bool) -> CString {
    let integers = INT_ROUND.repeat(UNROLLED);
    let floats: String = (0..CHAINS).map(|chain| FLOAT_ROUND.replace('N', &chain.to_string())).collect();
    let text = PTX.replace("@INT_ROUNDS@\n", &integers).replace("@FLOAT_ROUNDS@\n", &floats.repeat(UNROLLED));
    let text = if broken {
        // fill's constant alone, one multiplier of the integers, and one addend of the floats
        text.replacen("2779096485", "2779096484", 1).replacen("1664525", "1664527", 1).replacen(
            "0f40E00000",
            "0f41000000",
            1,
        )
    } else {
        text
    };
    CString::new(text).unwrap_or_default()
}

/// The integers' results by lane.
pub fn integers(seed: u32, rounds: u32) -> [u32; 32] {
    std::array::from_fn(|lane| {
        let mut x = (lane as u32).wrapping_mul(2_654_435_769).wrapping_add(seed);
        let mut y = x ^ 2_246_822_507;
        for _ in 0..rounds {
            x = x.wrapping_mul(1_664_525).wrapping_add(y).rotate_left(13);
            y = y.wrapping_mul(22_695_477).wrapping_add(x);
            y ^= y >> 7;
        }
        x ^ y
    })
}

/// The floats' results by lane.
pub fn floats(seed: u32, rounds: u32) -> [u32; 32] {
    const WHOLE: f32 = 12_582_912.0;
    const STEP: f32 = 1_048_576.0;
    std::array::from_fn(|lane| {
        let first = (lane as u32).wrapping_mul(977).wrapping_add(seed & 0xffff);
        let chain = |number: u32| {
            let mut f = first.wrapping_add(31_337 * number) as f32;
            for _ in 0..rounds {
                f = f.mul_add(5.0, 7.0);
                let whole = f.mul_add(1.0 / STEP, WHOLE) - WHOLE;
                f = whole.mul_add(-STEP, f);
            }
            f.to_bits()
        };
        (1..CHAINS as u32).fold(chain(0), |sum, number| sum.wrapping_mul(31).wrapping_add(chain(number)))
    })
}

/// The 16 bytes that `fill` writes at this index.
#[cfg(test)]
fn unit(index: u64, seed: u32) -> [u32; 4] {
    let (low, high) = (index as u32, (index >> 32) as u32);
    let mut word = low.wrapping_mul(2_654_435_761).wrapping_add(seed);
    word = high.wrapping_mul(2_246_822_519).wrapping_add(word);
    word ^= word >> 15;
    [word, !word, word.wrapping_add(low), word ^ 2_779_096_485]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_whole_and_a_broken_one_differs() {
        let text = ptx(false).into_string().expect("ASCII");
        assert!(!text.contains('@') || text.matches('@').count() == text.matches("@%p").count(), "{text}");
        assert!(!text.contains("%fN"));
        assert_eq!(text.matches("shf.l.wrap.b32").count(), UNROLLED);
        assert_eq!(text.matches("fma.rn.f32").count(), 3 * CHAINS * UNROLLED);
        let broken = ptx(true).into_string().expect("ASCII");
        assert_eq!(text.lines().zip(broken.lines()).filter(|(well, broken)| well != broken).count(), 3);
        for kernel in ["fill", "check", "integers", "floats"] {
            assert!(text.contains(&format!(".visible .entry {kernel}(")), "{kernel}");
        }
    }

    #[test]
    fn results_differ_by_lane_and_seed_and_stay_in_range() {
        let one = integers(1, 64);
        assert!((1..32).all(|lane| one[lane] != one[0]));
        assert_ne!(integers(2, 64), one);
        assert_ne!(floats(1, 64), floats(2, 64));
        assert_ne!(floats(1, 64), floats(1, 72));
        assert_eq!(super::super::ROUNDS as usize % UNROLLED, 0, "the loops end at zero alone");
    }

    /// A chain never leaves the whole numbers that a float holds: no rounding but the one that is meant.
    #[test]
    fn chains_are_exact() {
        let mut f = 98_765_f32;
        for _ in 0..100_000 {
            let grown = f.mul_add(5.0, 7.0);
            assert!(grown.abs() < 8_388_608.0 && grown.fract() == 0.0, "{grown}");
            let exact = i64::from(f as i32) * 5 + 7;
            assert_eq!(grown as i64, exact);
            let whole = grown.mul_add(1.0 / 1_048_576.0, 12_582_912.0) - 12_582_912.0;
            f = whole.mul_add(-1_048_576.0, grown);
            assert!(f.abs() <= 524_288.0, "{f}");
        }
    }

    #[test]
    fn a_unit_says_its_place() {
        assert_ne!(unit(0, 1), unit(1, 1));
        assert_ne!(unit(5, 1), unit(5 + (1 << 32), 1), "the upper half of the index counts");
        let [a, b, ..] = unit(77, 3);
        assert_eq!(a, !b);
    }
}
