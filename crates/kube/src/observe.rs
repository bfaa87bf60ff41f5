//! What is seen of the cluster: the API's lists, the kubelet's files, and which node this machine is.

use std::collections::BTreeMap;

use gpu::Inventory;
use gpu::promises::{self, Promised};
use journal::ledger::Owner;
use machine::{ContainerdSays, DMI_TABLE, KubeList, Machine, MachineExt, Question};
use model::{Fact, Presence, Reason, Seen, Source};
use serde::Serialize;

use crate::objects::{self, Node, Pod, Workload, is_gpu_label};
use crate::read::{At, Bad};
use crate::topology;

/// All that the cluster floor's checks and planner know.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// What shows that a node agent is set up here: a kubelet's or k3s's file.
    pub agent: Fact<String>,
    /// The name of this machine's own node; `Absent` where the API lists none that is this machine.
    pub me: Fact<String>,
    pub nodes: Fact<Vec<Node>>,
    pub daemonsets: Fact<Vec<Workload>>,
    pub deployments: Fact<Vec<Workload>>,
    pub pods: Fact<Vec<Pod>>,
    /// NVIDIA's cards on this machine, in words ("01:00.0 GeForce GT 1030"), whatever drives them.
    pub cards: Seen<Vec<String>>,
    /// How many of them work under NVIDIA's driver.
    pub working: Fact<u64>,
    /// What the driver calls each of them, in its order: "NVIDIA GeForce GT 1030".
    pub models: Seen<Vec<String>>,
    /// Those of them that the ledger promises to another than pods: ("01:00.0 GeForce GT 1030", "vm:100").
    pub promised: Fact<Vec<(String, String)>>,
    /// What containerd's configuration comes to; absent where none runs.
    pub engine: Fact<ContainerdSays>,
    /// The DRA driver's file of prepared claims.
    pub claims: Fact<String>,
    /// The labels of this machine's node by what its hypervisor told of its cards' places; empty where it told nothing.
    pub topology: Fact<BTreeMap<String, String>>,
}

const AGENT_FILES: [&str; 5] = [
    "/etc/kubernetes/kubelet.conf",
    "/var/lib/kubelet/config.yaml",
    "/etc/rancher/k3s/k3s.yaml",
    "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
];

pub fn observe(machine: &dyn Machine, gpus: &Inventory) -> Facts {
    let nodes = list(machine, KubeList::Nodes, objects::node);
    Facts {
        agent: agent(machine),
        me: me(machine, &nodes),
        daemonsets: list(machine, KubeList::DaemonSets, objects::workload),
        deployments: list(machine, KubeList::Deployments, objects::workload),
        pods: list(machine, KubeList::Pods, objects::pod),
        cards: gpus.looked.clone().map(|()| {
            gpus.nvidia().map(|card| format!("{} {}", card.identity.bdf.short(), card.short_name())).collect()
        }),
        working: working(gpus),
        models: gpus.nvml.clone().map(|report| {
            report
                .gpus
                .iter()
                .map(|gpu| gpu.name.get().cloned().unwrap_or_else(|| "a card without a name".into()))
                .collect()
        }),
        promised: promised(machine, gpus),
        engine: engine(machine),
        claims: Fact::new(machine.text(CLAIMS), Source::file(CLAIMS)),
        topology: topology(gpus),
        nodes,
    }
}

/// Where NVIDIA's DRA driver keeps what it prepared.
const CLAIMS: &str = "/var/lib/kubelet/plugins/gpu.nvidia.com/checkpoint.json";

/// The cards with a working driver that somebody else was promised.
fn promised(machine: &dyn Machine, gpus: &Inventory) -> Fact<Vec<(String, String)>> {
    let ledger = journal::ledger::read(machine);
    let nvml = gpus.nvml.get();
    let works = |card: &&gpu::Card| {
        let driven = card.driver.get().is_some_and(|driver| driver == "nvidia");
        nvml.is_some_and(|report| !report.gpus.is_empty()) && driven
    };
    let to = |card: &gpu::Card| match promises::promised(&ledger, gpus, card) {
        Promised::To { to } if to != Owner::Pods => {
            Some((format!("{} {}", card.identity.bdf.short(), card.short_name()), to.to_string()))
        }
        _ => None,
    };
    Fact::new(Seen::Is(gpus.nvidia().filter(works).filter_map(to).collect()), Source::file(journal::ledger::DIR))
}

