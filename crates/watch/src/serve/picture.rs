//! Everything that a text is made of: one sample with its cards' owners, what the doctor said, and the Xids so far.

use super::chain::Chain;
use super::keep::Told;
use super::whose::{Share, shares};
use crate::{CardNow, Sample};

pub struct Picture<'p> {
    pub sample: &'p Sample,
    pub cards: Vec<Card<'p>>,
    pub chain: &'p Chain,
    pub xids: &'p [Told],
    /// What this machine calls itself: dcgm-exporter's label.
    pub host: &'p str,
    /// Whether the driver answered.
    pub up: bool,
    /// Seconds since the epoch at which the sample was taken, and how long that took.
    pub time: f64,
    pub took: f64,
    /// Looks that failed since the start.
    pub failed: u64,
}

pub struct Card<'p> {
    pub now: &'p CardNow,
    pub index: String,
    /// Empty where the card does not tell.
    pub uuid: String,
    /// "0000:01:00.0"; empty where it does not tell.
    pub bdf: String,
    pub shares: Vec<Share>,
}

impl<'p> Card<'p> {
    pub fn new(now: &'p CardNow) -> Self {
        Card {
            now,
            index: now.gpu.index.to_string(),
            uuid: now.gpu.uuid.get().cloned().unwrap_or_default(),
            bdf: now.bdf.map(|bdf| bdf.to_string()).unwrap_or_default(),
            shares: shares(now),
        }
    }

    /// What names it for the page: its UUID, else its index.
    pub fn key(&self) -> String {
        if self.uuid.is_empty() { format!("gpu{}", self.index) } else { self.uuid.clone() }
    }
}
