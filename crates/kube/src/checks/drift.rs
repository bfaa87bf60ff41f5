//! What a node offers held against the cards that it has, and whose they are.

use std::collections::BTreeSet;

use model::{Fix, Trouble, Verdict};

use super::{Outcome, need, node_source, shown};
use crate::Facts;
use crate::objects::{Env, Node, RESOURCE, Workload};
use crate::placement::lands_on;

/// This machine's node, how many cards work here, and how many whole cards its node offers. Nodes that cut or share their
/// cards count otherwise and are left out.
fn own(facts: &Facts) -> Result<(&Node, u64, u64), Verdict> {
    need(facts, &facts.nodes)?;
    let Some(node) = facts.own_node() else { return Err(Verdict::NotApplicable) };
    let working = facts.working.get().copied().unwrap_or(0);
    let offered = node.capacity.get(RESOURCE).copied().unwrap_or(0);
    let shared = node.labels.get("nvidia.com/gpu.replicas").is_some_and(|count| count != "1" && count != "0");
    let cut =
        node.labels.contains_key("nvidia.com/mig.strategy") || node.capacity.keys().any(|key| key.contains("/mig-"));
    if working == 0 || offered == 0 || shared || cut {
        Err(Verdict::NotApplicable)
    } else {
        Ok((node, working, offered))
    }
}

fn promised(facts: &Facts) -> &[(String, String)] {
    facts.promised.get().map_or(&[], Vec::as_slice)
}

pub fn capacity_differs(facts: &Facts) -> Outcome {
    let (node, working, offered) = own(facts)?;
    let kept = u64::try_from(promised(facts).len()).unwrap_or(0);
    if (working.saturating_sub(kept)..=working).contains(&offered) {
        return Ok(Verdict::Pass);
    }
    let says = if offered < working {
        format!(
            "node {} offers {offered} GPU(s) and {working} work there: the plugin has not seen what came later",
            node.name
        )
    } else {
        format!(
            "node {} offers {offered} GPU(s) and only {working} work there: pods may be given one that is gone",
            node.name
        )
    };
    let trouble = Trouble::new(says)
        .seen(node_source(&node.name), format!("capacity {RESOURCE}: {offered}"))
        .seen(facts.working.source.clone(), format!("{working} GPU(s) answer"))
        .fix(
            Fix::by_hand(
                "start the plugin again, since NVIDIA's looks for cards at its start alone (thruway's hears of them)",
                &["kubectl rollout restart daemonset --namespace=NAMESPACE NAME"],
                "nothing to take back",
            )
            .costs("running pods keep their GPUs"),
        );
    Ok(Verdict::Warn(trouble))
}

pub fn promised_offered(facts: &Facts) -> Outcome {
    let (node, working, offered) = own(facts)?;
    let promised = promised(facts);
    let Some((card, to)) = promised.first() else { return Err(Verdict::NotApplicable) };
    let kept = u64::try_from(promised.len()).unwrap_or(0);
    if offered <= working.saturating_sub(kept) {
        return Ok(Verdict::Pass);
    }
    let trouble =
        Trouble::new(format!("card {card} is promised to {to}, and node {} offers it to pods all the same", node.name))
            .seen(facts.promised.source.clone(), format!("{card}: {to}"))
            .seen(
                node_source(&node.name),
                format!("capacity {RESOURCE}: {offered}; {working} work, {kept} promised to others"),
            )
            .fix(Fix::by_hand(
                "run thruway's agent, which keeps to the ledger and to a list of cards to leave out",
                &["thruway kube manifests | kubectl apply --server-side --filename=-"],
                "thruway kube manifests | kubectl delete --filename=-",
            ))
            .fix(Fix::planned(
                "or take the promise back",
                format!("thruway assign {} nobody", card.split(' ').next().unwrap_or("GPU")),
            ));
    Ok(Verdict::Fail(trouble))
}

