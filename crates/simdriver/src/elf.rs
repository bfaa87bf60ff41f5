//! A shared object with a SONAME and nothing else: the loader takes it, ldconfig names it, and no symbol is in it.
//!
//! Source: System V ABI, ELF-64 and ELF-32 object files; generic ABI, dynamic section.

/// For which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// x86-64.
    Wide,
    /// i386.
    Narrow,
}

const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_SONAME: u64 = 14;

struct Writer {
    bytes: Vec<u8>,
    wide: bool,
}

impl Writer {
    fn half(&mut self, number: u16) {
        self.bytes.extend(number.to_le_bytes());
    }

    fn word(&mut self, number: u32) {
        self.bytes.extend(number.to_le_bytes());
    }

    /// An address or a size.
    fn long(&mut self, number: u64) {
        let all = number.to_le_bytes();
        self.bytes.extend(if self.wide { all.as_slice() } else { all.get(..4).unwrap_or_default() });
    }

    fn segment(&mut self, kind: u32, offset: u64, size: u64) {
        // readable and writable: the loader writes addresses into the dynamic section
        let flags = 6;
        self.word(kind);
        if self.wide {
            self.word(flags);
        }
        for number in [offset, offset, offset, size, size] {
            self.long(number);
        }
        if !self.wide {
            self.word(flags);
        }
        self.long(if kind == 1 { 0x1000 } else { 8 });
    }
}

/// The file's bytes.
pub fn stub(soname: &str, class: Class) -> Vec<u8> {
    let wide = class == Class::Wide;
    let (header, segment, symbol, entry): (u64, u64, u64, u64) = if wide { (64, 56, 24, 16) } else { (52, 32, 16, 8) };
    let mark = "simulated by thruway: no function is in this library";
    let strings = format!("\0{soname}\0{mark}\0");
    let dynamic = (header + 2 * segment).next_multiple_of(8);
    let symbols = dynamic + 7 * entry;
    let hash = symbols + symbol;
    // one bucket, one chain, both for the null symbol
    let table = hash + 4 * 4;
    let end = table + strings.len() as u64;
    let mut file = Writer { bytes: Vec::new(), wide };
    file.bytes.extend(b"\x7fELF");
    file.bytes.extend([if wide { 2 } else { 1 }, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // ET_DYN; EM_X86_64 or EM_386
    file.half(3);
    file.half(if wide { 62 } else { 3 });
    file.word(1);
    file.long(0);
    file.long(header);
    file.long(0);
    file.word(0);
    for number in [header as u16, segment as u16, 2, if wide { 64 } else { 40 }, 0, 0] {
        file.half(number);
    }
    file.segment(1, 0, end);
    file.segment(2, dynamic, 7 * entry);
    file.bytes.resize(dynamic as usize, 0);
    let tags = [
        (DT_SONAME, 1),
        (DT_HASH, hash),
        (DT_STRTAB, table),
        (DT_SYMTAB, symbols),
        (DT_STRSZ, strings.len() as u64),
        (DT_SYMENT, symbol),
        (0, 0),
    ];
    for (tag, value) in tags {
        file.long(tag);
        file.long(value);
    }
    file.bytes.resize(hash as usize, 0);
    for number in [1, 1, 0, 0] {
        file.word(number);
    }
    file.bytes.extend(strings.as_bytes());
    file.bytes
}
