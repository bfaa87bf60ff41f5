//! How cards lie to each other and to network adapters: NVLinks, the way over PCIe, NUMA. What `nvidia-smi topo -m` shows, out of
//! sysfs and NVML's links, and what a preferred allocation is made of.

use std::collections::BTreeMap;

use machine::nvml::NvmlGpu;
use machine::{Machine, MachineExt as _};
use model::{Bdf, Seen};
use serde::Serialize;

use crate::Inventory;

/// The nearest way over PCIe between two functions, the nearest first. Source: nvmlDeviceGetTopologyCommonAncestor and the legend
/// of `nvidia-smi topo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Two chips of one board.
    Board,
    /// One bridge at the most: two ports of one switch.
    Switch,
    /// Several bridges, and no host bridge.
    Switches,
    /// One host bridge, which is the CPU's.
    HostBridge,
    /// Other host bridges of the same NUMA node.
    Node,
    /// Another NUMA node.
    System,
}

impl Level {
    /// nvidia-smi's word.
    pub fn word(self) -> &'static str {
        match self {
            Level::Board => "PSB",
            Level::Switch => "PIX",
            Level::Switches => "PXB",
            Level::HostBridge => "PHB",
            Level::Node => "NODE",
            Level::System => "SYS",
        }
    }
}

/// By the bridges above each, root bus first, and the nodes. A tree that could not be read has no bridges; a node that is not known
/// (a machine with one) is like another that is not.
pub fn level(a: (&[String], Option<u32>), b: (&[String], Option<u32>)) -> Level {
    let ((above, node), (other, other_node)) = (a, b);
    let shared = above.iter().zip(other).take_while(|(a, b)| a == b).count();
    match shared {
        0 if node == other_node => Level::Node,
        0 => Level::System,
        1 => Level::HostBridge,
        // below the last bridge that both have: a switch's downstream port each, or more of them
        _ if above.len() <= shared + 1 && other.len() <= shared + 1 => Level::Switch,
        _ => Level::Switches,
    }
}

/// The bridges above a function, root bus first: "../../../devices/pci0000:17/0000:17:01.0/0000:18:00.0" without itself.
pub fn path(machine: &dyn Machine, bdf: Bdf) -> Vec<String> {
    let link = machine.link(&format!("/sys/bus/pci/devices/{bdf}")).is().unwrap_or_default();
    let mut parts: Vec<String> =
        link.split('/').skip_while(|part| !part.starts_with("pci")).map(str::to_owned).collect();
    parts.pop();
    parts
}

/// Active NVLinks: to which card, or to a switch (none), and how many.
pub type Links = Vec<(Option<Bdf>, u32)>;

pub fn nvlinks(nvml: Option<&NvmlGpu>) -> Links {
    let mut counts: BTreeMap<Option<Bdf>, u32> = BTreeMap::new();
    let links = nvml.and_then(|gpu| gpu.nvlink.get()).map(|links| links.links.as_slice()).unwrap_or_default();
    for link in links.iter().filter(|link| link.active == Seen::Is(true)) {
        let remote = link.remote.get().and_then(|id| id.parse::<Bdf>().ok());
        match link.remote_kind.get().map(String::as_str) {
            Some("switch") => *counts.entry(None).or_default() += 1,
            // a link to a processor brings no two cards together
            Some("GPU") | None => {
                if let Some(remote) = remote {
                    *counts.entry(Some(remote)).or_default() += 1;
                }
            }
            Some(_) => {}
        }
    }
    counts.into_iter().collect()
}

/// How many NVLinks join two cards: those from one to the other, as the side tells that knows more, and those that both have to
/// switches.
pub fn joined(a: (Bdf, &Links), b: (Bdf, &Links)) -> u32 {
    let to = |links: &Links, to: Bdf| {
        links.iter().filter(|(remote, _)| *remote == Some(to)).map(|(_, count)| *count).sum::<u32>()
    };
    let switched =
        |links: &Links| links.iter().filter(|(remote, _)| remote.is_none()).map(|(_, count)| *count).sum::<u32>();
    to(a.1, b.0).max(to(b.1, a.0)).saturating_add(switched(a.1).min(switched(b.1)))
}

/// The picture of a machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Topo {
    /// NVML's order, which is that of the addresses.
    pub cards: Vec<Place>,
    /// Adapters that speak RDMA, as nvidia-smi numbers them: by name.
    pub nics: Vec<Place>,
    /// Of each card: to each card, then to each adapter.
    pub ways: Vec<Vec<Way>>,
    /// Of each adapter, likewise.
    pub nic_ways: Vec<Vec<Way>>,
}

/// Where a function sits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// "GPU0", "NIC0".
    pub label: String,
    pub bdf: Bdf,
    /// "GeForce GT 1030", "mlx5_0".
    pub name: String,
    /// CPUs that are near: sysfs' local_cpulist, "0-31".
    pub cpus: Seen<String>,
    /// None: the kernel does not know it (-1), as in most VMs.
    pub numa: Option<u32>,
    /// The bridges above it, root bus first.
    pub path: Vec<String>,
    #[serde(skip)]
    board: Option<u32>,
    #[serde(skip)]
    links: Links,
}

