//! Memory for a spec, taken in one step. A process that lives a millisecond spends a good part of it on being given its
//! memory page by page as it first touches it; this way the kernel gives it all at once.

use std::mem::MaybeUninit;

/// What reading a spec of eight cards and printing a configuration takes.
const ROOM: usize = 384 << 10;

/// Readies the allocator. Where the kernel cannot (before 5.14) nothing is different but the time.
pub fn ready() {
    // SAFETY: mallopt changes numbers of the C library's allocator; no other thread is there that could allocate meanwhile.
    #[allow(unsafe_code, reason = "the C library's allocator has no other way")]
    unsafe {
        // large pieces come from the heap, and what is freed stays in it
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 << 20);
        libc::mallopt(libc::M_TOP_PAD, 64 << 10);
    }
    let mut room: Vec<MaybeUninit<u8>> = Vec::with_capacity(ROOM);
    let start = (room.as_mut_ptr() as usize).next_multiple_of(4096);
    // SAFETY: the range lies within `room`, which is ours and holds nothing; its pages are made to be there, as a first write
    // would.
    #[allow(unsafe_code, reason = "madvise(2)")]
    unsafe {
        libc::madvise(start as *mut libc::c_void, ROOM - 8192, MADV_POPULATE_WRITE);
    }
}

/// linux/mman.h; since Linux 5.14.
const MADV_POPULATE_WRITE: libc::c_int = 23;
