//! What a program asks of the C library, by its own symbol table: ELF-64, little-endian.
//!
//! Source: generic ABI (section headers, dynamic symbols) and glibc's symbol versioning (`.gnu.version`, `.gnu.version_r`).
#![allow(clippy::disallowed_methods, dead_code, reason = "tests; each uses a part of it")]

use std::collections::BTreeMap;

const DYNSYM: u32 = 11;
const NEEDS: u32 = 0x6fff_fffe;
const VERSIONS: u32 = 0x6fff_ffff;
const PT_INTERP: u32 = 3;

/// A version of the C library, 2.31 as (2, 31).
pub type Version = (u32, u32);

/// One symbol from another object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    pub symbol: String,
    /// "libc.so.6".
    pub library: String,
    /// "GLIBC_2.34".
    pub version: String,
    /// The loader starts the program without this version too (VER_FLG_WEAK).
    pub weak: bool,
}

impl Wanted {
    /// `None` where it is no version of the C library.
    pub fn glibc(&self) -> Option<Version> {
        let (major, minor) = self.version.strip_prefix("GLIBC_")?.split_once('.')?;
        let minor = minor.split('.').next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let part = &bytes[at..at + N];
    part.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

fn text(bytes: &[u8], at: u64) -> String {
    let rest = &bytes[at as usize..];
    let end = rest.iter().position(|byte| *byte == 0).expect("an end");
    String::from_utf8_lossy(&rest[..end]).into_owned()
}

/// True where no loader is asked for.
pub fn is_static(bytes: &[u8]) -> bool {
    let (table, size, count) = (number::<8>(bytes, 32), number::<2>(bytes, 54), number::<2>(bytes, 56));
    (0..count).all(|n| number::<4>(bytes, (table + n * size) as usize) != u64::from(PT_INTERP))
}

/// The versioned symbols that it has from others.
///
/// # Panics
/// Where it is no such ELF file.
pub fn wanted(bytes: &[u8]) -> Vec<Wanted> {
    assert!(bytes.starts_with(b"\x7fELF\x02\x01"), "not ELF-64, little-endian");
    let (table, size, count) = (number::<8>(bytes, 40), number::<2>(bytes, 58), number::<2>(bytes, 60));
    let header = |n: u64| (table + n * size) as usize;
    // kind -> (offset, size, the section that it links to, how many entries)
    let section = |n: u64| {
        let at = header(n);
        (
            number::<8>(bytes, at + 24),
            number::<8>(bytes, at + 32),
            number::<4>(bytes, at + 40),
            number::<4>(bytes, at + 44),
        )
    };
    let find = |kind: u32| (0..count).find(|n| number::<4>(bytes, header(*n) + 4) == u64::from(kind)).map(section);
    let (Some(symbols), Some(versions), Some(needs)) = (find(DYNSYM), find(VERSIONS), find(NEEDS)) else {
        return Vec::new();
    };
    let strings = section(symbols.2).0;
    let mut names = BTreeMap::new();
    let mut at = needs.0;
    for _ in 0..needs.3 {
        let (entries, file, first, next) = (
            number::<2>(bytes, at as usize + 2),
            number::<4>(bytes, at as usize + 4),
            number::<4>(bytes, at as usize + 8),
            number::<4>(bytes, at as usize + 12),
        );
        let library = text(bytes, section(needs.2).0 + file);
        let mut entry = at + first;
        for _ in 0..entries {
            let (index, name) = (number::<2>(bytes, entry as usize + 6), number::<4>(bytes, entry as usize + 8));
            let weak = number::<2>(bytes, entry as usize + 4) & 2 != 0;
            names.insert(index & 0x7fff, (library.clone(), text(bytes, section(needs.2).0 + name), weak));
            entry += number::<4>(bytes, entry as usize + 12);
        }
        at += next;
    }
    let mut found = Vec::new();
    for n in 0..symbols.1 / 24 {
        let at = (symbols.0 + n * 24) as usize;
        let undefined = number::<2>(bytes, at + 6) == 0;
        let version = number::<2>(bytes, (versions.0 + n * 2) as usize) & 0x7fff;
        if let (true, Some((library, version, weak))) = (undefined, names.get(&version)) {
            let symbol = text(bytes, strings + number::<4>(bytes, at));
            found.push(Wanted { symbol, library: library.clone(), version: version.clone(), weak: *weak });
        }
    }
    found.sort();
    found
}
