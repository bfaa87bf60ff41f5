//! NVML by dlopen: the driver's own library, asked in a thread of its own, with a time limit for each card.

mod mig;
mod plain;
mod topics;
pub(crate) mod vigil;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cuda::nvml::{Calls, NvmlCode};
use model::{Reason, Seen};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Nvml, cuda_driver_version_major, cuda_driver_version_minor};

use crate::nvml::{Depth, NvmlGpu, NvmlReport};
use crate::{Answer, Machine, MachineExt as _};

/// A driver that hangs (a card fell off the bus) must not hang us. Starting NVML with eight cards that do not persist takes a
/// second, all topics of one card a quarter of one.
const LIMIT: Duration = Duration::from_secs(5);

pub(crate) const LIBRARY: &str = "libnvidia-ml.so.1";

/// The report of this machine's NVML. Absent: no driver runs, or its library is not installed.
pub(crate) fn ask(machine: &dyn Machine, depth: Depth) -> Seen<Answer> {
    may_ask(machine).and_then(|()| {
        let places = places(machine);
        gathered(LIMIT, move |tell| told(&places, depth, &tell)).map(|mut report| {
            name_processes(machine, &mut report);
            Answer::Nvml(Box::new(report))
        })
    })
}

fn places(machine: &dyn Machine) -> Vec<String> {
    machine.nvml_libraries().unwrap_or_else(|| cuda::places(LIBRARY))
}

/// Whether asking NVML would change nothing here.
fn may_ask(machine: &dyn Machine) -> Seen<()> {
    if machine.stat("/dev/nvidiactl").is_there() {
        return Seen::Is(());
    }
    if !machine.exists("/proc/driver/nvidia") {
        return Seen::Absent;
    }
    // NVML's start would call nvidia-modprobe to make the node: looking must not change the machine.
    let why = "the driver runs, but /dev/nvidiactl is not there (asking NVML would create it)";
    Seen::Unreadable(Reason::Other(why.into()))
}

/// What the asking thread says, as soon as it knows it.
pub(crate) enum Told {
    /// NVML could not be started, or its library is not here.
    Nothing(Seen<NvmlReport>),
    /// All but the cards, and how many there are.
    Head(NvmlReport, u32),
    /// The next card.
    Gpu(Box<NvmlGpu>),
}

/// Runs it in a thread of its own and waits so long for each thing that it says. A card whose calls hang is left behind with
/// the thread, which nothing could stop; what was said of the others stays.
fn gathered(limit: Duration, look: impl FnOnce(mpsc::Sender<Told>) + Send + 'static) -> Seen<NvmlReport> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("nvml".into()).spawn(move || look(sender));
    if let Err(error) = thread {
        return Seen::Unreadable(Reason::Other(error.to_string()));
    }
    collect(&receiver, limit)
}

fn collect(receiver: &mpsc::Receiver<Told>, limit: Duration) -> Seen<NvmlReport> {
    let failed = || Reason::Other("the driver's reader failed".into());
    let why = |error| match error {
        mpsc::RecvTimeoutError::Timeout => Reason::TimedOut,
        mpsc::RecvTimeoutError::Disconnected => failed(),
    };
    let (mut report, count) = match receiver.recv_timeout(limit) {
        Ok(Told::Head(report, count)) => (report, count),
        Ok(Told::Nothing(seen)) => return seen,
        Ok(Told::Gpu(_)) => return Seen::Unreadable(failed()),
        Err(error) => return Seen::Unreadable(why(error)),
    };
    for index in 0..count {
        match receiver.recv_timeout(limit) {
            Ok(Told::Gpu(gpu)) => report.gpus.push(*gpu),
            Ok(_) => return Seen::Unreadable(failed()),
            Err(error) => {
                let hung = match error {
                    mpsc::RecvTimeoutError::Timeout => {
                        Reason::Other(format!("no answer in {} s: the driver hangs at this GPU", limit.as_secs()))
                    }
                    mpsc::RecvTimeoutError::Disconnected => failed(),
                };
                report.gpus.push(lost(index, &hung));
                let after = Reason::Other(format!("not asked: the driver hangs at GPU {index}"));
                report.gpus.extend((index + 1..count).map(|index| lost(index, &after)));
                break;
            }
        }
    }
    Seen::Is(report)
}

