//! Why a node's pods get no GPU: the links from the PCI slot to the pod in their order, and who has the cards. Pure; what
//! was seen comes as data.

use std::collections::{BTreeMap, BTreeSet};

use model::{Fix, Seen};
use serde::Serialize;

use crate::objects::RESOURCE;
use crate::placement::{selects, untolerated};
use crate::plugin::Found;
use crate::{Facts, Placement};

/// The version of the JSON form.
pub const FORM: u32 = 1;

/// What was seen on this node beside the floor's facts.
#[derive(Clone, Debug)]
pub struct Here {
    pub found: Found,
    /// CDI devices that resolve: "nvidia.com/gpu=GPU-…".
    pub cdi: BTreeSet<String>,
    /// Sockets in the kubelet's directory for plugins; `Absent`: no such directory.
    pub sockets: Seen<Vec<String>>,
    /// The kubelet's own record: resource → devices that a plugin registered.
    pub registered: Seen<BTreeMap<String, Vec<String>>>,
    /// Which pod holds which device, as the kubelet tells it.
    pub grants: Seen<Vec<Grant>>,
    /// Who has a card's nodes open, or runs with it, as seen from this machine.
    pub users: Vec<Use>,
}

/// A device that the kubelet gave away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Grant {
    /// "media/jellyfin-…".
    pub pod: String,
    pub container: String,
    pub resource: String,
    /// A UUID, a replica's `UUID::N`.
    pub device: String,
}

/// Somebody who uses a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Use {
    /// The card's UUID where it is known, else its address.
    pub card: String,
    /// "media/jellyfin-…" of a pod.
    pub pod: Option<String>,
    /// In words: "pod media/jellyfin-…", "VM 100 (media)", "process 1719 ffmpeg".
    pub who: String,
    /// MiB of the card's memory, where NVML told it.
    pub memory: Option<u64>,
}

/// One link of the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Link {
    /// "driver", "device plugin".
    pub name: &'static str,
    pub state: State,
    /// What is so, or what is wrong.
    pub says: String,
    pub fixes: Vec<Fix>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Holds,
    Broken,
    /// It could not be looked at.
    Unknown,
}

fn holds(name: &'static str, says: impl Into<String>) -> Link {
    Link { name, state: State::Holds, says: says.into(), fixes: Vec::new() }
}

fn unknown(name: &'static str, says: impl Into<String>) -> Link {
    Link { name, state: State::Unknown, says: says.into(), fixes: Vec::new() }
}

fn broken(name: &'static str, says: impl Into<String>, fix: Fix) -> Link {
    Link { name, state: State::Broken, says: says.into(), fixes: vec![fix] }
}

const APPLY: &str = "thruway kube manifests | kubectl apply --server-side --filename=-";
const DELETE: &str = "thruway kube manifests | kubectl delete --filename=-";

/// The links, the first first.
pub fn links(facts: &Facts, here: &Here) -> Vec<Link> {
    vec![
        card(facts),
        bound(here),
        driver(facts),
        specs(here),
        kubelet(facts, here),
        plugin(facts, here),
        registered(here),
        offered(facts),
        free(facts, here),
    ]
}

fn card(facts: &Facts) -> Link {
    match &facts.cards {
        Seen::Is(cards) if cards.is_empty() => broken(
            "card",
            "no NVIDIA card is in this machine",
            Fix::planned("in a VM: look on the host whether it is given the card", "thruway vm doctor"),
        ),
        Seen::Is(cards) => holds("card", cards.join(", ")),
        Seen::Absent => unknown("card", "the PCI bus is not there"),
        Seen::Unreadable(reason) => unknown("card", format!("the PCI bus could not be read: {reason}")),
    }
}

fn bound(here: &Here) -> Link {
    let name = "whose it is";
    let all = &here.found.gpus;
    let kept: Vec<String> = all
        .iter()
        .filter_map(|gpu| Some(format!("{} {}: {}", gpu.bdf.short(), gpu.product, gpu.withheld.as_ref()?)))
        .collect();
    match (all.len(), kept.len()) {
        (0, _) => unknown(name, "no card is known"),
        (all, kept_from_pods) if all == kept_from_pods => broken(
            name,
            format!("no card is for pods: {}", kept.join("; ")),
            Fix::planned("give one to pods", "thruway assign GPU pods"),
        ),
        (all, 0) => holds(name, format!("{all} for pods")),
        (all, _) => holds(name, format!("{} of {all} for pods; not {}", all - kept.len(), kept.join("; "))),
    }
}

fn driver(facts: &Facts) -> Link {
    match &facts.working.value {
        Seen::Is(0) => broken(
            "driver",
            "no NVIDIA driver answers here",
            Fix::planned("see why, and have it installed or mended", "thruway guest doctor"),
        ),
        Seen::Is(count) => holds("driver", format!("{count} GPU(s) answer")),
        Seen::Absent => unknown("driver", "not looked at"),
        Seen::Unreadable(reason) => unknown("driver", format!("it could not be asked: {reason}")),
    }
}

