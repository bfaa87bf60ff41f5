//! Events: Xids out of the control file. There is no history; who registers is told of what comes after.

use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t};

use crate::abi::{Answer, INVALID_ARGUMENT, NOT_SUPPORTED, Out, TIMEOUT, nvml};
use crate::state::{EventSet, Handles, Member, Tag, handle, look, state, unhandle};
use crate::view::View;

/// nvmlEventTypeXidCriticalError; the only one that happens here.
const XID: u64 = 8;
/// ECC single and double bit, P-state, Xid, clock.
const TYPES: u64 = 0x1f;

/// How often the control file is looked at while a client waits.
const LOOK: Duration = Duration::from_millis(20);

fn slot(set: nvmlEventSet_t) -> Answer<usize> {
    unhandle(Tag::EventSet, set).map(|(at, _)| at as usize)
}

/// The next Xid of a set's members; also after the card is lost, since the last one says so.
fn next(view: &View, at: usize) -> Answer<Option<(u32, u64)>> {
    let mut state = state();
    let set = state.sets.get_mut(at).and_then(Option::as_mut).ok_or(INVALID_ARGUMENT)?;
    for member in &mut set.members {
        let Some(gpu) = view.gpus.get(member.gpu as usize) else { continue };
        // a control file that was emptied begins again
        member.told = member.told.min(gpu.xids.len());
        if member.types & XID != 0
            && let Some(xid) = gpu.xids.get(member.told)
        {
            member.told += 1;
            return Ok(Some((member.gpu, *xid)));
        }
    }
    Ok(None)
}

/// Waits so long (milliseconds) for an event; TIMEOUT where none came.
fn wait(set: nvmlEventSet_t, out: Out<nvmlEventData_t>, timeout: u32) -> Answer {
    let (at, start) = (slot(set)?, Instant::now());
    loop {
        if let Some((gpu, xid)) = next(&*look()?, at)? {
            return out.put(nvmlEventData_t {
                device: handle(Tag::Device, gpu, 0),
                eventType: XID,
                eventData: xid,
                gpuInstanceId: u32::MAX,
                computeInstanceId: u32::MAX,
            });
        }
        let left = Duration::from_millis(u64::from(timeout)).saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(TIMEOUT);
        }
        std::thread::sleep(left.min(LOOK));
    }
}

nvml! {
    fn nvmlEventSetCreate(out: Out<nvmlEventSet_t>) |_| {
        let mut state = state();
        let at = state.sets.iter().position(Option::is_none).unwrap_or(state.sets.len());
        if at > 1024 { return Err(crate::abi::Code(20)); }
        out.put(handle(Tag::EventSet, u32::try_from(at).unwrap_or(0), 0))?;
        if at == state.sets.len() { state.sets.push(None); }
        if let Some(place) = state.sets.get_mut(at) { *place = Some(EventSet::default()); }
        Ok(())
    }
    fn nvmlEventSetFree(set: nvmlEventSet_t) |_| {
        let at = slot(set)?;
        state().sets.get_mut(at).and_then(Option::take).map(|_| ()).ok_or(INVALID_ARGUMENT)
    }
    fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, out: Out<u64>) |view| { view.gpu(device)?; out.put(TYPES) }
    fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, types: u64, set: nvmlEventSet_t) |view| {
        let gpu = view.gpu(device)?;
        let at = slot(set)?;
        if types & !TYPES != 0 { return Err(NOT_SUPPORTED); }
        let mut state = state();
        let set = state.sets.get_mut(at).and_then(Option::as_mut).ok_or(INVALID_ARGUMENT)?;
        set.members.push(Member { gpu: gpu.index, types, told: gpu.xids.len() });
        Ok(())
    }
    fn nvmlEventSetWait_v2(set: nvmlEventSet_t, out: Out<nvmlEventData_t>, timeout: u32) |_| { wait(set, out, timeout) }
    fn nvmlEventSetWait(set: nvmlEventSet_t, out: Out<nvmlEventData_t>, timeout: u32) |_| { wait(set, out, timeout) }
}
