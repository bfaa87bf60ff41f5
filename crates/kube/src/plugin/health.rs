//! Whether a device may be given: faults with grades, and the way back.
//!
//! Time is a number of milliseconds on a clock that only goes forward (CLOCK_BOOTTIME), given by the caller: a jump of the
//! wall clock changes nothing here.
//!
//! ```text
//!   healthy ──fault──► away ──hold──► looked at every retest ──looks in a row are well──► healthy
//!      ▲                 ▲                      │ not well: count from 0 again
//!      └──renewed────────┴──────────────────────┘
//! ```
//!
//! A fault takes a card away at once; it comes back slowly: after `hold`, and when so many looks in a row were well. A card
//! whose fault wants a reset is well again when the driver says that it wants none any more (NVML's recovery action, from
//! branch 560 on), when it had stopped answering and answers again, or after `hold_reset`. Each further fault within an hour
//! doubles the time, so that a card that comes and goes stays away. Sources: NVIDIA's catalogue of Xids, see [`gpu::xid`];
//! the hard-coded list and DP_DISABLE_HEALTHCHECKS of NVIDIA's plugin.

mod rules;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use rules::{Rules, grade};

/// Milliseconds on a clock that only goes forward.
pub type Millis = u64;

/// What a fault asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// Nothing of the GPU's.
    Ignore,
    /// The program that suffered it; the GPU goes on.
    RestartApp,
    /// Nothing is known of it: the card is looked at before it is given again.
    Suspect,
    /// A reset of the GPU when nothing uses it.
    Reset,
    /// Nothing more may run there until it was replaced or a person says so.
    Drain,
}

/// What a look found of a card that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The driver says that nothing has to be done.
    NotNeeded,
    /// It does not say (before branch 560).
    Untold,
}

/// What happened, as the driver or a probe says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An Xid of a card by UUID; none: of a card that the event does not name, and so perhaps of any.
    Xid { gpu: Option<String>, number: u64 },
    /// A look at a card: it answers, or what is wrong ("does not answer within a second", "the driver asks for a reset").
    Probe { gpu: String, well: Result<Recovery, String> },
    /// A look at the driver as a whole: NVML answers, or why not.
    Driver { well: Result<(), String> },
    /// The card was reset, came back by hotplug, or has a new driver: it starts anew.
    Renewed { gpu: String },
}

/// What came of an event, for the log, for an Event of the cluster, for the kubelet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The UUID of the card; of a cordon also of a MIG device.
    pub gpu: String,
    /// Its devices' health for the kubelet is another now.
    pub changed: bool,
    pub healthy: bool,
    pub grade: Grade,
    /// One sentence without a full stop.
    pub says: String,
    pub fix: String,
    pub xid: Option<u64>,
}

/// The health of a node's cards.
#[derive(Clone, Debug)]
pub struct Tracker {
    rules: Rules,
    cards: BTreeMap<String, Card>,
    cordoned: BTreeSet<String>,
    /// Why the driver as a whole does not answer.
    driver: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Card {
    away: Option<Away>,
    /// Faults, and when the last one was: what the next one costs.
    faults: u32,
    last: Millis,
}

/// A card that is not given.
#[derive(Clone, Debug)]
struct Away {
    grade: Grade,
    says: String,
    fix: String,
    /// Not looked at before.
    until: Millis,
    /// Wants a reset that the driver does not speak of: not well before.
    reset_until: Millis,
    /// Looks in a row that were well.
    well: u32,
    /// A look found that it did not answer: if it answers again, it was brought back.
    was_lost: bool,
    next_look: Millis,
}

/// A further fault within this time costs more.
const HOUR: Millis = 3_600_000;
/// The most doublings.
const DOUBLINGS: u32 = 6;

const RETURNS: &str = "it comes back by itself when it was well for a while";

impl Tracker {
    pub fn new(rules: Rules) -> Self {
        Tracker { rules, cards: BTreeMap::new(), cordoned: BTreeSet::new(), driver: None }
    }

    /// Other rules from now on; what is away stays away.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Which cards there are now, by UUID: new ones begin healthy, gone ones are forgotten.
    pub fn know(&mut self, gpus: &[String]) {
        self.cards.retain(|uuid, _| gpus.contains(uuid));
        for uuid in gpus {
            self.cards.entry(uuid.clone()).or_default();
        }
    }

