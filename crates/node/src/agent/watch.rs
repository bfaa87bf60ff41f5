//! Health: Xids and looks out of NVML's threads, held against the clock, into the tracker of `kube`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::plugin::Found;
use kube::plugin::health::{Event, Millis, Recovery, Rules, Told as Change, Tracker};
use machine::Machine;
use machine::nvml::{Said, Vigil};
use model::Seen;
use tokio::sync::mpsc;

use super::state::Counters;

/// Every card is looked at each eighth tick, not all of them at once: what is asked of the kubelet's side meanwhile does not
/// wait behind them. With the time that a card may take to answer this is below a second.
pub const TICK: Duration = Duration::from_millis(30);
const TURNS: usize = 8;
const PATIENCE: Duration = Duration::from_millis(400);
/// A driver's start with many cards that do not persist takes seconds.
const START: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_secs(1);

/// What a vigil said, and which: one that was given up still speaks for a while.
pub type Heard = (u64, Said);

/// The watch over a node's cards.
pub struct Watch {
    tracker: Tracker,
    /// NVML's index and the UUID of each card that is known.
    cards: BTreeMap<u32, String>,
    vigil: Option<Vigil>,
    number: u64,
    tell: mpsc::UnboundedSender<Heard>,
    /// Since when each card has been asked and has not answered.
    asked: BTreeMap<u32, Instant>,
    opened: bool,
    turn: usize,
    /// A card came back: it is registered for no events until NVML is opened anew.
    stale: bool,
    begun: Instant,
    next_try: Instant,
    /// NVML is to be let go of: a card is on its way to a VM.
    pub apart: bool,
    pub trouble: Option<String>,
}

