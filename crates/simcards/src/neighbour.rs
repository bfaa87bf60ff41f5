//! libcuda, as the other libraries of a driver use it: whose context is current.
#![allow(unsafe_code, reason = "a C interface behind dlopen; each block argues its own")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::Library;

use crate::card::Profile;
use crate::place;
use crate::view::{Gpu, View};

const SONAME: &str = "libcuda.so.1";

/// The library that the process uses already, or the one beside this.
fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| {
            let beside = place::own_folder().map(|folder| folder.join(SONAME));
            // SAFETY: a driver's library, made to be loaded by any program; the loader gives the one that is loaded.
            let loaded = unsafe { Library::new(SONAME) };
            // SAFETY: as above.
            loaded.ok().or_else(|| unsafe { Library::new(beside?) }.ok())
        })
        .as_ref()
}

/// Which card the current context of this thread is of; the CUresult where there is none.
pub fn current(view: &View) -> Result<&Gpu, i32> {
    const NO_DEVICE: i32 = 100;
    let library = library().ok_or(NO_DEVICE)?;
    let mut device: c_int = 0;
    // SAFETY: both functions have these signatures in the CUDA Driver API, and are called with places for what they give.
    unsafe {
        let get = library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuCtxGetDevice\0");
        match get.map_err(|_| NO_DEVICE)?(&raw mut device) {
            0 => {}
            code => return Err(code),
        }
    }
    let id = bus_id(library, device)?;
    let found = view.gpus.iter().find(|gpu| gpu.bus_id().ends_with(&id));
    found.ok_or(NO_DEVICE)
}

fn bus_id(library: &Library, device: c_int) -> Result<String, i32> {
    let mut text = [0_u8; 32];
    // SAFETY: as above; the buffer is as long as is said.
    let code = unsafe {
        let get = library.get::<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int>(b"cuDeviceGetPCIBusId\0");
        get.map_err(|_| 100)?(text.as_mut_ptr().cast(), 32, device)
    };
    let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
    if code == 0 { Ok(text.to_string_lossy().into_owned()) } else { Err(code) }
}

/// Of a card that is cut up: the profile of the instance that the current context has. None: it has the whole card.
pub fn profile(gpu: &Gpu) -> Option<&Profile> {
    let library = library().filter(|_| gpu.mig_enabled())?;
    let (mut device, mut uuid): (c_int, [u8; 16]) = (0, [0; 16]);
    // SAFETY: both functions have these signatures in the CUDA Driver API, and are called with places for what they give.
    unsafe {
        let get = library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuCtxGetDevice\0").ok()?;
        let of = library.get::<unsafe extern "C" fn(*mut [u8; 16], c_int) -> c_int>(b"cuDeviceGetUuid_v2\0").ok()?;
        if get(&raw mut device) != 0 || of(&raw mut uuid, device) != 0 {
            return None;
        }
    }
    let digits: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let same = |text: &str| text.trim_start_matches("MIG-").replace('-', "") == digits;
    let instance = gpu.instances().iter().find(|instance| same(&gpu.mig_uuid(instance)))?;
    gpu.profile(instance)
}

/// The same of a context that is given: it is current for that moment.
pub fn of(view: &View, context: *mut c_void) -> Result<&Gpu, i32> {
    let library = library().ok_or(100)?;
    let mut out: *mut c_void = std::ptr::null_mut();
    // SAFETY: both functions have these signatures in the CUDA Driver API; libcuda refuses what is no context of its own.
    unsafe {
        let push =
            library.get::<unsafe extern "C" fn(*mut c_void) -> c_int>(b"cuCtxPushCurrent_v2\0").map_err(|_| 100)?;
        let pop =
            library.get::<unsafe extern "C" fn(*mut *mut c_void) -> c_int>(b"cuCtxPopCurrent_v2\0").map_err(|_| 100)?;
        match push(context) {
            0 => {}
            code => return Err(code),
        }
        let found = current(view);
        pop(&raw mut out);
        found
    }
}
