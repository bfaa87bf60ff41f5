//! The ways between several cards: how fast memory of one reaches another, and whether every bit of it arrives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cuda::{Cuda, CudaError, Current, Device, Peers, WorkError, Worker};
use gpu::topo::{Level, Way};
use serde::Serialize;

use super::{BLOCKS, Bench, LOST, kernels, peak, rate};

/// Of one copy, at most: a millisecond and more over the fastest way there is, so that its start does not count.
const MOST: usize = 512 << 20;
/// The share of a card's free memory that a copy may have on each side.
const PART: usize = 8;
/// Of one direction.
const TIME: Duration = Duration::from_millis(150);
/// Fewer say nothing of a way; before them one that does not count, since the first makes the mapping.
const FEWEST: u64 = 3;

/// A way below this share of its rate is a finding. Large copies of cards that are well reach 80 to 90 % over NVLink and PCIe
/// (CUDA's samples p2pBandwidthLatencyTest and bandwidthTest on data centre cards); half says that a link is down, or a slot has
/// half its lanes.
pub const LEAST: f64 = 0.5;

/// From one card to another, by their places in the list.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pair {
    pub from: usize,
    pub to: usize,
    /// CUDA reaches the other's memory itself; without it copies go through the host's.
    pub peer: bool,
    /// Copies, each looked at bit by bit.
    pub copies: u64,
    /// Bytes of the copies that count, and what they took.
    pub bytes: u64,
    pub seconds: f64,
    /// Units of 16 bytes that arrived wrong, and the byte of the copy where the first was.
    pub errors: u64,
    pub first_error: Option<u64>,
    /// CUDA's words where it could not be copied, or not any more.
    pub failed: Option<String>,
}

impl Pair {
    /// Bytes a second.
    pub fn bandwidth(&self) -> f64 {
        rate(self.bytes, self.seconds)
    }
}

/// All that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Links {
    /// In the order of the cards; fewer than there are where it was stopped or a card was lost.
    pub pairs: Vec<Pair>,
    /// A stop was asked for before all were measured.
    pub stopped: bool,
    /// A card stopped working over a copy, and what came after it was not measured.
    pub cut: bool,
}

/// What of a card decides how fast it can be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    pub compute_capability: (u32, u32),
    /// Generation, the most that card and slot can do together, and lanes as they are now.
    pub pcie: Option<(u32, u32)>,
}

/// Bytes a second that this way can carry in one direction; none where it is not known what it is.
///
/// Sources: NVIDIA's whitepapers of P100, V100, A100, H100, GB200 (bandwidth of all links in both directions, by their number)
/// and of GA102; PCI Express Base Specification (8b/10b until generation 2, 128b/130b since 3).
pub fn most(way: Way, peer: bool, from: End, to: End) -> Option<f64> {
    let pcie = |end: End| {
        let (generation, lanes) = end.pcie?;
        let lane = [0.25, 0.5, 0.985, 1.969, 3.938, 7.563].get(generation.checked_sub(1)? as usize)?;
        Some(lane * 1e9 * f64::from(lanes))
    };
    match way {
        Way::Linked { nvlinks, .. } if peer => {
            let each = |end: End| -> Option<f64> {
                Some(match end.compute_capability {
                    (6, _) => 20.0,
                    (7, _) | (8, 0) | (9, _) => 25.0,
                    (8, 6) => 14.0625,
                    (10, _) => 50.0,
                    _ => return None,
                })
            };
            Some(each(from)?.min(each(to)?) * 1e9 * f64::from(nvlinks))
        }
        Way::Own => None,
        _ => Some(pcie(from)?.min(pcie(to)?)),
    }
}

/// Far below what it can carry. Not judged: copies through the host and over other host bridges or sockets, of which nothing says
/// how fast they have to be, and what is not known.
pub fn slow(way: Way, pair: &Pair, most: Option<f64>) -> bool {
    let promised = pair.peer && !matches!(way, Way::Own | Way::Pcie(Level::Node | Level::System));
    promised && pair.failed.is_none() && pair.copies > 0 && most.is_some_and(|most| pair.bandwidth() < most * LEAST)
}

