//! A cache's entries where they lie in its bytes: a hook reads and writes hundreds of them in each container's way.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ffi::CStr;

use super::{Cache, CacheError, Entry};

pub(super) const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
pub(super) const NEW_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
pub(super) const OLD_HEADER: usize = 16;
pub(super) const OLD_ENTRY: usize = 12;
pub(super) const NEW_HEADER: usize = 48;
pub(super) const NEW_ENTRY: usize = 24;
pub(super) const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
pub(super) const TAG_GENERATOR: u32 = 0;
pub(super) const TAG_HWCAPS: u32 = 1;
/// This bit in `hwcap` says that the low half is an index into the glibc-hwcaps names.
pub(super) const HWCAP_EXTENSION: u64 = 1 << 62;
/// Then ten bits above that half are the ISA level.
pub(super) const ISA_LEVEL: u64 = 0x3ff;
/// Far above any real cache (a few thousand), far below what would hurt.
pub(super) const ENTRY_LIMIT: usize = 1 << 18;

/// PATH_MAX.
const TEXT_LIMIT: usize = 4096;

/// As [`Cache`], borrowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View<'a> {
    pub entries: Vec<EntryView<'a>>,
    pub generator: Option<Cow<'a, str>>,
}

/// As [`Entry`], borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryView<'a> {
    pub soname: Cow<'a, str>,
    pub path: Cow<'a, str>,
    pub flags: u32,
    pub osversion: u32,
    pub hwcap: u64,
    pub hwcaps: Option<Cow<'a, str>>,
    pub isa_level: u16,
}

impl<'a> EntryView<'a> {
    pub fn of(entry: &'a Entry) -> Self {
        EntryView {
            soname: Cow::Borrowed(&entry.soname),
            path: Cow::Borrowed(&entry.path),
            flags: entry.flags,
            osversion: entry.osversion,
            hwcap: entry.hwcap,
            hwcaps: entry.hwcaps.as_deref().map(Cow::Borrowed),
            isa_level: entry.isa_level,
        }
    }

    pub fn to_entry(&self) -> Entry {
        Entry {
            soname: self.soname.clone().into_owned(),
            path: self.path.clone().into_owned(),
            flags: self.flags,
            osversion: self.osversion,
            hwcap: self.hwcap,
            hwcaps: self.hwcaps.as_deref().map(str::to_owned),
            isa_level: self.isa_level,
        }
    }
}

impl<'a> From<Entry> for EntryView<'a> {
    fn from(entry: Entry) -> Self {
        EntryView {
            soname: Cow::Owned(entry.soname),
            path: Cow::Owned(entry.path),
            flags: entry.flags,
            osversion: entry.osversion,
            hwcap: entry.hwcap,
            hwcaps: entry.hwcaps.map(Cow::Owned),
            isa_level: entry.isa_level,
        }
    }
}

fn bad<T>(offset: usize, what: &'static str) -> Result<T, CacheError> {
    Err(CacheError { offset, what })
}

impl<'a> View<'a> {
    pub fn of(cache: &'a Cache) -> Self {
        let entries = cache.entries.iter().map(EntryView::of).collect();
        View { entries, generator: cache.generator.as_deref().map(Cow::Borrowed) }
    }

    pub fn to_cache(&self) -> Cache {
        Cache {
            entries: self.entries.iter().map(EntryView::to_entry).collect(),
            generator: self.generator.as_deref().map(str::to_owned),
        }
    }

