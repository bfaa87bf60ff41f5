//! What the kubelet says of pods with a GPU that do not run, and which link of a chain of pods broke first.

use model::{Fix, Seen, Trouble, Verdict};

use super::{Outcome, need, node_source, shown};
use crate::Facts;
use crate::objects::{Pod, State};

fn full(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn source(pod: &Pod) -> model::Source {
    shown("pod", &pod.namespace, &pod.name)
}

/// Pods that have to do with a GPU: they ask for one, take one, or name a runtime for it.
fn concerned(facts: &Facts) -> Result<Vec<&Pod>, Verdict> {
    let pods = need(facts, &facts.pods)?;
    let with = |pod: &&Pod| {
        pod.pod.gpus() > 0
            || pod.pod.is_plugin()
            || pod.pod.runtime_class.as_deref() == Some("nvidia")
            || pod.pod.containers.iter().any(|container| container.takes_by_env().is_some())
            || pod.states.iter().flat_map(|state| &state.messages).any(|text| text.contains("nvidia"))
    };
    let all: Vec<&Pod> = pods.iter().filter(with).collect();
    if all.is_empty() { Err(Verdict::NotApplicable) } else { Ok(all) }
}

/// The first pod of which the kubelet says one of these.
fn said<'a>(pods: &[&'a Pod], texts: &[&str]) -> Option<(&'a Pod, &'a State, &'a str)> {
    let of = |pod: &&'a Pod| {
        let states = pod.states.iter().flat_map(|state| state.messages.iter().map(move |text| (state, text.as_str())));
        let pod = *pod;
        states
            .into_iter()
            .find(|(_, text)| texts.iter().any(|wanted| text.contains(wanted)))
            .map(|(state, text)| (pod, state, text))
    };
    pods.iter().find_map(of)
}

fn line(text: &str) -> String {
    let line: String = text.trim().chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line
}

pub fn env_refused(facts: &Facts) -> Outcome {
    let pods = concerned(facts)?;
    let Some((pod, state, text)) = said(&pods, &["insufficient privileges to read device list"]) else {
        return Ok(Verdict::Pass);
    };
    let trouble = Trouble::new(format!(
        "container {} of {} does not start: its image asks for every GPU, and the node's toolkit lets no unprivileged pod ask so",
        state.container,
        full(pod)
    ))
    .seen(source(pod), line(text))
    .fix(
        Fix::by_hand(
            "say in its manifest that it takes none, or ask for one in the limits",
            &["env: [{name: NVIDIA_VISIBLE_DEVICES, value: void}]"],
            "take the variable out again",
        )
        .costs("its pods are started anew"),
    );
    Ok(Verdict::Fail(trouble))
}

pub fn cdi_unresolvable(facts: &Facts) -> Outcome {
    let pods = concerned(facts)?;
    let Some((pod, state, text)) = said(&pods, &["unresolvable CDI devices"]) else { return Ok(Verdict::Pass) };
    let node = pod.node.clone().unwrap_or_default();
    let trouble = Trouble::new(format!(
        "container {} of {} does not start: no CDI spec on node {node} has the device that it was given",
        state.container,
        full(pod)
    ))
    .seen(source(pod), line(text))
    .fix(Fix::planned(
        format!("on {node}: see which specs there are, and have them made again"),
        "thruway container doctor && thruway cdi refresh",
    ));
    Ok(Verdict::Fail(trouble))
}

pub fn cdi_empty(facts: &Facts) -> Outcome {
    let pods = concerned(facts)?;
    let Some((pod, state, text)) = said(&pods, &["empty device edits", "invalid device, empty edits"]) else {
        return Ok(Verdict::Pass);
    };
    let trouble = Trouble::new(format!(
        "container {} of {} does not start: the CDI spec for it names a device and nothing to give of it",
        state.container,
        full(pod)
    ))
    .seen(source(pod), line(text))
    .fix(
        Fix::by_hand(
            "restart what wrote the spec (the device plugin or DRA driver): it kept the driver's files from before they were replaced",
            &["kubectl rollout restart daemonset --namespace=NAMESPACE NAME"],
            "nothing to take back",
        )
        .costs("running pods go on; new ones wait until it is there again"),
    );
    Ok(Verdict::Fail(trouble))
}

