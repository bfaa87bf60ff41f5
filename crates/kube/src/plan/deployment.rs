//! A Deployment made to ask the scheduler for a GPU: `nvidia.com/gpu: 1` in the limits, no NVIDIA_VISIBLE_DEVICES.
//!
//! NVIDIA_DRIVER_CAPABILITIES stays: it says what of the driver, not which card. An affinity to a label set by hand
//! stays too: it is somebody's decision, harmless beside the limit, and the notes say that it is no longer needed.

use model::{Intent, Plan, Refusal, Risk};
use serde_json::{Map, Value, json};

use super::{Edit, apply, wanted_from};
use crate::Facts;
use crate::checks::deadlocks;
use crate::objects::{Node, PRESENT, RESOURCE, Workload};
use crate::patch;

const VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// True where this floor has, or may get, something to say of a Deployment.
pub(super) fn concerns(facts: &Facts, deployment: &Workload) -> bool {
    !reasons(facts, deployment).is_empty() || deployment.pod.gpus() > 0
}

/// The checks that ask for a change of it.
fn reasons(facts: &Facts, deployment: &Workload) -> Vec<&'static str> {
    let mut ids = Vec::new();
    let pod = &deployment.pod;
    if pod.is_plugin() {
        return ids;
    }
    if pod.containers.iter().any(|container| container.takes_by_env().is_some()) {
        ids.push("cluster/visible-devices-all");
    }
    if pod.gpus() == 0 && !pod.gpu_selection().is_empty() {
        ids.push("cluster/no-gpu-request");
    }
    if deadlocks(deployment, pod.gpus(), in_all(facts)) {
        ids.push("cluster/rollout-deadlock");
    }
    ids
}

/// The GPUs of the cluster: what is offered, or will be when the plugin comes up here.
fn in_all(facts: &Facts) -> u64 {
    let nodes = facts.nodes.get().into_iter().flatten();
    let here = facts.working.get().copied().unwrap_or(0);
    let count = |node: &Node| if facts.is_me(node) { facts.offers(node).max(here) } else { facts.offers(node) };
    nodes.fold(0, |sum, node| sum.saturating_add(count(node)))
}

pub(super) fn plan(facts: &Facts, intent: &Intent, after: &[Node], plan: &mut Plan) {
    let Some(all) = facts.deployments.get() else {
        plan.notes.push("Deployments could not be listed; they are left as they are".into());
        return;
    };
    let targets: Vec<&Workload> = match &intent.deployment {
        None => all.iter().filter(|deployment| !reasons(facts, deployment).is_empty()).collect(),
        Some(wanted) => {
            let named = |d: &&Workload| d.full_name() == *wanted || (!wanted.contains('/') && d.name == *wanted);
            let found: Vec<&Workload> = all.iter().filter(named).collect();
            if found.len() != 1 {
                let known: Vec<String> = all.iter().map(Workload::full_name).take(20).collect();
                let how_many = if found.is_empty() { "there is no" } else { "there is more than one" };
                plan.refusals.push(Refusal {
                    because: "cluster/no-gpu-request".into(),
                    says: format!("{how_many} Deployment {wanted}"),
                    instead: format!("name one as NAMESPACE/NAME: {}", known.join(", ")),
                });
                return;
            }
            found
        }
    };
    for target in targets {
        one(facts, intent, after, target, plan);
    }
}

fn one(facts: &Facts, intent: &Intent, after: &[Node], target: &Workload, plan: &mut Plan) {
    let name = target.full_name();
    let mut because = reasons(facts, target);
    let asked = intent.gpus.is_some_and(|gpus| target.pod.gpus() != u64::from(gpus));
    if because.is_empty() {
        if target.pod.gpus() > 0 && !asked && !intent.drop_affinity {
            return;
        }
        because.push("cluster/no-gpu-request");
    }
    if let Some(owner) = &target.owner {
        plan.notes.push(format!("Deployment {name} is written by {owner}, which would undo a change: change it there"));
        return;
    }
    // whoever names a number wants it, and is told that pods will wait
    if intent.gpus.is_none() && !after.iter().any(|node| facts.has_gpu(node)) {
        plan.notes.push(format!(
            "Deployment {name} is left as it is: no node has a working GPU yet, and a pod that asks for one would stay Pending"
        ));
        return;
    }
    let mut body = wanted_from(&target.raw);
    let edited = match intent.gpus {
        Some(gpus) => patched(&mut body, intent, gpus),
        None => edit(&mut body, target).ok_or_else(|| "it has a pod template that cannot be edited".to_owned()),
    };
    let mut done = match edited {
        Ok(done) => done,
        Err(why) => {
            plan.notes.push(format!("Deployment {name} is left as it is: {why}"));
            return;
        }
    };
    let gpus = done.gpus;
    let deadlock = deadlocks(target, gpus, in_all(facts));
    if done.words.is_empty() && !deadlock {
        return;
    }
    if deadlock {
        if let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("strategy".into(), json!({"type": "Recreate"}));
        }
        done.words.push("stop the old pod before the new one starts (the new one waits for the old one's GPU)".into());
        if !because.contains(&"cluster/rollout-deadlock") {
            because.push("cluster/rollout-deadlock");
        }
    }
    let lead = if intent.deployment.is_some() { "" } else { "inferred: " };
    plan.intent.push(format!("{lead}Deployment {name} gets its GPU from the scheduler ({RESOURCE}: {gpus} a pod)"));
    let edit = Edit {
        kind: "Deployment",
        title: format!("{name}: {}", done.words.join(", ")),
        because: &because,
        risk: vec![Risk::Outage(format!("the pods of {name} are started anew, and wait until a GPU is free"))],
    };
    plan.changes.push(apply(edit, Some(&target.raw), body));
    notes(facts, after, target, gpus, !intent.drop_affinity, plan);
}

