//! What a shared object says of itself: for which machine it is, and its SONAME. Reads a few hundred bytes of a library
//! of any size.
//!
//! Source: generic ABI, ELF header, program header and dynamic section; ELF-32 and ELF-64, little-endian.

/// The head is read in one piece: the header, and the program headers that every linker puts behind it.
const HEAD: usize = 2048;
/// Far above any real count (a dozen).
const SEGMENTS: usize = 64;
/// Far above any real dynamic section (a few dozen entries).
const DYNAMIC: u64 = 32 << 10;
/// The longest SONAME that is taken.
const NAME: usize = 255;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const ET_DYN: u16 = 3;

/// A shared object's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedObject {
    /// ELFCLASS64.
    pub wide: bool,
    /// `e_machine`: 62 is x86-64, 3 i386, 183 aarch64, 40 arm.
    pub machine: u16,
    /// None: it has no SONAME, and loaders know it by its file name.
    pub soname: Option<String>,
}

impl SharedObject {
    /// True of a library for 32-bit programs.
    pub fn narrow(&self) -> bool {
        !self.wide
    }
}

/// Bytes of the file: `(offset, at most so many)`; fewer where it ends.
pub type Reader<'r> = dyn FnMut(u64, usize) -> Option<Vec<u8>> + 'r;

/// Reads it; `None` for what is no little-endian shared object, or is cut off.
pub fn read(at: &mut Reader<'_>) -> Option<SharedObject> {
    let head = at(0, HEAD)?;
    if !head.starts_with(b"\x7fELF") || head.get(5) != Some(&1) {
        return None;
    }
    let wide = match head.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    if short(&head, 16)? != ET_DYN {
        return None;
    }
    let machine = short(&head, 18)?;
    let number = |bytes: &[u8], at: usize| if wide { long(bytes, at) } else { word(bytes, at).map(u64::from) };
    let (table, size, count) = if wide {
        (long(&head, 32)?, short(&head, 54)?, short(&head, 56)?)
    } else {
        (u64::from(word(&head, 28)?), short(&head, 42)?, short(&head, 44)?)
    };
    let (size, count) = (usize::from(size), usize::from(count).min(SEGMENTS));
    if size < if wide { 56 } else { 32 } {
        return None;
    }
    let whole = size.checked_mul(count)?;
    let start = usize::try_from(table).ok()?;
    let headers = match head.get(start..start.checked_add(whole)?) {
        Some(headers) => headers.to_vec(),
        None => at(table, whole)?,
    };
    let mut loads = Vec::new();
    let mut dynamic = None;
    for header in headers.chunks_exact(size) {
        let (offset, address, length) = if wide {
            (long(header, 8)?, long(header, 16)?, long(header, 32)?)
        } else {
            (u64::from(word(header, 4)?), u64::from(word(header, 8)?), u64::from(word(header, 16)?))
        };
        match word(header, 0)? {
            PT_LOAD => loads.push((address, offset, length)),
            PT_DYNAMIC => dynamic = Some((offset, length.min(DYNAMIC))),
            _ => {}
        }
    }
    let nameless = SharedObject { wide, machine, soname: None };
    let Some((offset, length)) = dynamic else { return Some(nameless) };
    let section = at(offset, length as usize)?;
    let entry = if wide { 16 } else { 8 };
    let (mut strings, mut name) = (None, None);
    for pair in section.chunks_exact(entry) {
        let value = number(pair, entry / 2)?;
        match number(pair, 0)? {
            0 => break,
            DT_STRTAB => strings = Some(value),
            DT_SONAME => name = Some(value),
            _ => {}
        }
    }
    let (Some(strings), Some(name)) = (strings, name) else { return Some(nameless) };
    // an address of the loaded library: back to where it stands in the file
    let address = strings.checked_add(name)?;
    let place = loads.iter().find_map(|(start, offset, length)| {
        let within = address.checked_sub(*start).filter(|within| within < length)?;
        offset.checked_add(within)
    });
    let text = at(place?, NAME + 1)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    let soname = std::str::from_utf8(text.get(..end)?).ok()?;
    // a name and no path: it becomes a file name in a container
    let plain = !soname.is_empty() && !soname.contains('/') && !soname.contains(char::is_control);
    Some(SharedObject { soname: plain.then(|| soname.to_owned()), ..nameless })
}

/// The same of bytes that are there whole.
pub fn parse(bytes: &[u8]) -> Option<SharedObject> {
    read(&mut |offset, most| {
        let start = usize::try_from(offset).ok()?;
        let rest = bytes.get(start..)?;
        Some(rest.get(..most.min(rest.len()))?.to_vec())
    })
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_le_bytes(*two))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_le_bytes(*four))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// This machine's C library, which has a SONAME that everybody knows.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test reads this machine's library")]
    fn the_c_library_names_itself() {
        let places = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"];
        let Some(bytes) = places.iter().find_map(|path| std::fs::read(path).ok()) else {
            println!("SKIP: no C library at a known place");
            return;
        };
        let object = parse(&bytes).unwrap();
        assert_eq!(object.soname.as_deref(), Some("libc.so.6"));
        assert!(object.wide);
    }

    #[test]
    fn what_is_no_library_is_none() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"#!/bin/sh\n"), None);
        assert_eq!(parse(b"\x7fELF\x02\x01"), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), wide in 1_u8..3) {
            for (at, byte) in b"\x7fELF".iter().chain(&[wide, 1]).enumerate() {
                if let Some(place) = bytes.get_mut(at) {
                    *place = *byte;
                }
            }
            if let Some(place) = bytes.get_mut(16) {
                *place = 3;
            }
            if let Some(place) = bytes.get_mut(17) {
                *place = 0;
            }
            parse(&bytes);
        }
    }
}
