//! The one who looks: one NVML held open, names kept from look to look.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use gpu::Card;
use gpu::attribution::{Attribution, Attributor, OwnedBy};
use journal::ledger::{self, Owner};
use machine::nvml::{self, Depth, NvmlReport, Watch};
use machine::{Kind, Machine, MachineExt as _};
use model::{Bdf, Reason, Seen};

use crate::{Away, CardNow, ProcessNow, Sample};

/// After so long an NVML that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// So often the cards that NVML does not tell of are looked for.
const REST: Duration = Duration::from_secs(5);

/// A conversation with NVML, and what is known from look to look.
pub struct Sampler {
    nvml: Source,
    attributor: Attributor,
    rest: Vec<Card>,
    rest_at: Option<Instant>,
    /// How often each Xid came, by NVML's index.
    xids: BTreeMap<u32, BTreeMap<u64, u64>>,
}

enum Source {
    Live(Box<Watch>),
    /// A capture, a simulated machine, an API: each time the same or what its files now say.
    Told,
    /// Not open, why, and when it is tried again.
    Closed(Seen<()>, Instant),
}

impl Sampler {
    /// Never fails: without a driver the samples say so, and one that comes later is found.
    pub fn open(machine: &dyn Machine) -> Sampler {
        let nvml = source(machine);
        Sampler { nvml, attributor: Attributor::new(), rest: Vec::new(), rest_at: None, xids: BTreeMap::new() }
    }

    /// All cards and who uses them, now. Some milliseconds; where the driver hangs, some seconds once.
    pub fn sample(&mut self, machine: &dyn Machine) -> Sample {
        let time = SystemTime::now();
        let report = self.report(machine);
        let blind = blind(machine);
        let driver = report.as_ref().map(|report| report.driver_version.clone()).and_then(|version| version);
        let gpus = report.is().map(|report| report.gpus).unwrap_or_default();
        let of_library = gpus.iter().any(|gpu| gpu.vbios.get().is_some_and(|text| text.contains("(simulated)")));
        let simulated = machine.kind() == Kind::Simulated || of_library;
        let cards = self.cards(machine, gpus, blind);
        let told: Vec<Bdf> = cards.iter().filter_map(|card| card.bdf).collect();
        Sample { time, simulated, driver, cards, away: self.away(machine, &told), blind }
    }

    fn report(&mut self, machine: &dyn Machine) -> Seen<NvmlReport> {
        // The driver cannot let go of a card while NVML is open here.
        if let Some(why) = leaving(machine) {
            let why = Reason::Other(why);
            if !matches!(self.nvml, Source::Told) {
                self.nvml = Source::Closed(Seen::Unreadable(why.clone()), Instant::now());
                return Seen::Unreadable(why);
            }
        }
        if matches!(self.nvml, Source::Closed(_, again) if Instant::now() >= again) {
            self.nvml = source(machine);
        }
        match &mut self.nvml {
            Source::Live(watch) => {
                let report = watch.at(Depth::Now);
                for xid in watch.xids() {
                    if let Some(gpu) = xid.gpu {
                        *self.xids.entry(gpu).or_default().entry(xid.number).or_default() += 1;
                    }
                }
                // Another driver may be loaded by the next look: then all begins anew.
                if !report.is_there() && !matches!(report, Seen::Unreadable(Reason::TimedOut)) {
                    self.nvml = Source::Closed(report.as_ref().map(|_| ()), Instant::now() + AGAIN);
                }
                report
            }
            Source::Told => nvml::ask(machine, Depth::Now),
            Source::Closed(why, _) => why.clone().and_then(|()| Seen::Absent),
        }
    }

