//! One NVML that stays open: a report when it is asked for, and Xids as they come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use cuda::nvml::EventSet;
use model::{Reason, Seen};

use super::{Known, LIMIT, Session, Told, collect, may_ask, name_processes, places, plain};
use crate::Machine;
use crate::nvml::{Depth, NvmlReport};

/// An Xid that the driver told of while it was watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xid {
    /// NVML's index of the GPU; None: of a GPU that the event does not name.
    pub gpu: Option<u32>,
    pub number: u64,
}

/// How long one wait for events lasts: so soon does the thread notice that nobody listens any more.
const WAIT: u32 = 200;

/// An open conversation.
pub struct Watch {
    ticks: mpsc::Sender<Depth>,
    told: mpsc::Receiver<Told>,
    xids: mpsc::Receiver<Xid>,
    /// Since a call hung: nothing more is asked until it comes back.
    hung: bool,
}

impl Watch {
    /// Starts NVML in a thread of its own, and keeps it. Absent: no driver runs here, or its library is not installed.
    ///
    /// # Errors
    /// Unreadable, with why NVML could not be started; a driver that hangs at its start is said so after some seconds.
    pub fn open(machine: &dyn Machine) -> Seen<Watch> {
        let may = may_ask(machine);
        may.and_then(|()| {
            let (ticks, wanted) = mpsc::channel::<Depth>();
            let (tell, told) = mpsc::channel();
            let (report, xids) = mpsc::channel();
            let (opened, ready) = mpsc::channel();
            let places = places(machine);
            let thread = std::thread::Builder::new().name("nvml".into()).spawn(move || {
                let session = match Session::open(&places) {
                    Seen::Is(session) => session,
                    other => return drop(opened.send(other.map(|_| ()))),
                };
                let _ = opened.send(Seen::Is(()));
                let stop = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| session.listen(&report, &stop));
                    let mut known = Known::default();
                    while let Ok(depth) = wanted.recv() {
                        session.tell_again(depth, &mut known, &tell);
                    }
                    stop.store(true, Ordering::Relaxed);
                });
            });
            if let Err(error) = thread {
                return Seen::Unreadable(Reason::Other(error.to_string()));
            }
            match ready.recv_timeout(LIMIT) {
                Ok(seen) => seen.map(|()| Watch { ticks, told, xids, hung: false }),
                Err(_) => Seen::Unreadable(Reason::TimedOut),
            }
        })
    }

    /// The report of now. A card whose calls hang is said after some seconds, and from then on at once until the driver
    /// answers again.
    pub fn report(&mut self, machine: &dyn Machine) -> Seen<NvmlReport> {
        self.at(Depth::All).map(|mut report| {
            name_processes(machine, &mut report);
            report
        })
    }

    /// As [`Watch::report`], this deep. Processes have numbers and no names: who asks each second knows most of them.
    pub fn at(&mut self, depth: Depth) -> Seen<NvmlReport> {
        if self.hung {
            // What came late is of the past; the thread is free again when the channel is empty and it answers a tick.
            if self.told.try_recv().is_err() {
                return Seen::Unreadable(Reason::TimedOut);
            }
            while self.told.recv_timeout(Duration::from_millis(500)).is_ok() {}
            self.hung = false;
        }
        if self.ticks.send(depth).is_err() {
            return Seen::Unreadable(Reason::Other("the driver's reader failed".into()));
        }
        let seen = collect(&self.told, LIMIT);
        let hangs = |report: &NvmlReport| {
            report.gpus.iter().any(|gpu| gpu.name.unreadable().is_some_and(|why| why.to_string().contains("hangs at")))
        };
        self.hung = seen.unreadable() == Some(&Reason::TimedOut) || seen.get().is_some_and(hangs);
        seen
    }

    /// The Xids that came since this was asked last.
    pub fn xids(&self) -> Vec<Xid> {
        self.xids.try_iter().collect()
    }

    /// The next Xid within this time; None: none came.
    pub fn xid(&self, wait: Duration) -> Option<Xid> {
        match self.xids.recv_timeout(wait) {
            Ok(xid) => Some(xid),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            // A driver without events: the time is waited for all the same.
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wait);
                None
            }
        }
    }
}

impl Session {
    /// Tells of Xids until nobody listens. A driver without events ends it at once.
    fn listen(&self, tell: &mpsc::Sender<Xid>, stop: &AtomicBool) {
        let devices: Vec<_> = (0..self.nvml.device_count().unwrap_or(0))
            .map(|index| (index, self.nvml.device_by_index(index)))
            .filter_map(|(index, device)| Some((index, device.ok()?)))
            .collect();
        let owns: Vec<_> = devices.iter().map(|(index, device)| (*index, plain::own(device, &self.calls))).collect();
        let Some(set) = self.event_set() else { return };
        for (_, own) in &owns {
            // One that cannot be registered (lost already) does not keep the others from being told of.
            let _ = set.register(own);
        }
        while !stop.load(Ordering::Relaxed) {
            match set.wait(WAIT) {
                Ok(Some(event)) => {
                    let gpu = owns.iter().find(|(_, own)| event.is_of(own)).map(|(index, _)| *index);
                    if tell.send(Xid { gpu, number: event.xid }).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                // A lost GPU ends its events; the others' still come.
                Err(cuda::nvml::NvmlCode::GPU_IS_LOST) => std::thread::sleep(Duration::from_millis(u64::from(WAIT))),
                Err(_) => return,
            }
        }
    }

    #[allow(unsafe_code, reason = "an event set is of a started NVML")]
    fn event_set(&self) -> Option<EventSet<'_>> {
        // SAFETY: this session's NVML is started, and lives longer than the set.
        unsafe { self.calls.event_set() }.ok()
    }
}
