//! A card's memory: one mapping of the whole, of which the kernel gives pages only as they are written, and what is
//! allocated of it. Addresses are the device's own: they are nothing in the host's space, and one that is not inside an
//! allocation is refused.
#![allow(unsafe_code, reason = "one mapping of anonymous memory, read and written through its bounds")]

use std::collections::BTreeMap;
use std::ffi::c_void;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use simcards::card::Flip;

use crate::errors::{Answer, ECC_UNCORRECTABLE, ILLEGAL_ADDRESS, INVALID_VALUE, OUT_OF_MEMORY};

/// The device address of a card's first byte; cards lie a terabyte apart.
const FIRST: u64 = 0x7000_0000_0000;
const APART: u64 = 1 << 40;
/// cuMemAlloc's alignment, and the size from which it gives whole pages of 2 MiB.
const SMALL: u64 = 512;
const PAGE: u64 = 2 << 20;

/// The memory of one card.
pub struct Memory {
    base: u64,
    /// Bytes.
    total: u64,
    /// The most that may be allocated.
    limit: u64,
    used: u64,
    /// Device address to length as asked for, and as taken.
    taken: BTreeMap<u64, (u64, u64)>,
    host: *mut u8,
    flips: Vec<Flip>,
    ecc: bool,
    /// The allocation that was used last: kernels stay in one for long.
    last: (u64, u64),
}

// SAFETY: the mapping is this value's alone; the pointer is an address and has no thread of its own.
unsafe impl Send for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.host.is_null() {
            // SAFETY: mapped by `host` of just this length, and nothing points into it any more.
            let _ = unsafe { munmap(self.host.cast::<c_void>(), self.length()) };
        }
    }
}

impl Memory {
    /// Of a card by its index; bytes in all, and how much of it may be had.
    pub fn new(index: u32, total: u64, limit: u64) -> Memory {
        let base = FIRST + u64::from(index) * APART;
        let (taken, flips) = (BTreeMap::new(), Vec::new());
        Memory { base, total, limit, used: 0, taken, host: std::ptr::null_mut(), flips, ecc: false, last: (0, 0) }
    }

    /// What the control file says now.
    pub fn set(&mut self, flips: &[Flip], ecc: bool, limit: u64) {
        if self.flips != flips {
            self.flips = flips.to_vec();
        }
        (self.ecc, self.limit) = (ecc, limit);
    }

    /// (free, total), bytes.
    pub fn info(&self) -> (u64, u64) {
        (self.limit.saturating_sub(self.used), self.total)
    }

    fn length(&self) -> usize {
        usize::try_from(self.total).unwrap_or(0)
    }

    fn host(&mut self) -> Answer<*mut u8> {
        if self.host.is_null() {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: a new mapping at an address of the kernel's choice.
            let at = unsafe {
                mmap_anonymous(std::ptr::null_mut(), self.length(), ProtFlags::READ | ProtFlags::WRITE, flags)
            };
            self.host = at.map_err(|_| OUT_OF_MEMORY)?.cast();
        }
        Ok(self.host)
    }

    /// cuMemAlloc: the first gap that is long enough.
    pub fn alloc(&mut self, bytes: u64) -> Answer<u64> {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        let unit = if bytes >= PAGE / 2 { PAGE } else { SMALL };
        // what a page of its own would round beyond the limit is still let in by its bytes
        let whole = bytes.checked_next_multiple_of(unit).ok_or(OUT_OF_MEMORY)?;
        let need = if self.used + whole > self.limit { bytes.next_multiple_of(SMALL) } else { whole };
        if need > self.limit.saturating_sub(self.used) {
            return Err(OUT_OF_MEMORY);
        }
        let mut at = self.base;
        for (start, (_, taken)) in &self.taken {
            if start.checked_sub(at).is_some_and(|gap| gap >= need) {
                break;
            }
            at = at.max((start + taken).next_multiple_of(unit));
        }
        if at + need > self.base + self.total {
            return Err(OUT_OF_MEMORY);
        }
        self.host()?;
        self.taken.insert(at, (bytes, need));
        self.used += need;
        Ok(at)
    }

    /// cuMemFree, by the address that was given.
    pub fn free(&mut self, at: u64) -> Answer {
        let (_, taken) = self.taken.remove(&at).ok_or(INVALID_VALUE)?;
        self.used -= taken;
        self.last = (0, 0);
        let (offset, length) = ((at - self.base) as usize, taken as usize);
        if length as u64 >= PAGE {
            // SAFETY: a part of our mapping that nobody has any more; its pages go back to the kernel and read as zero.
            let _ = unsafe { madvise(self.host.wrapping_add(offset).cast(), length, Advice::LinuxDontNeed) };
        }
        Ok(())
    }

    pub fn clear(&mut self) {
        let all: Vec<u64> = self.taken.keys().copied().collect();
        for at in all {
            let _ = self.free(at);
        }
    }

    /// The allocation in which an address lies: start and length.
    pub fn range(&self, at: u64) -> Answer<(u64, u64)> {
        let (start, (length, _)) = self.taken.range(..=at).next_back().ok_or(INVALID_VALUE)?;
        if at - start < *length { Ok((*start, *length)) } else { Err(INVALID_VALUE) }
    }