    /// Reads any of the three forms.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CacheError> {
        if bytes.starts_with(NEW_MAGIC) {
            return Self::parse_new(bytes, 0);
        }
        if !bytes.starts_with(OLD_MAGIC) {
            return bad(0, "neither ld.so-1.7.0 nor glibc-ld.so.cache1.1 stands here");
        }
        // The old header has no mark of byte order; all machines that we meet are little-endian.
        let count = Number { bytes, big: false }.u32(12)? as usize;
        let end = table_end(bytes, OLD_HEADER, count, OLD_ENTRY)?;
        let inner = end.next_multiple_of(8);
        if bytes.get(inner..).is_some_and(|rest| rest.starts_with(NEW_MAGIC)) {
            return Self::parse_new(bytes, inner);
        }
        let number = Number { bytes, big: false };
        let mut entries = Vec::with_capacity(count.min(4096));
        for at in (OLD_HEADER..end).step_by(OLD_ENTRY) {
            entries.push(EntryView {
                flags: number.u32(at)?,
                soname: string(bytes, end, number.u32(at + 4)?, at + 4)?,
                path: string(bytes, end, number.u32(at + 8)?, at + 8)?,
                osversion: 0,
                hwcap: 0,
                hwcaps: None,
                isa_level: 0,
            });
        }
        Ok(View { entries, generator: None })
    }

    /// `base`: where the new form starts; its string offsets count from there.
    fn parse_new(bytes: &'a [u8], base: usize) -> Result<Self, CacheError> {
        let big = match bytes.get(base + 28).map(|flags| flags & 3) {
            Some(3) => true,
            Some(_) => false,
            None => return bad(bytes.len(), "the header is cut off"),
        };
        let number = Number { bytes, big };
        let count = number.u32(base + 20)? as usize;
        let end = table_end(bytes, base + NEW_HEADER, count, NEW_ENTRY)?;
        let (generator, hwcaps) = match number.u32(base + 32)? {
            0 => (None, Vec::new()),
            offset => extension(&number, base, offset as usize)?,
        };
        let mut entries = Vec::with_capacity(count.min(4096));
        for at in (base + NEW_HEADER..end).step_by(NEW_ENTRY) {
            let hwcap = number.u64(at + 16)?;
            let (hwcap, name, isa_level) = match hwcap & HWCAP_EXTENSION {
                0 => (hwcap, None, 0),
                _ => match hwcaps.get((hwcap & 0xffff_ffff) as usize) {
                    Some(name) => (0, Some(name.clone()), (hwcap >> 32 & ISA_LEVEL) as u16),
                    None => return bad(at + 16, "this glibc-hwcaps index is not in the cache's list"),
                },
            };
            entries.push(EntryView {
                flags: number.u32(at)?,
                soname: string(bytes, base, number.u32(at + 4)?, at + 4)?,
                path: string(bytes, base, number.u32(at + 8)?, at + 8)?,
                osversion: number.u32(at + 12)?,
                hwcap,
                hwcaps: name,
                isa_level,
            });
        }
        Ok(View { entries, generator })
    }

    /// Writes the new form, little-endian, in the order that the loader's binary search needs. Reading it back gives
    /// the same entries, sorted so. NUL bytes in names cannot be written; they end the name.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.new_form(0)
    }

    /// `before`: how many bytes stand in front of it.
    fn new_form(&self, before: usize) -> Vec<u8> {
        let mut entries: Vec<&EntryView<'_>> = self.entries.iter().collect();
        entries.sort_by(|a, b| order(a, b));
        let mut names: Vec<&str> = entries.iter().filter_map(|entry| entry.hwcaps.as_deref()).collect();
        names.sort_unstable();
        names.dedup();
        let mut strings = Strings { base: NEW_HEADER + entries.len() * NEW_ENTRY, ..Strings::default() };
        let mut table = Vec::with_capacity(entries.len() * NEW_ENTRY);
        for entry in &entries {
            let (key, value) = strings.pair(&entry.soname, &entry.path);
            let index = entry.hwcaps.as_deref().and_then(|name| names.binary_search(&name).ok());
            let level = (u64::from(entry.isa_level) & ISA_LEVEL) << 32;
            let hwcap = index.map_or(entry.hwcap & !HWCAP_EXTENSION, |index| HWCAP_EXTENSION | level | index as u64);
            for word in [entry.flags, key, value, entry.osversion] {
                table.extend(word.to_le_bytes());
            }
            table.extend(hwcap.to_le_bytes());
        }
        let name_offsets: Vec<u32> = names.iter().map(|name| strings.add(name)).collect();
        let mut out = Vec::with_capacity(strings.base + strings.bytes.len() + 256);
        out.extend(NEW_MAGIC);
        out.extend((entries.len() as u32).to_le_bytes());
        out.extend((strings.bytes.len() as u32).to_le_bytes());
        out.extend([2, 0, 0, 0]);
        let has_extension = self.generator.is_some() || !names.is_empty();
        let extension_at = (strings.base + strings.bytes.len()).next_multiple_of(4);
        out.extend(if has_extension { (before + extension_at) as u32 } else { 0 }.to_le_bytes());
        out.extend([0; 12]);
        out.extend(table);
        out.extend(strings.bytes);
        if has_extension {
            out.resize(extension_at, 0);
            self.write_extension(&mut out, &name_offsets, before);
        }
        out
    }

    /// Writes the old form with the new one behind it, as ldconfig did before glibc 2.32 (`-c compat`). The old form has no
    /// place for what suits certain processors only.
    pub fn to_combined_bytes(&self) -> Vec<u8> {
        let mut entries: Vec<&EntryView<'_>> =
            self.entries.iter().filter(|entry| entry.hwcap == 0 && entry.hwcaps.is_none()).collect();
        entries.sort_by(|a, b| order(a, b));
        let new_at = (OLD_HEADER + entries.len() * OLD_ENTRY).next_multiple_of(8);
        let new = self.new_form(new_at);
        // Texts lie behind the new form, and the old one counts their places from its own table's end.
        let mut strings =
            Strings { base: new_at + new.len() - (OLD_HEADER + entries.len() * OLD_ENTRY), ..Strings::default() };
        let mut out = OLD_MAGIC.to_vec();
        out.push(0);
        out.extend((entries.len() as u32).to_le_bytes());
        for entry in entries {
            let (key, value) = strings.pair(&entry.soname, &entry.path);
            for word in [entry.flags, key, value] {
                out.extend(word.to_le_bytes());
            }
        }
        out.resize(new_at, 0);
        out.extend(new);
        out.extend(strings.bytes);
        out
    }

    fn write_extension(&self, out: &mut Vec<u8>, names: &[u32], before: usize) {
        let generator = self.generator.as_deref().map(str::as_bytes);
        let count = u32::from(generator.is_some()) + u32::from(!names.is_empty());
        let mut at = (before + out.len()) as u32 + 8 + count * 16;
        let mut data: Vec<u8> = Vec::new();
        out.extend(EXTENSION_MAGIC.to_le_bytes());
        out.extend(count.to_le_bytes());
        let mut section = |tag: u32, bytes: &[u8], data: &mut Vec<u8>| {
            for word in [tag, 0, at, bytes.len() as u32] {
                out.extend(word.to_le_bytes());
            }
            data.extend(bytes);
            at += bytes.len() as u32;
        };
        // The list of names first: it must be aligned, and the text may have any length.
        if !names.is_empty() {
            let bytes: Vec<u8> = names.iter().flat_map(|offset| offset.to_le_bytes()).collect();
            section(TAG_HWCAPS, &bytes, &mut data);
        }
        if let Some(generator) = generator {
            section(TAG_GENERATOR, generator, &mut data);
        }
        out.extend(data);
    }
}

