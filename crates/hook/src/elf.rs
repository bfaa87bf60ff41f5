//! What the loader's cache must know of a library: its ELF header, dynamic section and notes (gABI; psABI for x86's
//! property notes). Every number is the image's: all reads are bounded, nothing is mapped.

use formats::ldsocache::Arch;

/// Bytes at an offset. Fewer come back at the end.
pub trait Source {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize;
}

impl Source for crate::root::File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        crate::root::File::read_at(self, offset, buffer).unwrap_or(0)
    }
}

impl Source for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        count
    }
}

/// Whose libraries a machine's loader takes: an x86-64 one knows i386 and x32 beside it, an aarch64 one 32-bit ARM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    X86,
    Arm,
}

impl Family {
    pub fn here() -> Self {
        if cfg!(target_arch = "aarch64") { Family::Arm } else { Family::X86 }
    }

    /// The directory of Debian's libraries: "x86_64-linux-gnu".
    pub fn multiarch(self) -> &'static str {
        match self {
            Family::X86 => "x86_64-linux-gnu",
            Family::Arm => "aarch64-linux-gnu",
        }
    }

    /// As musl's loader names itself.
    pub fn musl(self) -> &'static str {
        match self {
            Family::X86 => "x86_64",
            Family::Arm => "aarch64",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    pub arch: Arch,
    pub soname: Option<String>,
    /// Whether it needs libc.so.6.
    pub libc: bool,
    /// Number of the highest bit of GNU_PROPERTY_X86_ISA_1_NEEDED: 0 baseline, 2 x86-64-v3.
    pub isa_level: u16,
}

const FIRST: usize = 4096;
const HEADERS: usize = 128;
const DYNAMIC: usize = 64 << 10;
const NOTES: usize = 4096;
const NAME: usize = 256;
const NEEDED: usize = 64;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_NOTE: u64 = 4;
const PT_GNU_PROPERTY: u64 = 0x6474_e553;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const NT_GNU_PROPERTY_TYPE_0: u64 = 5;
const GNU_PROPERTY_X86_ISA_1_NEEDED: u64 = 0xc000_8002;

/// Little-endian numbers of a file's class, out of its first bytes or the file.
struct Reader<'a, S: ?Sized> {
    source: &'a S,
    first: Vec<u8>,
    wide: bool,
}

struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
    align: u64,
}

impl<S: Source + ?Sized> Reader<'_, S> {
    fn bytes(&self, offset: u64, count: usize) -> Option<Vec<u8>> {
        let start = usize::try_from(offset).ok()?;
        if let Some(here) = self.first.get(start..start.checked_add(count)?) {
            return Some(here.to_vec());
        }
        // a short file ends inside its first bytes
        if self.first.len() < FIRST {
            return Some(self.first.get(start..).unwrap_or_default().to_vec());
        }
        let mut buffer = vec![0; count];
        let got = self.source.read_at(offset, &mut buffer);
        buffer.truncate(got);
        Some(buffer)
    }

    fn header(&self, narrow: usize, wide: usize, size: usize) -> Option<u64> {
        number(&self.first, if self.wide { wide } else { narrow }, size)
    }

    fn segments(&self) -> Option<Vec<Segment>> {
        let word = if self.wide { 8 } else { 4 };
        let offset = self.header(28, 32, word)?;
        let size = self.header(42, 54, 2)? as usize;
        let count = (self.header(44, 56, 2)? as usize).min(HEADERS);
        if size < if self.wide { 56 } else { 32 } {
            return None;
        }
        let table = self.bytes(offset, size * count)?;
        table
            .chunks_exact(size)
            .map(|row| {
                // Elf64_Phdr has its flags second, Elf32_Phdr next to last
                let at = if self.wide { [8, 16, 32, 48] } else { [4, 8, 16, 28] };
                Some(Segment {
                    kind: number(row, 0, 4)?,
                    offset: number(row, at[0], word)?,
                    address: number(row, at[1], word)?,
                    size: number(row, at[2], word)?,
                    align: number(row, at[3], word)?,
                })
            })
            .collect()
    }

    /// SONAME, and whether libc.so.6 is needed.
    fn names(&self, segments: &[Segment]) -> Option<(Option<String>, bool)> {
        let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC)?;
        let table = self.bytes(dynamic.offset, (dynamic.size as usize).min(DYNAMIC))?;
        let word = if self.wide { 8 } else { 4 };
        let (mut strings, mut name, mut needed) = (None, None, Vec::new());
        for row in table.chunks_exact(word * 2) {
            match number(row, 0, word)? {
                DT_NULL => break,
                DT_STRTAB => strings = number(row, word, word),
                DT_SONAME => name = number(row, word, word),
                // what 64-bit libraries need makes no difference
                DT_NEEDED if !self.wide && needed.len() < NEEDED => needed.extend(number(row, word, word)),
                _ => {}
            }
        }
        let Some(address) = strings else { return Some((None, false)) };
        let load = segments.iter().find(|segment| {
            segment.kind == PT_LOAD && address >= segment.address && address - segment.address < segment.size
        })?;
        let base = (address - load.address).checked_add(load.offset)?;
        let text = |offset: u64| self.text(base.checked_add(offset)?);
        // a name with a slash is a path, and no name of a file in a directory
        let is_name = |name: &String| !name.is_empty() && !name.contains(['/', '\n']) && name != "." && name != "..";
        let libc = needed.into_iter().any(|offset| text(offset).as_deref() == Some("libc.so.6"));
        Some((name.and_then(text).filter(is_name), libc))
    }

    /// A NUL-ended text.
    fn text(&self, at: u64) -> Option<String> {
        let bytes = self.bytes(at, NAME)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        Some(std::str::from_utf8(bytes.get(..end)?).ok()?.to_owned())
    }

    fn isa_level(&self, segments: &[Segment]) -> u16 {
        let align = if self.wide { 8 } else { 4 };
        // psABI: property notes have this alignment; others of the same number mean something else
        let notes = segments
            .iter()
            .filter(|segment| matches!(segment.kind, PT_NOTE | PT_GNU_PROPERTY) && segment.align == align as u64);
        let properties = notes.filter_map(|segment| {
            let bytes = self.bytes(segment.offset, (segment.size as usize).min(NOTES))?;
            Notes { bytes: &bytes, align }
                .find(|note| note.kind == NT_GNU_PROPERTY_TYPE_0 && note.name == b"GNU\0")
                .map(|note| needed(note.content, align))
        });
        properties.max().unwrap_or(0)
    }
}

