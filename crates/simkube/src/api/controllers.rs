//! The controllers, as far as the tests of placement need them: DaemonSets, Deployments (without ReplicaSets between), and a
//! scheduler that counts extended resources. Pods run as soon as they have a node.

use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::select::{selects, tolerates};
use super::store::Store;

fn kind(name: &str) -> Kind {
    // the names below are of the table
    Kind::named(name).unwrap_or(super::kinds::KINDS[0])
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Lets all controllers run until nothing changes any more.
pub(super) fn settle(store: &mut Store) {
    for _ in 0..20 {
        let changed = std::mem::take(&mut store.dirty);
        if !changed.iter().any(|kind| matches!(*kind, "Node" | "Pod" | "DaemonSet" | "Deployment")) {
            return;
        }
        daemon_sets(store);
        deployments(store);
        schedule(store);
    }
}

fn daemon_sets(store: &mut Store) {
    let nodes = store.list(kind("Node"), "");
    for set in store.list(kind("DaemonSet"), "") {
        let template = set.pointer("/spec/template").cloned().unwrap_or_default();
        let spec = template.get("spec").cloned().unwrap_or_default();
        let lands = |node: &Value| selects(&spec, node) && tolerates(&spec, node, true);
        let wanted: Vec<String> =
            nodes.iter().filter(|node| lands(node)).map(|node| text(node, "/metadata/name").to_owned()).collect();
        let pods = owned(store, &set);
        for pod in &pods {
            if !wanted.iter().any(|node| node == text(pod, "/spec/nodeName")) {
                store.delete(kind("Pod"), text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
            }
        }
        for node in &wanted {
            if !pods.iter().any(|pod| text(pod, "/spec/nodeName") == node) {
                let pod = pod(store, &set, &template, "DaemonSet", Some(node));
                store.put(kind("Pod"), pod);
            }
        }
        let count = wanted.len();
        let generation = set.pointer("/metadata/generation").cloned().unwrap_or(json!(1));
        let status = json!({
            "currentNumberScheduled": count, "desiredNumberScheduled": count, "numberAvailable": count,
            "numberMisscheduled": 0, "numberReady": count, "observedGeneration": generation,
            "updatedNumberScheduled": count,
        });
        let mut next = (*set).clone();
        if let Some(map) = next.as_object_mut() {
            map.insert("status".into(), status);
        }
        store.put(kind("DaemonSet"), next);
    }
}

fn deployments(store: &mut Store) {
    for deployment in store.list(kind("Deployment"), "") {
        let template = deployment.pointer("/spec/template").cloned().unwrap_or_default();
        let replicas = deployment.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
        let replicas = usize::try_from(replicas).unwrap_or(usize::MAX).min(100);
        let hash = template.to_string();
        let pods = owned(store, &deployment);
        // what runs by an older template goes first
        let (mut current, old): (Vec<_>, Vec<_>) =
            pods.into_iter().partition(|pod| text(pod, "/metadata/annotations/simulated.template") == hash);
        let surplus = current.split_off(replicas.min(current.len()));
        for pod in old.iter().chain(&surplus) {
            store.delete(kind("Pod"), text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        }
        for _ in current.len()..replicas {
            let mut pod = pod(store, &deployment, &template, "Deployment", None);
            if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("annotations".into(), json!({"simulated.template": hash}));
            }
            store.put(kind("Pod"), pod);
        }
        let running = owned(store, &deployment).iter().filter(|pod| text(pod, "/status/phase") == "Running").count();
        let generation = deployment.pointer("/metadata/generation").cloned().unwrap_or(json!(1));
        let status = json!({
            "availableReplicas": running, "observedGeneration": generation, "readyReplicas": running,
            "replicas": replicas, "updatedReplicas": replicas,
        });
        let mut next = (*deployment).clone();
        if let Some(map) = next.as_object_mut() {
            map.insert("status".into(), status);
        }
        store.put(kind("Deployment"), next);
    }
}

fn owned(store: &Store, owner: &Value) -> Vec<std::sync::Arc<Value>> {
    let uid = text(owner, "/metadata/uid");
    let mut pods = store.list(kind("Pod"), text(owner, "/metadata/namespace"));
    pods.retain(|pod| text(pod, "/metadata/ownerReferences/0/uid") == uid);
    pods
}

fn pod(store: &mut Store, owner: &Value, template: &Value, of: &str, node: Option<&str>) -> Value {
    store.serial += 1;
    let name = format!("{}-{:05x}", text(owner, "/metadata/name"), store.serial);
    let labels = template.pointer("/metadata/labels").cloned().unwrap_or(json!({}));
    let mut spec = template.get("spec").cloned().unwrap_or(json!({}));
    if let (Some(node), Some(map)) = (node, spec.as_object_mut()) {
        map.insert("nodeName".into(), Value::from(node));
    }
    let phase = if node.is_some() { "Running" } else { "Pending" };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": text(owner, "/metadata/namespace"), "labels": labels,
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": of, "name": text(owner, "/metadata/name"),
                "uid": text(owner, "/metadata/uid"), "controller": true,
            }],
        },
        "spec": spec,
        "status": {"phase": phase},
    })
}