/// Runs it in a thread of its own and waits so long. A thread that hangs in the driver is left behind; nothing could
/// stop it.
pub(crate) fn limited<T: Send + 'static>(limit: Duration, look: impl FnOnce() -> Seen<T> + Send + 'static) -> Seen<T> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("driver".into()).spawn(move || {
        let _ = sender.send(look());
    });
    if let Err(error) = thread {
        return Seen::Unreadable(Reason::Other(error.to_string()));
    }
    match receiver.recv_timeout(limit) {
        Ok(seen) => seen,
        Err(mpsc::RecvTimeoutError::Timeout) => Seen::Unreadable(Reason::TimedOut),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Seen::Unreadable(Reason::Other("the driver's reader failed".into()))
        }
    }
}

/// One conversation from start to end. A closed channel means that nobody waits any more.
fn told(libraries: &[String], depth: Depth, tell: &mpsc::Sender<Told>) {
    let session = match Session::open(libraries) {
        Seen::Is(session) => session,
        Seen::Absent => return drop(tell.send(Told::Nothing(Seen::Absent))),
        Seen::Unreadable(reason) => return drop(tell.send(Told::Nothing(Seen::Unreadable(reason)))),
    };
    session.tell(depth, tell);
}

/// A started NVML.
pub(crate) struct Session {
    nvml: Nvml,
    calls: Calls,
}

impl Session {
    pub(crate) fn open(libraries: &[String]) -> Seen<Session> {
        let mut trouble = None;
        for library in libraries {
            match Nvml::builder().lib_path(OsStr::new(library)).init() {
                Ok(nvml) => {
                    return match Calls::open(library) {
                        Some(calls) => Seen::Is(Session { nvml, calls }),
                        None => Seen::Unreadable(Reason::Other(format!("{library} cannot be loaded twice"))),
                    };
                }
                Err(NvmlError::LibloadingError(error)) => {
                    let text = error.to_string();
                    // Found and not loadable (another architecture, an unreadable file) is worth a word.
                    if !text.contains("No such file") {
                        trouble.get_or_insert(Reason::Other(text));
                    }
                }
                Err(NvmlError::DriverNotLoaded) => return Seen::Absent,
                Err(error) => return Seen::Unreadable(reason(&error)),
            }
        }
        trouble.map_or(Seen::Absent, Seen::Unreadable)
    }

    /// The head and each card, as they are known. Stops where nobody listens.
    pub(crate) fn tell(&self, depth: Depth, tell: &mpsc::Sender<Told>) {
        self.tell_again(depth, &mut Known::default(), tell);
    }

    /// As [`Session::tell`], where this session told before.
    pub(crate) fn tell_again(&self, depth: Depth, known: &mut Known, tell: &mpsc::Sender<Told>) {
        let nvml = &self.nvml;
        let count = match nvml.device_count() {
            Ok(count) => count,
            Err(error) => return drop(tell.send(Told::Nothing(Seen::Unreadable(reason(&error))))),
        };
        let driver_version = seen(nvml.sys_driver_version());
        let head = NvmlReport {
            driver_version: driver_version.clone(),
            nvml_version: seen(nvml.sys_nvml_version()),
            cuda_version: seen(nvml.sys_cuda_driver_version()).map(|version| {
                let part = |number: i32| u32::try_from(number).unwrap_or(0);
                (part(cuda_driver_version_major(version)), part(cuda_driver_version_minor(version)))
            }),
            confidential: match depth {
                Depth::Plain | Depth::Table => Seen::Absent,
                Depth::All | Depth::Now => said(self.calls.confidential()).map(topics::confidential),
            },
            gpus: Vec::new(),
        };
        if tell.send(Told::Head(head, count)).is_err() {
            return;
        }
        for index in 0..count {
            let gpu = match nvml.device_by_index(index) {
                Ok(device) => self.card(index, &device, depth, known, driver_version.get()),
                // A card that fell off the bus is still one that is there, of which nothing can be seen.
                Err(error) => known.lost(index, &reason(&error)),
            };
            if tell.send(Told::Gpu(Box::new(gpu))).is_err() {
                return;
            }
        }
    }

    fn card(
        &self,
        index: u32,
        device: &nvml_wrapper::Device<'_>,
        depth: Depth,
        known: &mut Known,
        driver: Option<&String>,
    ) -> NvmlGpu {
        let own = plain::own(device, &self.calls);
        if depth == Depth::Now
            && let Some((gpu, _)) = known.0.get(&index).filter(|(_, asked)| asked.elapsed() < STALE)
        {
            let mut gpu = gpu.clone();
            plain::now(&mut gpu, device, &self.calls);
            if let Some(reason) = gone(&gpu) {
                return known.lost(index, &reason);
            }
            topics::again(&mut gpu, &own, driver);
            return gpu;
        }
        let mut gpu = plain::one(index, device, &self.calls);
        match depth {
            Depth::Plain => {}
            Depth::Table => topics::table(&mut gpu, &own),
            Depth::All | Depth::Now => topics::add(&mut gpu, &own, driver, depth == Depth::All),
        }
        if depth == Depth::Now && gpu.uuid.is_there() {
            known.0.insert(index, (gpu.clone(), Instant::now()));
        }
        gpu
    }
}

