//! Work on a card: its memory, modules of PTX that the driver compiles, and launches of their kernels.
//!
//! Plain device memory alone, never managed memory: what is on the card is what was put there.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::{Context, CudaError, Current, LoadError};

/// Why work could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Call(#[from] CudaError),
    /// The driver's compiler refused a module, in its own words.
    #[error("the driver's compiler refused the kernels: {0}")]
    Compile(String),
}

/// CUdevice_attribute's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// kHz, the most.
    ClockRate = 13,
    MultiprocessorCount = 16,
    /// kHz, the most.
    MemoryClockRate = 36,
    /// Bits.
    MemoryBusWidth = 37,
    ComputeCapabilityMajor = 75,
    ComputeCapabilityMinor = 76,
}

pub(crate) type Pointer = u64;
type Launch = unsafe extern "C" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

/// The calls that work needs, on one context, which each of them makes the current one.
pub struct Worker<'a> {
    pub(crate) current: &'a Current<'a>,
    attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int,
    memory: unsafe extern "C" fn(*mut usize, *mut usize) -> c_int,
    alloc: unsafe extern "C" fn(*mut Pointer, usize) -> c_int,
    free: unsafe extern "C" fn(Pointer) -> c_int,
    up: unsafe extern "C" fn(Pointer, *const c_void, usize) -> c_int,
    down: unsafe extern "C" fn(*mut c_void, Pointer, usize) -> c_int,
    load: unsafe extern "C" fn(*mut *mut c_void, *const c_void, c_uint, *mut c_int, *mut *mut c_void) -> c_int,
    unload: unsafe extern "C" fn(*mut c_void) -> c_int,
    function: unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> c_int,
    launch: Launch,
    wait: unsafe extern "C" fn() -> c_int,
}

impl<'a> Worker<'a> {
    pub fn new(current: &'a Current<'a>) -> Result<Worker<'a>, LoadError> {
        let library = &current.cuda.library;
        // SAFETY: each symbol has this signature in the CUDA Driver API.
        unsafe {
            Ok(Worker {
                current,
                attribute: library.symbol(c"cuDeviceGetAttribute")?,
                memory: library.symbol(c"cuMemGetInfo_v2")?,
                alloc: library.symbol(c"cuMemAlloc_v2")?,
                free: library.symbol(c"cuMemFree_v2")?,
                up: library.symbol(c"cuMemcpyHtoD_v2")?,
                down: library.symbol(c"cuMemcpyDtoH_v2")?,
                load: library.symbol(c"cuModuleLoadDataEx")?,
                unload: library.symbol(c"cuModuleUnload")?,
                function: library.symbol(c"cuModuleGetFunction")?,
                launch: library.symbol(c"cuLaunchKernel")?,
                wait: library.symbol(c"cuCtxSynchronize")?,
            })
        }
    }

    pub(crate) fn done(&self, call: &'static str, code: c_int) -> Result<(), CudaError> {
        self.current.cuda.done(call, code)
    }

    pub fn attribute(&self, attribute: Attribute) -> Result<i32, CudaError> {
        let mut value = 0;
        // SAFETY: a place for one int; the device is the driver's own number.
        let code = unsafe { (self.attribute)(&raw mut value, attribute as c_int, self.current.device) };
        self.done("cuDeviceGetAttribute", code).map(|()| value)
    }

    /// Bytes: free, and in all.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.current.again()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: places for two sizes.
        self.done("cuMemGetInfo", unsafe { (self.memory)(&raw mut free, &raw mut total) })?;
        Ok((free, total))
    }

    /// Memory of the card, not initialised.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer<'_>, CudaError> {
        self.current.again()?;
        let mut pointer = 0;
        // SAFETY: a place for one device pointer.
        self.done("cuMemAlloc", unsafe { (self.alloc)(&raw mut pointer, bytes) })?;
        Ok(Buffer { worker: self, pointer, bytes })
    }

    /// Compiles PTX for this card.
    pub fn module(&self, ptx: &CStr) -> Result<Module<'_>, WorkError> {
        self.current.again()?;
        let mut words = vec![0u8; 4096];
        // CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
        let mut options: [c_int; 2] = [5, 6];
        let mut values: [*mut c_void; 2] = [words.as_mut_ptr().cast(), words.len() as *mut c_void];
        let mut module: *mut c_void = std::ptr::null_mut();
        // SAFETY: the text is terminated; two options with their two values, whose buffer outlives the call.
        let code =
            unsafe { (self.load)(&raw mut module, ptx.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
        if code == 0 {
            return Ok(Module { worker: self, module });
        }
        let said = CStr::from_bytes_until_nul(&words).unwrap_or_default().to_string_lossy().trim().to_owned();
        match self.done("cuModuleLoadDataEx", code) {
            Err(error) if said.is_empty() => Err(error.into()),
            _ => Err(WorkError::Compile(said)),
        }
    }

    /// Until all that was launched is done. A fault of a kernel shows here.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.current.again()?;
        // SAFETY: a context is current.
        self.done("cuCtxSynchronize", unsafe { (self.wait)() })
    }

    /// Runs a kernel on so many blocks of so many threads, each parameter the eight bytes (or fewer) of a number.
    pub fn launch(
        &self,
        function: &Function<'_>,
        blocks: u32,
        threads: u32,
        mut params: Vec<u64>,
    ) -> Result<(), CudaError> {
        self.current.again()?;
        let mut places: Vec<*mut c_void> = params.iter_mut().map(|param| (&raw mut *param).cast()).collect();
        let none = std::ptr::null_mut();
        // SAFETY: the driver reads as many parameters as the kernel declares, each from its place; our kernels declare
        // as many as their callers in this workspace give, of eight bytes at most, little endian as the host.
        let code = unsafe {
            (self.launch)(
                function.function,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                none,
                places.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.done("cuLaunchKernel", code)
    }
}

/// Memory of the card, given back when it is dropped.
pub struct Buffer<'a> {
    pub(crate) worker: &'a Worker<'a>,
    pub(crate) pointer: Pointer,
    pub(crate) bytes: usize,
}