/// Extended resources (names with a domain) that a pod's containers ask for.
fn asks(pod: &Value) -> Map<String, Value> {
    let mut sum = Map::new();
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    for container in containers.into_iter().flatten() {
        let limits = container.pointer("/resources/limits").and_then(Value::as_object);
        for (name, value) in limits.into_iter().flatten().filter(|(name, _)| name.contains('/')) {
            let more = amount(value) + sum.get(name).map_or(0, amount);
            sum.insert(name.clone(), json!(more));
        }
    }
    sum
}

fn amount(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}

fn schedule(store: &mut Store) {
    let nodes = store.list(kind("Node"), "");
    for pod in store.list(kind("Pod"), "") {
        let spec = pod.get("spec").cloned().unwrap_or_default();
        if !text(&pod, "/spec/nodeName").is_empty() || text(&pod, "/status/phase") != "Pending" {
            continue;
        }
        let wanted = asks(&pod);
        let (mut unmatched, mut tainted, mut short) = (0, 0, 0);
        let fits = |node: &Value, store: &Store| {
            wanted.iter().all(|(name, count)| {
                let has = node.pointer(&format!("/status/allocatable/{}", name.replace('/', "~1"))).map_or(0, amount);
                let on = |pod: &&std::sync::Arc<Value>| text(pod, "/spec/nodeName") == text(node, "/metadata/name");
                let pods = store.list(kind("Pod"), "");
                let used: u64 = pods.iter().filter(on).map(|pod| asks(pod).get(name).map_or(0, amount)).sum();
                has.saturating_sub(used) >= amount(count)
            })
        };
        let mut chosen = None;
        for node in &nodes {
            let unschedulable = node.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true);
            match () {
                () if !selects(&spec, node) => unmatched += 1,
                () if unschedulable || !tolerates(&spec, node, false) => tainted += 1,
                () if !fits(node, store) => short += 1,
                () => {
                    chosen = Some(text(node, "/metadata/name").to_owned());
                    break;
                }
            }
        }
        let mut next = (*pod).clone();
        let Some(map) = next.as_object_mut() else { continue };
        match chosen {
            Some(node) => {
                if let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.insert("nodeName".into(), Value::from(node));
                }
                map.insert("status".into(), json!({"phase": "Running"}));
            }
            None => {
                let mut why: Vec<String> = Vec::new();
                if let (true, Some(name)) = (short > 0, wanted.keys().next()) {
                    why.push(format!("{short} Insufficient {name}"));
                }
                if tainted > 0 {
                    why.push(format!("{tainted} node(s) had untolerated taint(s)"));
                }
                if unmatched > 0 {
                    why.push(format!("{unmatched} node(s) didn't match Pod's node affinity/selector"));
                }
                let message = format!("0/{} nodes are available: {}.", nodes.len(), why.join(", "));
                let condition = json!({
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
                });
                map.insert("status".into(), json!({"phase": "Pending", "conditions": [condition]}));
            }
        }
        store.put(kind("Pod"), next);
    }
}
