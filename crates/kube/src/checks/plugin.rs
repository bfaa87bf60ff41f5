//! Where the device plugin runs.

use model::{Fix, Trouble, Verdict};

use super::{Outcome, need, node_source, planned, shown};
use crate::Facts;
use crate::objects::{Node, Workload, is_gpu_label};
use crate::placement::{lands_on, selects, untolerated};

fn plugins(facts: &Facts) -> Result<(&[Node], Vec<&Workload>), Verdict> {
    let nodes = need(facts, &facts.nodes)?;
    need(facts, &facts.daemonsets)?;
    let plugins = facts.plugins();
    if plugins.is_empty() { Err(Verdict::NotApplicable) } else { Ok((nodes, plugins)) }
}

fn counts(set: &Workload) -> String {
    let word = |count: Option<i64>| count.map_or("not yet counted".to_owned(), |count| count.to_string());
    format!("DESIRED {}, CURRENT {}", word(set.status.desired), word(set.status.current))
}

fn source(set: &Workload) -> model::Source {
    shown("daemonset", &set.namespace, &set.name)
}

pub fn lands_nowhere(facts: &Facts) -> Outcome {
    let (nodes, plugins) = plugins(facts)?;
    let Some(set) = plugins.iter().find(|set| !nodes.iter().any(|node| selects(&set.pod, node))) else {
        return Ok(Verdict::Pass);
    };
    let selection = set.pod.gpu_selection();
    let wants = if selection.is_empty() { "its node selection".into() } else { selection.join(" or ") };
    let mut trouble = Trouble::new(format!(
        "the device plugin {} runs nowhere: it waits for {wants}, and no node answers to that",
        set.full_name()
    ))
    .seen(source(set), counts(set));
    // Node-feature-discovery's other spelling is what people have instead.
    for node in nodes {
        let pci: Vec<&str> =
            node.labels.keys().map(String::as_str).filter(|key| key.contains("/pci-") && is_gpu_label(key)).collect();
        if !pci.is_empty() {
            trouble = trouble.seen(node_source(&node.name), format!("{} (class and vendor)", pci.join(", ")));
        }
    }
    let fix = Fix::by_hand(
        "let node-feature-discovery write the label by vendor alone (its worker's configuration, sources.pci)",
        &["deviceLabelFields: [\"vendor\"]"],
        "take the line out again",
    );
    Ok(Verdict::Fail(trouble.fix(planned("label the nodes whose GPU works")).fix(fix)))
}

pub fn everywhere(facts: &Facts) -> Outcome {
    let (nodes, plugins) = plugins(facts)?;
    let gpu_nodes: Vec<&str> =
        nodes.iter().filter(|node| facts.may_have_gpu(node)).map(|node| node.name.as_str()).collect();
    for set in plugins {
        let too_many: Vec<&str> = nodes
            .iter()
            .filter(|node| lands_on(&set.pod, node) && !facts.may_have_gpu(node))
            .map(|node| node.name.as_str())
            .collect();
        if too_many.is_empty() {
            continue;
        }
        let have = match gpu_nodes.as_slice() {
            [] => "no node has a GPU".to_owned(),
            [one] => format!("only {one} has a GPU"),
            more => format!("only {} have GPUs", more.join(", ")),
        };
        let selection = set.pod.gpu_selection();
        let affinity = if selection.is_empty() { "no affinity to a GPU label".into() } else { selection.join(", ") };
        let trouble = Trouble::new(format!(
            "the device plugin {} also runs on {}, and {have}",
            set.full_name(),
            too_many.join(", ")
        ))
        .seen(source(set), counts(set))
        .seen(source(set), affinity)
        .fix(planned("keep the DaemonSet to nodes labelled nvidia.com/gpu.present=true"));
        return Ok(Verdict::Warn(trouble));
    }
    Ok(Verdict::Pass)
}