fn engine(machine: &dyn Machine) -> Fact<ContainerdSays> {
    let question = Question::ContainerdConfig;
    let value = machine.ask(&question).and_then(|answer| {
        match answer.json().map(|json| serde_json::from_value(json.clone())) {
            Some(Ok(says)) => Seen::Is(says),
            _ => Seen::Unreadable(Reason::Malformed(format!("{question}: not in the form expected"))),
        }
    });
    Fact::new(value, Source::Answer(question.to_string()))
}

fn topology(gpus: &Inventory) -> Fact<BTreeMap<String, String>> {
    Fact::new(topology::of(gpus), Source::file(DMI_TABLE))
}

fn agent(machine: &dyn Machine) -> Fact<String> {
    let mut blind = None;
    for path in AGENT_FILES {
        match machine.stat(path) {
            Seen::Is(_) => return Fact::new(Seen::Is(path.to_owned()), Source::file(path)),
            Seen::Absent => {}
            Seen::Unreadable(reason) => blind = blind.or(Some((path, reason))),
        }
    }
    match blind {
        Some((path, reason)) => Fact::new(Seen::Unreadable(reason), Source::file(path)),
        None => Fact::new(Seen::Absent, Source::file(AGENT_FILES[0])),
    }
}

fn list<T>(machine: &dyn Machine, kind: KubeList, read: fn(&At) -> Result<T, Bad>) -> Fact<Vec<T>> {
    let question = Question::Kube(kind);
    let value = machine.ask(&question).and_then(|answer| {
        let Some(json) = answer.json() else {
            return Seen::Unreadable(Reason::Malformed(format!("{question}: the answer is no JSON")));
        };
        let items = At::root(json, question.key()).at("items");
        let all = items.and_then(|items| {
            if !items.is_there() {
                return Err(format!("{} has no items", question.key()));
            }
            items.list()?.iter().map(read).collect::<Result<Vec<T>, Bad>>()
        });
        match all {
            Ok(all) => Seen::Is(all),
            Err(bad) => {
                Seen::Unreadable(Reason::Malformed(bad.chars().take(200).flat_map(char::escape_debug).collect()))
            }
        }
    });
    Fact::new(value, Source::Answer(question.to_string()))
}

/// The node that is this machine: by the name the kubelet was given, by host name, at last by machine id where only
/// one node has it (clones share theirs).
fn me(machine: &dyn Machine, nodes: &Fact<Vec<Node>>) -> Fact<String> {
    let all = match &nodes.value {
        Seen::Is(all) => all,
        Seen::Absent => return Fact::new(Seen::Absent, nodes.source.clone()),
        Seen::Unreadable(reason) => return Fact::new(Seen::Unreadable(reason.clone()), nodes.source.clone()),
    };
    let mut named: Vec<(String, &str)> = Vec::new();
    let mut blind = None;
    let mut add = |path: &'static str, pick: fn(&str) -> Option<String>| match machine.text(path) {
        Seen::Is(text) => named.extend(pick(&text).map(|name| (name, path))),
        Seen::Absent => {}
        Seen::Unreadable(reason) => blind = Some((path, reason)),
    };
    add("/var/lib/kubelet/kubeadm-flags.env", |text| after(text, "--hostname-override="));
    add("/etc/kubernetes/kubelet.conf", |text| after(text, "system:node:"));
    add("/proc/sys/kernel/hostname", |text| Some(text.trim().to_lowercase()));
    add("/etc/hostname", |text| Some(text.trim().to_lowercase()));
    for (name, path) in &named {
        let label = |node: &&Node| node.labels.get("kubernetes.io/hostname") == Some(name);
        let node = all.iter().find(|node| node.name == *name).or_else(|| all.iter().find(label));
        if let Some(node) = node {
            return Fact::new(Seen::Is(node.name.clone()), Source::file(*path));
        }
    }
    let path = "/etc/machine-id";
    match machine.value(path) {
        Seen::Is(id) if !id.is_empty() => {
            let mut same = all.iter().filter(|node| node.machine_id.as_deref() == Some(id.as_str()));
            if let (Some(node), None) = (same.next(), same.next()) {
                return Fact::new(Seen::Is(node.name.clone()), Source::file(path));
            }
        }
        Seen::Unreadable(reason) if named.is_empty() => blind = Some((path, reason)),
        _ => {}
    }
    match blind {
        Some((path, reason)) if named.is_empty() => Fact::new(Seen::Unreadable(reason), Source::file(path)),
        _ => Fact::new(Seen::Absent, nodes.source.clone()),
    }
}