    fn cards(&mut self, machine: &dyn Machine, gpus: Vec<nvml::NvmlGpu>, blind: bool) -> Vec<CardNow> {
        let mut pids: Vec<u32> = gpus.iter().filter_map(|gpu| gpu.processes.get()).flatten().map(|it| it.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let whose: BTreeMap<u32, Attribution> = if blind {
            pids.iter().map(|pid| (*pid, hidden(*pid))).collect()
        } else {
            self.attributor.look(machine, &pids).into_iter().map(|it| (it.pid, it)).collect()
        };
        let card = |mut gpu: nvml::NvmlGpu| {
            let processes = std::mem::take(&mut gpu.processes).map(|list| {
                list.into_iter()
                    .map(|mut process| {
                        let whose = whose.get(&process.pid).cloned().unwrap_or_else(|| hidden(process.pid));
                        if !process.name.is_there() && !blind {
                            process.name =
                                if whose.program.is_there() { whose.program.clone() } else { whose.command.clone() };
                        }
                        ProcessNow { process, whose }
                    })
                    .collect()
            });
            let bdf = gpu.bus_id.get().and_then(|id| id.parse().ok());
            let xids = self.xids.get(&gpu.index).cloned().unwrap_or_default();
            CardNow { bdf, gpu, processes, xids }
        };
        gpus.into_iter().map(card).collect()
    }

    fn away(&mut self, machine: &dyn Machine, told: &[Bdf]) -> Vec<Away> {
        if self.rest_at.is_none_or(|at| at.elapsed() >= REST) {
            self.rest = gpu::observe_rest(machine, told, std::mem::take(&mut self.rest));
            self.rest_at = Some(Instant::now());
        }
        let gone = self.rest.iter().filter(|card| !told.contains(&card.identity.bdf));
        gone.map(|card| Away {
            bdf: card.identity.bdf,
            name: card.short_name().to_owned(),
            driver: card.driver.clone(),
            holder: card.holder.clone(),
        })
        .collect()
    }
}

fn source(machine: &dyn Machine) -> Source {
    if machine.kind() != Kind::Live {
        return Source::Told;
    }
    let closed = |why| Source::Closed(why, Instant::now() + AGAIN);
    if let Some(why) = leaving(machine) {
        return closed(Seen::Unreadable(Reason::Other(why)));
    }
    // A card that sleeps would be woken.
    if let Seen::Unreadable(why) = gpu::awake(machine) {
        return closed(Seen::Unreadable(why));
    }
    match Watch::open(machine) {
        Seen::Is(watch) => Source::Live(Box::new(watch)),
        Seen::Absent => closed(Seen::Absent),
        Seen::Unreadable(why) => closed(Seen::Unreadable(why)),
    }
}

/// A card that is promised to a VM and that NVIDIA's driver still holds.
fn leaving(machine: &dyn Machine) -> Option<String> {
    let ledger = ledger::read(machine);
    let promise = ledger.promises.iter().map(|written| &written.promise).find(|promise| {
        let driver = machine.link_name(&format!("/sys/bus/pci/devices/{}/driver", promise.gpu.bdf));
        matches!(promise.to, Owner::Vm(_)) && driver.is().as_deref() == Some("nvidia")
    })?;
    let (bdf, to) = (promise.gpu.bdf.short(), &promise.to);
    Some(format!("NVML is let go of: {bdf} is promised to {to}, and NVIDIA's driver keeps a card while NVML is open"))
}

/// The first PID namespace's number. Source: the kernel's include/linux/proc_ns.h, PROC_PID_INIT_INO.
const FIRST: &str = "pid:[4026531836]";

/// Whether NVML's numbers, which are of the first PID namespace, are not this /proc's. That of a process is told to its owner and to
/// root; another's /proc (the host's, in a pod) is not our own.
fn blind(machine: &dyn Machine) -> bool {
    let of = |pid: &str| machine.link(&format!("/proc/{pid}/ns/pid")).is();
    let own = || of("self").filter(|_| machine.value("/proc/2/comm").is().as_deref() != Some("kthreadd"));
    of("1").or_else(own).is_some_and(|namespace| namespace != FIRST)
}

fn hidden(pid: u32) -> Attribution {
    Attribution {
        pid,
        command: Seen::Absent,
        program: Seen::Absent,
        user: Seen::Absent,
        owner: OwnedBy::Hidden,
        app: None,
        outer: None,
    }
}