pub fn two(facts: &Facts) -> Outcome {
    let (nodes, plugins) = plugins(facts)?;
    for node in nodes {
        let here: Vec<&&Workload> = plugins.iter().filter(|set| lands_on(&set.pod, node)).collect();
        if let [first, second, ..] = here.as_slice() {
            let mut trouble = Trouble::new(format!(
                "{} and {} both serve nvidia.com/gpu on node {}",
                first.full_name(),
                second.full_name(),
                node.name
            ));
            for set in &here {
                trouble = trouble.seen(source(set), counts(set));
            }
            let delete = format!("kubectl delete daemonset --namespace={} {}", second.namespace, second.name);
            let fix = Fix::by_hand(
                "keep the one that you maintain, delete the other",
                &[&delete],
                "apply its manifest again",
            )
            .costs("pods that hold a GPU keep it; new ones wait until the other plugin has registered");
            return Ok(Verdict::Fail(trouble.fix(fix)));
        }
    }
    Ok(Verdict::Pass)
}

pub fn taints(facts: &Facts) -> Outcome {
    let nodes = need(facts, &facts.nodes)?;
    let deployments = need(facts, &facts.deployments)?;
    need(facts, &facts.daemonsets)?;
    let plugins = facts.plugins();
    let gpu_nodes: Vec<&Node> = nodes.iter().filter(|node| facts.may_have_gpu(node)).collect();
    let users: Vec<&Workload> = deployments.iter().filter(|deployment| deployment.pod.gpus() > 0).collect();
    if gpu_nodes.is_empty() || (plugins.is_empty() && users.is_empty()) {
        return Err(Verdict::NotApplicable);
    }
    for set in &plugins {
        for node in &gpu_nodes {
            let taints = untolerated(&set.pod, node, true);
            let served = plugins.iter().any(|other| lands_on(&other.pod, node));
            if let (Some(taint), true, false) = (taints.first(), selects(&set.pod, node), served) {
                let says = format!(
                    "node {} is tainted {}:{}, which the device plugin {} does not tolerate, so its GPU is never offered",
                    node.name,
                    taint.key,
                    taint.effect,
                    set.full_name()
                );
                return Ok(Verdict::Fail(tainted(says, set, "daemonset", node, taint)));
            }
        }
    }
    for user in users {
        let reachable: Vec<&Node> = gpu_nodes.iter().copied().filter(|node| selects(&user.pod, node)).collect();
        let mut all = Vec::new();
        for node in reachable.iter().copied() {
            all.extend(untolerated(&user.pod, node, false).first().map(|taint| (node, *taint)));
        }
        if let (Some((node, taint)), true) = (all.first(), all.len() == reachable.len()) {
            let says = format!(
                "node {} is tainted {}:{}, which {} does not tolerate though it asks for a GPU",
                node.name,
                taint.key,
                taint.effect,
                user.full_name()
            );
            return Ok(Verdict::Warn(tainted(says, user, "deployment", node, taint)));
        }
    }
    Ok(Verdict::Pass)
}

fn tainted(says: String, load: &Workload, kind: &str, node: &Node, taint: &crate::objects::Taint) -> Trouble {
    let value = if taint.value.is_empty() { String::new() } else { format!("={}", taint.value) };
    let paste = format!("tolerations: [{{key: \"{}\", operator: Exists, effect: {}}}]", taint.key, taint.effect);
    let off = format!("kubectl taint node {} {}:{}-", node.name, taint.key, taint.effect);
    let on = format!("kubectl taint node {} {}{value}:{}", node.name, taint.key, taint.effect);
    Trouble::new(says)
        .seen(node_source(&node.name), format!("{}{value}:{}", taint.key, taint.effect))
        .seen(shown(kind, &load.namespace, &load.name), "tolerations name no such key")
        .fix(Fix::by_hand(
            format!("tolerate it in {}'s pod template", load.full_name()),
            &[&paste],
            "take the toleration out again",
        ))
        .fix(
            Fix::by_hand("or take the taint off the node", &[&off], on)
                .costs("pods of all kinds may go to that node again"),
        )
}
