//! What lives between calls, and the door of each call.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use simcards::eye::{Blind, Eye};
use simcards::place;
use simcards::view::View;

use crate::device::{Device, devices};
use crate::errors::{
    Answer, Code, DEVICE_UNAVAILABLE, INVALID_CONTEXT, INVALID_DEVICE, INVALID_HANDLE, INVALID_VALUE, LAUNCH_FAILED,
    NO_DEVICE, NOT_INITIALIZED, SYSTEM_DRIVER_MISMATCH, UNKNOWN,
};
use crate::memory::Memory;
use crate::ptx::{Entry, Module};

pub(crate) static EYE: Eye = Eye::new("libcuda");

/// A handle that clients keep: a number, never an address.
pub(crate) type Handle = usize;

#[derive(Default)]
pub(crate) struct World {
    started: bool,
    pub(crate) devices: Vec<Device>,
    next: Handle,
    pub(crate) contexts: HashMap<Handle, Context>,
    pub(crate) modules: HashMap<Handle, Loaded>,
    pub(crate) functions: HashMap<Handle, (Handle, Arc<Entry>)>,
    pub(crate) streams: HashMap<Handle, Handle>,
    pub(crate) events: HashMap<Handle, Event>,
    /// By card.
    pub(crate) memory: HashMap<u32, Arc<Mutex<Memory>>>,
    /// By device: the primary context.
    pub(crate) primary: HashMap<usize, Handle>,
    /// Contexts with peer access: from, to.
    pub(crate) peers: HashSet<(Handle, Handle)>,
    /// Nanoseconds by which the cards' clock is ahead of the CPU's.
    pub(crate) ahead: i64,
    /// What was last on the cards' clock, where no other work came since.
    pub(crate) mark: Option<Mark>,
}

/// Nanoseconds of the cards' clock. What a call costs here is no time of the cards: a copy begins when the event before it was,
/// and the event after it is when it ends.
#[derive(Clone, Copy)]
pub(crate) enum Mark {
    Event(i64),
    Copy(i64),
}

pub(crate) struct Context {
    pub(crate) device: usize,
    /// Of a primary context: how often it is retained.
    pub(crate) retained: u32,
    pub(crate) primary: bool,
    /// A kernel's fault, or the card's loss: every later call gives this.
    pub(crate) dead: Option<Code>,
}

pub(crate) struct Loaded {
    pub(crate) context: Handle,
    pub(crate) module: Module,
}

