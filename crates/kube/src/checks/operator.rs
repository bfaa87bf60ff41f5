//! The GPU operator's driver upgrades, and NVIDIA's DRA driver.

use model::{Fix, Seen, Trouble, Verdict};
use serde_json::Value;

use super::{Outcome, need, node_source, shown};
use crate::Facts;
use crate::objects::{Node, Pod};
use crate::placement::lands_on;

const UPGRADE: &str = "nvidia.com/gpu-driver-upgrade-state";

fn upgraded(facts: &Facts) -> Result<Vec<(&Node, &str)>, Verdict> {
    let nodes = need(facts, &facts.nodes)?;
    let all: Vec<(&Node, &str)> =
        nodes.iter().filter_map(|node| Some((node, node.labels.get(UPGRADE)?.as_str()))).collect();
    if all.is_empty() { Err(Verdict::NotApplicable) } else { Ok(all) }
}

/// Pods on a node that use its GPUs and ask for none: an upgrade's eviction looks at requests.
fn unseen<'a>(pods: &'a [Pod], node: &Node) -> Vec<&'a Pod> {
    let operand = |pod: &Pod| pod.pod.containers.iter().any(|c| c.image.starts_with("nvcr.io/nvidia/"));
    let uses = |pod: &Pod| {
        pod.pod.containers.iter().any(|container| container.takes_by_env().is_some())
            || pod.pod.host_paths.iter().any(|path| path.starts_with("/dev/nvidia"))
    };
    pods.iter()
        .filter(|pod| pod.node.as_deref() == Some(&node.name) && pod.phase == "Running")
        .filter(|pod| pod.pod.gpus() == 0 && uses(pod) && !pod.pod.is_plugin() && !operand(pod))
        .collect()
}

pub fn upgrade_stuck(facts: &Facts) -> Outcome {
    let nodes = upgraded(facts)?;
    let pods = need(facts, &facts.pods)?;
    let Some((node, state)) = nodes.iter().find(|(_, state)| *state == "upgrade-failed") else {
        return Ok(Verdict::Pass);
    };
    let holders: Vec<String> = pods
        .iter()
        .filter(|pod| pod.node.as_deref() == Some(&node.name) && pod.phase == "Running" && pod.pod.gpus() > 0)
        .chain(unseen(pods, node))
        .map(|pod| format!("{}/{}", pod.namespace, pod.name))
        .collect();
    let held = if holders.is_empty() {
        "no pod that we know of uses the card".into()
    } else {
        format!("used by {}", holders.join(", "))
    };
    let again = format!("kubectl label node {} {UPGRADE}=upgrade-required --overwrite", node.name);
    let trouble = Trouble::new(format!(
        "the driver's upgrade on node {} failed; its module goes only when nobody has the card open",
        node.name
    ))
    .seen(node_source(&node.name), format!("{UPGRADE}={state}"))
    .seen(facts.pods.source.clone(), held)
    .fix(
        Fix::by_hand(
            "on that node see who holds it, stop those, and have the operator try again",
            &["thruway kube doctor --users", &again],
            "nothing to take back",
        )
        .costs("what is stopped is away"),
    );
    Ok(Verdict::Fail(trouble))
}

pub fn unseen_users(facts: &Facts) -> Outcome {
    let nodes = upgraded(facts)?;
    let pods = need(facts, &facts.pods)?;
    for (node, state) in nodes {
        let users = unseen(pods, node);
        let Some(first) = users.first() else { continue };
        let mut trouble = Trouble::new(format!(
            "an upgrade of the driver on node {} does not see {}/{}, which uses its GPU and asks for none",
            node.name, first.namespace, first.name
        ))
        .seen(node_source(&node.name), format!("{UPGRADE}={state}"));
        for pod in users.iter().take(5) {
            trouble = trouble.seen(shown("pod", &pod.namespace, &pod.name), "no nvidia.com limit");
        }
        let fix = Fix::by_hand(
            "let it ask for its GPU, so that it is evicted and granted like others",
            &["thruway kube patch deployment/NAME --gpus 1"],
            "thruway undo",
        )
        .costs("its pods are started anew");
        return Ok(Verdict::Warn(trouble.fix(fix)));
    }
    Ok(Verdict::Pass)
}