    /// The place in the mapping of so many bytes, all within one allocation.
    fn place(&mut self, at: u64, bytes: u64) -> Answer<*mut u8> {
        let within = |(start, length): (u64, u64)| at >= start && bytes <= length && at - start <= length - bytes;
        if !within(self.last) {
            let found = self.range(at).map_err(|_| ILLEGAL_ADDRESS)?;
            if !within(found) {
                return Err(ILLEGAL_ADDRESS);
            }
            self.last = found;
        }
        Ok(self.host.wrapping_add((at - self.base) as usize))
    }

    /// Reads, as the cells give it.
    pub fn read(&mut self, at: u64, into: &mut [u8]) -> Answer {
        let place = self.place(at, into.len() as u64)?;
        // SAFETY: `place` holds it within an allocation, which is within the mapping; `into` is the caller's own.
        unsafe { std::ptr::copy_nonoverlapping(place, into.as_mut_ptr(), into.len()) };
        if self.flips.is_empty() {
            return Ok(());
        }
        let offset = at - self.base;
        let length = into.len() as u64;
        let hit = |flip: &&Flip| flip.byte >= offset && flip.byte - offset < length;
        for flip in self.flips.iter().filter(hit) {
            let word = flip.byte / 32;
            if self.ecc {
                // one bad bit of a word is corrected, two are only seen
                let bits = self.flips.iter().filter(|other| other.byte / 32 == word).count();
                if bits > 1 {
                    return Err(ECC_UNCORRECTABLE);
                }
            } else if let Some(byte) = into.get_mut((flip.byte - offset) as usize) {
                *byte ^= 1 << (flip.bit & 7);
            }
        }
        Ok(())
    }

    pub fn write(&mut self, at: u64, from: &[u8]) -> Answer {
        let place = self.place(at, from.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), place, from.len()) };
        Ok(())
    }

    /// One pattern over and over.
    pub fn fill(&mut self, at: u64, pattern: &[u8], count: u64) -> Answer {
        let whole = (pattern.len() as u64).checked_mul(count).ok_or(INVALID_VALUE)?;
        let mut place = self.place(at, whole)?;
        for _ in 0..count {
            // SAFETY: `place` held all of it within an allocation; each step stays below `whole`.
            unsafe { std::ptr::copy_nonoverlapping(pattern.as_ptr(), place, pattern.len()) };
            place = place.wrapping_add(pattern.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory::new(0, 80 << 30, 80 << 30)
    }

    #[test]
    fn what_is_written_is_read_and_nothing_outside_is_touched() {
        let mut memory = memory();
        let (a, b) = (memory.alloc(100).expect("room"), memory.alloc(8 << 30).expect("room"));
        assert!(a % 512 == 0 && b % 512 == 0 && b >= a + 512);
        let small = memory.alloc(100).expect("room");
        assert_eq!(small, a + 512, "beside the other small one, before the large one");
        let large = memory.alloc(4 << 20).expect("room");
        assert!(large >= b + (8 << 30), "{large:x}");
        assert_eq!((memory.free(small), memory.free(large)), (Ok(()), Ok(())));
        memory.write(b + (7 << 30), b"far").expect("inside");
        let mut word = [0; 3];
        memory.read(b + (7 << 30), &mut word).expect("inside");
        assert_eq!(&word, b"far");
        for (at, length) in [(a + 98, 3), (a + 100, 1), (a - 1, 1), (0, 1), (u64::MAX, 2), (b + (8 << 30), 1)] {
            assert_eq!(memory.read(at, &mut vec![0; length]), Err(ILLEGAL_ADDRESS), "{at:x}");
        }
        assert_eq!(memory.free(a + 1), Err(INVALID_VALUE));
        assert_eq!((memory.free(a), memory.free(a)), (Ok(()), Err(INVALID_VALUE)));
        assert_eq!(memory.read(a, &mut [0]), Err(ILLEGAL_ADDRESS), "freed");
        assert_eq!(memory.alloc(512), Ok(a), "the gap is taken again");
    }

    #[test]
    fn it_ends() {
        let mut memory = memory();
        memory.set(&[], false, 1 << 20);
        assert_eq!(memory.info(), (1 << 20, 80 << 30));
        assert_eq!(memory.alloc(1 << 21), Err(OUT_OF_MEMORY));
        let all = memory.alloc(1 << 20).expect("all of it");
        assert_eq!((memory.alloc(1), memory.info().0), (Err(OUT_OF_MEMORY), 0));
        memory.free(all).expect("it is there");
        assert!(memory.alloc(u64::MAX).is_err() && memory.alloc(0) == Err(INVALID_VALUE));
    }

    #[test]
    fn a_bad_cell_is_seen_without_ecc_and_two_with_it() {
        let mut memory = memory();
        let at = memory.alloc(64).expect("room");
        let read = |memory: &mut Memory| {
            let mut bytes = [0; 8];
            memory.read(at, &mut bytes).map(|()| bytes)
        };
        memory.fill(at, &[0xff], 64).expect("inside");
        let one = [Flip { byte: 2, bit: 3 }];
        memory.set(&one, false, 1 << 30);
        assert_eq!(read(&mut memory), Ok([255, 255, 247, 255, 255, 255, 255, 255]));
        memory.set(&one, true, 1 << 30);
        assert_eq!(read(&mut memory), Ok([255; 8]), "corrected");
        memory.set(&[one[0], Flip { byte: 7, bit: 0 }], true, 1 << 30);
        assert_eq!(read(&mut memory), Err(ECC_UNCORRECTABLE));
    }
}