fn notes(facts: &Facts, after: &[Node], target: &Workload, gpus: u64, affinity: bool, plan: &mut Plan) {
    let name = target.full_name();
    for selection in target.pod.gpu_selection().iter().filter(|selection| affinity && !selection.starts_with(PRESENT)) {
        plan.notes.push(format!(
            "{name} keeps its affinity {selection}: the limit alone finds a GPU node now, so it may go once no other \
             workload needs the label"
        ));
    }
    if after.iter().all(|node| facts.offers(node) == 0) {
        plan.notes.push(format!(
            "no node offers {RESOURCE} yet: the pods of {name} stay Pending until the device plugin, restarted after the driver \
             and the container runtime work, has registered"
        ));
    }
    let wanted = u64::try_from(target.replicas).unwrap_or(0).saturating_mul(gpus);
    if wanted > in_all(facts) {
        plan.notes.push(format!("{name} asks for {wanted} GPUs in all and the cluster has {}", in_all(facts)));
    }
    plan.notes
        .push(format!("make the same change in the manifest that {name} comes from, or its next apply undoes this"));
}

/// As somebody asked for by number.
fn patched(body: &mut Value, intent: &Intent, gpus: u32) -> Result<Done, String> {
    let wish = patch::Wish { gpus, container: intent.gpu_container.clone(), drop_affinity: intent.drop_affinity };
    let pod = body.pointer_mut("/spec/template/spec").ok_or("it has no pod template")?;
    let words = patch::pod(pod, &wish, &json!(gpus.to_string()))?;
    Ok(Done { words, gpus: gpus.into() })
}

struct Done {
    words: Vec<String>,
    /// GPUs that one pod asks for now.
    gpus: u64,
}

/// Edits the pod template in place. `None` where the object has not the form it was read with.
fn edit(body: &mut Value, target: &Workload) -> Option<Done> {
    let pod = body.pointer_mut("/spec/template/spec")?.as_object_mut()?;
    let mut dropped = false;
    let mut asked = 0;
    let mut init_asked = 0;
    for field in ["initContainers", "containers"] {
        let Some(list) = pod.get_mut(field).and_then(Value::as_array_mut) else { continue };
        for container in list.iter_mut().filter_map(Value::as_object_mut) {
            let read = target
                .pod
                .containers
                .iter()
                .find(|c| Some(c.name.as_str()) == container.get("name").and_then(Value::as_str));
            let takes = read.is_some_and(|container| container.takes_by_env().is_some());
            let mut has = read.map_or(0, |container| container.gpus());
            if takes {
                drop_variable(container)?;
                dropped = true;
                if has == 0 {
                    set_limit(container)?;
                    has = 1;
                }
            }
            if field == "containers" { asked += has } else { init_asked = has.max(init_asked) }
        }
    }
    let mut words = Vec::new();
    if asked == 0 && init_asked == 0 {
        set_limit(pod.get_mut("containers")?.as_array_mut()?.first_mut()?.as_object_mut()?)?;
        asked = 1;
    }
    if target.pod.gpus() == 0 {
        words.push(format!("ask for {RESOURCE}: 1"));
    }
    if dropped {
        words.push(format!("drop {VARIABLE}"));
    }
    Some(Done { words, gpus: asked.max(init_asked) })
}

fn drop_variable(container: &mut Map<String, Value>) -> Option<()> {
    let env = container.get_mut("env")?.as_array_mut()?;
    env.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(VARIABLE));
    if env.is_empty() {
        container.shift_remove("env");
    }
    Some(())
}

/// Extended resources are never overcommitted: where a request is written it must be equal to the limit.
fn set_limit(container: &mut Map<String, Value>) -> Option<()> {
    let resources = container.entry("resources").or_insert_with(|| json!({}));
    if resources.is_null() {
        *resources = json!({});
    }
    let resources = resources.as_object_mut()?;
    for (field, always) in [("limits", true), ("requests", false)] {
        let there = resources.get(field).and_then(Value::as_object).is_some_and(|map| map.contains_key(RESOURCE));
        if always || there {
            let map = resources.entry(field).or_insert_with(|| json!({}));
            if map.is_null() {
                *map = json!({});
            }
            map.as_object_mut()?.insert(RESOURCE.into(), json!("1"));
        }
    }
    Some(())
}
