//! Which Xid means what here: the catalogue, and what the configuration puts over it.

use gpu::xid::{Class, meaning};
use serde::Serialize;

use super::{Grade, Millis};

/// What decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rules {
    /// Nothing at all is acted on (DP_DISABLE_HEALTHCHECKS=all).
    pub off: bool,
    /// No Xid is acted on but those of `enable` (DP_DISABLE_HEALTHCHECKS=xids).
    pub xids_off: bool,
    /// These Xids are ignored, whatever the catalogue says.
    pub ignore: Vec<u64>,
    /// These count as the card's fault, whatever else is said (DP_ENABLE_HEALTHCHECKS).
    pub enable: Vec<u64>,
    /// Every Xid counts as the card's fault.
    pub enable_all: bool,
    /// Milliseconds a card stays away at least after a fault.
    pub hold: Millis,
    /// The same after one that wants a reset, where the driver cannot say whether it still does.
    pub hold_reset: Millis,
    /// How many looks in a row must be well before it comes back.
    pub looks: u32,
    /// Milliseconds between looks at a card that is away.
    pub retest: Millis,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            off: false,
            xids_off: false,
            ignore: Vec::new(),
            enable: Vec::new(),
            enable_all: false,
            hold: 10_000,
            hold_reset: 300_000,
            looks: 3,
            retest: 1_000,
        }
    }
}

/// Xids after which a card is not given again before it was replaced or a person looked: a row or a part could not be
/// taken out of use, or the card could not be started. Source: as [`gpu::xid`].
const REPLACE: [u64; 4] = [64, 143, 157, 161];

/// What the catalogue says that an Xid asks for.
pub fn grade(number: u64) -> Grade {
    if REPLACE.contains(&number) {
        return Grade::Drain;
    }
    match meaning(number).map(|xid| xid.class) {
        Some(Class::Program) => Grade::RestartApp,
        Some(Class::Note) => Grade::Ignore,
        Some(Class::Hardware) => Grade::Reset,
        None => Grade::Suspect,
    }
}

impl Rules {
    /// What an Xid asks for by these rules.
    pub fn grade(&self, number: u64) -> Grade {
        let by_catalogue = grade(number);
        if self.enable_all || self.enable.contains(&number) {
            return by_catalogue.max(Grade::Suspect);
        }
        if self.xids_off || self.ignore.contains(&number) {
            return Grade::Ignore;
        }
        by_catalogue
    }

    /// DP_DISABLE_HEALTHCHECKS: "all", "xids", or numbers with commas; what of it is neither.
    pub fn disable(&mut self, text: &str) -> Vec<String> {
        let mut strange = Vec::new();
        for word in text.split(',').map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty()) {
            match (word.as_str(), word.parse()) {
                ("all", _) => self.off = true,
                ("xids", _) => self.xids_off = true,
                (_, Ok(number)) => self.ignore.push(number),
                _ => strange.push(passed_over("DP_DISABLE_HEALTHCHECKS", &word)),
            }
        }
        strange
    }

    /// DP_ENABLE_HEALTHCHECKS: "all" or "xids", or numbers with commas; it stands over what is disabled.
    pub fn enable(&mut self, text: &str) -> Vec<String> {
        let mut strange = Vec::new();
        for word in text.split(',').map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty()) {
            match (word.as_str(), word.parse()) {
                ("all" | "xids", _) => self.enable_all = true,
                (_, Ok(number)) => self.enable.push(number),
                _ => strange.push(passed_over("DP_ENABLE_HEALTHCHECKS", &word)),
            }
        }
        if self.off && (self.enable_all || !self.enable.is_empty()) {
            (self.off, self.xids_off) = (false, true);
        }
        strange
    }
}

fn passed_over(name: &str, word: &str) -> String {
    format!("{name}: \"{}\" is no number of an Xid and is passed over", word.escape_debug())
}
