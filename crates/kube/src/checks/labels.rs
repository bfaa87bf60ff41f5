//! Whether the nodes' labels tell the truth about GPUs.

use model::{Fix, Seen, Trouble, Verdict};

use super::{Outcome, need, node_source, planned};
use crate::objects::{Node, PRESENT, is_gpu_label};
use crate::{Facts, topology};

fn gpu_labels(node: &Node) -> Vec<String> {
    let labels = node.labels.iter().filter(|(key, value)| is_gpu_label(key) && *value != "false" && *value != "0");
    labels.map(|(key, value)| format!("{key}={value}")).collect()
}

/// The driver's state here matters only where this machine is a node.
fn driver_known(facts: &Facts) -> Result<(), Verdict> {
    match &facts.working.value {
        Seen::Unreadable(reason) if facts.me.get().is_some() => {
            Err(Verdict::Unknown { reason: reason.clone(), what: facts.working.source.to_string() })
        }
        _ => Ok(()),
    }
}

pub fn unlabelled(facts: &Facts) -> Outcome {
    let nodes = need(facts, &facts.nodes)?;
    let with: Vec<&Node> = nodes.iter().filter(|node| facts.has_gpu(node)).collect();
    let without_label: Vec<&&Node> =
        with.iter().filter(|node| node.labels.get(PRESENT).map(String::as_str) != Some("true")).collect();
    let Some(first) = without_label.first() else {
        driver_known(facts)?;
        return if with.is_empty() { Err(Verdict::NotApplicable) } else { Ok(Verdict::Pass) };
    };
    let names: Vec<&str> = without_label.iter().map(|node| node.name.as_str()).collect();
    let mut trouble = Trouble::new(format!(
        "the GPU works on node {}, and no label {PRESENT}=true says so to the scheduler",
        names.join(", ")
    ));
    for node in &without_label {
        let labels = gpu_labels(node);
        let labels = if labels.is_empty() { "no GPU label".into() } else { labels.join(", ") };
        trouble = trouble.seen(node_source(&node.name), labels);
    }
    let by_hand = format!("kubectl label node {} {PRESENT}=true", first.name);
    let back = format!("kubectl label node {} {PRESENT}-", first.name);
    Ok(Verdict::Warn(trouble.fix(planned("label the nodes whose GPU works")).fix(Fix::by_hand(
        "label by hand",
        &[&by_hand],
        back,
    ))))
}

pub fn without_gpu(facts: &Facts) -> Outcome {
    let nodes = need(facts, &facts.nodes)?;
    let labelled: Vec<(&Node, Vec<String>)> =
        nodes.iter().map(|node| (node, gpu_labels(node))).filter(|(_, labels)| !labels.is_empty()).collect();
    if labelled.is_empty() {
        return Err(Verdict::NotApplicable);
    }
    let empty: Vec<&(&Node, Vec<String>)> = labelled.iter().filter(|(node, _)| !facts.has_gpu(node)).collect();
    let Some((node, labels)) = empty.first() else { return Ok(Verdict::Pass) };
    if empty.iter().any(|(node, _)| facts.is_me(node)) {
        driver_known(facts)?;
    }
    let mut trouble = Trouble::new(format!("node {} says {}, and no GPU works there", node.name, labels.join(", ")));
    for (node, labels) in &empty {
        trouble = trouble.seen(node_source(&node.name), labels.join(", "));
        trouble = match &facts.cards {
            _ if !facts.is_me(node) => trouble.seen(node_source(&node.name), "capacity: no nvidia.com resource"),
            Seen::Is(cards) if cards.is_empty() => {
                trouble.seen(facts.working.source.clone(), "no NVIDIA card is in this machine")
            }
            Seen::Is(cards) => {
                trouble.seen(facts.working.source.clone(), format!("no NVIDIA driver answers for {}", cards.join(", ")))
            }
            _ => trouble.seen(facts.working.source.clone(), "no NVIDIA driver answers"),
        };
    }
    let key = labels.first().and_then(|label| label.split_once('=')).map_or("", |(key, _)| key);
    let value = node.labels.get(key).map_or("", String::as_str);
    let by_hand = format!("kubectl label node {} {key}-", node.name);
    let back = format!("kubectl label node {} {key}={value}", node.name);
    let card_here = facts.is_me(node) && facts.cards.get().is_some_and(|cards| !cards.is_empty());
    let driver = Fix::planned("make the driver work on this machine first", "thruway guest plan");
    let trouble = if card_here { trouble.fix(driver) } else { trouble };
    Ok(Verdict::Warn(trouble.fix(Fix::by_hand("take the label off", &[&by_hand], back))))
}

pub fn topology(facts: &Facts) -> Outcome {
    let nodes = need(facts, &facts.nodes)?;
    let Some(node) = facts.me.get().and_then(|me| nodes.iter().find(|node| node.name == *me)) else {
        return Err(Verdict::NotApplicable);
    };
    let labelled = node.labels.keys().any(|key| topology::is_ours(key));
    let wanted = match &facts.topology.value {
        Seen::Is(wanted) => wanted,
        Seen::Unreadable(reason) if labelled => {
            return Err(Verdict::Unknown { reason: reason.clone(), what: facts.topology.source.to_string() });
        }
        _ => return Err(Verdict::NotApplicable),
    };
    if wanted.is_empty() && !labelled {
        return Err(Verdict::NotApplicable);
    }
    let changes = topology::changes(&node.labels, wanted);
    if changes.is_empty() {
        return Ok(Verdict::Pass);
    }
    let mut trouble =
        Trouble::new(format!("the labels of node {} do not say where its cards sit, as its host told it", node.name));
    for (key, value) in changes {
        let now = node.labels.get(&key).map_or("not set", String::as_str);
        let told = value.as_deref().unwrap_or("nothing");
        trouble = trouble.seen(node_source(&node.name), format!("{key}: {now}; told: {told}"));
    }
    Ok(Verdict::Warn(trouble.fix(planned("label the node by what its host told"))))
}