/// Where a table of `count` entries ends, if the bytes hold it.
fn table_end(bytes: &[u8], start: usize, count: usize, size: usize) -> Result<usize, CacheError> {
    match start.checked_add(count.saturating_mul(size)) {
        Some(end) if count <= ENTRY_LIMIT && end <= bytes.len() => Ok(end),
        _ => bad(start.min(bytes.len()), "more entries are announced than the file has room for"),
    }
}

struct Number<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl Number<'_> {
    fn u32(&self, at: usize) -> Result<u32, CacheError> {
        let found = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
        let Some(four) = found else { return bad(at, "the file ends inside a number") };
        Ok(if self.big { u32::from_be_bytes(*four) } else { u32::from_le_bytes(*four) })
    }

    fn u64(&self, at: usize) -> Result<u64, CacheError> {
        let found = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
        let Some(eight) = found else { return bad(at, "the file ends inside a number") };
        Ok(if self.big { u64::from_be_bytes(*eight) } else { u64::from_le_bytes(*eight) })
    }
}

/// The NUL-ended text at `base + offset`; `from` is where the offset stands.
fn string(bytes: &[u8], base: usize, offset: u32, from: usize) -> Result<Cow<'_, str>, CacheError> {
    let start = base.saturating_add(offset as usize);
    let Some(rest) = bytes.get(start..) else { return bad(from, "this name lies behind the file's end") };
    // a path has an end; a broken file may name its whole self a hundred thousand times
    match CStr::from_bytes_until_nul(rest.get(..TEXT_LIMIT).unwrap_or(rest)) {
        Ok(text) => Ok(text.to_string_lossy()),
        Err(_) => bad(start, "this name has no end"),
    }
}

