//! How near cards are to each other, as a number for each pair.
//!
//! A pair's score is that of the nearest way over PCIe (another socket 10, the same socket 20, one host bridge 30, several
//! switches 40, one switch 50, one board 60) and 100 for each NVLink between them. Source: the best-effort policy of
//! NVIDIA's go-gpuallocator; nvmlDeviceGetTopologyCommonAncestor and `nvidia-smi topo` for the levels.
//!
//! Two things are ours: links to the same NVSwitches count (NVIDIA's policy sees only links from card to card), and a link
//! that one side tells alone counts instead of ending the plugin.

use std::collections::BTreeMap;

use gpu::topo::{Level, joined, level};

use super::{Found, Gpu};

const SYSTEM: u32 = 10;
const SOCKET: u32 = 20;
const HOST_BRIDGE: u32 = 30;
const SWITCHES: u32 = 40;
const SWITCH: u32 = 50;
const BOARD: u32 = 60;
const NVLINK: u32 = 100;

/// The most NVLinks of a pair that count.
const MOST_LINKS: u32 = 18;

/// Scores of all pairs of a node's cards, made once and kept: choosing asks neither the driver nor sysfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By UUID.
    cards: BTreeMap<String, usize>,
    scores: Vec<Vec<u32>>,
}

impl Topology {
    pub fn new(found: &Found) -> Self {
        let gpus: Vec<&Gpu> = found.gpus.iter().filter(|gpu| gpu.uuid.is_some()).collect();
        let cards = gpus.iter().enumerate().filter_map(|(at, gpu)| Some((gpu.uuid.clone()?, at))).collect();
        let row = |a: &&Gpu| gpus.iter().map(|b| if a.bdf == b.bdf { 0 } else { pair(a, b) }).collect();
        Topology { cards, scores: gpus.iter().map(row).collect() }
    }

    /// Of scores that are known already, for tests and simulations: `scores[a][b]` of the cards in this order.
    pub fn of_scores(uuids: &[String], scores: Vec<Vec<u32>>) -> Self {
        Topology { cards: uuids.iter().enumerate().map(|(at, uuid)| (uuid.clone(), at)).collect(), scores }
    }

    /// The score of two cards by UUID; 0 where one is not known, and of a card with itself.
    pub fn score(&self, a: &str, b: &str) -> u32 {
        let at = |uuid: &str| self.cards.get(uuid).copied();
        let (Some(a), Some(b)) = (at(a), at(b)) else { return 0 };
        self.scores.get(a).and_then(|row| row.get(b)).copied().unwrap_or(0)
    }
}

fn pair(a: &Gpu, b: &Gpu) -> u32 {
    pcie(a, b) + NVLINK * joined((a.bdf, &a.nvlinks), (b.bdf, &b.nvlinks)).min(MOST_LINKS)
}

fn pcie(a: &Gpu, b: &Gpu) -> u32 {
    if a.board.is_some() && a.board == b.board {
        return BOARD;
    }
    match level((&a.path, a.numa), (&b.path, b.numa)) {
        Level::Board => BOARD,
        Level::Switch => SWITCH,
        Level::Switches => SWITCHES,
        Level::HostBridge => HOST_BRIDGE,
        Level::Node => SOCKET,
        Level::System => SYSTEM,
    }
}

#[cfg(test)]
mod tests;