pub fn dra_down(facts: &Facts) -> Outcome {
    let pods = need(facts, &facts.pods)?;
    let drivers: Vec<&Pod> = pods.iter().filter(|pod| pod.pod.is_dra()).collect();
    if drivers.is_empty() {
        return Err(Verdict::NotApplicable);
    }
    let Some(pod) = drivers.iter().find(|pod| !pod.ready) else { return Ok(Verdict::Pass) };
    let node = pod.node.clone().unwrap_or_default();
    let mut trouble = Trouble::new(format!(
        "the DRA driver on node {node} is not ready, so the node publishes no GPU: {}/{}",
        pod.namespace, pod.name
    ));
    for state in pod.states.iter().filter(|state| state.reason != "Running") {
        let text: String = state
            .messages
            .first()
            .map(|text| text.trim().chars().take(300).filter(|c| !c.is_control()).collect())
            .unwrap_or_default();
        trouble = trouble.seen(
            shown("pod", &pod.namespace, &pod.name),
            format!("container {}: {} {text}", state.container, state.reason).trim_end().to_owned(),
        );
    }
    let log = format!("kubectl logs --all-containers --previous --namespace={} {}", pod.namespace, pod.name);
    let fix = Fix::by_hand(
        "read its last words: one query that a card does not answer (MIG on a T4 or P4, MIG made by hand) ends the whole enumeration in old releases",
        &[&log, "thruway gpus -v"],
        "nothing to take back",
    );
    Ok(Verdict::Fail(trouble.fix(fix)))
}

/// True where a claim's preparation began and was not finished.
fn half(value: &Value) -> bool {
    match value {
        Value::String(text) => text == "PrepareStarted",
        Value::Array(list) => list.iter().any(half),
        Value::Object(map) => map.values().any(half),
        _ => false,
    }
}

pub fn dra_checkpoint(facts: &Facts) -> Outcome {
    need(facts, &facts.nodes)?;
    let text = match &facts.claims.value {
        Seen::Is(text) => text,
        Seen::Absent => return Err(Verdict::NotApplicable),
        Seen::Unreadable(reason) => {
            return Err(Verdict::Unknown { reason: reason.clone(), what: facts.claims.source.to_string() });
        }
    };
    let (says, seen) = match serde_json::from_str::<Value>(text) {
        Err(bad) => (
            "the DRA driver's record of prepared claims is broken, and it will not start with it".to_owned(),
            format!("line {}: {bad}", bad.line()),
        ),
        Ok(value) if half(&value) => (
            "the DRA driver began to prepare a claim and never finished: a card may be half cut or half bound"
                .to_owned(),
            "PrepareStarted".to_owned(),
        ),
        Ok(_) => return Ok(Verdict::Pass),
    };
    let keep = format!("mv {0} {0}.kept", facts.claims.source);
    let trouble = Trouble::new(says).seen(facts.claims.source.clone(), seen).fix(
        Fix::by_hand(
            "see what state the cards are in; then drain the node and let the driver begin anew, the record kept aside",
            &["thruway gpus -v", &keep],
            "move the file back",
        )
        .costs("pods with claims on this node must be gone first"),
    );
    Ok(Verdict::Fail(trouble))
}

pub fn two_roads(facts: &Facts) -> Outcome {
    let nodes = need(facts, &facts.nodes)?;
    let sets = need(facts, &facts.daemonsets)?;
    let dra: Vec<_> = sets.iter().filter(|set| set.pod.is_dra()).collect();
    if dra.is_empty() {
        return Err(Verdict::NotApplicable);
    }
    for node in nodes {
        let plugin = facts.plugins().into_iter().find(|set| lands_on(&set.pod, node));
        let driver = dra.iter().find(|set| lands_on(&set.pod, node));
        let (Some(plugin), Some(driver)) = (plugin, driver) else { continue };
        let off = format!("kubectl label node {} nvidia.com/gpu.deploy.device-plugin=false", node.name);
        let on = format!("kubectl label node {} nvidia.com/gpu.deploy.device-plugin-", node.name);
        let trouble = Trouble::new(format!(
            "{} and {} both offer the cards of node {}: one card can be given twice",
            plugin.full_name(),
            driver.full_name(),
            node.name
        ))
        .seen(shown("daemonset", &plugin.namespace, &plugin.name), "a device plugin")
        .seen(shown("daemonset", &driver.namespace, &driver.name), "a DRA driver")
        .fix(
            Fix::by_hand("keep one of them off this node", &[&off], on)
                .costs("pods of the other road wait for another node"),
        );
        return Ok(Verdict::Fail(trouble));
    }
    Ok(Verdict::Pass)
}