pub fn mixed_models(facts: &Facts) -> Outcome {
    let (node, working, _) = own(facts)?;
    let names: BTreeSet<&String> = facts.models.get().into_iter().flatten().collect();
    if working < 2 {
        return Err(Verdict::NotApplicable);
    }
    let resources = node.capacity.keys().filter(|key| key.starts_with("nvidia.com/")).count();
    if names.len() < 2 || resources > 1 {
        return Ok(Verdict::Pass);
    }
    let list: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let trouble = Trouble::new(format!(
        "node {} has {} different cards and offers them all as {RESOURCE}: a pod cannot say which it needs",
        node.name,
        list.len()
    ))
    .seen(facts.working.source.clone(), list.join(", "))
    .seen(node_source(&node.name), format!("{RESOURCE}: {}", facts.offers(node)))
    .fix(Fix::by_hand(
        "give each model a resource of its own in the configuration of thruway's agent",
        &["resources: {gpus: [{pattern: \"*H100*\", name: nvidia.com/gpu-h100}, {pattern: \"*\", name: nvidia.com/gpu}]}"],
        "take the names out again",
    ));
    Ok(Verdict::Warn(trouble))
}

/// The operator's choice for whole nodes: containers, VMs, or vGPUs.
const WORKLOAD: &str = "nvidia.com/gpu.workload.config";

pub fn workload_config(facts: &Facts) -> Outcome {
    let nodes = need(facts, &facts.nodes)?;
    let mut any = false;
    for node in nodes {
        let Some(mode) = node.labels.get(WORKLOAD) else { continue };
        any = true;
        if mode == "container" || facts.offers(node) == 0 {
            continue;
        }
        let trouble = Trouble::new(format!(
            "node {} is set to {mode} as a whole, and still offers {} GPU(s) to pods: the operator knows no card by card",
            node.name,
            facts.offers(node)
        ))
        .seen(node_source(&node.name), format!("{WORKLOAD}={mode}"))
        .fix(Fix::planned("say of each card whose it is; thruway's agent offers pods theirs alone", "thruway assign GPU vm:NAME"));
        return Ok(Verdict::Warn(trouble));
    }
    if any { Ok(Verdict::Pass) } else { Err(Verdict::NotApplicable) }
}

/// The plugins of others: thruway's own agent heals its devices.
fn theirs(facts: &Facts) -> Result<(&[Node], Vec<&Workload>), Verdict> {
    let nodes = need(facts, &facts.nodes)?;
    need(facts, &facts.daemonsets)?;
    let sets: Vec<&Workload> = facts.plugins().into_iter().filter(|set| !set.pod.is_agent()).collect();
    if sets.is_empty() { Err(Verdict::NotApplicable) } else { Ok((nodes, sets)) }
}

pub fn one_way(facts: &Facts) -> Outcome {
    let (nodes, sets) = theirs(facts)?;
    for node in nodes {
        let (Some(all), Some(free)) = (node.capacity.get(RESOURCE), node.allocatable.get(RESOURCE)) else { continue };
        let Some(set) = sets.iter().find(|set| lands_on(&set.pod, node)) else { continue };
        if free >= all {
            continue;
        }
        let restart = format!("kubectl rollout restart daemonset --namespace={} {}", set.namespace, set.name);
        let trouble = Trouble::new(format!(
            "{} GPU(s) of node {} stay out of use until the plugin is restarted: {} never calls one healthy again",
            all - free,
            node.name,
            set.full_name()
        ))
        .seen(node_source(&node.name), format!("capacity {RESOURCE}: {all}, allocatable {free}"))
        .fix(Fix::by_hand("see why (an Xid), then restart it", &["thruway gpus -v", &restart], "nothing to take back"))
        .fix(Fix::by_hand(
            "or run thruway's agent, which tests a suspect again and tells when it is well",
            &["thruway kube manifests | kubectl apply --server-side --filename=-"],
            "thruway kube manifests | kubectl delete --filename=-",
        ));
        return Ok(Verdict::Fail(trouble));
    }
    Ok(Verdict::Pass)
}

