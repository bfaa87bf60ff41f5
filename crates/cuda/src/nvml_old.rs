//! The one call of NVML that drivers before 510 have and nvml-wrapper does not make.

use std::ffi::{c_int, c_void};

use crate::library::Library;

/// nvmlMemory_t, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NvmlMemory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// nvmlDeviceGetMemoryInfo, which counts the driver's own share as used. None where it is not answered.
///
/// # Safety
/// `device` is a handle of an initialised NVML of this process.
pub unsafe fn nvml_memory(device: *mut c_void) -> Option<NvmlMemory> {
    // Loaded already: the same library is given again.
    let library = Library::open("libnvidia-ml.so.1").ok()?;
    let mut memory = NvmlMemory::default();
    // SAFETY: the symbol has this signature since NVML 1; the caller answers for the handle.
    let code = unsafe {
        let call: unsafe extern "C" fn(*mut c_void, *mut NvmlMemory) -> c_int =
            library.symbol(c"nvmlDeviceGetMemoryInfo").ok()?;
        call(device, &raw mut memory)
    };
    (code == 0).then_some(memory)
}
