//! Several cards: whether one reaches the memory of another, and copies from card to card with the time that they took.
//!
//! Source: CUDA Driver API, "Peer Context Memory Access", "Memory Management", "Event Management".

use std::ffi::{c_int, c_uint, c_void};

use crate::work::Pointer;
use crate::{Buffer, Context, Cuda, CudaError, Current, Device, LoadError, Worker};

/// CUresults of cuCtxEnablePeerAccess that say "not these two" and nothing worse.
const UNSUPPORTED: i32 = 217;
const ALREADY: i32 = 704;
const TOO_MANY: i32 = 711;

type Event = *mut c_void;
type Stream = *mut c_void;

/// The calls that two cards need.
pub struct Peers<'a> {
    cuda: &'a Cuda,
    can: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int,
    enable: unsafe extern "C" fn(Context, c_uint) -> c_int,
    disable: unsafe extern "C" fn(Context) -> c_int,
    copy: unsafe extern "C" fn(Pointer, Context, Pointer, Context, usize, Stream) -> c_int,
    make: unsafe extern "C" fn(*mut Event, c_uint) -> c_int,
    record: unsafe extern "C" fn(Event, Stream) -> c_int,
    wait: unsafe extern "C" fn(Event) -> c_int,
    between: unsafe extern "C" fn(*mut f32, Event, Event) -> c_int,
    destroy: unsafe extern "C" fn(Event) -> c_int,
}

impl<'a> Peers<'a> {
    pub fn new(cuda: &'a Cuda) -> Result<Peers<'a>, LoadError> {
        let library = &cuda.library;
        // SAFETY: each symbol has this signature in the CUDA Driver API since version 4.0.
        unsafe {
            Ok(Peers {
                cuda,
                can: library.symbol(c"cuDeviceCanAccessPeer")?,
                enable: library.symbol(c"cuCtxEnablePeerAccess")?,
                disable: library.symbol(c"cuCtxDisablePeerAccess")?,
                copy: library.symbol(c"cuMemcpyPeerAsync")?,
                make: library.symbol(c"cuEventCreate")?,
                record: library.symbol(c"cuEventRecord")?,
                wait: library.symbol(c"cuEventSynchronize")?,
                between: library.symbol(c"cuEventElapsedTime")?,
                destroy: library.symbol(c"cuEventDestroy_v2")?,
            })
        }
    }

    /// Whether `from` can reach the memory of `to` without the host.
    pub fn can(&self, from: &Device<'_>, to: &Device<'_>) -> Result<bool, CudaError> {
        let mut can = 0;
        // SAFETY: a place for one int; both devices are the driver's own numbers.
        let code = unsafe { (self.can)(&raw mut can, from.device, to.device) };
        self.cuda.done("cuDeviceCanAccessPeer", code).map(|()| can != 0)
    }

    /// Lets `from` reach the memory of `to` until the result is dropped. None: these two cannot, or as many as can be are
    /// reached already.
    pub fn reach(&'a self, from: &'a Worker<'a>, to: &'a Worker<'a>) -> Result<Option<Reach<'a>>, CudaError> {
        from.current.again()?;
        // SAFETY: both contexts are retained by their `Current`; the flags must be 0.
        let code = unsafe { (self.enable)(to.current.context, 0) };
        match code {
            UNSUPPORTED | TOO_MANY => Ok(None),
            // whoever enabled it disables it
            ALREADY => Ok(Some(Reach { peers: self, from: from.current, to: to.current, ours: false })),
            code => {
                self.cuda.done("cuCtxEnablePeerAccess", code)?;
                Ok(Some(Reach { peers: self, from: from.current, to: to.current, ours: true }))
            }
        }
    }

    /// Copies from the start of one card's buffer to the start of another's, at most as much as the smaller has, and waits for
    /// it. Seconds, by the source card's own clock.
    pub fn copy(&self, from: &Buffer<'_>, to: &Buffer<'_>) -> Result<f64, CudaError> {
        let (source, target) = (from.worker.current, to.worker.current);
        source.again()?;
        let (start, end) = (self.event()?, self.event()?);
        let default: Stream = std::ptr::null_mut();
        // SAFETY: an event of the current context, on its default stream.
        self.cuda.done("cuEventRecord", unsafe { (self.record)(start.event, default) })?;
        let bytes = from.bytes.min(to.bytes);
        // SAFETY: both buffers live and have so many bytes, each in the context that is given with it; they are not written
        // by anything else before the wait below.
        let code = unsafe { (self.copy)(to.pointer, target.context, from.pointer, source.context, bytes, default) };
        self.cuda.done("cuMemcpyPeerAsync", code)?;
        // SAFETY: as above.
        self.cuda.done("cuEventRecord", unsafe { (self.record)(end.event, default) })?;
        // SAFETY: an event that was recorded.
        self.cuda.done("cuEventSynchronize", unsafe { (self.wait)(end.event) })?;
        let mut milliseconds = 0.0;
        // SAFETY: a place for one float; both events are over.
        let code = unsafe { (self.between)(&raw mut milliseconds, start.event, end.event) };
        self.cuda.done("cuEventElapsedTime", code)?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    /// Of the context that is current.
    fn event(&self) -> Result<OwnEvent<'_>, CudaError> {
        let mut event: Event = std::ptr::null_mut();
        // SAFETY: a place for one event; no flags: it keeps time.
        self.cuda.done("cuEventCreate", unsafe { (self.make)(&raw mut event, 0) })?;
        Ok(OwnEvent { peers: self, event })
    }
}

struct OwnEvent<'a> {
    peers: &'a Peers<'a>,
    event: Event,
}

impl Drop for OwnEvent<'_> {
    fn drop(&mut self) {
        // SAFETY: made once by `event`; destroying one that is not over is allowed, and an error at the end changes nothing.
        unsafe { (self.peers.destroy)(self.event) };
    }
}

/// Peer access, in one direction.
pub struct Reach<'a> {
    peers: &'a Peers<'a>,
    from: &'a Current<'a>,
    to: &'a Current<'a>,
    ours: bool,
}

impl Drop for Reach<'_> {
    fn drop(&mut self) {
        if self.ours && self.from.again().is_ok() {
            // SAFETY: enabled by `reach` from the context that is current again; the other is retained by its `Current`.
            unsafe { (self.peers.disable)(self.to.context) };
        }
    }
}
