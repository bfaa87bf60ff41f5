//! The simulated API server and its controllers: an object is changed in the recorded lists, and what the scheduler,
//! the DaemonSet controller and the kubelet make of it follows.

use journal::HandError;
use machine::{Answer, KubeList, Question};
use model::{KubeOp, KubeVerb};
use serde_json::{Map, Value, json};

use crate::tree::Tree;

const GPU: &str = "nvidia.com/gpu";

fn list_of(kind: &str) -> Option<KubeList> {
    match kind {
        "Node" => Some(KubeList::Nodes),
        "Pod" => Some(KubeList::Pods),
        "DaemonSet" => Some(KubeList::DaemonSets),
        "Deployment" => Some(KubeList::Deployments),
        _ => None,
    }
}

fn refused(op: &KubeOp, message: impl Into<String>) -> HandError {
    let command = format!("kubectl {:?} {}/{}", op.verb, op.kind.to_ascii_lowercase(), op.name).to_ascii_lowercase();
    HandError::Failed { command, status: "exit status: 1".into(), message: message.into() }
}

fn get(tree: &Tree, list: KubeList) -> Option<Value> {
    tree.answer(Question::Kube(list)).and_then(|answer| answer.json().cloned())
}

/// Carries an operation out on the recorded lists.
pub(crate) fn apply(tree: &Tree, op: &KubeOp) -> Result<(), HandError> {
    let list = list_of(&op.kind).ok_or_else(|| refused(op, format!("no matches for kind \"{}\"", op.kind)))?;
    let mut items = get(tree, list).ok_or_else(|| refused(op, "The connection to the server was refused"))?;
    pending(&mut items, op).map_err(|message| refused(op, message))?;
    put(tree, op, list, items)?;
    settle(tree, op)
}

/// The object as it was: applied again, or deleted where there was none.
pub(crate) fn take_back(tree: &Tree, op: &KubeOp) -> Result<(), HandError> {
    let list = list_of(&op.kind).ok_or_else(|| refused(op, format!("no matches for kind \"{}\"", op.kind)))?;
    let mut items = get(tree, list).ok_or_else(|| refused(op, "The connection to the server was refused"))?;
    let Some(all) = items.get_mut("items").and_then(Value::as_array_mut) else {
        return Err(refused(op, "the list has no items"));
    };
    let at = all.iter().position(|item| named(item, op));
    match (at, &op.before, op.verb) {
        (Some(at), Some(before), KubeVerb::Label) => {
            let labels = before.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
            if let Some(metadata) =
                all.get_mut(at).and_then(|item| item.get_mut("metadata")).and_then(Value::as_object_mut)
            {
                metadata.insert("labels".into(), labels);
            }
        }
        (Some(at), Some(before), _) => {
            let status = all.get(at).and_then(|item| item.get("status")).cloned();
            if let Some(item) = all.get_mut(at) {
                *item = before.clone();
                if let (Some(object), Some(status)) = (item.as_object_mut(), status) {
                    object.insert("status".into(), status);
                }
            }
        }
        (Some(at), None, _) => {
            all.remove(at);
        }
        (None, Some(before), _) => all.push(before.clone()),
        (None, None, _) => {}
    }
    put(tree, op, list, items)?;
    settle(tree, op)
}

fn put(tree: &Tree, op: &KubeOp, list: KubeList, items: Value) -> Result<(), HandError> {
    tree.set_answer(Question::Kube(list), Some(&Answer::Json(items))).map_err(|error| refused(op, error.to_string()))
}

fn named(item: &Value, op: &KubeOp) -> bool {
    let text = |key: &str| item.pointer(&format!("/metadata/{key}")).and_then(Value::as_str).unwrap_or_default();
    text("name") == op.name && (op.namespace.is_empty() || text("namespace") == op.namespace)
}

fn items(list: &Value) -> Vec<Value> {
    list.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// What the controllers do next: DaemonSets land, the kubelet with a plugin and a card offers it, pods follow their
/// Deployment.
fn settle(tree: &Tree, op: &KubeOp) -> Result<(), HandError> {
    let Some(mut nodes) = get(tree, KubeList::Nodes) else { return Ok(()) };
    let mut plugin_on: Vec<String> = Vec::new();
    if let Some(mut sets) = get(tree, KubeList::DaemonSets) {
        let all = items(&nodes);
        for set in sets.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
            let pod = set.pointer("/spec/template/spec").cloned().unwrap_or(Value::Null);
            let on: Vec<String> = all.iter().filter(|node| lands(&pod, node)).map(name_of).collect();
            if set.to_string().contains("nvidia/k8s-device-plugin") || set.to_string().contains("device-plugin") {
                plugin_on.extend(on.iter().cloned());
            }
            let count = on.len();
            if let Some(set) = set.as_object_mut() {
                let status = set.entry("status").or_insert_with(|| Value::Object(Map::new()));
                for field in [
                    "desiredNumberScheduled",
                    "currentNumberScheduled",
                    "numberReady",
                    "numberAvailable",
                    "updatedNumberScheduled",
                ] {
                    status[field] = count.into();
                }
            }
        }
        put(tree, op, KubeList::DaemonSets, sets)?;
    }
    offer(tree, &mut nodes, &plugin_on);
    put(tree, op, KubeList::Nodes, nodes)?;
    if op.kind == "Deployment" { roll_out(tree, op) } else { Ok(()) }
}

