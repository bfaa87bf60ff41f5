//! What lives between calls: how often NVML was started, the texts as last read, event sets. And the door of each call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvml_wrapper_sys::bindings::nvmlDevice_t;

use crate::abi::{
    Answer, Code, DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND, GPU_IS_LOST, INVALID_ARGUMENT, LIB_RM_VERSION_MISMATCH,
    NOT_SUPPORTED, UNINITIALIZED, UNKNOWN,
};
use crate::card::{Error, Instance};
use crate::place;
use crate::view::{Gpu, View};

pub(crate) struct State {
    started: u32,
    seen: Option<([String; 3], Arc<View>)>,
    told: Option<String>,
    pub(crate) sets: Vec<Option<EventSet>>,
}

/// An nvmlEventSet_t: who is registered, and how many of its Xids were before or are delivered.
#[derive(Clone, Default)]
pub(crate) struct EventSet {
    pub(crate) members: Vec<Member>,
}

#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) gpu: u32,
    pub(crate) types: u64,
    pub(crate) told: usize,
}

static STATE: Mutex<State> = Mutex::new(State { started: 0, seen: None, told: None, sets: Vec::new() });

pub(crate) fn state() -> MutexGuard<'static, State> {
    // no invariant spans two writes, so a panic in between spoils nothing
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine as the files say it now. Read at each call; parsed again only where a text changed.
pub(crate) fn look() -> Answer<Arc<View>> {
    let texts = place::box_text().and_then(|text| Ok((text, place::control_text()?, place::state_text()?)));
    let mut state = state();
    let view = texts.and_then(|(text, control, kept)| {
        let Some(text) = text else { return Ok(None) };
        let texts = [text, control, kept];
        if let Some((known, view)) = &state.seen
            && *known == texts
        {
            return Ok(Some(Arc::clone(view)));
        }
        let [text, control, kept] = &texts;
        let view = Arc::new(View::with_state(text, control, kept)?);
        state.seen = Some((texts, Arc::clone(&view)));
        Ok(Some(view))
    });
    match view {
        Ok(Some(view)) => Ok(view),
        Ok(None) => {
            Err(state.tell("no box: set THRUWAY_SIM_NVML or put thruway-sim/nvml.toml beside it", DRIVER_NOT_LOADED))
        }
        Err(error) => Err(state.tell(&Error::to_string(&error), UNKNOWN)),
    }
}

impl State {
    /// Says it once.
    fn tell(&mut self, text: &str, code: Code) -> Code {
        if self.told.as_deref() != Some(text) {
            place::say("libnvidia-ml", text);
            self.told = Some(text.to_owned());
        }
        code
    }
}

/// nvmlInit: refuses where the kernel's module has another version, and says once that all this is simulated.
pub(crate) fn start(view: &View) -> Answer {
    if view.control.kernel.as_ref().is_some_and(|kernel| *kernel != view.driver.version) {
        return Err(LIB_RM_VERSION_MISMATCH);
    }
    let mut state = state();
    state.started = state.started.saturating_add(1);
    state.tell(&format!("{} GPU(s), none of them real; driver {}", view.gpus.len(), view.driver.version), UNKNOWN);
    Ok(())
}

pub(crate) fn stop() -> Answer {
    let mut state = state();
    state.started = state.started.checked_sub(1).ok_or(UNINITIALIZED)?;
    Ok(())
}

/// The door of each call that needs a started NVML: faults first, then the body. A panic is an unknown error, never an
/// unwinding into C.
pub(crate) fn enter(name: &str, body: impl FnOnce(&View) -> Answer) -> u32 {
    guard(name, || {
        let view = door(name)?;
        if state().started == 0 {
            return Err(UNINITIALIZED);
        }
        body(&view)
    })
}

/// The door of nvmlInit and of what works before it.
pub(crate) fn enter_unstarted(name: &str, body: impl FnOnce(&View) -> Answer) -> u32 {
    guard(name, || body(&*door(name)?))
}

fn door(name: &str) -> Answer<Arc<View>> {
    let view = look()?;
    if view.lacks(name) {
        return Err(FUNCTION_NOT_FOUND);
    }
    if let Some(hang) = &view.control.hang
        && (hang.calls.is_empty() || hang.calls.iter().any(|call| call == name))
    {
        std::thread::sleep(Duration::from_millis(hang.milliseconds));
    }
    if view.control.delay_us > 0 {
        std::thread::sleep(Duration::from_micros(view.control.delay_us));
    }
    match view.control.fail.get(name) {
        Some(0) | None => Ok(view),
        Some(code) => Err(Code(*code)),
    }
}

