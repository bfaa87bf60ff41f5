//! Whether a device may be given: faults with grades, and the way back.
//!
//! Time is a number of milliseconds on a clock that only goes forward (CLOCK_BOOTTIME), given by the caller: a jump of the
//! wall clock changes nothing here.

use serde::Serialize;

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
    /// A reset of the GPU when nothing uses it.
    Reset,
    /// Nothing more may run there: the GPU's own repair, or a person.
    Drain,
}

/// What happened, as the driver or a probe says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An Xid of a card by UUID; none: of a card that the event does not name, and so of all.
    Xid { gpu: Option<String>, number: u64 },
    /// A look at a card: it answered and is well, or why not.
    Probe { gpu: String, well: Result<(), String> },
    /// A look at the driver as a whole: NVML answers, or why not.
    Driver { well: Result<(), String> },
    /// The card is there again after a reset, a new driver or a hotplug: it starts anew.
    Renewed { gpu: String },
}

/// A device whose health changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The card's UUID.
    pub gpu: String,
    pub healthy: bool,
    pub grade: Grade,
    /// One sentence for an Event.
    pub says: String,
    pub fix: String,
}

/// What decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rules {
    /// No Xid is acted on (DP_DISABLE_HEALTHCHECKS=all or xids).
    pub xids_off: bool,
    /// Nothing at all is acted on (DP_DISABLE_HEALTHCHECKS=all).
    pub off: bool,
    /// These Xids are ignored, whatever the catalogue says.
    pub ignore: Vec<u64>,
    /// These count, whatever else is said (DP_ENABLE_HEALTHCHECKS).
    pub enable: Vec<u64>,
    /// Milliseconds a card stays away at least after a fault.
    pub hold: Millis,
    /// How many looks in a row must be well before it comes back.
    pub looks: u32,
    /// Milliseconds between looks at a card that is away.
    pub retest: Millis,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            xids_off: false,
            off: false,
            ignore: Vec::new(),
            enable: Vec::new(),
            hold: 10_000,
            looks: 3,
            retest: 1_000,
        }
    }
}

/// The health of a node's cards.
#[derive(Clone, Debug)]
pub struct Tracker {
    rules: Rules,
}

impl Tracker {
    pub fn new(rules: Rules) -> Self {
        Tracker { rules }
    }

    /// Which cards there are now, by UUID: new ones begin healthy, gone ones are forgotten.
    pub fn know(&mut self, gpus: &[String]) {
        let _ = gpus;
    }

    /// The cordoned ones, by UUID of a card or a MIG device; what changed.
    pub fn cordon(&mut self, uuids: &[String], now: Millis) -> Vec<Change> {
        let _ = (uuids, now);
        Vec::new()
    }

    /// Takes in what happened; what changed.
    pub fn hear(&mut self, event: &Event, now: Millis) -> Vec<Change> {
        let _ = (event, now, &self.rules);
        Vec::new()
    }

    /// The cards that want a look ([`Event::Probe`]) now.
    pub fn due(&self, now: Millis) -> Vec<String> {
        let _ = now;
        Vec::new()
    }

    /// When [`Tracker::due`] next has something; none: when an event comes.
    pub fn next(&self) -> Option<Millis> {
        None
    }

    /// May a device be given? `gpu` is its card's UUID, `uuid` its own.
    pub fn healthy(&self, gpu: &str, uuid: &str) -> bool {
        let _ = (gpu, uuid);
        true
    }
}
