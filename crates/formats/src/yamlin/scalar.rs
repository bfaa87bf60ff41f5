//! What a scalar is.

use serde_json::{Number, Value};

/// A scalar's value; errors say what is wrong with it.
pub(super) fn resolve(text: &str, plain: bool, tag: Option<&str>) -> Result<Value, String> {
    let shown = || text.chars().take(40).flat_map(char::escape_debug).collect::<String>();
    match tag {
        Some("str") => Ok(text.into()),
        Some("null") if null(text) => Ok(Value::Null),
        Some("bool") => boolean(text).map(Value::Bool).ok_or_else(|| format!("{} is no boolean", shown())),
        Some("int") => integer(text).map(Value::Number).ok_or_else(|| format!("{} is no whole number", shown())),
        Some("float") => {
            let number = integer(text).and_then(|n| n.as_f64()).or_else(|| decimal(text)).and_then(Number::from_f64);
            number.map(Value::Number).ok_or_else(|| format!("{} is no number", shown()))
        }
        Some(other) => Err(format!("{} is no {other}", shown())),
        None if !plain => Ok(text.into()),
        None => {
            if null(text) {
                return Ok(Value::Null);
            }
            if let Some(flag) = boolean(text) {
                return Ok(Value::Bool(flag));
            }
            if let Some(number) = integer(text) {
                return Ok(Value::Number(number));
            }
            if let Some(number) = decimal(text).and_then(Number::from_f64) {
                return Ok(Value::Number(number));
            }
            let bare = text.strip_prefix(['+', '-']).unwrap_or(text);
            if [".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"].contains(&bare) {
                return Err(format!("{} is no number that JSON has; put it in quotes if text is meant", shown()));
            }
            Ok(text.into())
        }
    }
}

fn null(text: &str) -> bool {
    ["", "~", "null", "Null", "NULL"].contains(&text)
}

fn boolean(text: &str) -> Option<bool> {
    let first_then_lower = |word: &str| {
        text == word || text == word.to_uppercase() || {
            let mut letters = word.chars();
            letters.next().is_some_and(|first| text == format!("{}{}", first.to_uppercase(), letters.as_str()))
        }
    };
    if text.len() > 5 {
        return None;
    }
    if ["true", "yes", "on", "y"].iter().any(|word| first_then_lower(word)) {
        return Some(true);
    }
    ["false", "no", "off", "n"].iter().any(|word| first_then_lower(word)).then_some(false)
}

fn integer(text: &str) -> Option<Number> {
    let (minus, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if !digits.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, digits.get(2..)?),
        Some("0o" | "0O") => (8, digits.get(2..)?),
        Some("0b" | "0B") => (2, digits.get(2..)?),
        Some(two) if two.starts_with('0') && two.as_bytes().get(1)?.is_ascii_digit() => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let size = u64::from_str_radix(&digits, radix).ok()?;
    if !minus {
        return Some(size.into());
    }
    0i64.checked_sub_unsigned(size).map(Number::from)
}

/// Digits with a point or an exponent; Rust's own words for infinity are none.
fn decimal(text: &str) -> Option<f64> {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let first = body.as_bytes().first()?;
    let number = first.is_ascii_digit() || (*first == b'.' && body.as_bytes().get(1)?.is_ascii_digit());
    let all = body.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    (number && all).then(|| text.parse().ok()).flatten().filter(|number: &f64| number.is_finite())
}
