//! The simulated API server and its controllers: an object is changed in the recorded lists, and what the scheduler,
//! the DaemonSet controller and the kubelet make of it follows.

use journal::HandError;
use machine::{Answer, Engine, KubeList, MachineExt as _, Question};
use model::KubeOp;
use serde_json::{Map, Value, json};

use crate::physics::PhysicsError;
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
    kube::apply_to_list(&mut items, op).map_err(|message| refused(op, message))?;
    let landed = landings(tree);
    put(tree, list, &items).map_err(|error| refused(op, error.to_string()))?;
    let settled =
        settle(tree, &landed).and_then(|()| if op.kind == "Deployment" { roll_out(tree, op) } else { Ok(()) });
    settled.and_then(|()| kubelet(tree)).map_err(|error| refused(op, error.to_string()))
}

/// The object as it was: applied again, or deleted where there was none.
pub(crate) fn take_back(tree: &Tree, op: &KubeOp) -> Result<(), HandError> {
    apply(tree, &kube::inverse(op))
}

fn put(tree: &Tree, list: KubeList, items: &Value) -> Result<(), PhysicsError> {
    tree.set_answer(Question::Kube(list), Some(&Answer::Json(items.clone())))
}

fn named(item: &Value, op: &KubeOp) -> bool {
    let text = |key: &str| item.pointer(&format!("/metadata/{key}")).and_then(Value::as_str).unwrap_or_default();
    text("name") == op.name && (op.namespace.is_empty() || text("namespace") == op.namespace)
}

fn items(list: &Value) -> Vec<Value> {
    list.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// The nodes on which a DaemonSet's pods run, for each DaemonSet in the list's order.
fn landings(tree: &Tree) -> Vec<Vec<String>> {
    let (Some(nodes), Some(sets)) = (get(tree, KubeList::Nodes), get(tree, KubeList::DaemonSets)) else {
        return Vec::new();
    };
    let nodes = items(&nodes);
    let on = |set: &Value| {
        let pod = set.pointer("/spec/template/spec").cloned().unwrap_or(Value::Null);
        nodes.iter().filter(|node| lands(&pod, node)).map(name_of).collect()
    };
    items(&sets).iter().map(on).collect()
}

/// The DaemonSet controller counts again where an operation changed on how many nodes a set lands.
fn settle(tree: &Tree, before: &[Vec<String>]) -> Result<(), PhysicsError> {
    let Some(mut sets) = get(tree, KubeList::DaemonSets) else { return Ok(()) };
    let now = landings(tree);
    let all = sets.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten();
    for (at, (set, on)) in all.zip(&now).enumerate() {
        if now.len() == before.len() && before.get(at).is_some_and(|old| old.len() == on.len()) {
            continue;
        }
        let Some(set) = set.as_object_mut() else { continue };
        let status = set.entry("status").or_insert_with(|| Value::Object(Map::new()));
        let Some(status) = status.as_object_mut() else { continue };
        for field in [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "numberAvailable",
            "updatedNumberScheduled",
        ] {
            if status.contains_key(field) || field.ends_with("Scheduled") && field != "updatedNumberScheduled" {
                status.insert(field.into(), on.len().into());
            }
        }
    }
    put(tree, KubeList::DaemonSets, &sets)
}

fn name_of(object: &Value) -> String {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// This machine's kubelet: where the device plugin runs and can see the driver (the engine's default runtime brings it
/// in, or CDI does), the node offers its cards. A plugin that left takes its resource with it, to zero.
pub(crate) fn kubelet(tree: &Tree) -> Result<(), PhysicsError> {
    let (Some(mut nodes), Some(sets)) = (get(tree, KubeList::Nodes), get(tree, KubeList::DaemonSets)) else {
        return Ok(());
    };
    let here = tree.value("/etc/hostname").unwrap_or_default();
    let plugin = |set: &Value| {
        set.pointer("/spec/template/spec/containers").is_some_and(|c| c.to_string().contains("k8s-device-plugin"))
    };
    let on = landings(tree);
    let runs = items(&sets).iter().zip(&on).any(|(set, on)| plugin(set) && on.contains(&here));
    let cards = match tree.answer(Question::Nvml) {
        Some(Answer::Nvml(report)) => report.gpus.len(),
        _ => 0,
    };
    let before = nodes.clone();
    for node in
        nodes.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().filter(|n| name_of(n) == here)
    {
        for part in ["capacity", "allocatable"] {
            let Some(resources) = node.pointer_mut(&format!("/status/{part}")).and_then(Value::as_object_mut) else {
                continue;
            };
            if runs && cards > 0 && reaches_containers(tree) {
                resources.insert(GPU.into(), cards.to_string().into());
            } else if !runs && resources.contains_key(GPU) {
                resources.insert(GPU.into(), "0".into());
            }
        }
    }
    if nodes == before { Ok(()) } else { put(tree, KubeList::Nodes, &nodes) }
}

/// Whether the engine brings the driver into a pod that does not ask for a runtime by name.
fn reaches_containers(tree: &Tree) -> bool {
    let Some(Answer::Json(info)) = tree.answer(Question::EngineInfo(Engine::Docker)) else { return false };
    let default = info.get("DefaultRuntime").and_then(Value::as_str).unwrap_or_default();
    let path = info.pointer(&format!("/Runtimes/{default}/path")).and_then(Value::as_str).unwrap_or_default();
    let runtime = path.contains("nvidia-container-runtime") && (!path.starts_with('/') || tree.has(path));
    runtime || info.get("CDISpecDirs").is_some() && !tree.root.names("/etc/cdi").is_empty()
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

/// The Deployment's pods are made again from its template: what a patch of ours changes in it, they have.
fn roll_out(tree: &Tree, op: &KubeOp) -> Result<(), PhysicsError> {
    let (Some(deployments), Some(mut pods)) = (get(tree, KubeList::Deployments), get(tree, KubeList::Pods)) else {
        return Ok(());
    };
    let Some(deployment) = items(&deployments).into_iter().find(|item| named(item, op)) else { return Ok(()) };
    let Some(template) = deployment.pointer("/spec/template/spec").and_then(Value::as_object) else { return Ok(()) };
    let containers = template.get("containers").and_then(Value::as_array).cloned().unwrap_or_default();
    let prefix = format!("{}-", op.name);
    for pod in pods.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        let namespace = pod.pointer("/metadata/namespace").and_then(Value::as_str) == Some(op.namespace.as_str());
        if !namespace || !name_of(pod).starts_with(&prefix) {
            continue;
        }
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { continue };
        for key in ["affinity", "nodeSelector", "runtimeClassName"] {
            follow(spec, template, key);
        }
        for container in spec.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
            let wanted = containers.iter().find(|wanted| wanted.get("name") == container.get("name"));
            if let (Some(wanted), Some(container)) = (wanted.and_then(Value::as_object), container.as_object_mut()) {
                for key in ["env", "resources", "image"] {
                    follow(container, wanted, key);
                }
            }
        }
    }
    put(tree, KubeList::Pods, &pods)
}

/// `object` has `key` as `wanted` has it, or not at all.
fn follow(object: &mut Map<String, Value>, wanted: &Map<String, Value>, key: &str) {
    match wanted.get(key) {
        Some(value) => object.insert(key.into(), value.clone()),
        None => object.shift_remove(key),
    };
}