/// Measures each ordered pair, one after the other; `tell` is called after each. `broken`: kernels with a fault, which must be
/// found.
pub fn measure(
    cuda: &Cuda,
    devices: &[Device<'_>],
    broken: bool,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Pair),
) -> Result<Links, WorkError> {
    let peers = Peers::new(cuda)?;
    let currents: Vec<Current<'_>> = devices.iter().map(Device::current).collect::<Result<_, _>>()?;
    let workers: Vec<Worker<'_>> = currents.iter().map(Worker::new).collect::<Result<_, _>>()?;
    let ptx = kernels::ptx(broken);
    let modules = workers.iter().map(|worker| worker.module(&ptx)).collect::<Result<Vec<_>, _>>()?;
    let mut ends = Vec::new();
    for (worker, module) in workers.iter().zip(&modules) {
        let bench = Bench::new(worker, module, peak(worker)?.multiprocessors.max(1) * BLOCKS)?;
        let (free, _) = worker.memory()?;
        let bytes = (free / PART).clamp(16, MOST) / 16 * 16;
        ends.push((bench, worker.alloc(bytes)?, worker.alloc(bytes)?));
    }
    let mut links = Links::default();
    for (from, (sender, source, _)) in ends.iter().enumerate() {
        for (to, (receiver, _, target)) in ends.iter().enumerate().filter(|(to, _)| *to != from) {
            if stop.load(Ordering::Relaxed) {
                links.stopped = true;
                return Ok(links);
            }
            let mut pair = Pair { from, to, ..Pair::default() };
            let seed = (from * ends.len() + to + 1) as u32;
            let mut work = || -> Result<(), CudaError> {
                let can = match (devices.get(from), devices.get(to)) {
                    (Some(one), Some(other)) => peers.can(one, other)?,
                    _ => false,
                };
                let reach = if can { peers.reach(sender.worker, receiver.worker)? } else { None };
                // either side may drive the copy
                let _back = if reach.is_some() { peers.reach(receiver.worker, sender.worker)? } else { None };
                pair.peer = reach.is_some();
                let bytes = source.bytes().min(target.bytes()) as u64;
                receiver.clear()?;
                let began = Instant::now();
                let mut seed = seed.wrapping_mul(2_654_435_769);
                while pair.copies <= FEWEST || (began.elapsed() < TIME && !stop.load(Ordering::Relaxed)) {
                    // another pattern each time, so that what is there from before is wrong
                    sender.fill(source, bytes / 16, seed)?;
                    sender.worker.wait()?;
                    let seconds = peers.copy(source, target)?;
                    receiver.check(target, bytes / 16, seed)?;
                    receiver.worker.wait()?;
                    if pair.copies > 0 {
                        pair.bytes += bytes;
                        pair.seconds += seconds;
                    }
                    pair.copies += 1;
                    seed = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                }
                let (errors, first) = receiver.wrong()?;
                (pair.errors, pair.first_error) = (errors, first.map(|unit| unit * 16));
                Ok(())
            };
            let done = work();
            links.cut = done.as_ref().is_err_and(|error| LOST.contains(&error.code));
            pair.failed = done.err().map(|error| error.to_string());
            tell(&pair);
            links.pairs.push(pair);
            if links.cut {
                return Ok(links);
            }
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(compute_capability: (u32, u32), pcie: (u32, u32)) -> End {
        End { compute_capability, pcie: Some(pcie) }
    }

    #[test]
    fn rates_are_those_of_the_papers() {
        let linked = |nvlinks| Way::Linked { nvlinks, pcie: Level::Node };
        let of = |way, peer, one, other| most(way, peer, one, other).map(|rate| (rate / 1e9).round() as u64);
        let (h100, a100, v100) = (end((9, 0), (5, 16)), end((8, 0), (4, 16)), end((7, 0), (3, 16)));
        assert_eq!(of(linked(18), true, h100, h100), Some(450));
        assert_eq!(of(linked(12), true, a100, a100), Some(300));
        assert_eq!(of(linked(6), true, v100, v100), Some(150));
        assert_eq!(of(linked(4), true, end((8, 6), (4, 16)), end((8, 6), (4, 16))), Some(56));
        assert_eq!(of(linked(18), true, end((10, 0), (5, 16)), end((10, 0), (5, 16))), Some(900));
        assert_eq!(of(linked(18), false, h100, h100), Some(63), "through the host there is no NVLink");
        assert_eq!(of(Way::Pcie(Level::Switch), true, a100, end((8, 0), (4, 8))), Some(16), "the slower of both");
        assert_eq!(of(Way::Pcie(Level::Switch), true, v100, End { pcie: None, ..v100 }), None);
        assert_eq!(of(linked(2), true, end((99, 0), (5, 16)), h100), None, "a generation that nobody knows yet");
        assert_eq!(of(Way::Own, true, h100, h100), None);
        assert_eq!(of(Way::Pcie(Level::Switch), true, end((9, 0), (0, 16)), h100), None);
    }

    #[test]
    fn half_of_what_is_promised_is_slow() {
        let pair = Pair { peer: true, copies: 4, bytes: 100, seconds: 1.0, ..Pair::default() };
        let switch = Way::Pcie(Level::Switch);
        assert!(slow(switch, &pair, Some(201.0)) && !slow(switch, &pair, Some(199.0)));
        assert!(!slow(switch, &pair, None));
        assert!(!slow(Way::Pcie(Level::System), &pair, Some(201.0)), "nobody promises it");
        assert!(!slow(switch, &Pair { peer: false, ..pair.clone() }, Some(201.0)));
        assert!(!slow(switch, &Pair { failed: Some("it".into()), ..pair }, Some(201.0)));
    }
}
