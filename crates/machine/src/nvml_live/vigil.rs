//! One NVML that stays open to watch over cards: Xids as they come, and a look at each card when it is asked for, each card in
//! a thread of its own, so that one whose calls hang keeps no other from being looked at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use cuda::nvml::{EventSet, NvmlCode};
use model::{Reason, Seen};
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;

use super::{Session, may_ask, places, plain, reason};
use crate::Machine;

/// How long one wait for events lasts: so soon does the thread notice that nobody listens any more.
const WAIT: u32 = 200;
/// These threads call into the driver and do little else.
const STACK: usize = 256 << 10;
/// NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, of no scope.
const RECOVERY: (u32, u32) = (230, 0);

/// What a vigil says, from its threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// NVML was started and counts so many GPUs; or why it was not.
    Opened(Seen<u32>),
    /// An Xid of the GPU of this index and UUID; none: the event names no GPU that is known.
    Xid { gpu: Option<(u32, Option<String>)>, number: u64 },
    /// A GPU was looked at: it answered, or why it did not. Its UUID is none where it never answered. With the answer comes
    /// what the driver wants done with it: NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 0 nothing; none before branch 560.
    Look { index: u32, uuid: Option<String>, well: Result<Option<i64>, Reason> },
    /// Events will not come any more, and why. Looks still do.
    Deaf(String),
}

/// By NVML's index: where a look is asked for.
type Lanes = Arc<Mutex<Vec<(u32, mpsc::SyncSender<()>)>>>;

/// An open watch. Dropped, its threads end, but for one that hangs in the driver, which nothing could stop.
pub struct Vigil {
    lanes: Lanes,
    stop: Arc<AtomicBool>,
}

impl Vigil {
    /// Starts NVML in a thread of its own and returns at once; [`Said::Opened`] tells how it went. Absent: no driver runs.
    ///
    /// # Errors
    /// Unreadable: asking would change the machine, or no thread could be had.
    pub fn open(machine: &dyn Machine, tell: impl Fn(Said) + Clone + Send + 'static) -> Seen<Vigil> {
        may_ask(machine).and_then(|()| {
            let vigil = Vigil { lanes: Arc::default(), stop: Arc::default() };
            let (lanes, stop, places) = (Arc::clone(&vigil.lanes), Arc::clone(&vigil.stop), places(machine));
            let begun = thread("nvml", move || {
                let session = match Session::open(&places) {
                    Seen::Is(session) => Arc::new(session),
                    other => return tell(Said::Opened(other.map(|_| 0))),
                };
                match session.nvml.device_count() {
                    Ok(count) => {
                        // the lanes are there before anybody is told of them
                        for index in 0..count {
                            lane(&session, index, &lanes, &stop, tell.clone());
                        }
                        tell(Said::Opened(Seen::Is(count)));
                        listen(&session, count, &stop, &tell);
                    }
                    Err(error) => tell(Said::Opened(Seen::Unreadable(reason(&error)))),
                }
            });
            match begun {
                Ok(()) => Seen::Is(vigil),
                Err(error) => Seen::Unreadable(Reason::Other(error.to_string())),
            }
        })
    }

    /// Has the card of this index looked at. One that has not answered the look before is not asked again.
    pub fn look(&self, index: u32) {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lane)) = lanes.iter().find(|(number, _)| *number == index) {
            let _ = lane.try_send(());
        }
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(run).map(drop)
}

fn lane(
    session: &Arc<Session>,
    index: u32,
    lanes: &Lanes,
    stop: &Arc<AtomicBool>,
    tell: impl Fn(Said) + Send + 'static,
) {
    let (ticks, wanted) = mpsc::sync_channel(1);
    let (session, stop) = (Arc::clone(session), Arc::clone(stop));
    let begun = thread(&format!("nvml-{index}"), move || {
        let mut known = None;
        while wanted.recv().is_ok() && !stop.load(Ordering::Relaxed) {
            let well = look(&session, index, &mut known);
            tell(Said::Look { index, uuid: known.clone(), well });
        }
    });
    if begun.is_ok() {
        lanes.lock().unwrap_or_else(PoisonError::into_inner).push((index, ticks));
    }
}

/// What asks the card itself, and not the driver's memory of it: its temperature, or its memory where it tells none.
fn look(session: &Session, index: u32, known: &mut Option<String>) -> Result<Option<i64>, Reason> {
    let mut asked = || {
        let device = session.nvml.device_by_index(index)?;
        *known = Some(device.uuid()?);
        match device.temperature(TemperatureSensor::Gpu) {
            Err(NvmlError::NotSupported) => device.memory_info().map(drop)?,
            said => said.map(drop)?,
        }
        let fields = plain::own(&device, &session.calls).fields(&[RECOVERY]);
        Ok(plain::field(&fields, 0).is())
    };
    match asked() {
        Ok(action) => Ok(action),
        // a card that does not tell, or not to us, is no bad card
        Err(NvmlError::NotSupported | NvmlError::NoPermission | NvmlError::FunctionNotFound) => Ok(None),
        Err(error) => Err(reason(&error)),
    }
}

/// Tells of Xids until it is to stop.
fn listen(session: &Session, count: u32, stop: &AtomicBool, tell: &impl Fn(Said)) {
    let devices: Vec<_> = (0..count)
        .filter_map(|index| Some((index, session.nvml.device_by_index(index).ok()?)))
        .map(|(index, device)| (index, device.uuid().ok(), device))
        .collect();
    let owns: Vec<_> =
        devices.iter().map(|(index, uuid, device)| (*index, uuid, plain::own(device, &session.calls))).collect();
    let set = match event_set(session) {
        Ok(set) => set,
        Err(code) => return tell(Said::Deaf(format!("this driver tells of no events (NVML's error {})", code.0))),
    };
    for (_, _, own) in &owns {
        // One that cannot be registered (lost already) does not keep the others from being told of.
        let _ = set.register(own);
    }
    while !stop.load(Ordering::Relaxed) {
        match set.wait(WAIT) {
            Ok(Some(event)) => {
                let gpu = owns.iter().find(|(_, _, own)| event.is_of(own));
                tell(Said::Xid { gpu: gpu.map(|(index, uuid, _)| (*index, (*uuid).clone())), number: event.xid });
            }
            Ok(None) => {}
            // A lost GPU ends its events; the others' still come.
            Err(NvmlCode::GPU_IS_LOST) => std::thread::sleep(Duration::from_millis(u64::from(WAIT))),
            Err(code) => return tell(Said::Deaf(format!("waiting for events fails (NVML's error {})", code.0))),
        }
    }
}

#[allow(unsafe_code, reason = "an event set is of a started NVML")]
fn event_set(session: &Session) -> Result<EventSet<'_>, NvmlCode> {
    // SAFETY: this session's NVML is started, and lives longer than the set.
    unsafe { session.calls.event_set() }
}
