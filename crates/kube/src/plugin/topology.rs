//! How near cards are to each other, as a number for each pair.

use std::collections::BTreeMap;

use super::Found;

/// Scores of all pairs of a node's cards, made once and kept: choosing asks neither the driver nor sysfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By UUID.
    cards: BTreeMap<String, usize>,
    scores: Vec<Vec<u32>>,
}

impl Topology {
    pub fn new(found: &Found) -> Self {
        let _ = found;
        Topology::default()
    }

    /// The score of two cards by UUID; 0 where one is not known.
    pub fn score(&self, a: &str, b: &str) -> u32 {
        let at = |uuid: &str| self.cards.get(uuid).copied();
        let (Some(a), Some(b)) = (at(a), at(b)) else { return 0 };
        self.scores.get(a).and_then(|row| row.get(b)).copied().unwrap_or(0)
    }
}