/// The runtime handlers that this machine's engine knows; unknown or no containerd: no verdict.
pub fn runtime_handler(facts: &Facts) -> Outcome {
    let pods = need(facts, &facts.pods)?;
    let daemonsets = need(facts, &facts.daemonsets)?;
    let Some(me) = facts.own_node() else { return Err(Verdict::NotApplicable) };
    let engine = match &facts.engine.value {
        Seen::Is(engine) => engine,
        Seen::Absent => return Err(Verdict::NotApplicable),
        Seen::Unreadable(reason) => {
            return Err(Verdict::Unknown { reason: reason.clone(), what: facts.engine.source.to_string() });
        }
    };
    let here = pods.iter().filter(|pod| pod.node.as_deref() == Some(&me.name));
    let here = here.map(|pod| (full(pod), source(pod), &pod.pod));
    let sets = daemonsets.iter().filter(|set| crate::placement::lands_on(&set.pod, me));
    let sets = sets.map(|set| (set.full_name(), shown("daemonset", &set.namespace, &set.name), &set.pod));
    let mut any = false;
    for (name, source, pod) in sets.chain(here) {
        let Some(class) = &pod.runtime_class else { continue };
        any = true;
        if engine.runtimes.contains_key(class) {
            continue;
        }
        let known: Vec<&str> = engine.runtimes.keys().map(String::as_str).collect();
        let trouble = Trouble::new(format!(
            "{name} asks for the runtime {class}, which containerd on node {} does not know",
            me.name
        ))
        .seen(source, format!("runtimeClassName: {class}"))
        .seen(facts.engine.source.clone(), format!("runtimes: {}", known.join(", ")))
        .fix(
            Fix::planned(
                "let containerd know it, in the file that this distribution reads",
                "thruway container plan --runtime thruway",
            )
            .costs("containerd is restarted; containers go on"),
        );
        return Ok(Verdict::Fail(trouble));
    }
    if any { Ok(Verdict::Pass) } else { Err(Verdict::NotApplicable) }
}

/// Scheduled, and not even taken in: the kubelet waits for a device plugin's answer.
pub fn not_admitted(facts: &Facts) -> Outcome {
    let pods = need(facts, &facts.pods)?;
    let mut askers = pods.iter().filter(|pod| pod.pod.gpus() > 0 && pod.node.is_some()).peekable();
    if askers.peek().is_none() {
        return Err(Verdict::NotApplicable);
    }
    let Some(pod) = askers.find(|pod| pod.phase == "Pending" && !pod.admitted) else { return Ok(Verdict::Pass) };
    let node = pod.node.clone().unwrap_or_default();
    let log = "kubectl logs --all-containers --namespace=NAMESPACE PLUGIN-POD";
    let trouble = Trouble::new(format!(
        "{} is on node {node}, and the kubelet there has not taken it in: it waits for the device plugin to answer",
        full(pod)
    ))
    .seen(source(pod), "phase Pending, no startTime")
    .fix(
        Fix::by_hand(
            "if it stays so for more than a few seconds: read the plugin's log on that node and restart its pod",
            &[log],
            "nothing to take back",
        )
        .costs("running pods keep their GPUs"),
    );
    Ok(Verdict::Warn(trouble))
}

