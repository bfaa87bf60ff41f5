//! Who has each card now: a VM, processes of this machine, containers, pods, or nobody. Never a false "nobody":
//! what could not be looked at makes the answer `Unknown`.

use std::collections::BTreeSet;

use machine::{Machine, MachineExt as _};
use model::Seen;

use crate::attribution::{self, OwnedBy};
use crate::naming::Names;
use crate::processes::Processes;
use crate::vms::{self, Vms};
use crate::{Card, Holder, driver};

const DEVICES: &str = "/sys/bus/pci/devices";

/// Fills every card's `holder`. The process table is walked only if some card is bound to a driver.
pub(crate) fn find(machine: &dyn Machine, cards: &mut [Card]) {
    let bound = |card: &Card| card.driver.get().is_some_and(|driver| driver != "pci-stub");
    if !cards.iter().any(bound) {
        for card in cards {
            card.holder = unbound(card);
        }
        return;
    }
    let processes = Processes::new(machine);
    let mut vms = None;
    let single = cards.iter().filter(|card| card.driver.get().is_some_and(|d| d == "nvidia")).count() == 1;
    for card in cards {
        card.holder = match card.driver.get() {
            Some(driver) if is_vfio(driver) => {
                let vms = vms.get_or_insert_with(|| Vms::new(machine, &processes));
                with_vfio(machine, card, &processes, vms)
            }
            Some(driver) if driver != "pci-stub" => with_driver(machine, card, driver, &processes, single),
            _ => unbound(card),
        };
    }
}

/// vfio-pci and its variants, which give a device to user space (a VM) alone.
pub(crate) fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("-vfio-pci") || driver.ends_with("_vfio_pci")
}

fn unbound(card: &Card) -> Holder {
    match &card.driver {
        Seen::Unreadable(reason) => Holder::Unknown(format!("its driver could not be seen: {reason}")),
        _ => Holder::Nobody,
    }
}

fn with_vfio(machine: &dyn Machine, card: &Card, processes: &Processes<'_>, vms: &Vms) -> Holder {
    let bdf = card.identity.bdf;
    let mut found = vms.with(bdf);
    if !found.is_empty() {
        found.sort();
        found.dedup();
        return Holder::Vm(found);
    }
    // Not named on a command line: whoever holds the group's device node open has it.
    let mut nodes = BTreeSet::new();
    if let Seen::Is(group) = &card.group {
        nodes.insert(format!("/dev/vfio/{}", group.number));
        nodes.insert(format!("/dev/vfio/noiommu-{}", group.number));
    }
    let cdevs = machine.names(&format!("{DEVICES}/{bdf}/vfio-dev"));
    nodes.extend(cdevs.iter().map(|name| format!("/dev/vfio/devices/{name}")));
    let pids = processes.with_open(&nodes);
    let (machines, others): (Vec<u32>, Vec<u32>) = pids.iter().partition(|pid| vms::is_vmm(&processes.command(**pid)));
    if !machines.is_empty() {
        return Holder::Vm(machines.iter().map(|pid| vms::label(&processes.command(*pid), *pid)).collect());
    }
    if !others.is_empty() {
        return Holder::Host(others.iter().map(|pid| processes.label(*pid)).collect());
    }
    match processes.unseen() {
        None => Holder::Nobody,
        Some(reason) => {
            Holder::Unknown(format!("bound to vfio-pci; whether a VM runs with it could not be seen: {reason}"))
        }
    }
}

fn with_driver(machine: &dyn Machine, card: &Card, driver: &str, processes: &Processes<'_>, single: bool) -> Holder {
    let bdf = card.identity.bdf;
    let drm = machine.names(&format!("{DEVICES}/{bdf}/drm"));
    let mut nodes: BTreeSet<String> = drm.iter().map(|name| format!("/dev/dri/{name}")).collect();
    if driver == "nvidia" {
        nodes.extend(nvidia_nodes(machine, card, single));
    }
    let mut pids = processes.with_open(&nodes);
    let reported = card.nvml.as_ref().and_then(|gpu| gpu.processes.get()).into_iter().flatten();
    // Inside a container NVML's numbers mean other processes, or none: only those that are here count.
    pids.extend(reported.map(|process| process.pid).filter(|pid| processes.has(*pid)));
    if pids.is_empty() {
        return match processes.unseen() {
            None => Holder::Host(Vec::new()),
            Some(reason) => {
                Holder::Unknown(format!("{driver} has it; which processes use it could not be seen: {reason}"))
            }
        };
    }
    owners(machine, processes, &pids)
}

/// `/dev/nvidiaN` of this card.
pub(crate) fn nvidia_nodes(machine: &dyn Machine, card: &Card, single: bool) -> Vec<String> {
    let nvml = card.nvml.as_ref().and_then(|gpu| gpu.minor.get().copied());
    let minor = nvml.or_else(|| driver::information(machine, card.identity.bdf, "Device Minor")?.parse().ok());
    match minor {
        Some(minor) => vec![format!("/dev/nvidia{minor}")],
        // The only card of this driver: every numbered node is its own.
        None if single => (0..16).map(|minor| format!("/dev/nvidia{minor}")).collect(),
        None => Vec::new(),
    }
}

/// Pods before containers before VMs before plain processes: the answer names what a person would have to stop.
fn owners(machine: &dyn Machine, processes: &Processes<'_>, pids: &BTreeSet<u32>) -> Holder {
    let mut pods = BTreeSet::new();
    let mut containers = BTreeSet::new();
    let mut machines = BTreeSet::new();
    let mut plain = Vec::new();
    let mut names = Names::default();
    for pid in pids {
        let owner = attribution::whose(machine, &mut names, *pid).owner;
        match &owner {
            OwnedBy::Pod { .. } => pods.insert(owner.label()),
            OwnedBy::Container { .. } | OwnedBy::System { .. } => containers.insert(owner.label()),
            OwnedBy::Vm { .. } => machines.insert(owner.label()),
            OwnedBy::Process | OwnedBy::Unit { .. } | OwnedBy::Hidden => {
                plain.push(processes.label(*pid));
                true
            }
        };
    }
    let list = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>();
    match (pods.is_empty(), containers.is_empty(), machines.is_empty()) {
        (false, ..) => Holder::Pods(list(pods)),
        (_, false, _) => Holder::Containers(list(containers)),
        (_, _, false) => Holder::Vm(list(machines)),
        _ => Holder::Host(plain),
    }
}
