//! Cards that several pods share, and what sharing does not give.

use model::{Fix, Trouble, Verdict};

use super::{Outcome, need, node_source, shown};
use crate::Facts;
use crate::objects::{Node, Pod, RESOURCE};
use crate::placement::selects;

const REPLICAS: &str = "nvidia.com/gpu.replicas";
const STRATEGY: &str = "nvidia.com/gpu.sharing-strategy";
const SHARED: &str = "nvidia.com/gpu.shared";

/// How many pods may share one card of a node.
fn replicas(node: &Node) -> u64 {
    node.labels.get(REPLICAS).and_then(|count| count.parse().ok()).unwrap_or(1)
}

fn sliced(node: &Node) -> bool {
    replicas(node) > 1 && node.labels.get(STRATEGY).is_none_or(|strategy| strategy == "time-slicing")
}

fn shared(facts: &Facts) -> Result<(Vec<&Node>, &[Pod]), Verdict> {
    let nodes: Vec<&Node> = need(facts, &facts.nodes)?.iter().filter(|node| sliced(node)).collect();
    let pods = need(facts, &facts.pods)?;
    if nodes.is_empty() { Err(Verdict::NotApplicable) } else { Ok((nodes, pods)) }
}

fn live(pod: &&Pod) -> bool {
    !["Succeeded", "Failed"].contains(&pod.phase.as_str())
}

pub fn replicas_as_gpus(facts: &Facts) -> Outcome {
    let (nodes, pods) = shared(facts)?;
    for pod in pods.iter().filter(live) {
        let reaches = |node: &&&Node| match &pod.node {
            Some(name) => node.name == *name,
            None => selects(&pod.pod, node),
        };
        let Some(node) = nodes.iter().find(reaches) else { continue };
        for container in &pod.pod.containers {
            let asked = [RESOURCE, SHARED].iter().filter_map(|name| container.limits.get(*name)).sum::<u64>();
            if asked < 2 {
                continue;
            }
            let trouble = Trouble::new(format!(
                "container {} of {}/{} asks for {asked} GPUs where {} slices of one card are counted as GPUs: all of them may be the same card",
                container.name,
                pod.namespace,
                pod.name,
                replicas(node)
            ))
            .seen(shown("pod", &pod.namespace, &pod.name), format!("limits: {asked}"))
            .seen(node_source(&node.name), format!("{REPLICAS}={}", replicas(node)))
            .fix(Fix::by_hand(
                "ask for 1; or have the plugin refuse more than one (failRequestsGreaterThanOne)",
                &["sharing: {timeSlicing: {failRequestsGreaterThanOne: true, resources: [{name: nvidia.com/gpu, replicas: 2}]}}"],
                "put the old configuration back",
            ));
            return Ok(Verdict::Warn(trouble));
        }
    }
    Ok(Verdict::Pass)
}

pub fn memory(facts: &Facts) -> Outcome {
    let (nodes, pods) = shared(facts)?;
    for node in nodes {
        let here: Vec<&Pod> = pods
            .iter()
            .filter(|pod| pod.phase == "Running" && pod.node.as_deref() == Some(&node.name) && pod.pod.gpus() > 0)
            .collect();
        // fewer pods than cards need not share
        let cards = facts.offers(node).checked_div(replicas(node)).unwrap_or(0).max(1);
        if u64::try_from(here.len()).unwrap_or(u64::MAX) <= cards {
            continue;
        }
        let names: Vec<String> = here.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
        let memory = node.labels.get("nvidia.com/gpu.memory").map(|mib| format!(" of {mib} MiB")).unwrap_or_default();
        let trouble = Trouble::new(format!(
            "{} share {cards} card(s){memory} on node {} by time slicing, and nothing divides its memory: one of them can take all of it",
            names.join(", "),
            node.name
        ))
        .seen(node_source(&node.name), format!("{REPLICAS}={}", replicas(node)))
        .fix(Fix::by_hand(
            "where they must not harm each other: MIG on cards that have it, or MPS with its memory limits; see who uses what",
            &["thruway kube doctor --users"],
            "nothing to take back",
        ));
        return Ok(Verdict::Warn(trouble));
    }
    Ok(Verdict::Pass)
}

pub fn mps(facts: &Facts) -> Outcome {
    let nodes = need(facts, &facts.nodes)?;
    let pods = need(facts, &facts.pods)?;
    let wants = |node: &&Node| {
        let is = |key: &str, value: &str| node.labels.get(key).map(String::as_str) == Some(value);
        is(STRATEGY, "mps") || is("nvidia.com/mps.capable", "true")
    };
    let nodes: Vec<&Node> = nodes.iter().filter(wants).collect();
    if nodes.is_empty() {
        return Err(Verdict::NotApplicable);
    }
    let daemon = |pod: &&Pod| {
        pod.pod.containers.iter().any(|c| {
            c.name.contains("mps-control-daemon") || c.command.iter().any(|word| word.ends_with("mps-control-daemon"))
        })
    };
    for node in nodes {
        let here: Vec<&Pod> =
            pods.iter().filter(|pod| pod.node.as_deref() == Some(&node.name)).filter(daemon).collect();
        if here.iter().any(|pod| pod.ready) {
            continue;
        }
        let mut trouble = Trouble::new(format!("node {} shares its cards by MPS, and no MPS control daemon is ready there: pods wait for it, or run without limits", node.name))
            .seen(node_source(&node.name), format!("{STRATEGY}=mps, or nvidia.com/mps.capable=true"));
        trouble = match here.first() {
            Some(pod) => {
                trouble.seen(shown("pod", &pod.namespace, &pod.name), format!("phase {}, not ready", pod.phase))
            }
            None => trouble.seen(facts.pods.source.clone(), "no pod of it on this node"),
        };
        let fix = Fix::by_hand(
            "start the daemon (its DaemonSet selects nvidia.com/mps.capable=true), then look that its limits are set",
            &["kubectl get pods --all-namespaces --field-selector=spec.nodeName=NODE | grep mps"],
            "nothing to take back",
        );
        return Ok(Verdict::Fail(trouble.fix(fix)));
    }
    Ok(Verdict::Pass)
}
