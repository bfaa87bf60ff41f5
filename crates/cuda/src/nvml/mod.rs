//! The calls of NVML that nvml-wrapper does not make, or makes so that one odd value spoils a whole list. By symbol, each on
//! its own: what a driver does not have answers [`NvmlCode::FUNCTION_NOT_FOUND`], as NVML itself would say it.
//!
//! Starting and stopping NVML is nvml-wrapper's; a [`Device`] here borrows a handle of it.

mod calls;
mod cut;
mod events;
mod lists;
mod mig;

use std::ffi::{CStr, c_uint, c_void};

use nvml_wrapper_sys::bindings as sys;

pub use calls::{Fabric, Platform};
pub use cut::Session;
pub use events::{Event, EventSet};
pub use lists::{EncoderSession, FieldId, ProcessSample, RunningProcess};
pub use mig::{Attributes, ComputeInstance, GpuInstance, PROFILES, Profile};
pub use sys::{nvmlBAR1Memory_t, nvmlEccSramErrorStatus_v1_t, nvmlMemory_t, nvmlRowRemapperHistogramValues_t};

/// nvmlReturn_t, where it is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NvmlCode(pub u32);

impl NvmlCode {
    pub const INVALID_ARGUMENT: NvmlCode = NvmlCode(2);
    pub const NOT_SUPPORTED: NvmlCode = NvmlCode(3);
    pub const NO_PERMISSION: NvmlCode = NvmlCode(4);
    pub const NOT_FOUND: NvmlCode = NvmlCode(6);
    pub const INSUFFICIENT_SIZE: NvmlCode = NvmlCode(7);
    pub const TIMEOUT: NvmlCode = NvmlCode(10);
    pub const LIBRARY_NOT_FOUND: NvmlCode = NvmlCode(12);
    pub const FUNCTION_NOT_FOUND: NvmlCode = NvmlCode(13);
    pub const GPU_IS_LOST: NvmlCode = NvmlCode(15);
    pub const RESET_REQUIRED: NvmlCode = NvmlCode(16);
    pub const OPERATING_SYSTEM: NvmlCode = NvmlCode(17);
    pub const IN_USE: NvmlCode = NvmlCode(19);
    pub const NO_DATA: NvmlCode = NvmlCode(21);
    pub const INSUFFICIENT_RESOURCES: NvmlCode = NvmlCode(23);
    pub const VERSION_MISMATCH: NvmlCode = NvmlCode(25);
    pub const DEPRECATED: NvmlCode = NvmlCode(26);
    pub const UNKNOWN: NvmlCode = NvmlCode(999);
}

/// What NVML said, or its code.
pub type Said<T> = Result<T, NvmlCode>;

fn done(code: sys::nvmlReturn_t) -> Said<()> {
    if code == 0 { Ok(()) } else { Err(NvmlCode(code)) }
}

/// nvmlDevice_t of an NVML that is started.
pub type Handle = *mut c_void;

/// The library, as it is loaded already.
#[derive(Clone, Copy)]
pub struct Calls {
    library: &'static libloading::Library,
}

impl Calls {
    /// The library at this place (a path or a soname), which nvml-wrapper loaded before: the loader gives the same again.
    pub fn open(place: &str) -> Option<Calls> {
        // SAFETY: it is the driver's own library, loaded once already; its initialisers ran then.
        let library = unsafe { libloading::Library::new(place) }.ok()?;
        // Never unloaded: the driver's threads may run in it.
        Some(Calls { library: Box::leak(Box::new(library)) })
    }

    /// # Safety
    /// `handle` is a device's of an NVML that is started, and stays started for as long as the result lives.
    pub unsafe fn device(&self, handle: Handle) -> Device<'_> {
        Device { calls: self, handle: handle.cast() }
    }

    /// True where the driver has this function.
    pub fn has(&self, name: &CStr) -> bool {
        // SAFETY: the symbol is looked for and not called.
        unsafe { self.library.get::<*const c_void>(name.to_bytes_with_nul()) }.is_ok()
    }

    /// # Safety
    /// `F` is the function pointer type of this symbol.
    unsafe fn symbol<F: Copy>(&self, name: &CStr) -> Said<F> {
        // SAFETY: the caller answers for the type; the library is never unloaded.
        match unsafe { self.library.get::<F>(name.to_bytes_with_nul()) } {
            Ok(symbol) => Ok(*symbol),
            Err(_) => Err(NvmlCode::FUNCTION_NOT_FOUND),
        }
    }

    /// nvmlSystemGetConfComputeState: (environment, feature, developer tools' mode).
    pub fn confidential(&self) -> Said<(u32, u32, u32)> {
        let mut state = sys::nvmlConfComputeSystemState_st { environment: 0, ccFeature: 0, devToolsMode: 0 };
        // SAFETY: the header's signature; a place for one structure.
        unsafe {
            let call: unsafe extern "C" fn(*mut sys::nvmlConfComputeSystemState_st) -> sys::nvmlReturn_t =
                self.symbol(c"nvmlSystemGetConfComputeState")?;
            done(call(&raw mut state))?;
        }
        Ok((state.environment, state.ccFeature, state.devToolsMode))
    }
}

/// One device, whole or a MIG part, of a started NVML.
#[derive(Clone, Copy)]
pub struct Device<'a> {
    calls: &'a Calls,
    handle: sys::nvmlDevice_t,
}

/// Plain data of NVML's header, of which all bytes zero is a value.
///
/// # Safety
/// Numbers, arrays, unions of numbers and raw pointers alone.
unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ty),* $(,)?) => {$(
        // SAFETY: numbers, arrays of them, raw pointers.
        unsafe impl Plain for $name {}
    )*};
}
plain!(
    u32,
    u64,
    i32,
    nvmlMemory_t,
    sys::nvmlMemory_v2_t,
    nvmlBAR1Memory_t,
    sys::nvmlPciInfo_t,
    nvmlRowRemapperHistogramValues_t,
    nvmlEccSramErrorStatus_v1_t,
    sys::nvmlRepairStatus_v1_t,
    sys::nvmlDeviceAddressingMode_v1_t,
    sys::nvmlMarginTemperature_v1_t,
    sys::nvmlPdi_v1_t,
    sys::nvmlGpuFabricInfo_v3_t,
    sys::nvmlPlatformInfo_v2_t,
    sys::nvmlPciInfoExt_v1_t,
    sys::nvmlC2cModeInfo_v1_t,
    sys::nvmlDeviceCapabilities_v1_t,
    sys::nvmlDeviceAttributes_t,
    sys::nvmlFieldValue_t,
    sys::nvmlEncoderSessionInfo_t,
    sys::nvmlProcessUtilizationSample_t,
    sys::nvmlProcessInfo_v2_t,
    sys::nvmlGpuInstanceProfileInfo_t,
    sys::nvmlGpuInstancePlacement_t,
    sys::nvmlGpuInstanceInfo_t,
    sys::nvmlComputeInstanceInfo_t,
    sys::nvmlFBCStats_t,
    sys::nvmlEventData_t,
);

fn zeroed<T: Plain>() -> T {
    // SAFETY: `Plain` says that all bytes zero is a value.
    unsafe { std::mem::zeroed() }
}

/// A text of NVML in an array of bytes.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// A C array of characters as bytes.
fn bytes(chars: &[std::ffi::c_char]) -> Vec<u8> {
    chars.iter().map(|c| c.cast_unsigned()).collect()
}

/// NVML_STRUCT_VERSION: the size, and the version in the highest byte.
const fn version_word<T>(version: u32) -> c_uint {
    (size_of::<T>() as u32) | (version << 24)
}