fn guard(name: &str, body: impl FnOnce() -> Answer) -> u32 {
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(Code(code))) => code,
        Err(_) => UNKNOWN.0,
    };
    place::trace(name, code);
    code
}

/// Handles are numbers, never addresses: a tag, the GPU's index + 1, a place within it + 1 (0: the GPU itself).
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Tag {
    Device = 0x51,
    GpuInstance = 0x52,
    ComputeInstance = 0x53,
    EventSet = 0x54,
}

pub(crate) fn handle<T>(tag: Tag, gpu: u32, part: u32) -> *mut T {
    let number = ((tag as usize) << 24) | ((gpu as usize + 1) << 12) | part as usize;
    std::ptr::without_provenance_mut(number)
}

/// (index, part) of a handle that we gave.
pub(crate) fn unhandle<T>(tag: Tag, handle: *mut T) -> Answer<(u32, u32)> {
    let number = handle.addr();
    let gpu = (number >> 12) & 0xfff;
    if number >> 24 != tag as usize || gpu == 0 {
        return Err(INVALID_ARGUMENT);
    }
    let number_of = |n: usize| u32::try_from(n).map_err(|_| INVALID_ARGUMENT);
    Ok((number_of(gpu - 1)?, number_of(number & 0xfff)?))
}

/// What a device handle is of.
pub(crate) enum Device<'a> {
    Whole(&'a Gpu),
    Mig(&'a Gpu, &'a Instance),
}

/// The devices behind NVML's handles.
pub(crate) trait Handles {
    fn device(&self, handle: nvmlDevice_t) -> Answer<Device<'_>>;
    fn gpu(&self, handle: nvmlDevice_t) -> Answer<&Gpu>;
    fn gpu_of(&self, handle: nvmlDevice_t) -> Answer<&Gpu>;
}

impl Handles for View {
    /// What this handle is of. A lost card and all that it was cut into answer GPU_IS_LOST.
    fn device(&self, handle: nvmlDevice_t) -> Answer<Device<'_>> {
        let (index, part) = unhandle(Tag::Device, handle)?;
        let gpu = self.gpus.get(index as usize).ok_or(INVALID_ARGUMENT)?;
        if gpu.lost {
            return Err(GPU_IS_LOST);
        }
        match part.checked_sub(1) {
            None => Ok(Device::Whole(gpu)),
            Some(part) => gpu.instances().get(part as usize).map(|it| Device::Mig(gpu, it)).ok_or(INVALID_ARGUMENT),
        }
    }

    /// The GPU of a handle; a MIG device's is refused, as by calls that NVML documents for GPUs only.
    fn gpu(&self, handle: nvmlDevice_t) -> Answer<&Gpu> {
        match self.device(handle)? {
            Device::Whole(gpu) => Ok(gpu),
            Device::Mig(..) => Err(NOT_SUPPORTED),
        }
    }

    /// The GPU of a handle, of the whole or of a part.
    fn gpu_of(&self, handle: nvmlDevice_t) -> Answer<&Gpu> {
        match self.device(handle)? {
            Device::Whole(gpu) | Device::Mig(gpu, _) => Ok(gpu),
        }
    }
}

/// The text, or NOT_SUPPORTED.
pub(crate) fn supported<T>(value: Option<T>) -> Answer<T> {
    value.ok_or(NOT_SUPPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_unknown_error_and_goes_no_further() {
        assert_eq!(guard("a test", || panic!("on purpose")), 999);
        assert_eq!((guard("a test", || Err(Code(7))), guard("a test", || Ok(()))), (7, 0));
    }

    #[test]
    fn a_handle_of_one_kind_is_none_of_another() {
        let device: nvmlDevice_t = handle(Tag::Device, 63, 7);
        assert_eq!(unhandle(Tag::Device, device), Ok((63, 7)));
        assert_eq!(unhandle(Tag::GpuInstance, device), Err(INVALID_ARGUMENT));
        assert_eq!(unhandle::<u8>(Tag::Device, std::ptr::null_mut()), Err(INVALID_ARGUMENT));
    }
}