/// Of a card that answered before: it fell off the bus since, or wants a reset.
fn gone(gpu: &NvmlGpu) -> Option<Reason> {
    let says = |reason: &&Reason| matches!(reason, Reason::Other(text) if text == LOST || text == RESET);
    gpu.memory_used.unreadable().filter(says).cloned()
}

/// What one session knows of its cards, and since when: NVML's indexes stay for as long as it is open.
#[derive(Default)]
pub(crate) struct Known(BTreeMap<u32, (NvmlGpu, Instant)>);

impl Known {
    /// Which card it is that is lost is still known.
    fn lost(&self, index: u32, reason: &Reason) -> NvmlGpu {
        let gpu = lost(index, reason);
        let Some((before, _)) = self.0.get(&index).cloned() else { return gpu };
        NvmlGpu { bus_id: before.bus_id, uuid: before.uuid, minor: before.minor, ..gpu }
    }
}

/// After so long all topics are asked again.
const STALE: Duration = Duration::from_secs(60);

/// NVML's answer as an observation: what the card or this driver does not have is absent.
fn seen<T>(result: Result<T, NvmlError>) -> Seen<T> {
    match result {
        Ok(value) => Seen::Is(value),
        Err(
            NvmlError::NotSupported
            | NvmlError::NotFound
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_),
        ) => Seen::Absent,
        Err(error) => Seen::Unreadable(reason(&error)),
    }
}

fn reason(error: &NvmlError) -> Reason {
    match error {
        NvmlError::NoPermission => Reason::PermissionDenied,
        NvmlError::Timeout => Reason::TimedOut,
        NvmlError::LibRmVersionMismatch => {
            Reason::Other("the library and the loaded kernel module have different versions".into())
        }
        NvmlError::GpuLost => Reason::Other(LOST.into()),
        NvmlError::ResetRequired => Reason::Other(RESET.into()),
        NvmlError::OperatingSystem => Reason::Other(BLOCKED.into()),
        other => Reason::Other(other.to_string()),
    }
}

const LOST: &str = "the GPU has fallen off the bus";
const RESET: &str = "the GPU must be reset before it can be used again";
const BLOCKED: &str = "the operating system or the device cgroup denies access to the GPU";

/// As [`seen`], of our own calls. Deprecated and an older structure's version count as "does not have".
fn said<T>(result: Result<T, NvmlCode>) -> Seen<T> {
    let code = match result {
        Ok(value) => return Seen::Is(value),
        Err(code) => code,
    };
    match code {
        NvmlCode::NOT_SUPPORTED
        | NvmlCode::NOT_FOUND
        | NvmlCode::FUNCTION_NOT_FOUND
        | NvmlCode::NO_DATA
        | NvmlCode::VERSION_MISMATCH
        | NvmlCode::DEPRECATED => Seen::Absent,
        NvmlCode::NO_PERMISSION => Seen::Unreadable(Reason::PermissionDenied),
        NvmlCode::TIMEOUT => Seen::Unreadable(Reason::TimedOut),
        NvmlCode::GPU_IS_LOST => Seen::Unreadable(Reason::Other(LOST.into())),
        NvmlCode::RESET_REQUIRED => Seen::Unreadable(Reason::Other(RESET.into())),
        NvmlCode::OPERATING_SYSTEM => Seen::Unreadable(Reason::Other(BLOCKED.into())),
        NvmlCode(number) => Seen::Unreadable(Reason::Other(format!("error {number} of NVML"))),
    }
}

/// A GPU that NVML counts and does not open.
fn lost(index: u32, reason: &Reason) -> NvmlGpu {
    let mut gpu = NvmlGpu::blank(index);
    gpu.bus_id = Seen::Unreadable(reason.clone());
    gpu.name = Seen::Unreadable(reason.clone());
    gpu.uuid = Seen::Unreadable(reason.clone());
    gpu.memory_total = Seen::Unreadable(reason.clone());
    gpu.processes = Seen::Unreadable(reason.clone());
    gpu.health = Seen::Unreadable(reason.clone());
    gpu
}