fn specs(here: &Here) -> Link {
    let wanted: Vec<&String> = here
        .found
        .gpus
        .iter()
        .filter(|gpu| gpu.withheld.is_none() && !gpu.mig)
        .filter_map(|gpu| gpu.uuid.as_ref())
        .collect();
    let missing: Vec<String> =
        wanted.iter().map(|uuid| format!("nvidia.com/gpu={uuid}")).filter(|name| !here.cdi.contains(name)).collect();
    if wanted.is_empty() {
        return unknown("CDI spec", "no card whose name is known");
    }
    if missing.is_empty() {
        return holds("CDI spec", format!("{} device(s) named by UUID", wanted.len()));
    }
    let mut link = broken(
        "CDI spec",
        format!("no spec names {}", missing.join(", ")),
        Fix::planned("have the spec made; the agent does it too where it runs", "thruway cdi refresh"),
    );
    // an agent of NVIDIA's with the environment or mounts does without
    link.says.push_str("; a plugin that names devices by CDI cannot give it");
    link
}

fn kubelet(facts: &Facts, here: &Here) -> Link {
    let name = "kubelet";
    match (&here.sockets, &facts.agent.value) {
        (Seen::Is(names), _) if names.iter().any(|name| name == "kubelet.sock") => {
            holds(name, "it listens for plugins")
        }
        (Seen::Is(_), _) => broken(
            name,
            "its socket for plugins is not there: it does not run, or has another directory",
            Fix::by_hand(
                "look at it",
                &["systemctl status kubelet", "journalctl --unit=kubelet --lines=50"],
                "nothing to take back",
            ),
        ),
        (Seen::Absent, Seen::Is(_)) => broken(
            name,
            "this is a node, and the kubelet's directory for plugins is not there: it has never run, or has another directory",
            Fix::by_hand("look at it", &["systemctl status kubelet"], "nothing to take back"),
        ),
        (Seen::Absent, _) => broken(
            name,
            "no kubelet is on this machine",
            Fix::by_hand("run this on the node that is meant", &["thruway kube doctor"], "nothing to take back"),
        ),
        (Seen::Unreadable(reason), _) => {
            unknown(name, format!("its directory for plugins could not be read: {reason}"))
        }
    }
}

fn plugin(facts: &Facts, here: &Here) -> Link {
    let name = "device plugin";
    let sockets: Vec<&String> = here
        .sockets
        .get()
        .into_iter()
        .flatten()
        .filter(|name| name.ends_with(".sock") && (name.starts_with("nvidia") || name.starts_with("thruway")))
        .collect();
    let (Some(node), Some(_)) = (facts.own_node(), facts.daemonsets.get()) else {
        return match sockets.first() {
            Some(socket) => holds(name, format!("{socket} is there; what runs it the API could not tell")),
            None => broken(
                name,
                "no plugin's socket is there, and the API could not be asked which should be",
                Fix::by_hand("give the cluster the agent", &[APPLY], DELETE),
            ),
        };
    };
    let sets = facts.plugins();
    let landing: Vec<String> =
        sets.iter().filter(|set| crate::placement::lands_on(&set.pod, node)).map(|set| set.full_name()).collect();
    match (landing.as_slice(), sets.first()) {
        ([], None) => broken(name, "the cluster has none", Fix::by_hand("give it the agent", &[APPLY], DELETE)),
        ([], Some(set)) => {
            let taints: Vec<String> = untolerated(&set.pod, node, true).iter().map(|taint| taint.key.clone()).collect();
            let why = if selects(&set.pod, node) {
                format!("the node's taint {} is not tolerated", taints.join(", "))
            } else {
                let wants = set.pod.gpu_selection().join(" or ");
                format!("the node has not the label that it waits for ({wants})")
            };
            broken(
                name,
                format!("{} does not come to this node: {why}", set.full_name()),
                Fix::planned("see what marks the nodes", "thruway kube plan --preflight"),
            )
        }
        (landing, _) => {
            let pods = facts.pods.get().into_iter().flatten().filter(|pod| pod.node.as_ref() == Some(&node.name));
            let pods: Vec<_> = pods.filter(|pod| pod.pod.is_plugin()).collect();
            let state = pods.iter().map(|pod| format!("{} is {}", pod.name, pod.phase)).collect::<Vec<_>>().join(", ");
            if sockets.is_empty() {
                let log = pods.first().map_or("kubectl get pods --all-namespaces".to_owned(), |pod| {
                    format!("kubectl logs --namespace={} {}", pod.namespace, pod.name)
                });
                let state = if state.is_empty() { "no pod of it is here".to_owned() } else { state };
                return broken(
                    name,
                    format!("{} is to run here and serves no socket: {state}", landing.join(", ")),
                    Fix::by_hand(
                        "read what it says; most often it finds no driver",
                        &[&log, "thruway kube plan"],
                        "nothing to take back",
                    ),
                );
            }
            if landing.len() > 1 {
                return broken(
                    name,
                    format!("{} all come to this node: one of them alone may serve {RESOURCE}", landing.join(", ")),
                    Fix::planned("see which", "thruway doctor --layer cluster"),
                );
            }
            holds(
                name,
                format!(
                    "{} serves {}",
                    landing.join(", "),
                    sockets.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
                ),
            )
        }
    }
}

