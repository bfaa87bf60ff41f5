//! Copies between the host's memory and the card's.

use std::sync::{Arc, Mutex};

use simcards::abi::{Bytes, Out};
use simcards::view::View;

use crate::errors::{Answer, ECC_UNCORRECTABLE, ILLEGAL_ADDRESS, INVALID_VALUE, NOT_SUPPORTED};
use crate::memory::Memory;
use crate::state::{Handle, cuda, current, lock, world};

/// So much at once.
pub(super) const PIECE: usize = 1 << 20;

/// Work that events tell by the CPU's clock.
fn memory_of(view: &View, device: usize) -> Answer<Arc<Mutex<Memory>>> {
    let mut world = world();
    world.mark = None;
    world.memory(device, view)
}

#[derive(Clone, Copy)]
enum Side {
    Host(Bytes),
    Card(u64),
}

fn copy(view: &View, to: Side, from: Side, bytes: usize) -> Answer {
    let (context, device) = current(view)?;
    let memory = memory_of(view, device)?;
    let mut memory = lock(&memory);
    // both ends are looked at first: what is wrong copies nothing
    for side in [to, from] {
        if let Side::Card(at) = side
            && bytes > 0
        {
            let (start, length) = memory.range(at)?;
            if bytes as u64 > length - (at - start) {
                return Err(INVALID_VALUE);
            }
        }
    }
    let mut piece = vec![0; bytes.min(PIECE)];
    for offset in (0..bytes).step_by(PIECE) {
        let part = piece.get_mut(..PIECE.min(bytes - offset)).unwrap_or_default();
        match from {
            Side::Host(bytes) => bytes.at(offset).read(part)?,
            Side::Card(at) => memory.read(at + offset as u64, part).map_err(|code| dead(context, code))?,
        }
        match to {
            Side::Host(bytes) => bytes.at(offset).write(part)?,
            Side::Card(at) => memory.write(at + offset as u64, part)?,
        }
    }
    Ok(())
}

/// Memory that is broken ends the context.
pub(super) fn dead(context: Handle, code: crate::errors::Code) -> crate::errors::Code {
    if code == ECC_UNCORRECTABLE
        && let Some(context) = world().contexts.get_mut(&context)
    {
        context.dead = Some(code);
    }
    if code == ILLEGAL_ADDRESS { INVALID_VALUE } else { code }
}

/// By its address, of which it is: the card's lie where no process has any.
fn side(view: &View, bytes: Bytes) -> Answer<Side> {
    let (_, device) = current(view)?;
    let memory = world().memory(device, view)?;
    let card = lock(&memory).range(bytes.address()).is_ok();
    Ok(if card { Side::Card(bytes.address()) } else { Side::Host(bytes) })
}

/// One end of CUDA_MEMCPY2D.
#[repr(C)]
#[derive(Clone, Copy)]
struct End {
    x: usize,
    y: usize,
    kind: u32,
    host: Bytes,
    device: u64,
    array: usize,
    pitch: usize,
}

/// CUDA_MEMCPY2D.
#[repr(C)]
#[derive(Clone, Copy)]
struct Plane {
    from: End,
    to: End,
    width: usize,
    height: usize,
}

const _: () = assert!(size_of::<Plane>() == 128);

fn plane(view: &View, plane: Out<Plane>) -> Answer {
    let it = plane.get()?;
    let row = |end: End, n: usize| {
        let offset = (end.y + n) * end.pitch + end.x;
        match end.kind {
            // CU_MEMORYTYPE_HOST, DEVICE, ARRAY, UNIFIED
            1 => Ok(Side::Host(end.host.at(offset))),
            2 => Ok(Side::Card(end.device + offset as u64)),
            3 => Err(NOT_SUPPORTED),
            4 => side(view, end.host.at(offset)),
            _ => Err(INVALID_VALUE),
        }
    };
    (0..it.height).try_for_each(|n| copy(view, row(it.to, n)?, row(it.from, n)?, it.width))
}

cuda! { table:
    fn cuMemcpyHtoD_v2(to: u64, from: Bytes, bytes: usize) |view| {
        copy(view, Side::Card(to), Side::Host(from), bytes)
    }

    fn cuMemcpyDtoH_v2(to: Bytes, from: u64, bytes: usize) |view| {
        copy(view, Side::Host(to), Side::Card(from), bytes)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) |view| {
        copy(view, Side::Card(to), Side::Card(from), bytes)
    }

    fn cuMemcpy(to: Bytes, from: Bytes, bytes: usize) |view| {
        copy(view, side(view, to)?, side(view, from)?, bytes)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: Bytes, bytes: usize, _stream: Handle) |view| {
        copy(view, Side::Card(to), Side::Host(from), bytes)
    }

    fn cuMemcpyDtoHAsync_v2(to: Bytes, from: u64, bytes: usize, _stream: Handle) |view| {
        copy(view, Side::Host(to), Side::Card(from), bytes)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: Handle) |view| {
        copy(view, Side::Card(to), Side::Card(from), bytes)
    }

    fn cuMemcpyAsync(to: Bytes, from: Bytes, bytes: usize, _stream: Handle) |view| {
        copy(view, side(view, to)?, side(view, from)?, bytes)
    }

    fn cuMemcpy2D_v2(copy: Out<Plane>) |view| {
        plane(view, copy)
    }

    fn cuMemcpy2DUnaligned_v2(copy: Out<Plane>) |view| {
        plane(view, copy)
    }

    fn cuMemcpy2DAsync_v2(copy: Out<Plane>, _stream: Handle) |view| {
        plane(view, copy)
    }
}
