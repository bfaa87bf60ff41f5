//! Kubernetes quantities, as far as counted things (`nvidia.com/gpu: 1`) need them.

/// The whole number that a quantity stands for: `"1"`, `"2k"`, `"1Ki"`, `"1e3"`, `"3000m"`. `None` where the text is no
/// quantity, is negative, is no whole number (`"500m"`), or is too large for 64 bits.
pub fn whole(text: &str) -> Option<u64> {
    let end = text.bytes().position(|byte| !(byte.is_ascii_digit() || byte == b'.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() || part.contains('.') || whole.len() + part.len() > 30 {
        return None;
    }
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let (times, over): (u128, u128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        _ => {
            let power: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| *power <= 18)?;
            (10u128.pow(power), 1)
        }
    };
    let over = over.checked_mul(10u128.checked_pow(u32::try_from(part.len()).ok()?)?)?;
    let all = digits.checked_mul(times)?;
    if all % over != 0 {
        return None;
    }
    u64::try_from(all / over).ok()
}

#[cfg(test)]
mod tests {
    use super::whole;
    use proptest::prelude::*;

    #[test]
    fn counts_are_read_in_every_spelling() {
        for (text, value) in
            [("0", 0), ("1", 1), ("2k", 2000), ("1Ki", 1024), ("1e3", 1000), ("3000m", 3), ("1.5k", 1500), ("1.0", 1)]
        {
            assert_eq!(whole(text), Some(value), "{text}");
        }
        for text in ["", ".", "-1", "500m", "1.5", "x", "1x", "1e99", "1.2.3", "9999999999999999999999G", "1 "] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_are_themselves(number: u64) {
            prop_assert_eq!(whole(&number.to_string()), Some(number));
        }

        #[test]
        fn any_text_is_safe(text in "\\PC*") {
            if let Some(value) = whole(&text) {
                prop_assert!(text.starts_with(|c: char| c.is_ascii_digit() || c == '.'), "{} gave {}", text, value);
            }
        }
    }
}