/// The highest level in a property note.
fn needed(mut rest: &[u8], align: usize) -> u16 {
    while let (Some(kind), Some(size)) = (number(rest, 0, 4), number(rest, 4, 4)) {
        if kind == GNU_PROPERTY_X86_ISA_1_NEEDED && size == 4 {
            return number(rest, 8, 4).and_then(u64::checked_ilog2).unwrap_or(0) as u16;
        }
        let next = 8 + (size as usize).next_multiple_of(align);
        rest = rest.get(next..).unwrap_or_default();
    }
    0
}

/// One note of a section or segment.
pub struct Note<'a> {
    /// With its NUL.
    pub name: &'a [u8],
    pub kind: u64,
    pub content: &'a [u8],
}

pub struct Notes<'a> {
    pub bytes: &'a [u8],
    /// 4 or 8: what a note's name and content are padded to.
    pub align: usize,
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let name_size = number(self.bytes, 0, 4)? as usize;
        let size = number(self.bytes, 4, 4)? as usize;
        let kind = number(self.bytes, 8, 4)?;
        let name = self.bytes.get(12..12_usize.checked_add(name_size)?)?;
        let start = 12_usize.checked_add(name_size)?.checked_next_multiple_of(self.align)?;
        let content = self.bytes.get(start..start.checked_add(size)?)?;
        let next = start.checked_add(size)?.checked_next_multiple_of(self.align)?;
        self.bytes = self.bytes.get(next..).unwrap_or_default();
        Some(Note { name, kind, content })
    }
}

/// A little-endian number of 2, 4 or 8 bytes.
pub fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let slice = bytes.get(at..at.checked_add(size)?)?;
    Some(slice.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn reader<S: Source + ?Sized>(source: &S) -> Option<Reader<'_, S>> {
    let mut first = vec![0; FIRST];
    let got = source.read_at(0, &mut first);
    first.truncate(got);
    // ELF, little-endian, this version of it
    if !first.starts_with(b"\x7fELF") || first.get(5..7)? != [1, 1] {
        return None;
    }
    let wide = match first.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    Some(Reader { source, first, wide })
}

/// None: no shared library of this family.
pub fn library<S: Source + ?Sized>(source: &S, family: Family) -> Option<Library> {
    let file = reader(source)?;
    // ET_DYN
    if file.header(16, 16, 2)? != 3 {
        return None;
    }
    let arch = match (family, file.header(18, 18, 2)?, file.wide) {
        (Family::X86, 62, true) => Arch::X86_64,
        (Family::X86, 62, false) => Arch::X32,
        (Family::X86, 3, false) => Arch::I386,
        (Family::Arm, 183, true) => Arch::Aarch64,
        // EF_ARM_ABI_FLOAT_HARD; FLAG_ARM_LIBHF
        (Family::Arm, 40, false) if file.header(36, 48, 4)? & 0x400 != 0 => Arch::Other(9),
        _ => return None,
    };
    let segments = file.segments()?;
    let isa_level = if family == Family::X86 { file.isa_level(&segments) } else { 0 };
    let (soname, libc) = file.names(&segments)?;
    Some(Library { arch, soname, libc, isa_level })
}

/// The bytes of the section of that name, at most `limit`, and what its notes are padded to.
pub fn section<S: Source + ?Sized>(source: &S, wanted: &str, limit: usize) -> Option<(Vec<u8>, usize)> {
    let file = reader(source)?;
    let word = if file.wide { 8 } else { 4 };
    let offset = file.header(32, 40, word)?;
    let size = file.header(46, 58, 2)? as usize;
    let count = (file.header(48, 60, 2)? as usize).min(1024);
    let strings = file.header(50, 62, 2)? as usize;
    if size < if file.wide { 64 } else { 40 } {
        return None;
    }
    let table = file.bytes(offset, size.checked_mul(count)?)?;
    let place = |row: &[u8]| {
        let at = if file.wide { [24, 32] } else { [16, 20] };
        Some((number(row, at[0], word)?, number(row, at[1], word)?))
    };
    let (names, _) = place(table.chunks_exact(size).nth(strings)?)?;
    let row = table.chunks_exact(size).find(|row| {
        let name = number(row, 0, 4).and_then(|at| file.bytes(names.checked_add(at)?, wanted.len() + 1));
        name.is_some_and(|name| name.split_last() == Some((&0, wanted.as_bytes())))
    })?;
    let (at, length) = place(row)?;
    let align = number(row, if file.wide { 48 } else { 32 }, word)?;
    Some((file.bytes(at, (length as usize).min(limit))?, if align == 8 { 8 } else { 4 }))
}