pub(crate) struct Event {
    /// Nanoseconds of the cards' clock.
    pub(crate) at: Option<i64>,
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

thread_local! {
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// The stack of contexts of this thread.
pub(crate) fn stack<T>(with: impl FnOnce(&mut Vec<Handle>) -> T) -> T {
    STACK.with(|stack| with(&mut stack.borrow_mut()))
}

pub(crate) struct Guard(MutexGuard<'static, Option<World>>);

impl std::ops::Deref for Guard {
    type Target = World;
    fn deref(&self) -> &World {
        static NONE: LazyLock<World> = LazyLock::new(World::default);
        self.0.as_ref().unwrap_or(&NONE)
    }
}

impl std::ops::DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut World {
        self.0.get_or_insert_default()
    }
}

pub(crate) fn world() -> Guard {
    // every change is one insertion or removal, so a panic in between spoils nothing
    Guard(WORLD.lock().unwrap_or_else(PoisonError::into_inner))
}

impl World {
    /// The cards' clock, nanoseconds.
    pub(crate) fn now(&self) -> i64 {
        clock() + self.ahead
    }

    /// A fresh handle.
    pub(crate) fn handle(&mut self) -> Handle {
        self.next += 1;
        0x51c0_0000_0000 + self.next * 16
    }

    pub(crate) fn device(&self, ordinal: i32) -> Answer<(usize, &Device)> {
        let index = usize::try_from(ordinal).map_err(|_| INVALID_DEVICE)?;
        self.devices.get(index).map(|device| (index, device)).ok_or(INVALID_DEVICE)
    }

    /// The memory of the card of a device.
    pub(crate) fn memory(&mut self, device: usize, view: &View) -> Answer<Arc<Mutex<Memory>>> {
        let device = self.devices.get(device).ok_or(INVALID_DEVICE)?;
        let gpu = view.gpus.get(device.gpu as usize).ok_or(INVALID_DEVICE)?;
        let used = gpu.card.used_mib << 20;
        let limit = gpu.cuda_mib.map_or(u64::MAX, |mib| mib << 20).min(device.total.saturating_sub(used));
        let made = self.memory.entry(device.gpu);
        let memory =
            Arc::clone(made.or_insert_with(|| Arc::new(Mutex::new(Memory::new(gpu.index, device.total, limit)))));
        let ecc = gpu.card.ecc.as_ref().is_some_and(|ecc| ecc.enabled);
        lock(&memory).set(&gpu.flips, ecc, limit);
        Ok(memory)
    }
}

pub(crate) fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// cuInit. Source of the order: what the driver checks before it looks for devices.
pub(crate) fn start(flags: u32, view: &View) -> Answer {
    if flags != 0 {
        return Err(INVALID_VALUE);
    }
    if view.control.kernel.as_ref().is_some_and(|kernel| *kernel != view.driver.version) {
        return Err(SYSTEM_DRIVER_MISMATCH);
    }
    let mut world = world();
    if !world.started {
        let wanted = place::variable("CUDA_VISIBLE_DEVICES");
        let found = devices(view, wanted.as_deref());
        if found.is_empty() {
            return Err(NO_DEVICE);
        }
        if found.iter().any(|device| lost(view, device.gpu)) {
            // a card that fell off the bus before: no process of CUDA starts any more
            return Err(UNKNOWN);
        }
        world.devices = found;
        world.started = true;
    }
    let words = format!("{} device(s), none of them real; driver {}", world.devices.len(), view.driver.version);
    drop(world);
    EYE.tell(&words);
    Ok(())
}

pub(crate) fn lost(view: &View, gpu: u32) -> bool {
    view.gpus.get(gpu as usize).is_some_and(|gpu| gpu.lost)
}

/// Nanoseconds since the process began.
pub(crate) fn clock() -> i64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    i64::try_from(BEGAN.elapsed().as_nanos()).unwrap_or(i64::MAX)
}

/// The context that is current on this thread, with its faults before it: a lost card's calls fail as those of a kernel
/// that never came back.
pub(crate) fn current(view: &View) -> Answer<(Handle, usize)> {
    let handle = stack(|stack| stack.last().copied()).filter(|handle| *handle != 0).ok_or(INVALID_CONTEXT)?;
    alive(view, handle).map(|device| (handle, device))
}

/// The device of a context, with the context's faults before it.
pub(crate) fn alive(view: &View, handle: Handle) -> Answer<usize> {
    let mut world = world();
    let device = world.contexts.get(&handle).ok_or(INVALID_CONTEXT)?.device;
    let gone = world.devices.get(device).is_none_or(|device| lost(view, device.gpu));
    let context = world.contexts.get_mut(&handle).ok_or(INVALID_CONTEXT)?;
    if gone {
        context.dead.get_or_insert(LAUNCH_FAILED);
    }
    match context.dead {
        Some(code) => Err(code),
        None => Ok(device),
    }
}

/// A new context of a device.
pub(crate) fn new_context(view: &View, ordinal: i32, primary: bool) -> Answer<Handle> {
    let mut world = world();
    let (device, it) = world.device(ordinal)?;
    if lost(view, it.gpu) {
        return Err(DEVICE_UNAVAILABLE);
    }
    if primary && let Some(handle) = world.primary.get(&device).copied() {
        let context = world.contexts.get_mut(&handle).ok_or(INVALID_HANDLE)?;
        context.retained += 1;
        return context.dead.map_or(Ok(handle), Err);
    }
    let handle = world.handle();
    world.contexts.insert(handle, Context { device, retained: 1, primary, dead: None });
    if primary {
        world.primary.insert(device, handle);
    }
    Ok(handle)
}

/// With all that was made in it.
pub(crate) fn end_context(handle: Handle) {
    let mut world = world();
    let Some(context) = world.contexts.remove(&handle) else { return };
    if context.primary {
        world.primary.remove(&context.device);
    }
    let gone: Vec<Handle> =
        world.modules.iter().filter(|(_, loaded)| loaded.context == handle).map(|(handle, _)| *handle).collect();
    world.modules.retain(|_, loaded| loaded.context != handle);
    world.functions.retain(|_, (module, _)| !gone.contains(module));
    world.streams.retain(|_, context| *context != handle);
    world.peers.retain(|(from, to)| *from != handle && *to != handle);
    let Some(gpu) = world.devices.get(context.device).map(|device| device.gpu) else { return };
    let same = |other: &Context| world.devices.get(other.device).is_some_and(|device| device.gpu == gpu);
    if !world.contexts.values().any(same)
        && let Some(memory) = world.memory.get(&gpu)
    {
        lock(memory).clear();
    }
}

/// The door of each call: faults first, then the body. A panic is an unknown error, never an unwinding into C.
pub(crate) fn enter(name: &str, body: impl FnOnce(&View) -> Answer) -> i32 {
    guard(name, || {
        if !world().started {
            return Err(NOT_INITIALIZED);
        }
        let view = door(name)?;
        body(&view)
    })
}

/// The door of cuInit and of what works before it.
pub(crate) fn enter_unstarted(name: &str, body: impl FnOnce(&View) -> Answer) -> i32 {
    guard(name, || body(&*door(name)?))
}

fn door(name: &str) -> Answer<Arc<View>> {
    let view = EYE.look().map_err(|blind| match blind {
        Blind::NoBox => NO_DEVICE,
        Blind::Wrong => UNKNOWN,
    })?;
    // the control file has the names of the reference, without the versions behind them
    let plain = name.strip_suffix("_v2").unwrap_or(name);
    match view.fault(&[name, plain]) {
        Some(code) => Err(Code(code.cast_signed())),
        None => Ok(view),
    }
}

pub(crate) fn guard(name: &str, body: impl FnOnce() -> Answer) -> i32 {
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(Code(code))) => code,
        Err(_) => UNKNOWN.0,
    };
    place::trace(name, code.unsigned_abs());
    code
}

/// Exported functions, and their table for cuGetProcAddress. Each asks [`enter`] first.
macro_rules! cuda {
    ($table:ident: $($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) |$view:pat_param| $body:block)*) => {
        $(
            $(#[$doc])*
            // SAFETY of the name: the driver API's, which is what this library is for; nothing else in it has that name.
            #[unsafe(no_mangle)]
            #[allow(unsafe_code, non_snake_case, reason = "the C interface")]
            unsafe extern "C" fn $name($($arg: $type),*) -> i32 {
                $crate::state::enter(stringify!($name), |$view| $body)
            }
        )*
        pub(crate) fn $table() -> Vec<(&'static str, *const ())> {
            vec![$((stringify!($name), $name as *const ())),*]
        }
    };
}
pub(crate) use cuda;
