//! Cutting a card by MIG: NVML API reference, "Multi Instance GPU Management". The driver takes it from root alone.

use std::ffi::{CString, c_char, c_uint};

use nvml_wrapper_sys::bindings as sys;

use super::{Calls, ComputeInstance, Device, GpuInstance, NvmlCode, Said, done};
use crate::library::places;

/// An NVML that this value started and stops: for hands, which are not the observer's conversation.
pub struct Session {
    calls: Calls,
}

impl Session {
    /// nvmlInit_v2. [`NvmlCode::LIBRARY_NOT_FOUND`] where no driver's library is here.
    pub fn open() -> Said<Session> {
        let calls = places("libnvidia-ml.so.1").iter().find_map(|place| Calls::open(place));
        let calls = calls.ok_or(NvmlCode::LIBRARY_NOT_FOUND)?;
        // SAFETY: the header's signature; it may be called any number of times.
        unsafe {
            let init: unsafe extern "C" fn() -> sys::nvmlReturn_t = calls.symbol(c"nvmlInit_v2")?;
            done(init())?;
        }
        Ok(Session { calls })
    }

    /// By address, "0000:01:00.0".
    pub fn device(&self, bus_id: &str) -> Said<Device<'_>> {
        type Call = unsafe extern "C" fn(*const c_char, *mut sys::nvmlDevice_t) -> sys::nvmlReturn_t;
        let text = CString::new(bus_id).map_err(|_| NvmlCode::INVALID_ARGUMENT)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the header's signature; a terminated string and a place for one handle.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlDeviceGetHandleByPciBusId_v2")?;
            done(call(text.as_ptr(), &raw mut handle))?;
        }
        Ok(Device { calls: &self.calls, handle })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: undoes the one start of `open`; an error at the end changes nothing.
        unsafe {
            if let Ok(stop) = self.calls.symbol::<unsafe extern "C" fn() -> sys::nvmlReturn_t>(c"nvmlShutdown") {
                stop();
            }
        }
    }
}

impl Device<'_> {
    /// `Ok(Err)`: set, and not effective yet, for this reason.
    pub fn set_mig_mode(&self, on: bool) -> Said<Said<()>> {
        type Call = unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, *mut sys::nvmlReturn_t) -> sys::nvmlReturn_t;
        let mut status = 0;
        // SAFETY: the header's signature; a place for one nvmlReturn_t.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlDeviceSetMigMode")?;
            done(call(self.handle, c_uint::from(on), &raw mut status))?;
        }
        Ok(done(status))
    }

    /// A GPU instance of a profile (by the driver's number). `place`: first memory slice and how many; none: where the
    /// driver likes.
    pub fn create_gpu_instance(&self, profile: u32, place: Option<(u32, u32)>) -> Said<GpuInstance> {
        type At = unsafe extern "C" fn(
            sys::nvmlDevice_t,
            c_uint,
            *const sys::nvmlGpuInstancePlacement_t,
            *mut sys::nvmlGpuInstance_t,
        ) -> sys::nvmlReturn_t;
        type Somewhere =
            unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, *mut sys::nvmlGpuInstance_t) -> sys::nvmlReturn_t;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the header's signatures; a placement that outlives the call, and a place for one handle.
        unsafe {
            match place {
                Some((start, size)) => {
                    let place = sys::nvmlGpuInstancePlacement_t { start, size };
                    let call: At = self.calls.symbol(c"nvmlDeviceCreateGpuInstanceWithPlacement")?;
                    done(call(self.handle, profile, &raw const place, &raw mut handle))?;
                }
                None => {
                    let call: Somewhere = self.calls.symbol(c"nvmlDeviceCreateGpuInstance")?;
                    done(call(self.handle, profile, &raw mut handle))?;
                }
            }
        }
        let made = self.gpu_instances(profile)?.into_iter().find(|it| it.handle == handle);
        made.ok_or(NvmlCode::NOT_FOUND)
    }

    /// A compute instance of so many slices. [`NvmlCode::NOT_SUPPORTED`]: this GPU instance has no such profile.
    pub fn create_compute_instance(&self, of: &GpuInstance, slices: u32) -> Said<()> {
        type Call =
            unsafe extern "C" fn(sys::nvmlGpuInstance_t, c_uint, *mut sys::nvmlComputeInstance_t) -> sys::nvmlReturn_t;
        let known = self.compute_profiles(of)?;
        let (profile, _) = known.into_iter().find(|(_, has)| *has == slices).ok_or(NvmlCode::NOT_SUPPORTED)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the header's signature; the instance's handle is NVML's, and there is a place for one.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlGpuInstanceCreateComputeInstance")?;
            done(call(of.handle, profile, &raw mut handle))
        }
    }

    /// Takes a compute instance away. IN_USE where something computes in it.
    pub fn destroy_compute_instance(&self, it: &ComputeInstance) -> Said<()> {
        type Call = unsafe extern "C" fn(sys::nvmlComputeInstance_t) -> sys::nvmlReturn_t;
        // SAFETY: the header's signature; the handle is NVML's.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlComputeInstanceDestroy")?;
            done(call(it.handle))
        }
    }

    /// Takes a GPU instance away, which must have no compute instance any more.
    pub fn destroy_gpu_instance(&self, it: &GpuInstance) -> Said<()> {
        type Call = unsafe extern "C" fn(sys::nvmlGpuInstance_t) -> sys::nvmlReturn_t;
        // SAFETY: the header's signature; the handle is NVML's.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlGpuInstanceDestroy")?;
            done(call(it.handle))
        }
    }
}
