//! What the nodes offer, and who waits for it.

use model::{Fix, Seen, Trouble, Verdict};

use super::{Outcome, need, node_source, shown};
use crate::Facts;
use crate::objects::{Node, Pod};
use crate::placement::lands_on;

pub fn capacity(facts: &Facts) -> Outcome {
    let nodes = need(facts, &facts.nodes)?;
    // Elsewhere only what is offered is seen; here the driver itself answers.
    let with: Vec<&Node> = nodes.iter().filter(|node| facts.has_gpu(node)).collect();
    for node in &with {
        if facts.offers(node) == 0 {
            return Ok(Verdict::Fail(nothing(facts, node)));
        }
        for (resource, count) in &node.capacity {
            let free = node.allocatable.get(resource).copied().unwrap_or(0);
            if free < *count {
                let trouble = Trouble::new(format!(
                    "node {} has {count} {resource} and may grant {free}: the device plugin called {} unhealthy",
                    node.name,
                    count - free
                ))
                .seen(node_source(&node.name), format!("capacity {resource}: {count}, allocatable {free}"));
                let fix = Fix::by_hand(
                    "read why in the plugin's log (an XID), then restart its pod on that node",
                    &["kubectl logs --namespace=kube-system --selector=name=nvidia-device-plugin-ds"],
                    "nothing to take back",
                );
                return Ok(Verdict::Warn(trouble.fix(fix)));
            }
        }
    }
    if let (Seen::Unreadable(reason), Some(_)) = (&facts.working.value, facts.me.get()) {
        return Err(Verdict::Unknown { reason: reason.clone(), what: facts.working.source.to_string() });
    }
    if with.is_empty() { Err(Verdict::NotApplicable) } else { Ok(Verdict::Pass) }
}

fn nothing(facts: &Facts, node: &Node) -> Trouble {
    let says = format!("a GPU works on node {}, and the node offers no nvidia.com/gpu", node.name);
    let count = facts.working.get().copied().unwrap_or(0);
    let trouble = Trouble::new(says)
        .seen(facts.working.source.clone(), format!("{count} GPU(s) answer"))
        .seen(node_source(&node.name), "capacity: nvidia.com/gpu is 0 or not there");
    let landing: Vec<_> = facts.plugins().into_iter().filter(|set| lands_on(&set.pod, node)).collect();
    let Some(set) = landing.first() else {
        let wanted = "give the node a device plugin (a DaemonSet kept to GPU nodes)";
        return trouble
            .seen(facts.daemonsets.source.clone(), "no device plugin lands on this node")
            .fix(Fix::planned(wanted, "thruway kube plan"));
    };
    let pods = facts.pods.get().into_iter().flatten();
    let pod = pods.filter(|pod| pod.node.as_ref() == Some(&node.name)).find(|pod| pod.pod.is_plugin());
    let state = pod.map_or("no pod of it is on this node".into(), |pod| format!("{} is {}", pod.name, pod.phase));
    let restart = format!("kubectl rollout restart daemonset --namespace={} {}", set.namespace, set.name);
    trouble
        .seen(shown("daemonset", &set.namespace, &set.name), state)
        .fix(Fix::planned("let containers see the driver (the nvidia runtime or CDI)", "thruway container plan"))
        .fix(Fix::by_hand("then start the plugin again", &[&restart], "nothing to take back"))
}

pub fn pending(facts: &Facts) -> Outcome {
    let pods = need(facts, &facts.pods)?;
    let askers: Vec<&Pod> = pods.iter().filter(|pod| pod.pod.gpus() > 0).collect();
    if askers.is_empty() {
        return Err(Verdict::NotApplicable);
    }
    let refused = |pod: &&&Pod| pod.phase == "Failed" && pod.reason.as_deref() == Some("UnexpectedAdmissionError");
    let waiting: Vec<&&Pod> =
        askers.iter().filter(|pod| (pod.phase == "Pending" && pod.node.is_none()) || refused(pod)).collect();
    let Some(first) = waiting.first() else { return Ok(Verdict::Pass) };
    let words = |pod: &Pod| {
        let said = pod.unscheduled.clone().or_else(|| pod.reason.clone());
        said.filter(|text| !text.is_empty()).unwrap_or_else(|| "the scheduler has said nothing yet".into())
    };
    let nodes = facts.nodes.get().into_iter().flatten();
    let offered: u64 = nodes.fold(0, |sum, node| sum.saturating_add(facts.offers(node)));
    let holders: Vec<String> = askers
        .iter()
        .filter(|pod| pod.phase == "Running")
        .map(|pod| format!("{}/{} ({})", pod.namespace, pod.name, pod.pod.gpus()))
        .collect();
    let mut trouble = Trouble::new(format!(
        "pod {}/{} asks for {} GPU(s) and is {}",
        first.namespace,
        first.name,
        first.pod.gpus(),
        first.phase
    ));
    for pod in &waiting {
        trouble = trouble.seen(shown("pod", &pod.namespace, &pod.name), words(pod));
    }
    let held = if holders.is_empty() { "nobody holds one".into() } else { format!("held by {}", holders.join(", ")) };
    trouble = trouble.seen(facts.nodes.source.clone(), format!("{offered} offered in all; {held}"));
    let fix = if offered == 0 {
        Fix::planned("make a node offer its GPU", "thruway kube plan")
    } else {
        let scale = "kubectl scale deployment --namespace=NAMESPACE NAME --replicas=0";
        Fix::by_hand("stop one of the holders, or share the card by time slicing", &[scale], "scale it up again")
            .costs("what is stopped is away")
    };
    Ok(Verdict::Fail(trouble.fix(fix)))
}
