//! Streams and events. All work is done when its call returns, so a stream is always empty.
#![allow(unsafe_code, reason = "calls a client's function")]

use std::ffi::c_void;

use simcards::abi::Out;
use simcards::view::View;

use crate::errors::{Answer, INVALID_HANDLE, INVALID_VALUE};
use crate::state::{Event, Handle, Mark, cuda, current, world};

type Callback = unsafe extern "C" fn(Handle, i32, *mut c_void);
type HostFunction = unsafe extern "C" fn(*mut c_void);

/// Stream 0, 1 and 2 are every context's own.
fn stream(view: &View, stream: Handle) -> Answer {
    current(view)?;
    if stream <= 2 || world().streams.contains_key(&stream) { Ok(()) } else { Err(INVALID_HANDLE) }
}

fn create(view: &View, to: Out<Handle>) -> Answer {
    let (context, _) = current(view)?;
    let mut world = world();
    let handle = world.handle();
    world.streams.insert(handle, context);
    Ok(to.put(handle)?)
}

cuda! { table:
    fn cuStreamCreate(to: Out<Handle>, _flags: u32) |view| {
        create(view, to)
    }

    fn cuStreamCreateWithPriority(to: Out<Handle>, _flags: u32, _priority: i32) |view| {
        create(view, to)
    }

    fn cuStreamDestroy_v2(handle: Handle) |view| {
        current(view)?;
        world().streams.remove(&handle).map(|_| ()).ok_or(INVALID_HANDLE)
    }

    fn cuStreamQuery(handle: Handle) |view| {
        stream(view, handle)
    }

    fn cuStreamSynchronize(handle: Handle) |view| {
        stream(view, handle)
    }

    fn cuStreamWaitEvent(handle: Handle, event: Handle, _flags: u32) |view| {
        stream(view, handle)?;
        if world().events.contains_key(&event) { Ok(()) } else { Err(INVALID_HANDLE) }
    }

    fn cuStreamAddCallback(handle: Handle, callback: Option<Callback>, data: *mut c_void, _flags: u32) |view| {
        stream(view, handle)?;
        let callback = callback.ok_or(INVALID_VALUE)?;
        // SAFETY: the client's function with the client's data, as the interface has it; no lock of ours is held.
        unsafe { callback(handle, 0, data) };
        Ok(())
    }

    fn cuLaunchHostFunc(handle: Handle, function: Option<HostFunction>, data: *mut c_void) |view| {
        stream(view, handle)?;
        let function = function.ok_or(INVALID_VALUE)?;
        // SAFETY: as above.
        unsafe { function(data) };
        Ok(())
    }

    fn cuEventCreate(to: Out<Handle>, _flags: u32) |view| {
        current(view)?;
        let mut world = world();
        let handle = world.handle();
        world.events.insert(handle, Event { at: None });
        Ok(to.put(handle)?)
    }

    fn cuEventDestroy_v2(event: Handle) |view| {
        current(view)?;
        world().events.remove(&event).map(|_| ()).ok_or(INVALID_HANDLE)
    }

    fn cuEventRecord(event: Handle, handle: Handle) |view| {
        stream(view, handle)?;
        let mut world = world();
        let now = match world.mark {
            Some(Mark::Copy(end)) => end,
            _ => world.now(),
        };
        world.mark = Some(Mark::Event(now));
        world.events.get_mut(&event).ok_or(INVALID_HANDLE)?.at = Some(now);
        Ok(())
    }

    fn cuEventQuery(event: Handle) |view| {
        current(view)?;
        world().events.get(&event).map(|_| ()).ok_or(INVALID_HANDLE)
    }

    fn cuEventSynchronize(event: Handle) |view| {
        current(view)?;
        world().events.get(&event).map(|_| ()).ok_or(INVALID_HANDLE)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) |view| {
        current(view)?;
        let world = world();
        let at = |event: Handle| world.events.get(&event).and_then(|event| event.at).ok_or(INVALID_HANDLE);
        let (start, end) = (at(start)?, at(end)?);
        Ok(milliseconds.put((end - start) as f32 / 1e6)?)
    }
}