    /// The cordoned devices, by UUID of a card or a MIG device; those that changed.
    pub fn cordon(&mut self, uuids: &BTreeSet<String>) -> Vec<Told> {
        let new = uuids.difference(&self.cordoned).map(|uuid| (uuid.clone(), true));
        let gone = self.cordoned.difference(uuids).map(|uuid| (uuid.clone(), false));
        let changes: Vec<(String, bool)> = new.chain(gone).collect();
        self.cordoned.clone_from(uuids);
        let told = |(gpu, cordoned): (String, bool)| {
            let well = self.cards.get(&gpu).is_none_or(|card| card.away.is_none()) && self.driver.is_none();
            let (says, fix) = match cordoned {
                true => {
                    (format!("{gpu} is cordoned: it is given to no new pod"), format!("thruway node uncordon {gpu}"))
                }
                false => (format!("{gpu} is cordoned no more"), String::new()),
            };
            Told { gpu, changed: well, healthy: well && !cordoned, grade: Grade::Ignore, says, fix, xid: None }
        };
        changes.into_iter().map(told).collect()
    }

    /// Takes in what happened; what came of it, nothing where it is of no concern.
    pub fn hear(&mut self, event: &Event, now: Millis) -> Vec<Told> {
        if self.rules.off {
            return Vec::new();
        }
        match event {
            Event::Xid { gpu, number } => self.xid(gpu.as_deref(), *number, now),
            Event::Probe { gpu, well } => self.probe(gpu, well, now).into_iter().collect(),
            Event::Driver { well } => self.driver(well, now),
            Event::Renewed { gpu } => self.renewed(gpu).into_iter().collect(),
        }
    }

    fn xid(&mut self, gpu: Option<&str>, number: u64, now: Millis) -> Vec<Told> {
        let grade = self.rules.grade(number);
        if grade == Grade::Ignore {
            return Vec::new();
        }
        let known = gpu::xid::meaning(number);
        let what = known.map_or("what it means is not known", |xid| xid.says);
        let fix = known.map_or(RETURNS.to_owned(), |xid| xid.action.to_owned());
        // an event that names no card may be of each; a look tells
        let (cards, grade) = match gpu {
            Some(gpu) if self.cards.contains_key(gpu) => (vec![gpu.to_owned()], grade),
            Some(_) => return Vec::new(),
            None => (self.cards.keys().cloned().collect(), grade.min(Grade::Suspect)),
        };
        let one = |card: String| {
            let says = format!("Xid {number} of {card}: {what}");
            let mut told = self.fault(&card, grade, says, fix.clone(), now)?;
            told.xid = Some(number);
            Some(told)
        };
        cards.into_iter().filter_map(one).collect()
    }

    /// A fault of a card. A grade that takes nothing away is told all the same.
    fn fault(&mut self, gpu: &str, grade: Grade, says: String, fix: String, now: Millis) -> Option<Told> {
        let was = self.healthy(gpu, gpu);
        let rules = &self.rules;
        let card = self.cards.get_mut(gpu)?;
        if grade > Grade::RestartApp {
            card.faults = if now.saturating_sub(card.last) < HOUR { card.faults.saturating_add(1) } else { 1 };
            card.last = now;
            let times = 1 << (card.faults - 1).min(DOUBLINGS);
            let until = now.saturating_add(rules.hold.saturating_mul(times));
            let reset_until = match grade {
                Grade::Suspect => now,
                Grade::Drain => Millis::MAX,
                _ => now.saturating_add(rules.hold_reset.saturating_mul(times)),
            };
            let away = card.away.get_or_insert_with(|| Away {
                grade,
                says: says.clone(),
                fix: fix.clone(),
                until,
                reset_until,
                well: 0,
                was_lost: false,
                next_look: until,
            });
            // the gravest fault is the one that is told of
            if grade > away.grade {
                (away.grade, away.says, away.fix) = (grade, says.clone(), fix.clone());
            }
            away.until = away.until.max(until);
            away.reset_until = away.reset_until.max(reset_until);
            away.next_look = away.next_look.max(until);
            away.well = 0;
        }
        let healthy = self.healthy(gpu, gpu);
        Some(Told { gpu: gpu.to_owned(), changed: was != healthy, healthy, grade, says, fix, xid: None })
    }