/// Milliseconds since boot, sleep counted: a jump of the wall clock is nothing here.
pub fn now() -> Millis {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

impl Watch {
    pub fn new(tracker: Tracker, tell: mpsc::UnboundedSender<Heard>) -> Watch {
        let begun = Instant::now();
        Watch {
            tracker,
            cards: BTreeMap::new(),
            vigil: None,
            number: 0,
            tell,
            asked: BTreeMap::new(),
            opened: false,
            turn: 0,
            stale: false,
            begun,
            next_try: begun,
            apart: false,
            trouble: None,
        }
    }

    pub fn healthy(&self, gpu: &str, uuid: &str) -> bool {
        self.tracker.healthy(gpu, uuid)
    }

    /// With other rules: a new configuration.
    pub fn set_rules(&mut self, rules: Rules) {
        self.tracker.set_rules(rules);
    }

    /// Which cards there are, and which of them are cordoned (UUID or address).
    pub fn know(&mut self, found: &Found, cordoned: &[String]) -> Vec<Change> {
        let cards: BTreeMap<u32, String> = found
            .gpus
            .iter()
            .filter(|gpu| gpu.withheld.is_none())
            .filter_map(|gpu| Some((gpu.index, gpu.uuid.clone()?)))
            .collect();
        if cards != self.cards {
            self.cards = cards;
            self.tracker.know(&self.cards.values().cloned().collect::<Vec<_>>());
            // other cards are registered for events
            self.close();
        }
        let uuid = |name: &String| {
            let gpu = found.gpus.iter().find(|gpu| gpu.bdf.to_string() == *name);
            gpu.and_then(|gpu| gpu.uuid.clone()).unwrap_or_else(|| name.clone())
        };
        self.tracker.cordon(&cordoned.iter().map(uuid).collect())
    }

    /// NVML is let go of; it is opened again at the next tick.
    pub fn close(&mut self) {
        self.vigil = None;
        self.opened = false;
        self.stale = false;
        self.number += 1;
        self.asked.clear();
        self.next_try = Instant::now();
    }

    /// Asks all cards, and says of those that did not answer.
    pub fn tick(&mut self, machine: &dyn Machine) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.apart {
            if self.vigil.is_some() {
                self.close();
            }
            return changes;
        }
        // once, and not for each of those that come back together
        if self.stale && self.cards.values().all(|gpu| self.tracker.healthy(gpu, gpu)) {
            self.close();
        }
        if self.vigil.is_none() && Instant::now() >= self.next_try && !self.cards.is_empty() {
            let (tell, number) = (self.tell.clone(), self.number);
            self.begun = Instant::now();
            self.next_try = self.begun + AGAIN;
            match Vigil::open(machine, move |said| drop(tell.send((number, said)))) {
                Seen::Is(vigil) => self.vigil = Some(vigil),
                Seen::Absent => changes.extend(self.driver(Err("no driver runs".into()))),
                Seen::Unreadable(why) => changes.extend(self.driver(Err(why.to_string()))),
            }
        }
        let Some(vigil) = &self.vigil else { return changes };
        if !self.opened {
            if self.begun.elapsed() > START {
                changes.extend(self.driver(Err("NVML hangs at its start".into())));
            }
            return changes;
        }
        self.turn = (self.turn + 1) % TURNS;
        for (number, (index, gpu)) in self.cards.iter().enumerate() {
            if number % TURNS == self.turn {
                vigil.look(*index);
                self.asked.entry(*index).or_insert_with(Instant::now);
            }
            let late = self.asked.get(index).is_some_and(|since| since.elapsed() > PATIENCE);
            // said once in a turn
            if late && number % TURNS == self.turn {
                let why = format!("no answer in {} ms: the driver hangs at this GPU", PATIENCE.as_millis());
                let event = Event::Probe { gpu: gpu.clone(), well: Err(why) };
                changes.extend(self.tracker.hear(&event, now()));
            }
        }
        changes
    }

    /// Takes in what a vigil says.
    pub fn hear(&mut self, (number, said): Heard, counters: &Counters) -> Vec<Change> {
        if number != self.number {
            return Vec::new();
        }
        match said {
            Said::Opened(Seen::Is(_)) => {
                self.opened = true;
                self.driver(Ok(()))
            }
            Said::Opened(other) => {
                let why = other.unreadable().map_or_else(|| "no driver runs".into(), ToString::to_string);
                self.vigil = None;
                self.number += 1;
                self.driver(Err(why))
            }
            Said::Xid { gpu, number } => {
                let gpu = gpu.and_then(|(index, uuid)| uuid.or_else(|| self.cards.get(&index).cloned()));
                counters.xid(gpu.as_deref().unwrap_or("unknown"), number);
                self.tracker.hear(&Event::Xid { gpu, number }, now())
            }
            Said::Look { index, uuid, well } => {
                self.asked.remove(&index);
                let known = self.cards.get(&index);
                let well = match (well, &uuid, known) {
                    // another card has the place of the one that is known: its address is not asked here
                    (Ok(_), Some(now), Some(known)) if now != known => Err(format!("its place is taken by {now}")),
                    (Ok(Some(0)), ..) => Ok(Recovery::NotNeeded),
                    (Ok(Some(1 | 4 | 6)), ..) => Err("the driver asks for a reset of it".into()),
                    (Ok(Some(2 | 7)), ..) => Err("the driver asks for a reboot of the machine".into()),
                    (Ok(_), ..) => Ok(Recovery::Untold),
                    (Err(why), ..) => Err(why.to_string()),
                };
                let Some(gpu) = known.cloned() else { return Vec::new() };
                // one that is away is well when it was so at the looks that the tracker asked for, and not sooner
                let away = !self.tracker.healthy(&gpu, &gpu);
                if away && well.is_ok() && !self.tracker.due(now()).contains(&gpu) {
                    return Vec::new();
                }
                let changes = self.tracker.hear(&Event::Probe { gpu, well }, now());
                self.stale |= changes.iter().any(|change| change.changed && change.healthy);
                changes
            }
            Said::Deaf(why) => {
                self.trouble = Some(format!("Xids are not heard: {why}; cards are still looked at"));
                Vec::new()
            }
        }
    }

    fn driver(&mut self, well: Result<(), String>) -> Vec<Change> {
        self.trouble = well.as_ref().err().map(|why| format!("NVML does not answer: {why}"));
        self.tracker.hear(&Event::Driver { well }, now())
    }
}