pub fn admission_failed(facts: &Facts) -> Outcome {
    let pods = need(facts, &facts.pods)?;
    if !pods.iter().any(|pod| pod.pod.gpus() > 0) {
        return Err(Verdict::NotApplicable);
    }
    let failed: Vec<&Pod> = pods
        .iter()
        .filter(|pod| pod.phase == "Failed" && pod.reason.as_deref() == Some("UnexpectedAdmissionError"))
        .collect();
    let Some(first) = failed.first() else { return Ok(Verdict::Pass) };
    let mut trouble = Trouble::new(match failed.len() {
        1 => format!("{} was refused by its node's kubelet, which is final: UnexpectedAdmissionError", full(first)),
        n => format!(
            "{n} pods, {} among them, were refused by their nodes' kubelets, which is final: UnexpectedAdmissionError",
            full(first)
        ),
    });
    for pod in failed.iter().take(5) {
        trouble = trouble.seen(source(pod), format!("on node {}", pod.node.as_deref().unwrap_or("none")));
    }
    let delete = format!("kubectl delete pod --namespace={} {}", first.namespace, first.name);
    let trouble = trouble
        .fix(Fix::by_hand(
            "sweep what was refused; a controller has made, or makes, new ones",
            &[&delete],
            "nothing to take back",
        ))
        .fix(Fix::by_hand(
            "have the plugin there before the kubelet admits: thruway's agent registers within milliseconds",
            &["thruway kube manifests | kubectl apply --server-side --filename=-"],
            "thruway kube manifests | kubectl delete --filename=-",
        ));
    Ok(Verdict::Warn(trouble))
}

/// NVIDIA's operands in the order in which each waits for the one before, by a part of their pods' names.
const CHAIN: [(&str, &str); 6] = [
    ("nvidia-driver-daemonset", "the driver"),
    ("nvidia-container-toolkit-daemonset", "the container toolkit"),
    ("nvidia-operator-validator", "the validator"),
    ("nvidia-device-plugin-daemonset", "the device plugin"),
    ("gpu-feature-discovery", "feature discovery"),
    ("nvidia-dcgm-exporter", "the exporter"),
];

pub fn init_chain(facts: &Facts) -> Outcome {
    let pods = need(facts, &facts.pods)?;
    let step = |pod: &Pod| CHAIN.iter().position(|(name, _)| pod.name.starts_with(name));
    // the static manifest's plugin has the operator's name and waits for nobody
    let gated = |pod: &Pod| pod.states.iter().any(|state| state.init);
    let mut operands: Vec<(usize, &Pod)> = pods.iter().filter_map(|pod| Some((step(pod)?, pod))).collect();
    operands.sort_by_key(|(step, _)| *step);
    if !operands.iter().any(|(_, pod)| gated(pod)) {
        return Err(Verdict::NotApplicable);
    }
    let waits = |pod: &Pod| {
        pod.phase == "Pending"
            && pod.states.iter().any(|state| state.init && !state.failing() && state.reason != "Completed")
    };
    for (_, waiting) in operands.iter().filter(|(_, pod)| waits(pod)) {
        let same: Vec<&(usize, &Pod)> = operands.iter().filter(|(_, pod)| pod.node == waiting.node).collect();
        let Some((step, first)) =
            same.iter().find(|(_, pod)| !pod.ready && !waits(pod)).or(same.iter().find(|(_, pod)| !pod.ready))
        else {
            continue;
        };
        let node = waiting.node.clone().unwrap_or_default();
        let what = CHAIN.get(*step).map_or("the first", |(_, what)| what);
        let mut trouble = Trouble::new(format!(
            "{} on node {node} waits, and {what} is what it waits for: {} is not ready",
            full(waiting),
            full(first)
        ));
        for state in first.states.iter().filter(|state| state.reason != "Running" && state.reason != "Completed") {
            let text = state.messages.first().map(|text| line(text)).unwrap_or_default();
            trouble = trouble.seen(
                source(first),
                format!("container {}: {} {text}", state.container, state.reason).trim_end().to_owned(),
            );
        }
        trouble = trouble.seen(node_source(&node), format!("{} pods of the operator are there", same.len()));
        let log = format!("kubectl logs --all-containers --namespace={} {}", first.namespace, first.name);
        let mend =
            Fix::by_hand("mend that one first; the others follow by themselves", &[&log], "nothing to take back");
        return Ok(Verdict::Fail(trouble.fix(mend)));
    }
    Ok(Verdict::Pass)
}
