//! The ways between the cards: what they are, what they carry and what they could.

use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use app::stress::Peak;
use app::stress::links::{End, LEAST, Links, Pair, measure, most, slow};
use cuda::{Cuda, Device, WorkError};
use gpu::topo::{self, Way};
use machine::Machine;
use model::Bdf;
use serde_json::{Value, json};

use super::{COLUMN, Card, bar};
use crate::paint::{Page, Tone};

/// "0000:04:00.0 to 0000:05:00.0" and a gap.
const PAIR: usize = 30;

/// All that was measured, beside what is known of each way; why not, where it was not.
pub struct Ways {
    measured: Result<Vec<One>, WorkError>,
    stopped: bool,
    cut: bool,
}

struct One {
    pair: Pair,
    from: String,
    to: String,
    /// None: NVML does not tell it.
    way: Option<Way>,
    /// Bytes a second.
    most: Option<f64>,
    slow: bool,
}

impl Ways {
    pub fn measure(
        machine: &dyn Machine,
        cuda: &Cuda,
        cards: &[(&Card<'_>, &Peak)],
        broken: bool,
        stop: &AtomicBool,
        live: bool,
    ) -> Ways {
        let devices: Vec<Device<'_>> = cards.iter().map(|(card, _)| card.device).collect();
        let all = cards.len() * cards.len().saturating_sub(1);
        let mut count = 0;
        let mut tell = |pair: &Pair| {
            count += 1;
            if live {
                let bar = bar(count as f64 / all.max(1) as f64);
                let rate = pair.bandwidth() / 1e9;
                let _ = write!(anstream::stderr(), "\r{bar} link {count} of {all}  {rate:.0} GB/s\x1b[K");
            }
        };
        let measured = measure(cuda, &devices, broken, stop, &mut tell);
        if live {
            let _ = write!(anstream::stderr(), "\r\x1b[K");
        }
        let Links { pairs, stopped, cut } = match measured {
            Ok(links) => links,
            Err(error) => return Ways { measured: Err(error), stopped: false, cut: false },
        };
        let inventory = crate::topo::look(machine);
        let topo = topo::observe(machine, &inventory);
        let place = |card: &Card<'_>| {
            let bdf = card.bus_id.parse::<Bdf>().ok()?;
            topo.cards.iter().position(|place| place.bdf == bdf)
        };
        let end = |(card, peak): &(&Card<'_>, &Peak)| {
            let bdf = card.bus_id.parse::<Bdf>().ok();
            let gpu = inventory.nvidia().find(|one| Some(one.identity.bdf) == bdf).and_then(|one| one.nvml.as_deref());
            let pcie = gpu.and_then(|gpu| Some((*gpu.pcie_gen_max.get()?, *gpu.pcie_width_current.get()?)));
            End { compute_capability: peak.compute_capability, pcie }
        };
        let one = |pair: Pair| {
            let (from, to) = (cards.get(pair.from)?, cards.get(pair.to)?);
            let way = place(from.0).zip(place(to.0)).and_then(|(from, to)| topo.ways.get(from)?.get(to).copied());
            let most = way.and_then(|way| most(way, pair.peer, end(from), end(to)));
            let slow = way.is_some_and(|way| slow(way, &pair, most));
            Some(One { from: from.0.bus_id.clone(), to: to.0.bus_id.clone(), pair, way, most, slow })
        };
        Ways { measured: Ok(pairs.into_iter().filter_map(one).collect()), stopped, cut }
    }

    /// A way over which nothing could be copied is as bad as one that turns bits over.
    pub fn verdict(&self) -> &'static str {
        let Ok(ways) = &self.measured else { return "failed" };
        if self.cut {
            "lost"
        } else if ways.iter().any(|one| one.pair.errors > 0 || one.pair.failed.is_some()) {
            "wrong"
        } else if ways.iter().any(|one| one.slow) {
            "slow"
        } else {
            "right"
        }
    }

    pub fn json(&self) -> Value {
        let row = |one: &One| {
            let bandwidth = one.pair.bandwidth();
            json!({
                "from": one.from, "to": one.to, "way": one.way.map(Way::word), "peer": one.pair.peer,
                "copies": one.pair.copies, "bytes": one.pair.bytes, "seconds": one.pair.seconds,
                "bandwidth": bandwidth, "most": one.most, "share": one.most.map(|most| bandwidth / most),
                "errors": one.pair.errors, "first_error": one.pair.first_error, "slow": one.slow,
                "failed": one.pair.failed,
            })
        };
        let rows: Option<Vec<Value>> = self.measured.as_ref().ok().map(|ways| ways.iter().map(row).collect());
        let error = self.measured.as_ref().err().map(ToString::to_string);
        json!({ "verdict": self.verdict(), "pairs": rows, "stopped": self.stopped, "error": error })
    }

    pub fn text(&self) -> String {
        let mut page = Page::new();
        page.line(crate::paint::paint(Tone::Strong, "from card to card"));
        let ways = match &self.measured {
            Ok(ways) => ways,
            Err(error) => {
                page.hang(4, "failed", COLUMN, Tone::Bad, &format!("could not be measured: {error}"));
                return page.text();
            }
        };
        for one in ways {
            let (tone, text) = one.text();
            page.hang(4, &format!("{} to {}", one.from, one.to), PAIR, tone, &text);
        }
        if ways.iter().any(|one| one.slow) {
            page.hang(4, "why", COLUMN, Tone::Plain, "thruway gpus BDF shows a card's links and its slot's lanes");
        }
        if self.cut {
            let text = "the card stopped working, and what was left was not measured";
            page.hang(4, "card", COLUMN, Tone::Bad, text);
            page.hang(4, "why", COLUMN, Tone::Plain, "journalctl -k -g 'NVRM|pcieport' | thruway explain");
        } else if self.stopped {
            page.hang(4, "stopped", COLUMN, Tone::Plain, "the others were not measured");
        } else if self.verdict() == "right" {
            page.hang(4, "copies", COLUMN, Tone::Good, "every one right, bit by bit");
        }
        page.text()
    }
}

impl One {
    fn text(&self) -> (Tone, String) {
        let pair = &self.pair;
        let way = self.way.map_or_else(|| "?".into(), Way::word);
        if let Some(failed) = &pair.failed {
            return (Tone::Bad, format!("{way:5} FAILED: {failed}"));
        }
        let rate = pair.bandwidth() / 1e9;
        let share = |most: f64| format!(", {:.0} % of {:.0}", rate * 1e11 / most, most / 1e9);
        let share = self.most.map(share).unwrap_or_default();
        let host = if pair.peer { "" } else { ", through the host: no peer access" };
        let text = format!("{way:5} {rate:.1} GB/s{share}{host}");
        if pair.errors > 0 {
            let first = pair.first_error.map(|at| format!(", the first at byte {at}")).unwrap_or_default();
            return (
                Tone::Bad,
                format!("{text}; WRONG: {} pieces of 16 bytes of {} copies{first}", pair.errors, pair.copies),
            );
        }
        if self.slow {
            return (Tone::Bad, format!("{text}; SLOW: less than {:.0} %", LEAST * 100.0));
        }
        (Tone::Plain, text)
    }
}
