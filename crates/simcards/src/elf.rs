//! Symbols taken out of a built library, so that dlsym does not find them: an old driver's library does not have them at all.

/// The same library without these exported symbols. A name is made another of the same length in the table of dynamic
/// strings; the hash table still leads to it, the comparison fails, and dlsym says that there is no such symbol.
/// A name that is not there is an error: the list and the library have come apart.
pub fn without<'a>(library: &[u8], names: impl IntoIterator<Item = &'a str>) -> Result<Vec<u8>, String> {
    let strings = dynamic_strings(library).ok_or("no ELF library of 64 bits with dynamic strings")?;
    let mut bytes = library.to_vec();
    for name in names {
        // whole strings only: from one NUL to the next
        let whole: Vec<u8> = [b"\0", name.as_bytes(), b"\0"].concat();
        let table = bytes.get_mut(strings.clone()).ok_or("the dynamic strings lie outside of the file")?;
        let at = table.windows(whole.len()).position(|window| window == whole).ok_or(format!("it has no {name}"))?;
        if let Some(first) = table.get_mut(at + 1) {
            *first = b'-';
        }
    }
    Ok(bytes)
}

/// Where .dynstr lies in the file: the first string table that the section headers call allocated.
fn dynamic_strings(file: &[u8]) -> Option<std::ops::Range<usize>> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, size: usize| {
        let bytes = file.get(at..at.checked_add(size)?)?;
        usize::try_from(bytes.iter().rev().fold(0_u64, |all, byte| (all << 8) | u64::from(*byte))).ok()
    };
    let (table, size, count) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?);
    (0..count).find_map(|n| {
        let header = table.checked_add(n.checked_mul(size)?)?;
        let field = |offset: usize, size| number(header.checked_add(offset)?, size);
        let (kind, flags) = (field(4, 4)?, field(8, 8)?);
        // SHT_STRTAB, SHF_ALLOC
        if kind != 3 || flags & 2 == 0 {
            return None;
        }
        let (start, length) = (field(0x18, 8)?, field(0x20, 8)?);
        Some(start..start.checked_add(length)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_library_is_refused() {
        for bytes in
            [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01", &[0; 64], &[b"\x7fELF\x02\x01".as_slice(), &[0xff; 99]].concat()]
        {
            assert!(without(bytes, ["nvmlInit_v2"]).is_err(), "{bytes:?}");
        }
    }
}
