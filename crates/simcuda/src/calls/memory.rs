//! Memory: allocation, sizes, patterns.

use simcards::abi::Out;

use crate::errors::{ILLEGAL_ADDRESS, INVALID_VALUE};
use crate::memory::Memory;
use crate::state::{Handle, cuda, current, lock, world};
use simcards::view::View;

/// The memory of the current context's card.
fn with<T>(view: &View, work: impl FnOnce(&mut Memory) -> crate::errors::Answer<T>) -> crate::errors::Answer<T> {
    let (_, device) = current(view)?;
    let memory = world().memory(device, view)?;
    // an address of a call's argument that is nowhere is a wrong argument; only a kernel's is a fault
    work(&mut lock(&memory)).map_err(|code| if code == ILLEGAL_ADDRESS { INVALID_VALUE } else { code })
}

fn set(view: &View, at: u64, pattern: &[u8], count: usize) -> crate::errors::Answer {
    if !at.is_multiple_of(pattern.len() as u64) {
        return Err(INVALID_VALUE);
    }
    with(view, |memory| memory.fill(at, pattern, count as u64))
}

cuda! { table:
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |view| {
        let (left, all) = with(view, |memory| Ok(memory.info()))?;
        free.put(left as usize)?;
        Ok(total.put(all as usize)?)
    }

    fn cuMemAlloc_v2(at: Out<u64>, bytes: usize) |view| {
        if at.is_null() {
            return Err(INVALID_VALUE);
        }
        Ok(at.put(with(view, |memory| memory.alloc(bytes as u64))?)?)
    }

    fn cuMemAllocPitch_v2(at: Out<u64>, pitch: Out<usize>, width: usize, height: usize, _element: u32) |view| {
        let row = width.checked_next_multiple_of(512).ok_or(INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(INVALID_VALUE)?;
        pitch.put(row)?;
        Ok(at.put(with(view, |memory| memory.alloc(bytes as u64))?)?)
    }

    fn cuMemAllocAsync(at: Out<u64>, bytes: usize, _stream: Handle) |view| {
        Ok(at.put(with(view, |memory| memory.alloc(bytes as u64))?)?)
    }

    fn cuMemFree_v2(at: u64) |view| {
        current(view)?;
        if at == 0 { Ok(()) } else { with(view, |memory| memory.free(at)) }
    }

    fn cuMemFreeAsync(at: u64, _stream: Handle) |view| {
        with(view, |memory| memory.free(at))
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, at: u64) |view| {
        let (start, length) = with(view, |memory| memory.range(at))?;
        base.offer(start);
        size.offer(length as usize);
        Ok(())
    }

    fn cuMemsetD8_v2(at: u64, value: u8, count: usize) |view| {
        set(view, at, &[value], count)
    }

    fn cuMemsetD16_v2(at: u64, value: u16, count: usize) |view| {
        set(view, at, &value.to_le_bytes(), count)
    }

    fn cuMemsetD32_v2(at: u64, value: u32, count: usize) |view| {
        set(view, at, &value.to_le_bytes(), count)
    }

    fn cuMemsetD8Async(at: u64, value: u8, count: usize, _stream: Handle) |view| {
        set(view, at, &[value], count)
    }

    fn cuMemsetD32Async(at: u64, value: u32, count: usize, _stream: Handle) |view| {
        set(view, at, &value.to_le_bytes(), count)
    }
}
