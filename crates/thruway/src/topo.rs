//! `thruway topo`: how the cards lie to each other.

use gpu::Inventory;
use gpu::topo::{self, Level, Place, Topo, Way};
use machine::nvml::{Depth, Watch};
use machine::{Kind, Machine};
use model::Seen;
use serde_json::json;

use crate::cli::Global;
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::{BLIND, DONE, FOUND, say};

const SCHEMA: u32 = 1;

/// With the links of each card.
pub fn look(machine: &dyn Machine) -> Inventory {
    match machine.kind() {
        // links are told without what takes long: throughput is measured for 40 ms a card
        Kind::Live => {
            let report =
                gpu::awake(machine).and_then(|_| Watch::open(machine)).and_then(|mut watch| watch.at(Depth::Now));
            gpu::observe_with(machine, report)
        }
        _ => gpu::observe_all(machine),
    }
}

/// 0 shown, 1 no card of a running driver, 2 could not look.
pub fn topo(global: &Global) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let machine = target.machine();
    let inventory = look(machine);
    let topo = topo::observe(machine, &inventory);
    let blind = match (&inventory.looked, &inventory.nvml) {
        (Seen::Unreadable(reason), _) => Some(format!("the PCI bus could not be looked at: {reason}")),
        (_, Seen::Unreadable(reason)) if topo.cards.is_empty() => Some(format!("NVML could not be asked: {reason}")),
        _ => None,
    };
    let status = if blind.is_some() {
        BLIND
    } else if topo.cards.is_empty() {
        FOUND
    } else {
        DONE
    };
    let simulated = machine.kind() == Kind::Simulated;
    if global.json {
        let report = json!({
            "schema": SCHEMA,
            "machine": target.name(global),
            "simulated": simulated,
            "unseen": blind,
            "topo": topo,
        });
        return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| status);
    }
    let mut page = Page::new();
    if simulated {
        page.line(format!("{} {}", paint(Tone::Strong, &target.name(global)), paint(Tone::Warn, "(simulated)")));
    }
    match (&blind, topo.cards.is_empty()) {
        (Some(why), _) => page.line(paint(Tone::Bad, why)),
        (None, true) => page.line("NVIDIA's driver has no card here; `thruway gpus` lists what is there."),
        (None, false) => matrix(&mut page, &topo),
    }
    say(&page.text()).map(|()| status)
}

fn matrix(page: &mut Page, topo: &Topo) {
    let columns: Vec<&str> = topo.cards.iter().chain(&topo.nics).map(|place| place.label.as_str()).collect();
    let text = |seen: &Seen<String>| seen.get().cloned().unwrap_or_else(|| "N/A".into());
    let cpus = topo.cards.iter().map(|place| text(&place.cpus).chars().count()).max().unwrap_or(0).max(4);
    let mut head = format!("{:8}", "");
    columns.iter().for_each(|label| head.push_str(&format!("{label:6}")));
    page.line(paint(Tone::Strong, format!("{head}  {:cpus$}  NUMA", "CPUs").trim_end()));
    let row = |place: &Place, ways: &[Way], own: bool| {
        let mut line = format!("{:8}", place.label);
        ways.iter().for_each(|way| line.push_str(&format!("{:6}", way.word())));
        if own {
            let numa = place.numa.map_or_else(|| "N/A".into(), |node| node.to_string());
            line.push_str(&format!("  {:cpus$}  {numa}", text(&place.cpus)));
        }
        line.trim_end().to_owned()
    };
    for (place, ways) in topo.cards.iter().zip(&topo.ways) {
        page.line(row(place, ways, true));
    }
    for (place, ways) in topo.nics.iter().zip(&topo.nic_ways) {
        page.line(row(place, ways, false));
    }
    page.gap();
    for place in topo.cards.iter().chain(&topo.nics) {
        page.line(format!("{:8}{:14}{}", place.label, place.bdf.to_string(), paint(Tone::Plain, &place.name)));
    }
    page.gap();
    let all: Vec<Way> = topo.ways.iter().chain(&topo.nic_ways).flatten().copied().collect();
    if all.iter().any(|way| matches!(way, Way::Linked { .. })) {
        page.hang(0, "NV#", 6, Tone::Faint, "so many NVLinks, bonded");
    }
    let legend = [
        (Level::Board, "two GPUs of one board"),
        (Level::Switch, "at most one PCIe bridge between them"),
        (Level::Switches, "several PCIe bridges, and not the host's"),
        (Level::HostBridge, "a PCIe host bridge, which is the CPU's"),
        (Level::Node, "several host bridges of one NUMA node"),
        (Level::System, "the link between NUMA nodes"),
    ];
    for (level, says) in legend {
        if all.contains(&Way::Pcie(level)) {
            page.hang(0, level.word(), 6, Tone::Faint, says);
        }
    }
}
