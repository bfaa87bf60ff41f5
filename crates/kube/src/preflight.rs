//! Which nodes get the agent, by what, and why the others do not: said before anything is applied. Pure.

use serde::Serialize;

use crate::Facts;
use crate::manifests::{GPU_NODE_LABELS, Placement};
use crate::objects::{self, Node, PodSpec, Taint};
use crate::placement::{lands_on, selects, untolerated};
use crate::read::At;

/// The version of the JSON form.
pub const FORM: u32 = 1;

/// What becomes of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Landing {
    pub node: String,
    pub agent: Agent,
    /// What stands in the way, or will be met, in words.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Agent {
    /// It runs there as soon as it is applied: by this label.
    Lands { label: String },
    /// Nothing marks the node yet; the discovery pod looks there and marks it where a card is.
    Discovered,
    /// It does not run there.
    Not { why: String },
}

/// A version as "v1.31.4+k3s1" has it: 1 and 31.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(['.', '+', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What the manifests' agent meets on each node.
pub fn preflight(facts: &Facts, placement: &Placement) -> Vec<Landing> {
    let pods = |name: &str| {
        let set = placement.objects().into_iter().find(|object| {
            object.get("kind").is_some_and(|kind| kind == "DaemonSet")
                && object.pointer("/metadata/name").is_some_and(|own| own == name)
        })?;
        let spec = set.pointer("/spec/template/spec").cloned()?;
        objects::pod_spec(&At::root(&spec, name)).ok()
    };
    let Some(agent) = pods(Placement::AGENT) else { return Vec::new() };
    let discover = pods(Placement::DISCOVER);
    facts.nodes.get().into_iter().flatten().map(|node| one(facts, node, &agent, discover.as_ref(), placement)).collect()
}

fn tainted(taints: &[&Taint]) -> String {
    let word = |taint: &&Taint| format!("{}:{}", taint.key, taint.effect);
    taints.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn one(facts: &Facts, node: &Node, agent: &PodSpec, discover: Option<&PodSpec>, placement: &Placement) -> Landing {
    let mut notes = Vec::new();
    let label = GPU_NODE_LABELS.iter().find(|key| node.labels.get(**key).map(String::as_str) == Some("true"));
    let blocked = untolerated(agent, node, true);
    let state = match label {
        Some(label) if blocked.is_empty() => Agent::Lands { label: format!("{label}=true") },
        Some(_) => Agent::Not { why: format!("its taint {} is not tolerated", tainted(&blocked)) },
        None if !selects(agent, node) => {
            let others: Vec<String> = node
                .labels
                .iter()
                .filter(|(key, _)| objects::is_gpu_label(key))
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            if !others.is_empty() {
                notes.push(format!("it carries {}, by which the agent does not go", others.join(", ")));
            }
            match discover {
                Some(pod) if lands_on(pod, node) => {
                    if !blocked.is_empty() {
                        notes.push(format!(
                            "with a card found the agent would still be kept off by {}",
                            tainted(&blocked)
                        ));
                    }
                    Agent::Discovered
                }
                Some(_) => Agent::Not { why: "the discovery pod does not run there either".into() },
                None => Agent::Not { why: "it carries none of the labels that mark a node with a card".into() },
            }
        }
        None => Agent::Lands { label: "its selection".into() },
    };
    if !matches!(state, Agent::Not { .. }) {
        for set in facts.plugins().into_iter().filter(|set| !set.pod.is_agent() && lands_on(&set.pod, node)) {
            notes.push(format!(
                "{} serves nvidia.com/gpu there: the agent refuses to be the second; take that one away first",
                set.full_name()
            ));
        }
        if let Some(version) = &node.kubelet {
            match minor(version) {
                Some(version) if version < (1, 10) => notes.push("its kubelet has no device plugins (1.10)".into()),
                Some(at) if at < (1, 28) => notes.push(format!(
                    "its kubelet is {version}: CDI names by the kubelet need 1.28; set DEVICE_LIST_STRATEGY to cdi-annotations or volume-mounts"
                )),
                _ => {}
            }
            if placement.policy && minor(version).is_some_and(|version| version < (1, 32)) {
                notes.push(format!(
                    "its kubelet is {version}: tokens that name their node, which the admission policy asks for, need 1.32; or --no-policy"
                ));
            }
        }
        let old = node.runtime.as_deref().and_then(|runtime| runtime.strip_prefix("containerd://")).and_then(minor);
        if old.is_some_and(|version| version < (1, 7)) {
            notes.push("its containerd is older than 1.7 and takes no CDI names from the kubelet".into());
        }
        if node.runtime.as_deref().is_some_and(|runtime| runtime.starts_with("docker://")) {
            notes.push("its engine is docker behind the kubelet, which takes no CDI names: set DEVICE_LIST_STRATEGY=envvar or volume-mounts".into());
        }
    }
    if node.unready {
        notes.push("the node is not ready".into());
    }
    Landing { node: node.name.clone(), agent: state, notes }
}
