//! Events as they come: Xids.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings as sys;

use super::{Calls, Device, NvmlCode, Said, done, zeroed};

/// nvmlEventTypeXidCriticalError.
const XID: u64 = 8;

/// An nvmlEventSet_t. It is freed when it is dropped.
pub struct EventSet<'a> {
    calls: &'a Calls,
    set: sys::nvmlEventSet_t,
}

/// One event, by the handle of its device.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    device: sys::nvmlDevice_t,
    /// The Xid's number; 999 where the driver does not know it.
    pub xid: u64,
}

impl Event {
    pub fn is_of(&self, device: &Device<'_>) -> bool {
        self.device == device.handle
    }
}

impl Calls {
    /// # Safety
    /// NVML is started, and stays so for as long as the set lives.
    pub unsafe fn event_set(&self) -> Said<EventSet<'_>> {
        let mut set: sys::nvmlEventSet_t = std::ptr::null_mut();
        // SAFETY: the header's signature; a place for one handle.
        unsafe {
            let call: unsafe extern "C" fn(*mut sys::nvmlEventSet_t) -> sys::nvmlReturn_t =
                self.symbol(c"nvmlEventSetCreate")?;
            done(call(&raw mut set))?;
        }
        Ok(EventSet { calls: self, set })
    }
}

impl EventSet<'_> {
    /// Xids of this device are told from now on.
    pub fn register(&self, device: &Device<'_>) -> Said<()> {
        // SAFETY: the header's signature; both handles are NVML's and live.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, u64, sys::nvmlEventSet_t) -> sys::nvmlReturn_t =
                self.calls.symbol(c"nvmlDeviceRegisterEvents")?;
            done(call(device.handle, XID, self.set))
        }
    }

    /// Waits so long for one; None: none came.
    pub fn wait(&self, milliseconds: u32) -> Said<Option<Event>> {
        let mut event: sys::nvmlEventData_t = zeroed();
        // SAFETY: the header's signature; the set is ours, a place for one structure. The older form fills the same.
        let code = unsafe {
            type Call =
                unsafe extern "C" fn(sys::nvmlEventSet_t, *mut sys::nvmlEventData_t, c_uint) -> sys::nvmlReturn_t;
            let call: Call =
                self.calls.symbol(c"nvmlEventSetWait_v2").or_else(|_| self.calls.symbol(c"nvmlEventSetWait"))?;
            done(call(self.set, &raw mut event, milliseconds))
        };
        match code {
            Ok(()) if event.eventType & XID != 0 => Ok(Some(Event { device: event.device, xid: event.eventData })),
            Ok(()) | Err(NvmlCode::TIMEOUT) => Ok(None),
            Err(code) => Err(code),
        }
    }
}

impl Drop for EventSet<'_> {
    fn drop(&mut self) {
        // SAFETY: the set was created once and is not used after this; an error at the end changes nothing.
        unsafe {
            let call: Said<unsafe extern "C" fn(sys::nvmlEventSet_t) -> sys::nvmlReturn_t> =
                self.calls.symbol(c"nvmlEventSetFree");
            if let Ok(call) = call {
                call(self.set);
            }
        }
    }
}
