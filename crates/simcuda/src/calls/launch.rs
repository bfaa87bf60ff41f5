//! cuLaunchKernel: the kernel is run when the call returns.

use std::sync::Arc;

use simcards::abi::{Bytes, Out};
use simcards::view::View;

use crate::errors::{
    Answer, ECC_UNCORRECTABLE, ILLEGAL_ADDRESS, INVALID_HANDLE, INVALID_VALUE, LAUNCH_FAILED, LAUNCH_OUT_OF_RESOURCES,
    MISALIGNED_ADDRESS,
};
use crate::ptx::{self, Entry, Grid};
use crate::state::{EYE, Handle, cuda, current, lock, lost, world};

/// The parameters' space, from a place for each.
fn gather(entry: &Entry, params: Out<Bytes>, extra: Out<usize>) -> Answer<Vec<u8>> {
    let end = entry.params.iter().map(|(_, bytes, at)| at + bytes).max().unwrap_or(0);
    let mut space = vec![0; end];
    if entry.params.is_empty() {
        return Ok(space);
    }
    if params.is_null() {
        // pairs of a number and a value: 1 the buffer, 2 a pointer to its size, 0 the end
        let mut buffer = None;
        for n in (0..16).step_by(2) {
            match extra.at(n).get()? {
                0 => break,
                1 => buffer = Some(extra.at(n + 1).cast::<Bytes>().get()?),
                _ => {}
            }
        }
        buffer.ok_or(INVALID_VALUE)?.read(&mut space)?;
        return Ok(space);
    }
    for (n, (_, bytes, at)) in entry.params.iter().enumerate() {
        params.at(n).get()?.read(space.get_mut(*at..at + bytes).unwrap_or_default())?;
    }
    Ok(space)
}

fn launch(view: &View, function: Handle, grid: Grid, shared: u32, params: Out<Bytes>, extra: Out<usize>) -> Answer {
    let (context, device) = current(view)?;
    let mut all = world();
    let entry = Arc::clone(&all.functions.get(&function).ok_or(INVALID_HANDLE)?.1);
    let [x, y, z] = grid.threads;
    let threads = u64::from(x) * u64::from(y) * u64::from(z);
    let blocks = grid.blocks.iter().all(|blocks| *blocks > 0);
    if threads == 0 || threads > 1024 || z > 64 || !blocks || grid.blocks[1] > 65_535 || grid.blocks[2] > 65_535 {
        return Err(INVALID_VALUE);
    }
    if shared > 49_152 {
        return Err(LAUNCH_OUT_OF_RESOURCES);
    }
    let space = gather(&entry, params, extra)?;
    let memory = all.memory(device, view)?;
    all.mark = None;
    let gpu = all.devices.get(device).map_or(0, |device| device.gpu);
    let wrong = view.gpus.get(gpu as usize).map_or(0, |gpu| gpu.wrong_bits);
    drop(all);
    // a card can be lost in the middle of a kernel
    let mut look = || match EYE.look() {
        Ok(view) if lost(&view, gpu) => Err(LAUNCH_FAILED),
        _ => Ok(()),
    };
    let ran = ptx::launch(&entry, grid, &space, &mut lock(&memory), wrong, &mut look);
    match ran {
        // A fault is told by the next call that waits, and by all after it.
        Err(code) if [ILLEGAL_ADDRESS, MISALIGNED_ADDRESS, ECC_UNCORRECTABLE, LAUNCH_FAILED].contains(&code) => {
            if let Some(context) = world().contexts.get_mut(&context) {
                context.dead.get_or_insert(code);
            }
            Ok(())
        }
        other => other,
    }
}

cuda! { table:
    fn cuLaunchKernel(function: Handle, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, _stream: Handle,
        params: Out<Bytes>, extra: Out<usize>) |view| {
        launch(view, function, Grid { blocks: [gx, gy, gz], threads: [bx, by, bz] }, shared, params, extra)
    }
}
