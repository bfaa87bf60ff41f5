//! The shapes of names: what is an identifier, and what its pseudonym looks like. Pure functions over bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

/// GUIDs that name a kind of thing and not a thing: EFI variable owners and GPT partition types.
const WELL_KNOWN: &[&str] = &[
    "8be4df6193ca11d2aa0d00e098032b8c", // EFI global variables
    "d719b2cb3d3a4596a3bcdad00e67656f", // EFI image security database
    "605dab50e0464300abb63dd810dd8b23", // shim's lock
    "4a67b0820a4c41cfb6c7440b29bb8c4f", // boot loader interface
    "77fa9abd03594d32bd6028f4e78f784b", // Microsoft as signature owner
    "c12a7328f81f11d2ba4b00a0c93ec93b", // GPT: EFI system
    "0fc63daf848347728e793d69d8477de4", // GPT: Linux data
    "2168614864496e6f744e656564454649", // GPT: BIOS boot
    "e6d6d379f50744c2a23c238f2a3df928", // GPT: LVM
    "6a898cc31dd211b299a6080020736631", // GPT: ZFS
    "00000000000000000000000000000000",
    "ffffffffffffffffffffffffffffffff",
    "00000000000000000000000000000001",
];

const UUID_MARK: &str = "00000000000040008000";

pub(super) fn uuid_stays(hex: &str) -> bool {
    WELL_KNOWN.contains(&hex) || hex.starts_with(UUID_MARK)
}

pub(super) fn uuid(number: usize, dashes: bool) -> String {
    if dashes { format!("00000000-0000-4000-8000-{number:012x}") } else { format!("{UUID_MARK}{number:012x}") }
}

/// The length of a UUID at the start of `text`: with dashes, or 32 hex digits.
pub(super) fn uuid_at(text: &[u8]) -> Option<(usize, bool)> {
    let run = text.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if run == 32 {
        return Some((32, false));
    }
    let dashed = text.get(..36)?;
    let fits = dashed.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    fits.then_some((36, true))
}

/// The length of six or more two-digit groups, joined by one of `:` and `-`.
pub(super) fn mac_at(text: &[u8]) -> Option<usize> {
    let separator = *text.get(2).filter(|b| matches!(b, b':' | b'-'))?;
    let mut at = 0;
    let mut groups = 0;
    loop {
        let pair = text.get(at..at + 2)?;
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        groups += 1;
        at += 2;
        match text.get(at) {
            Some(byte) if *byte == separator && text.get(at + 1).is_some_and(u8::is_ascii_hexdigit) => at += 1,
            _ => break,
        }
    }
    (groups >= 6).then_some(at)
}

pub(super) fn mac_stays(hex: &str) -> bool {
    hex.bytes().all(|b| b == b'0') || hex.bytes().all(|b| b == b'f') || hex.starts_with("020000")
}

/// `02:00:00:…` with as many groups as the original has.
pub(super) fn mac(number: usize, groups: usize, separator: Option<char>) -> String {
    let mut hex = format!("020000{number:0width$x}", width = groups.saturating_sub(3) * 2);
    hex.truncate(groups * 2);
    match separator {
        None => hex,
        Some(separator) => {
            let mut out = String::new();
            for (at, digit) in hex.chars().enumerate() {
                if at > 0 && at % 2 == 0 {
                    out.push(separator);
                }
                out.push(digit);
            }
            out
        }
    }
}

/// A dotted quad at the start of `text` that is bounded on its right.
pub(super) fn ipv4_at(text: &[u8]) -> Option<(usize, Ipv4Addr)> {
    let run = text.iter().take(16).take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    let mut run_text = std::str::from_utf8(text.get(..run)?).ok()?;
    // A full stop may end the sentence.
    if run_text.ends_with('.') && text.get(run).is_none_or(|b| !b.is_ascii_alphanumeric()) {
        run_text = run_text.trim_end_matches('.');
    }
    let after = text.get(run_text.len());
    if after.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
        return None;
    }
    Some((run_text.len(), run_text.parse().ok()?))
}

pub(super) fn ipv4_stays(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let bits = u32::from(address);
    let mask = bits.leading_ones() + bits.trailing_zeros() == 32 && a >= 128;
    address.is_loopback()
        || a == 0
        || mask
        || bits == u32::MAX
        || (a == 224 && b == 0 && c == 0)
        || matches!((a, b, c), (192, 0, 2) | (198, 51, 100) | (203, 0, 113))
        || (a == 198 && (b == 18 || b == 19))
}

/// The three documentation networks, then the benchmark network: none of them is anybody's.
pub(super) fn ipv4(number: usize) -> Ipv4Addr {
    let index = number.saturating_sub(1);
    let last = (index % 254 + 1) as u8;
    match index / 254 {
        0 => Ipv4Addr::new(192, 0, 2, last),
        1 => Ipv4Addr::new(198, 51, 100, last),
        2 => Ipv4Addr::new(203, 0, 113, last),
        _ => Ipv4Addr::from(0xc612_0000 + (index - 762) as u32 % 0x2_0000),
    }
}

pub(super) fn ipv6_at(text: &[u8]) -> Option<(usize, Ipv6Addr)> {
    let run = text.iter().take(46).take_while(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')).count();
    let token = std::str::from_utf8(text.get(..run)?).ok()?;
    let token = token.trim_end_matches('.');
    if token.matches(':').count() < 2 || text.get(token.len()).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
    {
        return None;
    }
    // A single colon may end it: "fe80::1:".
    let token = if token.ends_with(':') && !token.ends_with("::") { &token[..token.len() - 1] } else { token };
    Some((token.len(), token.parse().ok()?))
}

pub(super) fn ipv6_stays(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let filled = parts.iter().filter(|part| **part != 0).count();
    address.is_loopback()
        || address.is_unspecified()
        || (parts[0] == 0x2001 && parts[1] == 0xdb8)
        || parts[0] & 0xff00 == 0xff00
        || (filled == 1 && parts[0] != 0)
}

pub(super) fn ipv6(number: usize) -> Ipv6Addr {
    Ipv6Addr::from(0x2001_0db8_u128 << 96 | number as u128)
}

/// A JSON or file name whose value is a serial number.
pub(super) fn is_serial_key(key: &str) -> bool {
    let plain: String = key.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
    ["serial", "serialnumber", "serialshort", "assettag", "wwid", "wwn", "uniqueid"]
        .iter()
        .any(|end| plain.ends_with(end))
}

/// Texts that stand for "nobody filled this in".
pub(super) fn serial_stays(text: &str) -> bool {
    let plain = text.trim().to_ascii_lowercase();
    let word = plain.chars().any(|c| c.is_ascii_digit());
    !word && !plain.is_empty() && (plain.contains(' ') || plain.len() < 16)
        || is_own_serial(&plain)
        || plain == "0123456789"
        || plain.len() < 3
}

fn is_own_serial(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let free = digits.len().saturating_sub(1).min(6);
    digits.iter().rev().skip(free).all(|c| *c == '0')
}

/// Zeros in the places of the original's letters and digits, the number at its end.
pub(super) fn serial(original: &str, number: usize) -> String {
    let mut digits: Vec<char> = format!("{number}").chars().collect();
    let mut out: Vec<char> = original.chars().collect();
    for place in out.iter_mut().rev().filter(|c| c.is_alphanumeric()) {
        *place = digits.pop().unwrap_or('0');
    }
    out.into_iter().collect()
}