/// The word that follows a mark.
fn after(text: &str, mark: &str) -> Option<String> {
    let (_, rest) = text.split_once(mark)?;
    let word: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '.').collect();
    (!word.is_empty()).then(|| word.to_lowercase())
}

fn working(gpus: &Inventory) -> Fact<u64> {
    let nvml = Source::Answer(Question::Nvml.to_string());
    match &gpus.nvml {
        Seen::Is(report) => Fact::new(Seen::Is(report.gpus.len() as u64), nvml),
        Seen::Unreadable(reason) if gpus.driver.kernel.is_there() => Fact::new(Seen::Unreadable(reason.clone()), nvml),
        _ => {
            let source = Source::file("/proc/driver/nvidia/version");
            if let Seen::Unreadable(reason) = &gpus.looked {
                return Fact::new(Seen::Unreadable(reason.clone()), Source::file("/sys/bus/pci/devices"));
            }
            if let (Seen::Unreadable(reason), true) = (&gpus.driver.kernel, gpus.nvidia().next().is_some()) {
                return Fact::new(Seen::Unreadable(reason.clone()), source);
            }
            // No library answers: a module alone is no working driver for a container.
            Fact::new(Seen::Is(0), source)
        }
    }
}

/// Whether there is a cluster to speak of.
pub fn presence(facts: &Facts) -> Presence {
    match (&facts.nodes.value, &facts.agent.value) {
        (Seen::Is(nodes), _) => {
            let me = facts.me.get().map_or("none of them this machine".into(), |me| format!("this machine is {me}"));
            let s = if nodes.len() == 1 { "" } else { "s" };
            Presence::Here(format!("Kubernetes, {} node{s}, {me}", nodes.len()))
        }
        (Seen::Unreadable(reason), Seen::Is(_)) => {
            Presence::Here(format!("a Kubernetes node, whose API could not be asked: {reason}"))
        }
        (Seen::Absent, Seen::Is(_)) => {
            Presence::Here("a Kubernetes node, whose API could not be asked: no kubectl or no kubeconfig here".into())
        }
        (Seen::Absent, Seen::Absent) => Presence::NotHere("no kubelet and no cluster's configuration".into()),
        (Seen::Unreadable(Reason::NotCaptured), Seen::Absent) => Presence::NotHere("no kubelet".into()),
        (Seen::Unreadable(reason), _) | (_, Seen::Unreadable(reason)) => Presence::Unknown(reason.to_string()),
    }
}

impl Facts {
    pub(crate) fn here(&self) -> bool {
        !matches!(presence(self), Presence::NotHere(_))
    }

    /// This machine's own node.
    pub fn own_node(&self) -> Option<&Node> {
        let me = self.me.get()?;
        self.nodes.get()?.iter().find(|node| node.name == *me)
    }

    /// True where this node's GPU is known to work: the driver here says so, or a plugin there offers GPUs.
    pub fn has_gpu(&self, node: &Node) -> bool {
        self.offers(node) > 0 || (self.is_me(node) && self.working.get().is_some_and(|count| *count > 0))
    }

    pub fn is_me(&self, node: &Node) -> bool {
        self.me.get() == Some(&node.name)
    }

    /// How many GPUs (or MIG devices) the node's kubelet counts.
    pub fn offers(&self, node: &Node) -> u64 {
        node.capacity.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// A node that has, or says of itself by a label that it has, a GPU.
    pub fn may_have_gpu(&self, node: &Node) -> bool {
        let labelled = node.labels.iter().any(|(key, value)| is_gpu_label(key) && value != "false" && value != "0");
        let card = self.is_me(node) && self.cards.get().is_some_and(|cards| !cards.is_empty());
        self.has_gpu(node) || labelled || card
    }

    /// The DaemonSets that run a device plugin for `nvidia.com/` resources.
    pub fn plugins(&self) -> Vec<&Workload> {
        self.daemonsets.get().into_iter().flatten().filter(|set| set.pod.is_plugin()).collect()
    }
}