pub fn xid_lists(facts: &Facts) -> Outcome {
    need(facts, &facts.daemonsets)?;
    let sets = facts.plugins();
    if sets.is_empty() {
        return Err(Verdict::NotApplicable);
    }
    for set in sets {
        for container in &set.pod.containers {
            let Some(Env::Text(list)) = container.env.get("DP_DISABLE_HEALTHCHECKS") else { continue };
            let words: Vec<&str> = list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
            let blind = words.iter().any(|word| ["all", "xids"].contains(&word.to_ascii_lowercase().as_str()));
            let hard = |word: &&&str| {
                word.parse().ok().and_then(gpu::xid::meaning).filter(|xid| xid.class == gpu::xid::Class::Hardware)
            };
            let ignored: Vec<String> = words
                .iter()
                .filter_map(|word| hard(&word))
                .map(|xid| format!("{} ({})", xid.number, xid.says))
                .collect();
            if !blind && ignored.is_empty() {
                continue;
            }
            let what = if blind { "every Xid".to_owned() } else { format!("Xid {}", ignored.join(", ")) };
            let trouble = Trouble::new(format!(
                "{} is told to look away from {what}: a broken card stays on offer",
                set.full_name()
            ))
            .seen(shown("daemonset", &set.namespace, &set.name), format!("DP_DISABLE_HEALTHCHECKS={list}"))
            .fix(Fix::by_hand(
                "name only those that are a program's own fault (13, 31, 43, 45, 68, 94)",
                &["kubectl set env daemonset --namespace=NAMESPACE NAME DP_DISABLE_HEALTHCHECKS=94"],
                "set the old value again",
            ));
            return Ok(Verdict::Warn(trouble));
        }
    }
    Ok(Verdict::Pass)
}

/// A plugin sees the driver only through the runtime that injects it.
pub fn without_driver(facts: &Facts) -> Outcome {
    let (_, sets) = theirs(facts)?;
    let (Some(node), Some(engine)) = (facts.own_node(), facts.engine.get()) else { return Err(Verdict::NotApplicable) };
    let injects = |name: &str| {
        engine
            .runtimes
            .get(name)
            .is_some_and(|path| path.contains("nvidia-container-runtime") || path.contains("thruway-runtime"))
    };
    let mut any = false;
    for set in sets.iter().filter(|set| lands_on(&set.pod, node)) {
        any = true;
        let runtime = set.pod.runtime_class.as_deref().or(engine.default_runtime.as_deref()).unwrap_or("runc");
        // one that mounts the driver itself needs no runtime for it
        let mounts = set.pod.host_paths.iter().any(|path| path == "/" || path.starts_with("/run/nvidia/driver"));
        if injects(runtime) || mounts {
            continue;
        }
        let why = match &set.pod.runtime_class {
            Some(class) => format!("runtimeClassName: {class}"),
            None => "no runtimeClassName".to_owned(),
        };
        let trouble = Trouble::new(format!(
            "{} runs by {runtime} on node {}, which brings no driver into it: it finds no library and offers nothing",
            set.full_name(),
            node.name
        ))
        .seen(shown("daemonset", &set.namespace, &set.name), why)
        .seen(
            facts.engine.source.clone(),
            format!("default runtime: {}", engine.default_runtime.as_deref().unwrap_or("runc")),
        )
        .fix(Fix::planned("let the engine know the runtime nvidia", "thruway container plan --runtime thruway"))
        .fix(Fix::by_hand(
            "and let the plugin ask for it",
            &["runtimeClassName: nvidia"],
            "take the line out again",
        ));
        return Ok(Verdict::Fail(trouble));
    }
    if any { Ok(Verdict::Pass) } else { Err(Verdict::NotApplicable) }
}