/// From one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    Own,
    /// So many NVLinks; what PCIe would be without them.
    Linked {
        nvlinks: u32,
        pcie: Level,
    },
    Pcie(Level),
}

impl Way {
    /// nvidia-smi's word: "X", "NV18", "PHB".
    pub fn word(self) -> String {
        match self {
            Way::Own => "X".into(),
            Way::Linked { nvlinks, .. } => format!("NV{nvlinks}"),
            Way::Pcie(level) => level.word().into(),
        }
    }
}

/// Of an inventory of [`crate::observe_all`], which tells links: NVIDIA's cards that its driver has, and the adapters.
pub fn observe(machine: &dyn Machine, inventory: &Inventory) -> Topo {
    let mut cards: Vec<Place> = Vec::new();
    for card in inventory.nvidia() {
        let Some(gpu) = card.nvml.as_deref() else { continue };
        let board = gpu.board.get().filter(|board| board.multi_gpu == Seen::Is(true));
        cards.push(Place {
            label: format!("GPU{}", gpu.index),
            name: gpu.name.get().cloned().unwrap_or_else(|| card.short_name().to_owned()),
            board: board.and_then(|board| board.board_id.get().copied()),
            links: nvlinks(Some(gpu)),
            ..place(machine, card.identity.bdf)
        });
    }
    cards.sort_by_key(|place| place.bdf);
    // The kernel does not know a function's node (-1) where the firmware tells none; with one node there is no other, and
    // nvidia-smi names that.
    let nodes: Vec<u32> = machine
        .names("/sys/devices/system/node")
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse().ok())
        .collect();
    let only = if let [node] = nodes.as_slice() { Some(*node) } else { None };
    cards.iter_mut().for_each(|place| place.numa = place.numa.or(only));
    let mut nics: Vec<Place> = Vec::new();
    let mut names = machine.names("/sys/class/infiniband");
    // mlx5_10 after mlx5_9
    names.sort_by_key(|name| (name.trim_end_matches(|c: char| c.is_ascii_digit()).len(), name.len(), name.clone()));
    for name in names {
        let device = machine.link_name(&format!("/sys/class/infiniband/{name}/device")).is();
        let Some(bdf) = device.and_then(|device| device.parse::<Bdf>().ok()) else { continue };
        nics.push(Place { label: format!("NIC{}", nics.len()), name, ..place(machine, bdf) });
    }
    let row = |from: &Place| cards.iter().chain(&nics).map(|to| way(from, to)).collect();
    Topo { ways: cards.iter().map(row).collect(), nic_ways: nics.iter().map(row).collect(), cards, nics }
}

fn place(machine: &dyn Machine, bdf: Bdf) -> Place {
    let at = |name: &str| format!("/sys/bus/pci/devices/{bdf}/{name}");
    let cpus = machine.value(&at("local_cpulist"));
    let cpus = if cpus.get().is_some_and(String::is_empty) { Seen::Absent } else { cpus };
    Place {
        label: String::new(),
        bdf,
        name: String::new(),
        cpus,
        numa: machine.value(&at("numa_node")).is().and_then(|node| node.parse().ok()),
        path: path(machine, bdf),
        board: None,
        links: Vec::new(),
    }
}

fn way(from: &Place, to: &Place) -> Way {
    if from.bdf == to.bdf {
        return Way::Own;
    }
    let pcie = match from.board {
        Some(board) if to.board == Some(board) => Level::Board,
        _ => level((&from.path, from.numa), (&to.path, to.numa)),
    };
    match joined((from.bdf, &from.links), (to.bdf, &to.links)) {
        0 => Way::Pcie(pcie),
        nvlinks => Way::Linked { nvlinks, pcie },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn above(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }

    #[test]
    fn levels_are_those_of_nvidias_legend() {
        let switch = ["pci0000:17", "0000:17:01.0", "0000:18:00.0"];
        let below = |port: &str| above(&[switch[0], switch[1], switch[2], port]);
        let of = |a: &[String], b: &[String]| level((a, Some(0)), (b, Some(0))).word();
        assert_eq!(of(&below("0000:19:00.0"), &below("0000:19:01.0")), "PIX");
        let far = above(&[switch[0], switch[1], switch[2], "0000:19:01.0", "0000:1b:00.0", "0000:1c:00.0"]);
        assert_eq!(of(&below("0000:19:00.0"), &far), "PXB");
        assert_eq!(of(&below("0000:19:00.0"), &above(&["pci0000:17", "0000:17:02.0"])), "PHB");
        assert_eq!(of(&below("0000:19:00.0"), &above(&["pci0000:3a", "0000:3a:01.0"])), "NODE");
        let node = level((&below("0000:19:00.0"), Some(0)), (&above(&["pci0000:ae"]), Some(1)));
        assert_eq!(node.word(), "SYS");
    }

    #[test]
    fn links_to_switches_and_from_card_to_card_count() {
        let (a, b): (Bdf, Bdf) = ("18:00.0".parse().expect("a BDF"), "2a:00.0".parse().expect("a BDF"));
        assert_eq!(joined((a, &vec![(None, 18)]), (b, &vec![(None, 12)])), 12);
        assert_eq!(joined((a, &vec![(Some(b), 4)]), (b, &vec![])), 4);
        assert_eq!(joined((a, &vec![]), (b, &vec![(None, 12)])), 0);
    }
}