fn registered(here: &Here) -> Link {
    let name = "registration";
    match &here.registered {
        Seen::Is(known) => {
            let ours: Vec<String> = known
                .iter()
                .filter(|(resource, _)| resource.starts_with("nvidia.com/"))
                .map(|(resource, devices)| format!("{resource}: {}", devices.len()))
                .collect();
            if ours.is_empty() {
                broken(
                    name,
                    "the kubelet knows no plugin of NVIDIA's resources",
                    Fix::by_hand(
                        "restart the plugin's pod on this node and read its log",
                        &["kubectl rollout restart daemonset --namespace=NAMESPACE NAME"],
                        "nothing to take back",
                    ),
                )
            } else {
                holds(name, ours.join(", "))
            }
        }
        Seen::Absent => unknown(name, "the kubelet has written no record yet"),
        Seen::Unreadable(reason) => unknown(name, format!("the kubelet's record could not be read: {reason}")),
    }
}

fn offered(facts: &Facts) -> Link {
    let name = "node status";
    let Some(node) = facts.own_node() else {
        return unknown(name, "the API could not be asked, or lists no node that is this machine");
    };
    let all: u64 = facts.offers(node);
    let may: u64 = node.allocatable.values().fold(0, |sum, count| sum.saturating_add(*count));
    if all == 0 {
        return broken(
            name,
            format!("node {} says {RESOURCE}: 0", node.name),
            Fix::planned(
                "the first broken link above is the cause; without one, see what the checks say",
                "thruway doctor --layer cluster",
            ),
        );
    }
    if may < all {
        return broken(
            name,
            format!("node {} has {all} and may grant {may}: the plugin calls {} unhealthy", node.name, all - may),
            Fix::by_hand("see why", &["thruway gpus -v"], "nothing to take back"),
        );
    }
    let words: Vec<String> = node.capacity.iter().map(|(resource, count)| format!("{resource}: {count}")).collect();
    holds(name, format!("node {} offers {}", node.name, words.join(", ")))
}

fn free(facts: &Facts, here: &Here) -> Link {
    let name = "grants";
    let may: u64 =
        facts.own_node().map_or(0, |node| node.allocatable.values().fold(0, |sum, count| sum.saturating_add(*count)));
    match &here.grants {
        Seen::Is(grants) => {
            let held = grants.len();
            let pods: BTreeSet<&str> = grants.iter().map(|grant| grant.pod.as_str()).collect();
            let who = pods.into_iter().collect::<Vec<_>>().join(", ");
            match u64::try_from(held).unwrap_or(u64::MAX) {
                0 => holds(name, "none is granted"),
                held if may > 0 && held >= may => {
                    holds(name, format!("all {held} are granted, to {who}: whoever asks now waits"))
                }
                held => holds(name, format!("{held} granted, to {who}")),
            }
        }
        Seen::Absent => unknown(name, "the kubelet's socket for pod resources is not there"),
        Seen::Unreadable(reason) => unknown(name, format!("the kubelet could not be asked: {reason}")),
    }
}

/// The uses that no grant covers: pods that have a card open which the kubelet did not give them.
pub fn ungranted(here: &Here) -> Vec<&Use> {
    let Seen::Is(grants) = &here.grants else { return Vec::new() };
    let granted = |pod: &str, card: &str| {
        grants.iter().any(|grant| {
            let device = grant.device.split("::").next().unwrap_or_default();
            // an instance's UUID does not tell its card
            grant.pod == pod && (device == card || device.starts_with("MIG-"))
        })
    };
    let without = |used: &&Use| used.pod.as_ref().is_some_and(|pod| !granted(pod, &used.card) && !agent(pod));
    here.users.iter().filter(without).collect()
}

/// The agent's own pods look at every card.
fn agent(pod: &str) -> bool {
    let name = pod.split_once('/').map_or(pod, |(_, name)| name);
    name.starts_with(&format!("{}-", Placement::AGENT))
        || name.starts_with("nvidia-device-plugin")
        || name.starts_with("nvidia-dcgm")
}