/// NVML's own names fail across PID namespaces; /proc says who it is here, or that nobody here has that number.
fn name_processes(machine: &dyn Machine, report: &mut NvmlReport) {
    for gpu in &mut report.gpus {
        let Seen::Is(processes) = &mut gpu.processes else { continue };
        for process in processes {
            let command = machine.text(&format!("/proc/{}/cmdline", process.pid));
            process.name = match command.map(|text| text.split('\0').next().unwrap_or_default().to_owned()) {
                Seen::Is(program) if !program.is_empty() => Seen::Is(program),
                Seen::Is(_) => machine.value(&format!("/proc/{}/comm", process.pid)),
                other => other,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileKind, Memory, Node, NodeKind, memory};

    #[test]
    fn asks_nothing_where_no_driver_runs() {
        let mut machine = Memory::new("no driver");
        for path in ["/dev/nvidiactl", "/proc/driver/nvidia"] {
            machine.insert_gone(path, Seen::Absent);
        }
        assert_eq!(ask(&machine, Depth::Plain), Seen::Absent);
        // A driver without its node: NVML would make it, so it is not asked.
        let mut bare = Memory::new("no node");
        bare.insert_gone("/dev/nvidiactl", Seen::Absent);
        let stat = memory::stat(FileKind::Dir, 0o555, 0);
        bare.insert("/proc/driver/nvidia", Node { stat, kind: NodeKind::Dir(Seen::Is(Vec::new())) });
        assert!(
            matches!(ask(&bare, Depth::Plain), Seen::Unreadable(Reason::Other(why)) if why.contains("/dev/nvidiactl"))
        );
    }

    #[test]
    fn a_library_that_is_not_there_is_absent_and_one_that_cannot_be_loaded_is_not() {
        assert!(Session::open(&["/nowhere/libnvidia-ml.so.1".into(), "/nowhere/else.so".into()]).is_absent());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("libnvidia-ml.so.1");
        std::fs::write(&path, "is no library").expect("writes");
        let path = path.to_str().expect("is text");
        assert!(Session::open(&["/nowhere/libnvidia-ml.so.1".into(), path.into()]).unreadable().is_some());
    }

    #[test]
    fn a_driver_that_hangs_is_given_up() {
        let (hold, held) = mpsc::channel::<()>();
        let hung = limited(Duration::from_millis(30), move || {
            let _ = held.recv();
            Seen::Is(())
        });
        assert_eq!(hung, Seen::Unreadable(Reason::TimedOut));
        drop(hold);
        assert_eq!(limited(LIMIT, || Seen::Is(7)), Seen::Is(7));
    }

    #[test]
    fn what_a_card_does_not_have_is_absent_and_what_fails_is_not() {
        assert_eq!(seen::<u32>(Err(NvmlError::NotSupported)), Seen::Absent);
        assert_eq!(seen::<u32>(Err(NvmlError::FailedToLoadSymbol("old driver".into()))), Seen::Absent);
        assert_eq!(seen::<u32>(Err(NvmlError::NoPermission)), Seen::Unreadable(Reason::PermissionDenied));
        assert!(matches!(seen::<u32>(Err(NvmlError::GpuLost)), Seen::Unreadable(Reason::Other(_))));
        assert_eq!(seen(Ok(0)), Seen::Is(0));
    }

    #[test]
    fn a_card_that_hangs_keeps_the_others() {
        let (hold, held) = mpsc::channel::<()>();
        let report = gathered(Duration::from_millis(50), move |tell| {
            let head = NvmlReport {
                driver_version: Seen::Is("580.1".into()),
                nvml_version: Seen::Absent,
                cuda_version: Seen::Absent,
                confidential: Seen::Absent,
                gpus: Vec::new(),
            };
            let _ = tell.send(Told::Head(head, 3));
            let mut gpu = NvmlGpu::blank(0);
            gpu.name = Seen::Is("first".into());
            let _ = tell.send(Told::Gpu(Box::new(gpu)));
            let _ = held.recv();
        });
        drop(hold);
        let Seen::Is(report) = report else { panic!("{report:?}") };
        assert_eq!(report.gpus[0].name, Seen::Is("first".into()));
        let why = |n: usize| report.gpus[n].name.unreadable().map(ToString::to_string).unwrap_or_default();
        assert!(why(1).contains("hangs at this GPU") && why(2).contains("hangs at GPU 1"), "{} {}", why(1), why(2));
    }
}