/// What a cache says beside its entries: its generator, and the names of glibc-hwcaps.
type Extension<'a> = (Option<Cow<'a, str>>, Vec<Cow<'a, str>>);

/// (generator, glibc-hwcaps names) of the extension at `at`. Places in it count from the file's start, whatever stands in
/// front of the new form; those of texts from the new form's.
fn extension<'a>(number: &Number<'a>, base: usize, at: usize) -> Result<Extension<'a>, CacheError> {
    if number.u32(at)? != EXTENSION_MAGIC {
        return bad(at, "no extension stands where the header says");
    }
    let (mut generator, mut names) = (None, Vec::new());
    // glibc knows two tags; a file of thousands is no cache.
    let count = number.u32(at + 4)?.min(64) as usize;
    for section in (at + 8..).step_by(16).take(count) {
        let (offset, size) = (number.u32(section + 8)? as usize, number.u32(section + 12)? as usize);
        let Some(data) = number.bytes.get(offset..offset.saturating_add(size)) else {
            return bad(section, "this extension section lies behind the file's end");
        };
        match number.u32(section)? {
            TAG_GENERATOR => {
                let end = data.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
                generator = Some(String::from_utf8_lossy(&data[..end]));
            }
            TAG_HWCAPS => {
                for word in (offset..offset + size / 4 * 4).step_by(4) {
                    names.push(string(number.bytes, base, number.u32(word)?, word)?);
                }
            }
            _ => {}
        }
    }
    Ok((generator, names))
}

/// Texts with their NULs.
#[derive(Default)]
struct Strings {
    base: usize,
    bytes: Vec<u8>,
}

impl Strings {
    fn add(&mut self, text: &str) -> u32 {
        let offset = (self.base + self.bytes.len()) as u32;
        self.bytes.extend(cut(text).as_bytes());
        self.bytes.push(0);
        offset
    }

    /// A name and its path, which nearly always ends with the name.
    fn pair(&mut self, soname: &str, path: &str) -> (u32, u32) {
        let (soname, path) = (cut(soname), cut(path));
        let value = self.add(path);
        if path.ends_with(soname) {
            return (value + (path.len() - soname.len()) as u32, value);
        }
        (self.add(soname), value)
    }
}

/// A text can hold no NUL: it ends there.
fn cut(text: &str) -> &str {
    if text.as_bytes().contains(&0) { text.split('\0').next().unwrap_or_default() } else { text }
}

/// The cache's order: names descending (digits by value), then flags descending, then the more special first. Where
/// all that is equal, the order of the entries stays, as it is the order of search: ldconfig before 2.36 sorts by the
/// oldest kernel here, which would put an image's library before the driver's of the same name.
pub fn order(a: &EntryView<'_>, b: &EntryView<'_>) -> Ordering {
    compare_names(&b.soname, &a.soname)
        .then_with(|| b.flags.cmp(&a.flags))
        .then_with(|| b.hwcaps.is_some().cmp(&a.hwcaps.is_some()))
        .then_with(|| a.hwcaps.cmp(&b.hwcaps))
        .then_with(|| b.hwcap.cmp(&a.hwcap))
}

/// How the loader compares names, and ldconfig the files of one library ("libz.so.1.10" is newer than "libz.so.1.9"): runs
/// of digits by value, a digit after any other character.
pub fn compare_names(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        match (a, b) {
            ([], []) => return Ordering::Equal,
            ([], _) => return Ordering::Less,
            (_, []) => return Ordering::Greater,
            ([x, rest_a @ ..], [y, rest_b @ ..]) => match (x.is_ascii_digit(), y.is_ascii_digit()) {
                (true, true) => {
                    let ((x, after_a), (y, after_b)) = (digits(a), digits(b));
                    match x.len().cmp(&y.len()).then_with(|| x.cmp(y)) {
                        Ordering::Equal => (a, b) = (after_a, after_b),
                        different => return different,
                    }
                }
                (true, false) => return Ordering::Greater,
                (false, true) => return Ordering::Less,
                (false, false) if x == y => (a, b) = (rest_a, rest_b),
                // As glibc: characters are compared as signed.
                (false, false) => return (*x as i8).cmp(&(*y as i8)),
            },
        }
    }
}

/// A run of digits without leading zeros, and what follows it.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    let start = run.iter().position(|byte| *byte != b'0').unwrap_or(run.len());
    (&run[start..], rest)
}