fn name_of(object: &Value) -> String {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// This machine's node offers its cards where the plugin runs on it and the driver answers; elsewhere nothing changes
/// but that a plugin that left takes its resource with it.
fn offer(tree: &Tree, nodes: &mut Value, plugin_on: &[String]) {
    let here = tree.value("/etc/hostname").unwrap_or_default();
    let cards = match tree.answer(Question::Nvml) {
        Some(Answer::Nvml(report)) => report.gpus.len(),
        _ => 0,
    };
    for node in nodes.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        let name = name_of(node);
        let runs = plugin_on.contains(&name);
        for part in ["capacity", "allocatable"] {
            let Some(resources) = node.pointer_mut(&format!("/status/{part}")).and_then(Value::as_object_mut) else {
                continue;
            };
            match (runs, name == here) {
                (true, true) if cards > 0 => {
                    resources.insert(GPU.into(), cards.to_string().into());
                }
                // A kubelet keeps the resource of a plugin that is gone, at zero.
                (false, _) if resources.contains_key(GPU) => {
                    resources.insert(GPU.into(), "0".into());
                }
                _ => {}
            }
        }
    }
}

/// Whether the scheduler lets a DaemonSet's pod onto a node: selector, required affinity, taints.
fn lands(pod: &Value, node: &Value) -> bool {
    let none = Map::new();
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object).unwrap_or(&none);
    let selector = pod.get("nodeSelector").and_then(Value::as_object).unwrap_or(&none);
    let selected = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let terms = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let affine = match pod.pointer(terms).and_then(Value::as_array) {
        Some(terms) => terms.iter().any(|term| {
            let all = term.get("matchExpressions").and_then(Value::as_array).cloned().unwrap_or_default();
            !all.is_empty() && all.iter().all(|expression| holds(expression, labels))
        }),
        None => true,
    };
    let taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    let tolerations = pod.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    let tolerated =
        taints.iter().filter(|taint| taint.get("effect") != Some(&json!("PreferNoSchedule"))).all(|taint| {
            tolerations.iter().any(|toleration| {
                let key = toleration.get("key").and_then(Value::as_str).unwrap_or_default();
                let exists = toleration.get("operator") == Some(&json!("Exists"));
                let effect = toleration.get("effect");
                (key.is_empty() && exists || toleration.get("key") == taint.get("key"))
                    && (exists || toleration.get("value") == taint.get("value"))
                    && (effect.is_none() || effect == taint.get("effect"))
            })
        });
    selected && affine && tolerated
}

fn holds(expression: &Value, labels: &Map<String, Value>) -> bool {
    let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
    let values = expression.get("values").and_then(Value::as_array).cloned().unwrap_or_default();
    let label = labels.get(key);
    match expression.get("operator").and_then(Value::as_str).unwrap_or_default() {
        "In" => label.is_some_and(|label| values.contains(label)),
        "NotIn" => label.is_none_or(|label| !values.contains(label)),
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        _ => false,
    }
}

/// The Deployment's pods are made again from its template.
fn roll_out(tree: &Tree, op: &KubeOp) -> Result<(), HandError> {
    let (Some(deployments), Some(mut pods)) = (get(tree, KubeList::Deployments), get(tree, KubeList::Pods)) else {
        return Ok(());
    };
    let Some(deployment) = items(&deployments).into_iter().find(|item| named(item, op)) else { return Ok(()) };
    let Some(template) = deployment.pointer("/spec/template/spec").and_then(Value::as_object).cloned() else {
        return Ok(());
    };
    let prefix = format!("{}-", op.name);
    for pod in pods.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        let namespace = pod.pointer("/metadata/namespace").and_then(Value::as_str) == Some(op.namespace.as_str());
        if !namespace || !name_of(pod).starts_with(&prefix) {
            continue;
        }
        if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
            for key in ["containers", "affinity", "nodeSelector", "runtimeClassName"] {
                match template.get(key) {
                    Some(value) => spec.insert(key.into(), value.clone()),
                    None => spec.remove(key),
                };
            }
        }
    }
    put(tree, op, KubeList::Pods, pods)
}

fn pending(_items: &mut Value, op: &KubeOp) -> Result<(), String> {
    Err(format!("{} is not simulated yet", op.kind))
}
