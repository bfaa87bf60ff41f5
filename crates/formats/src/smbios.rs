//! The SMBIOS structure table, as `/sys/firmware/dmi/tables/DMI` has it: its OEM strings (type 11).
//!
//! A structure is a header (type, length, handle as two bytes), the rest of its formatted area, and behind that its
//! strings, each ended by NUL and the last by two; type 127 ends the table. Source: DSP0134 (SMBIOS), 6.1 and 7.12.

/// The most OEM strings that are read of one table.
const MOST: usize = 256;

/// The longest string that is read, bytes.
const LONGEST: usize = 4096;

const OEM_STRINGS: u8 = 11;
const END: u8 = 127;

/// The OEM strings of a table, in its order; bytes that are no UTF-8 become U+FFFD. A table that is cut short or lies
/// about its lengths gives what stands before the fault. Never an error: nobody can mend it.
pub fn oem_strings(table: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = table;
    while let [kind, length, ..] = rest {
        let (kind, length) = (*kind, usize::from(*length));
        let (Some(area), true) = (rest.get(..length), length >= 4) else { break };
        let Some(strings) = rest.get(length..) else { break };
        let Some(end) = strings.windows(2).position(|pair| pair == [0, 0]) else { break };
        if kind == OEM_STRINGS {
            let count = usize::from(area.get(4).copied().unwrap_or(0));
            let texts = strings.get(..end).unwrap_or_default().split(|byte| *byte == 0).take(count);
            let texts = texts.filter(|text| !text.is_empty() && text.len() <= LONGEST);
            found.extend(texts.map(|text| String::from_utf8_lossy(text).into_owned()));
        }
        if kind == END || found.len() >= MOST {
            break;
        }
        rest = strings.get(end + 2..).unwrap_or_default();
    }
    found.truncate(MOST);
    found
}

/// A table of these OEM strings and nothing else: what may be kept of a table that also holds serial numbers, the
/// machine's UUID, and whatever others pass by type 11 (systemd's credentials among it). At most 255 strings; those
/// with a NUL in them are left out.
pub fn table_of(strings: &[String]) -> Vec<u8> {
    let texts: Vec<&String> =
        strings.iter().filter(|text| !text.is_empty() && !text.contains('\0')).take(255).collect();
    let mut table = Vec::new();
    if !texts.is_empty() {
        table.extend([OEM_STRINGS, 5, 0, 0x0e, u8::try_from(texts.len()).unwrap_or(u8::MAX)]);
        texts.iter().for_each(|text| table.extend(text.bytes().chain([0])));
        table.push(0);
    }
    table.extend([END, 4, 1, 0x0e, 0, 0]);
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// System information with two strings, then OEM strings, then the end.
    const TABLE: &[u8] = b"\x01\x1b\x00\x01\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x06\0\0Maker\0Model\0\0\
        \x0b\x05\x00\x0b\x02first\0thruway.dev/gpu:1;x=y\0\0\x7f\x04\x00\x7f\0\0";

    #[test]
    fn oem_strings_stand_among_other_structures() {
        assert_eq!(oem_strings(TABLE), ["first", "thruway.dev/gpu:1;x=y"]);
        assert_eq!(oem_strings(&TABLE[..TABLE.len() - 7]), ["first"; 0], "a structure that does not end");
        assert_eq!(oem_strings(&[]), ["first"; 0]);
        // the count is the structure's own: what stands behind it is none of its strings
        let mut fewer = TABLE.to_vec();
        let at = fewer.windows(2).position(|pair| pair == [0x0b, 5]).expect("type 11");
        fewer[at + 4] = 1;
        assert_eq!(oem_strings(&fewer), ["first"]);
        // behind the end nothing counts
        assert_eq!(oem_strings(&[b"\x7f\x04\x00\x7f\0\0", TABLE].concat()), ["first"; 0]);
    }

    proptest! {
        #[test]
        fn no_table_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..200) {
            let _ = oem_strings(&bytes);
            let mut torn = TABLE.to_vec();
            torn.truncate(at);
            torn.extend(&bytes);
            let _ = oem_strings(&torn);
        }

        #[test]
        fn a_made_table_is_read_back(strings in proptest::collection::vec("[ -~]{1,60}", 0..20)) {
            prop_assert_eq!(oem_strings(&table_of(&strings)), strings);
        }
    }
}
