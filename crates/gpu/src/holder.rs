//! Who has each card now: a VM, processes of this machine, containers, pods, or nobody. Never a false "nobody":
//! what could not be looked at makes the answer `Unknown`.

use std::collections::{BTreeMap, BTreeSet};

use machine::{KubeList, Machine, MachineExt as _, Question};
use model::Seen;

use crate::attribution::{Engine, OwnedBy};
use crate::cgroup::{self, Owner};
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
        let text = machine.text(&format!("/proc/{pid}/cgroup")).is().unwrap_or_default();
        match cgroup::owner(&text) {
            Some(Owner::Pod { uid, .. }) => pods.insert(names.pod(machine, &uid)),
            Some(Owner::Container(id)) => containers.insert(names.container(machine, &id)),
            Some(Owner::System(name)) => containers.insert(format!("CT {name}")),
            Some(Owner::Vm(_)) => machines.insert(vms::label(&processes.command(*pid), *pid)),
            None => {
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

/// Names for ids, from files that need no engine, then from the cluster: looked up once, when first asked.
#[derive(Default)]
pub(crate) struct Names {
    logs: Option<BTreeMap<String, String>>,
    cluster: Option<BTreeMap<String, String>>,
    podman: Option<BTreeMap<String, String>>,
}

impl Names {
    pub(crate) fn owner(&mut self, machine: &dyn Machine, cgroup: &str, arguments: &[String]) -> OwnedBy {
        match cgroup::owner(cgroup) {
            Some(Owner::Pod { uid, container }) => {
                let name = self.pod(machine, &uid);
                let (namespace, pod) = name.split_once('/').map(|(n, p)| (n.to_owned(), p.to_owned())).unzip();
                OwnedBy::Pod { uid, namespace, pod, container: None, id: container }
            }
            Some(Owner::Container(id)) => {
                let name = Some(self.container(machine, &id));
                OwnedBy::Container { engine: Engine::Unknown, id, name, image: None, user: None }
            }
            Some(Owner::System(name)) => OwnedBy::System { name, title: None },
            Some(Owner::Vm(id)) => OwnedBy::Vm { name: Some(vms::label(arguments, 0)), id },
            None => match cgroup::unit(cgroup) {
                Some(unit) => OwnedBy::Unit { unit, user: None },
                None => OwnedBy::Process,
            },
        }
    }

    pub(crate) fn pod(&mut self, machine: &dyn Machine, uid: &str) -> String {
        let logs = self.logs.get_or_insert_with(|| logged_pods(machine));
        if let Some(name) = logs.get(uid) {
            return name.clone();
        }
        let cluster = self.cluster.get_or_insert_with(|| cluster_pods(machine));
        cluster.get(uid).cloned().unwrap_or_else(|| format!("with UID {uid}"))
    }

    pub(crate) fn container(&mut self, machine: &dyn Machine, id: &str) -> String {
        self.docker(machine, id).or_else(|| self.podman(machine, id)).unwrap_or_else(|| match id.get(..12) {
            Some(short) if id.len() == 64 => short.to_owned(),
            _ => id.to_owned(),
        })
    }

    fn docker(&self, machine: &dyn Machine, id: &str) -> Option<String> {
        let bytes = machine.read(&format!("/var/lib/docker/containers/{id}/config.v2.json")).is()?;
        let config: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        Some(config.get("Name")?.as_str()?.trim_start_matches('/').to_owned())
    }

    fn podman(&mut self, machine: &dyn Machine, id: &str) -> Option<String> {
        let known = self.podman.get_or_insert_with(|| {
            let bytes = machine.read("/var/lib/containers/storage/overlay-containers/containers.json").is();
            let list: serde_json::Value = bytes.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
            let all = list.as_array().into_iter().flatten().filter_map(|container| {
                let name = container.get("names")?.get(0)?.as_str()?;
                Some((container.get("id")?.as_str()?.to_owned(), name.to_owned()))
            });
            all.collect()
        });
        known.get(id).cloned()
    }
}

/// The kubelet names a pod's log directory `NAMESPACE_POD_UID`.
fn logged_pods(machine: &dyn Machine) -> BTreeMap<String, String> {
    let dirs = machine.names("/var/log/pods");
    let parts = dirs.iter().filter_map(|dir| {
        let (namespace, rest) = dir.split_once('_')?;
        let (pod, uid) = rest.rsplit_once('_')?;
        Some((uid.to_owned(), format!("{namespace}/{pod}")))
    });
    parts.collect()
}

/// By the API server. A static pod's cgroup has the hash of its manifest for a UID, which its mirror pod carries as
/// annotation `kubernetes.io/config.hash`.
fn cluster_pods(machine: &dyn Machine) -> BTreeMap<String, String> {
    let mut pods = BTreeMap::new();
    let Seen::Is(answer) = machine.ask(&Question::Kube(KubeList::Pods)) else { return pods };
    let list = answer.json().and_then(|list| list.get("items")?.as_array());
    for meta in list.into_iter().flatten().filter_map(|item| item.get("metadata")) {
        let text = |pointer: &str| meta.pointer(pointer).and_then(serde_json::Value::as_str);
        let (Some(namespace), Some(name)) = (text("/namespace"), text("/name")) else { continue };
        let uids = [text("/uid"), text("/annotations/kubernetes.io~1config.hash")];
        pods.extend(uids.into_iter().flatten().map(|uid| (uid.to_owned(), format!("{namespace}/{name}"))));
    }
    pods
}
