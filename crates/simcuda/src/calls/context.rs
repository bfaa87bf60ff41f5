//! Contexts: each thread's stack of them, and the primary one of each device.
#![allow(unsafe_code, reason = "two functions call their newer names")]

use std::ffi::c_void;

use simcards::abi::Out;

use crate::errors::{INVALID_CONTEXT, INVALID_VALUE, NOT_SUPPORTED};
use crate::state::{Handle, cuda, current, end_context, new_context, stack, world};

/// What cuCtxGetApiVersion says of every context: that of the 64-bit interface.
const API: u32 = 3020;

cuda! { table:
    fn cuCtxCreate_v2(context: Out<Handle>, _flags: u32, device: i32) |view| {
        let handle = new_context(view, device, false)?;
        stack(|stack| stack.push(handle));
        Ok(context.put(handle)?)
    }

    /// With parameters (execution affinity, CIG), which nothing here has.
    fn cuCtxCreate_v4(context: Out<Handle>, params: Out<usize>, _flags: u32, device: i32) |view| {
        if !params.is_null() {
            return Err(NOT_SUPPORTED);
        }
        let handle = new_context(view, device, false)?;
        stack(|stack| stack.push(handle));
        Ok(context.put(handle)?)
    }

    fn cuCtxDestroy_v2(context: Handle) |_| {
        if world().contexts.get(&context).is_none_or(|context| context.primary) {
            return Err(INVALID_CONTEXT);
        }
        stack(|stack| if stack.last() == Some(&context) { stack.pop(); });
        end_context(context);
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: Handle) |_| {
        if !world().contexts.contains_key(&context) {
            return Err(INVALID_CONTEXT);
        }
        stack(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) |_| {
        let top = stack(Vec::pop).filter(|handle| *handle != 0).ok_or(INVALID_CONTEXT)?;
        context.offer(top);
        Ok(())
    }

    fn cuCtxSetCurrent(context: Handle) |_| {
        if context != 0 && !world().contexts.contains_key(&context) {
            return Err(INVALID_CONTEXT);
        }
        stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) |_| {
        Ok(context.put(stack(|stack| stack.last().copied().unwrap_or(0)))?)
    }

    fn cuCtxGetDevice(device: Out<i32>) |_| {
        let handle = stack(|stack| stack.last().copied()).ok_or(INVALID_CONTEXT)?;
        let index = world().contexts.get(&handle).ok_or(INVALID_CONTEXT)?.device;
        Ok(device.put(i32::try_from(index).unwrap_or(0))?)
    }

    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) |_| {
        if !world().contexts.contains_key(&context) {
            return Err(INVALID_CONTEXT);
        }
        Ok(version.put(API)?)
    }

    fn cuCtxGetFlags(flags: Out<u32>) |view| {
        current(view)?;
        Ok(flags.put(0)?)
    }

    fn cuCtxSetLimit(limit: u32, _value: usize) |view| {
        current(view)?;
        if limit > 9 { Err(INVALID_VALUE) } else { Ok(()) }
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) |view| {
        current(view)?;
        least.offer(0);
        greatest.offer(-5);
        Ok(())
    }

    /// All is done when its call returns.
    fn cuCtxSynchronize() |view| {
        current(view).map(|_| ())
    }

    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) |view| {
        Ok(context.put(new_context(view, device, true)?)?)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) |_| {
        let mut all = world();
        let index = all.device(device)?.0;
        let handle = all.primary.get(&index).copied().ok_or(INVALID_CONTEXT)?;
        let context = all.contexts.get_mut(&handle).ok_or(INVALID_CONTEXT)?;
        context.retained = context.retained.saturating_sub(1);
        let left = context.retained;
        drop(all);
        if left == 0 {
            end_context(handle);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) |_| {
        let all = world();
        let index = all.device(device)?.0;
        let handle = all.primary.get(&index).copied();
        drop(all);
        if let Some(handle) = handle {
            end_context(handle);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, _flags: u32) |_| {
        world().device(device).map(|_| ())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) |_| {
        let all = world();
        let index = all.device(device)?.0;
        flags.put(0)?;
        Ok(active.put(i32::from(all.primary.contains_key(&index)))?)
    }

    // names from before CUDA 11, which clients still ask for

    fn cuDevicePrimaryCtxRelease(device: i32) |_| {
        // SAFETY: the same function under its older name.
        match unsafe { cuDevicePrimaryCtxRelease_v2(device) } {
            0 => Ok(()),
            code => Err(crate::errors::Code(code)),
        }
    }

    fn cuDevicePrimaryCtxReset(device: i32) |_| {
        // SAFETY: as above.
        match unsafe { cuDevicePrimaryCtxReset_v2(device) } {
            0 => Ok(()),
            code => Err(crate::errors::Code(code)),
        }
    }

    fn cuDevicePrimaryCtxSetFlags(device: i32, _flags: u32) |_| {
        world().device(device).map(|_| ())
    }

    /// NVIDIA's tables of functions that no document names: there is none.
    fn cuGetExportTable(table: Out<*const c_void>, _id: Out<[u8; 16]>) |_| {
        table.put(std::ptr::null())?;
        Err(NOT_SUPPORTED)
    }
}
