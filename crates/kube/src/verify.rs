//! Whether a plan's promises hold: asked of the API again.

use model::{Evidence, Intent, Outcome, OutcomeState, Seen, Source};

use crate::objects::{Node, PRESENT, Workload};
use crate::placement::lands_on;
use crate::{Facts, topology};

/// Labels there and only there; the device plugin on GPU nodes alone; the Deployments' pods granted a GPU.
pub fn verify(facts: &Facts, intent: &Intent) -> Vec<Outcome> {
    if !facts.here() {
        return Vec::new();
    }
    let nodes = match &facts.nodes.value {
        Seen::Is(nodes) => nodes,
        other => {
            let why = other.unreadable().map_or("no kubectl or no kubeconfig here".into(), ToString::to_string);
            return vec![outcome("the cluster's nodes are labelled", OutcomeState::Unknown(why), Vec::new())];
        }
    };
    let mut all: Vec<Outcome> = nodes.iter().filter_map(|node| label(facts, node)).collect();
    all.extend(facts.own_node().and_then(|me| places(facts, me)));
    all.extend(facts.plugins().iter().filter_map(|set| plugin(facts, nodes, set)));
    for deployment in facts.deployments.get().into_iter().flatten() {
        let named =
            intent.deployment.as_deref().is_some_and(|name| name == deployment.full_name() || name == deployment.name);
        let by_itself = intent.deployment.is_none() && deployment.pod.gpus() > 0;
        if named || by_itself {
            all.push(granted(facts, deployment));
        }
    }
    all
}

fn outcome(says: impl Into<String>, state: OutcomeState, evidence: Vec<(Source, String)>) -> Outcome {
    let evidence = evidence.into_iter().map(|(source, value)| Evidence { source, value }).collect();
    Outcome { says: says.into(), state, evidence }
}

fn label(facts: &Facts, node: &Node) -> Option<Outcome> {
    let value = node.labels.get(PRESENT).map(String::as_str);
    let evidence =
        vec![(facts.nodes.source.clone(), format!("{}: {PRESENT}={}", node.name, value.unwrap_or("(not set)")))];
    if facts.has_gpu(node) {
        let state = match value {
            Some("true") => OutcomeState::Held,
            _ => OutcomeState::Failed("the label is not there".into()),
        };
        return Some(outcome(format!("node {} is labelled {PRESENT}=true", node.name), state, evidence));
    }
    let none_here = matches!(&facts.cards, Seen::Is(cards) if cards.is_empty());
    match value {
        Some("true") if facts.is_me(node) && none_here => {
            let state = OutcomeState::Failed("no NVIDIA card is in it".into());
            Some(outcome(format!("node {} is not labelled as one with a GPU", node.name), state, evidence))
        }
        _ => None,
    }
}

/// The labels of the cards' places, where any are told or set.
fn places(facts: &Facts, me: &Node) -> Option<Outcome> {
    let wanted = facts.topology.get()?;
    let ours: Vec<String> = me
        .labels
        .iter()
        .filter(|(key, _)| topology::is_ours(key))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if wanted.is_empty() && ours.is_empty() {
        return None;
    }
    let state = match topology::changes(&me.labels, wanted).first() {
        None => OutcomeState::Held,
        Some((key, _)) => OutcomeState::Failed(format!("{key} says otherwise than the host told")),
    };
    let says = format!("node {} is labelled with its cards' places on the host", me.name);
    Some(outcome(says, state, vec![(facts.nodes.source.clone(), format!("{}: {}", me.name, ours.join(", ")))]))
}

fn plugin(facts: &Facts, nodes: &[Node], set: &Workload) -> Option<Outcome> {
    let labelled = nodes.iter().filter(|node| node.labels.get(PRESENT).map(String::as_str) == Some("true")).count();
    if labelled == 0 {
        return None;
    }
    let name = set.full_name();
    let stray: Vec<&str> = nodes
        .iter()
        .filter(|node| lands_on(&set.pod, node) && !facts.may_have_gpu(node))
        .map(|node| node.name.as_str())
        .collect();
    let wanted = nodes.iter().filter(|node| lands_on(&set.pod, node)).count() as i64;
    let word = |count: Option<i64>| count.map_or("?".to_owned(), |count| count.to_string());
    let counts = format!("{name}: DESIRED {}, CURRENT {}", word(set.status.desired), word(set.status.current));
    let state = if !stray.is_empty() {
        OutcomeState::Failed(format!("it also runs on {}", stray.join(", ")))
    } else if wanted == 0 {
        OutcomeState::Failed("it runs nowhere".into())
    } else if behind(set) || set.status.desired != Some(wanted) || set.status.current != Some(wanted) {
        OutcomeState::Pending("the DaemonSet controller".into())
    } else {
        OutcomeState::Held
    };
    let says = format!("{name} runs on {wanted} of {} nodes, those with a GPU", nodes.len());
    Some(outcome(says, state, vec![(facts.daemonsets.source.clone(), counts)]))
}

/// The controller has not yet looked at the object as it is now.
fn behind(load: &Workload) -> bool {
    matches!((load.generation, load.status.observed_generation), (Some(now), Some(seen)) if seen < now)
}

fn granted(facts: &Facts, deployment: &Workload) -> Outcome {
    let name = deployment.full_name();
    let gpus = deployment.pod.gpus();
    let around = deployment.pod.containers.iter().find(|container| container.takes_by_env().is_some());
    let mut evidence = vec![(facts.deployments.source.clone(), format!("{name}: nvidia.com limits {gpus}"))];
    let waiting = facts.pods.get().into_iter().flatten().find(|pod| {
        let ours = pod.owner.as_deref().and_then(|owner| owner.strip_prefix("ReplicaSet/"));
        let ours = ours.is_some_and(|set| set.rsplit_once('-').is_some_and(|(front, _)| front == deployment.name));
        ours && pod.namespace == deployment.namespace
            && pod.phase == "Pending"
            && pod.pod.gpus() > 0
            && pod.node.is_none()
    });
    let available = deployment.status.available.unwrap_or(0);
    let updated = deployment.status.updated.unwrap_or(0);
    let state = if gpus == 0 {
        OutcomeState::Failed("it asks for no GPU".into())
    } else if let Some(container) = around {
        OutcomeState::Failed(format!("container {} still takes GPUs by NVIDIA_VISIBLE_DEVICES", container.name))
    } else if let Some(pod) = waiting {
        let said = pod.unscheduled.clone().unwrap_or_default();
        evidence.push((facts.pods.source.clone(), format!("{}: {said}", pod.name)));
        OutcomeState::Pending("a node with a free GPU".into())
    } else if behind(deployment) || updated < deployment.replicas || available < deployment.replicas {
        evidence.push((facts.deployments.source.clone(), format!("{updated} updated, {available} available")));
        OutcomeState::Pending(format!("the rollout of {name}"))
    } else {
        OutcomeState::Held
    };
    outcome(format!("{name} gets {gpus} GPU a pod from the scheduler"), state, evidence)
}
