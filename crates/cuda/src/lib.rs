//! The driver's own compute and video libraries, by dlopen alone: libcuda, libnvcuvid, libnvidia-encode. Nothing here is
//! linked, so one program runs with any driver and without one.
//!
//! Sources: CUDA Driver API reference; NVDEC's and NVENC's programming guides (Video Codec SDK); their public headers'
//! struct layouts as FFmpeg's nv-codec-headers has them.
#![allow(unsafe_code, reason = "a C interface behind dlopen; each block argues its own")]

mod library;
mod nvdec;
mod nvenc;
pub mod nvml;
mod peer;
mod work;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;

pub use library::{LoadError, places};
pub use nvdec::{Decoder, Nvdec, VideoCodec};
pub use nvenc::{Encoder, Nvenc, NvencError, NvencOpenError};

use library::Library;
pub use peer::{Peers, Reach};
pub use work::{Attribute, Buffer, Function, Module, WorkError, Worker};

/// A call of the driver that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {name} ({code})")]
pub struct CudaError {
    /// "cuInit".
    pub call: &'static str,
    /// CUresult's number.
    pub code: i32,
    /// "CUDA_ERROR_NO_DEVICE".
    pub name: String,
}

/// Why there is no CUDA here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Call(#[from] CudaError),
}

type Context = *mut c_void;

/// libcuda, initialised.
pub struct Cuda {
    library: Library,
    count: unsafe extern "C" fn(*mut c_int) -> c_int,
    get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int,
    bus_id: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int,
    name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int,
    retain: unsafe extern "C" fn(*mut Context, c_int) -> c_int,
    release: unsafe extern "C" fn(c_int) -> c_int,
    push: unsafe extern "C" fn(Context) -> c_int,
    pop: unsafe extern "C" fn(*mut Context) -> c_int,
    set: unsafe extern "C" fn(Context) -> c_int,
    error_name: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
}

impl Cuda {
    /// Loads libcuda.so.1 and calls cuInit. `Err(Load(NotFound))` where no driver's library is here.
    pub fn open() -> Result<Cuda, OpenError> {
        let library = Library::open("libcuda.so.1")?;
        // SAFETY: each symbol has this signature in the CUDA Driver API; `_v2` is the current form of those that have one.
        let (init, cuda) = unsafe {
            let init: unsafe extern "C" fn(c_uint) -> c_int = library.symbol(c"cuInit")?;
            let cuda = Cuda {
                library,
                count: library.symbol(c"cuDeviceGetCount")?,
                get: library.symbol(c"cuDeviceGet")?,
                bus_id: library.symbol(c"cuDeviceGetPCIBusId")?,
                name: library.symbol(c"cuDeviceGetName")?,
                retain: library.symbol(c"cuDevicePrimaryCtxRetain")?,
                release: library.symbol(c"cuDevicePrimaryCtxRelease_v2")?,
                push: library.symbol(c"cuCtxPushCurrent_v2")?,
                pop: library.symbol(c"cuCtxPopCurrent_v2")?,
                set: library.symbol(c"cuCtxSetCurrent")?,
                error_name: library.symbol(c"cuGetErrorName")?,
            };
            (init, cuda)
        };
        // SAFETY: cuInit takes flags that must be 0 and may be called at any time.
        cuda.done("cuInit", unsafe { init(0) })?;
        Ok(cuda)
    }

    pub(crate) fn done(&self, call: &'static str, code: c_int) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: `name` is a place for one pointer; cuGetErrorName works before cuInit and for any number.
        let known = unsafe { (self.error_name)(code, &raw mut name) } == 0 && !name.is_null();
        let name = if known {
            // SAFETY: the driver gives a static, terminated string.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        } else {
            "an error that this driver has no name for".to_owned()
        };
        Err(CudaError { call, code, name })
    }

    /// The devices that this process may see, in CUDA's order.
    pub fn devices(&self) -> Result<Vec<Device<'_>>, CudaError> {
        let mut count = 0;
        // SAFETY: a place for one int.
        self.done("cuDeviceGetCount", unsafe { (self.count)(&raw mut count) })?;
        let device = |ordinal| {
            let mut device = 0;
            // SAFETY: a place for one CUdevice, which is an int.
            self.done("cuDeviceGet", unsafe { (self.get)(&raw mut device, ordinal) })?;
            Ok(Device { cuda: self, device })
        };
        (0..count).map(device).collect()
    }
}

/// One CUDA device.
#[derive(Clone, Copy)]
pub struct Device<'a> {
    cuda: &'a Cuda,
    device: c_int,
}

impl<'a> Device<'a> {
    /// "0000:01:00.0", as cuDeviceGetPCIBusId has it.
    pub fn bus_id(&self) -> Result<String, CudaError> {
        self.text("cuDeviceGetPCIBusId", self.cuda.bus_id)
    }

    pub fn name(&self) -> Result<String, CudaError> {
        self.text("cuDeviceGetName", self.cuda.name)
    }

    fn text(
        &self,
        call: &'static str,
        ask: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int,
    ) -> Result<String, CudaError> {
        let mut text = [0u8; 256];
        // SAFETY: the buffer is as long as is said, and the callee terminates within it.
        let code = unsafe { ask(text.as_mut_ptr().cast(), text.len() as c_int, self.device) };
        self.cuda.done(call, code)?;
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    /// The device's primary context, current on this thread until it is dropped, or until another's work is done there.
    pub fn current(&self) -> Result<Current<'a>, CudaError> {
        let mut context: Context = std::ptr::null_mut();
        // SAFETY: a place for one CUcontext; the device is the driver's own number.
        self.cuda.done("cuDevicePrimaryCtxRetain", unsafe { (self.cuda.retain)(&raw mut context, self.device) })?;
        // SAFETY: the context was retained above and is released when this is dropped.
        let pushed = self.cuda.done("cuCtxPushCurrent", unsafe { (self.cuda.push)(context) });
        if let Err(error) = pushed {
            // SAFETY: it was retained once.
            unsafe { (self.cuda.release)(self.device) };
            return Err(error);
        }
        Ok(Current { cuda: self.cuda, device: self.device, context, here: PhantomData })
    }
}

/// A context of this thread, and of no other. There may be several: each [`Worker`] makes its own the current one before
/// each call.
pub struct Current<'a> {
    cuda: &'a Cuda,
    device: c_int,
    context: Context,
    /// A raw pointer is not Send: what was pushed here is popped here.
    here: PhantomData<*const ()>,
}

impl Current<'_> {
    /// Makes it the current one again, in the place of another of this thread.
    pub(crate) fn again(&self) -> Result<(), CudaError> {
        // SAFETY: retained until this is dropped; what it replaces is on top of this thread's stack by `Device::current`, and
        // whoever pushed that one pops one, whichever it is.
        self.cuda.done("cuCtxSetCurrent", unsafe { (self.cuda.set)(self.context) })
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut context: Context = std::ptr::null_mut();
        // SAFETY: one was pushed on this thread by `current`, retained once; an error at the end changes nothing.
        unsafe {
            (self.cuda.pop)(&raw mut context);
            (self.cuda.release)(self.device);
        }
    }
}
