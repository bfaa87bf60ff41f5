//! QEMU's disk image format, read only, as far as an EFI disk needs it: the bytes at the disk's start.
//!
//! Source: QEMU, docs/interop/qcow2.txt.

use std::fmt;

pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bits 9 to 55 of an entry: where the cluster lies in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// Version 3: the cluster reads as zeros.
const ZERO: u64 = 1;
/// Incompatible features that change nothing for a reader of these bytes: dirty (reference counts), and a compression type
/// of which no cluster here makes use.
const HARMLESS: u64 = 0b1001;

/// What is wrong with the image, or what this reader does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage {
    pub at: u64,
    pub message: &'static str,
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.message)
    }
}

impl std::error::Error for BadImage {}

/// The disk's first bytes, `most` of them where it has so many, out of the image file's bytes.
pub fn head(image: &[u8], most: usize) -> Result<Vec<u8>, BadImage> {
    let bad = |at, message| BadImage { at, message };
    let word = |at: u64| be32(image, at).ok_or(bad(at, "the image ends here"));
    let long = |at: u64| be64(image, at).ok_or(bad(at, "the image ends here"));
    if image.get(..4) != Some(&MAGIC) {
        return Err(bad(0, "no qcow2 image"));
    }
    let version = word(4)?;
    if !(2..=3).contains(&version) {
        return Err(bad(4, "a qcow2 version that is neither 2 nor 3"));
    }
    if long(8)? != 0 {
        return Err(bad(8, "it has a backing file, which is not looked into"));
    }
    let bits = word(20)?;
    // The specification's bounds are 9 and 21 (QEMU's own).
    if !(9..=21).contains(&bits) {
        return Err(bad(20, "a cluster size that no image has"));
    }
    if word(32)? != 0 {
        return Err(bad(32, "it is encrypted"));
    }
    let features = if version == 3 { long(72)? & !HARMLESS } else { 0 };
    if features != 0 {
        return Err(bad(
            72,
            match features.trailing_zeros() {
                1 => "it is marked corrupt",
                2 => "it has its data in another file",
                4 => "its clusters are parted (extended_l2), which is not read",
                _ => "it has a feature that is not known here",
            },
        ));
    }
    let size = usize::try_from(long(24)?).unwrap_or(usize::MAX).min(most);
    let (entries, table) = (u64::from(word(36)?), long(40)?);
    let cluster = 1u64 << bits;
    // A cluster of second-level table holds 8 bytes a cluster.
    let per_table = cluster / 8;
    let mut disk = Vec::new();
    while disk.len() < size {
        let number = disk.len() as u64 >> bits;
        let first = number / per_table;
        if first >= entries {
            return Err(bad(table, "its table is too short for its size"));
        }
        let second = long(table.saturating_add(first * 8))? & OFFSET;
        let entry = if second == 0 { 0 } else { long(second.saturating_add(number % per_table * 8))? };
        if entry & COMPRESSED != 0 {
            return Err(bad(second, "it is compressed"));
        }
        let zeros = version == 3 && entry & ZERO != 0;
        let want = usize::try_from(cluster).unwrap_or(usize::MAX).min(size - disk.len());
        match entry & OFFSET {
            0 => disk.resize(disk.len() + want, 0),
            _ if zeros => disk.resize(disk.len() + want, 0),
            at => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                let data = image.get(from..from.saturating_add(want));
                disk.extend_from_slice(data.ok_or(bad(at, "the image ends before this cluster does"))?);
            }
        }
    }
    Ok(disk)
}

fn be32(bytes: &[u8], at: u64) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(usize::try_from(at).ok()?..)?.first_chunk()?))
}

fn be64(bytes: &[u8], at: u64) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(usize::try_from(at).ok()?..)?.first_chunk()?))
}