    fn probe(&mut self, gpu: &str, well: &Result<Recovery, String>, now: Millis) -> Option<Told> {
        let card = self.cards.get_mut(gpu)?;
        let Some(away) = &mut card.away else {
            let why = well.as_ref().err()?;
            let mut told = self.fault(gpu, Grade::Suspect, format!("{gpu}: {why}"), RETURNS.to_owned(), now)?;
            if let Some(away) = self.cards.get_mut(gpu).and_then(|card| card.away.as_mut()) {
                away.was_lost = true;
            }
            told.xid = None;
            return Some(told);
        };
        away.next_look = now.saturating_add(self.rules.retest);
        match well {
            Err(_) => {
                away.well = 0;
                away.was_lost = true;
                None
            }
            Ok(_) if now < away.until => None,
            Ok(recovery) => {
                let sure = *recovery == Recovery::NotNeeded || away.was_lost;
                if (away.grade == Grade::Drain || !sure) && now < away.reset_until {
                    return None;
                }
                away.well += 1;
                if away.well < self.rules.looks {
                    return None;
                }
                let grade = away.grade;
                card.away = None;
                Some(self.back(gpu, grade))
            }
        }
    }

    /// Of a card that was away a moment ago.
    fn back(&self, gpu: &str, grade: Grade) -> Told {
        let healthy = self.healthy(gpu, gpu);
        let says = match healthy {
            true => format!("{gpu} is well again"),
            false => format!("{gpu} is well again, and stays away: {}", self.why(gpu).unwrap_or_default()),
        };
        Told { gpu: gpu.to_owned(), changed: healthy, healthy, grade, says, fix: String::new(), xid: None }
    }

    fn driver(&mut self, well: &Result<(), String>, now: Millis) -> Vec<Told> {
        let why = well.as_ref().err();
        let cards: Vec<String> = self.cards.keys().cloned().collect();
        match (&self.driver, why) {
            (None, Some(why)) => {
                let were: Vec<bool> = cards.iter().map(|card| self.healthy(card, card)).collect();
                self.driver = Some(why.clone());
                let told = |(gpu, was): (String, bool)| Told {
                    says: format!("{gpu} cannot be given: {why}"),
                    gpu,
                    changed: was,
                    healthy: false,
                    grade: Grade::Suspect,
                    fix: "thruway doctor says what is wrong with the driver; the cards come back when it answers"
                        .into(),
                    xid: None,
                };
                cards.into_iter().zip(were).map(told).collect()
            }
            (Some(_), None) => {
                self.driver = None;
                // an answer alone is no proof: each card is looked at as after a fault of its own, but without the hold
                for card in self.cards.values_mut().filter(|card| card.away.is_none()) {
                    card.away = Some(Away {
                        grade: Grade::Suspect,
                        says: "the driver did not answer".into(),
                        fix: RETURNS.into(),
                        until: now,
                        reset_until: now,
                        well: 0,
                        was_lost: true,
                        next_look: now,
                    });
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn renewed(&mut self, gpu: &str) -> Option<Told> {
        let card = self.cards.get_mut(gpu)?;
        let grade = card.away.take()?.grade;
        Some(self.back(gpu, grade))
    }

    /// The cards that want a look ([`Event::Probe`]) now. Healthy ones are looked at as often as the caller likes.
    pub fn due(&self, now: Millis) -> Vec<String> {
        if self.driver.is_some() {
            return Vec::new();
        }
        let due = |card: &Card| card.away.as_ref().is_some_and(|away| away.next_look <= now);
        self.cards.iter().filter(|(_, card)| due(card)).map(|(uuid, _)| uuid.clone()).collect()
    }

    /// When [`Tracker::due`] next has something; none: when an event comes.
    pub fn next(&self) -> Option<Millis> {
        if self.driver.is_some() {
            return None;
        }
        self.cards.values().filter_map(|card| card.away.as_ref()).map(|away| away.next_look).min()
    }

    /// May a device be given? `gpu` is its card's UUID, `uuid` its own. A card that is not known may not.
    pub fn healthy(&self, gpu: &str, uuid: &str) -> bool {
        self.driver.is_none()
            && !self.cordoned.contains(uuid)
            && !self.cordoned.contains(gpu)
            && self.cards.get(gpu).is_some_and(|card| card.away.is_none())
    }

    /// Why a card or device is not given, in one sentence with the fix behind it.
    pub fn why(&self, uuid: &str) -> Option<String> {
        if let Some(why) = &self.driver {
            return Some(why.clone());
        }
        if let Some(away) = self.cards.get(uuid).and_then(|card| card.away.as_ref()) {
            return Some(format!("{}; {}", away.says, away.fix));
        }
        self.cordoned.contains(uuid).then(|| format!("it is cordoned; thruway node uncordon {uuid}"))
    }
}

#[cfg(test)]
mod tests;