impl Buffer<'_> {
    /// For a kernel's parameter.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes words at the buffer's start; more than it holds are left out.
    pub fn write(&self, words: &[u32]) -> Result<(), CudaError> {
        self.worker.current.again()?;
        let bytes = size_of_val(words).min(self.bytes);
        // SAFETY: both sides have so many bytes.
        let code = unsafe { (self.worker.up)(self.pointer, words.as_ptr().cast(), bytes) };
        self.worker.done("cuMemcpyHtoD", code)
    }

    /// Reads words from the buffer's start; more than it holds stay as they are.
    pub fn read(&self, words: &mut [u32]) -> Result<(), CudaError> {
        self.worker.current.again()?;
        let bytes = size_of_val(words).min(self.bytes);
        // SAFETY: both sides have so many bytes, and any bytes are words.
        let code = unsafe { (self.worker.down)(words.as_mut_ptr().cast(), self.pointer, bytes) };
        self.worker.done("cuMemcpyDtoH", code)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let _ = self.worker.current.again();
        // SAFETY: allocated once by this worker, whose context is still retained; in another's it would be an error.
        unsafe { (self.worker.free)(self.pointer) };
    }
}

/// Compiled kernels.
pub struct Module<'a> {
    worker: &'a Worker<'a>,
    module: *mut c_void,
}

impl Module<'_> {
    pub fn function(&self, name: &CStr) -> Result<Function<'_>, CudaError> {
        self.worker.current.again()?;
        let mut function: *mut c_void = std::ptr::null_mut();
        // SAFETY: a loaded module and a terminated name.
        let code = unsafe { (self.worker.function)(&raw mut function, self.module, name.as_ptr()) };
        self.worker.done("cuModuleGetFunction", code)?;
        Ok(Function { function, module: std::marker::PhantomData })
    }
}

impl Drop for Module<'_> {
    fn drop(&mut self) {
        let _ = self.worker.current.again();
        // SAFETY: loaded once by this worker, whose context is still retained; in another's it would be an error.
        unsafe { (self.worker.unload)(self.module) };
    }
}

/// A kernel, as long as its module is loaded.
pub struct Function<'a> {
    function: *mut c_void,
    module: std::marker::PhantomData<&'a Context>,
}
