//! What an API server does to its lists, as pure functions: for the simulated cluster and for the way back.
//!
//! Versions (`resourceVersion`, `generation`) are checked and not counted up, so that taking a change back leaves the
//! same bytes. A second writer is simulated by changing them.

use model::{KubeOp, KubeVerb};
use serde_json::{Map, Value, json};

use crate::objects::Node;
use crate::placement::lands_on;
use crate::read::At;

const KINDS: [&str; 4] = ["Node", "Pod", "DaemonSet", "Deployment"];

/// Changes a List as the API server would, or says in its manner why not. On an error the list is as it was.
pub fn apply_to_list(list: &mut Value, op: &KubeOp) -> Result<(), String> {
    if !KINDS.contains(&op.kind.as_str()) {
        return Err(format!("no matches for kind \"{}\" in version \"{}\"", op.kind, op.api_version));
    }
    let namespaced = op.kind != "Node";
    if namespaced == op.namespace.is_empty() {
        return Err(format!("{} {}: the namespace does not fit the kind", op.kind, op.name));
    }
    let items = list.get_mut("items").and_then(Value::as_array_mut).ok_or("the list has no items")?;
    if let Some(other) = items.iter().filter_map(|item| item.get("kind")?.as_str()).find(|kind| *kind != op.kind) {
        return Err(format!("a list of {other} takes no {}", op.kind));
    }
    let found = items.iter().position(|item| key(item) == (op.namespace.as_str(), op.name.as_str()));
    let missing = || format!("{} \"{}\" not found", op.kind, op.name);
    match (op.verb, found) {
        (KubeVerb::Apply, _) => {
            valid(op)?;
            match (found.and_then(|at| items.get_mut(at)), &op.before) {
                (Some(item), Some(_)) => {
                    *item = replaced(item, op)?;
                    Ok(())
                }
                (Some(_), None) => Err(format!("{} \"{}\" already exists", op.kind, op.name)),
                (None, Some(_)) => Err(missing()),
                (None, None) => {
                    let place = items.iter().position(|item| key(item) > (op.namespace.as_str(), op.name.as_str()));
                    items.insert(place.unwrap_or(items.len()), op.body.clone());
                    Ok(())
                }
            }
        }
        (KubeVerb::Label, Some(at)) => match items.get_mut(at) {
            Some(item) => label(item, op),
            None => Err(missing()),
        },
        (KubeVerb::Delete, Some(at)) => {
            items.remove(at);
            Ok(())
        }
        (KubeVerb::Label | KubeVerb::Delete, None) => Err(missing()),
    }
}

/// The operation that takes `op` back, for [`apply_to_list`] and any hands that know the three verbs.
pub fn inverse(op: &KubeOp) -> KubeOp {
    let mut back = op.clone();
    match (op.verb, &op.before) {
        (KubeVerb::Label, before) => {
            let old = before.as_ref().and_then(|before| before.pointer("/metadata/labels"));
            let keys = op.body.as_object().into_iter().flat_map(|map| map.keys());
            let body: Map<String, Value> = keys
                .map(|key| (key.clone(), old.and_then(|old| old.get(key)).cloned().unwrap_or(Value::Null)))
                .collect();
            back.body = Value::Object(body);
        }
        (KubeVerb::Apply, None) => {
            back.verb = KubeVerb::Delete;
            back.before = Some(op.body.clone());
        }
        (KubeVerb::Apply, Some(before)) => {
            back.before = Some(op.body.clone());
            back.body = before.clone();
        }
        (KubeVerb::Delete, before) => {
            back.verb = KubeVerb::Apply;
            back.body = before.clone().unwrap_or_default();
            back.before = None;
        }
    }
    back.preview = op.preview.lines().map(turned).collect();
    back
}

/// A diff's line, seen from the other side.
fn turned(line: &str) -> String {
    match line.split_at_checked(1) {
        Some(("+", rest)) => format!("-{rest}\n"),
        Some(("-", rest)) => format!("+{rest}\n"),
        _ => format!("{line}\n"),
    }
}

/// Lets the DaemonSet controller run: recomputes the counts in `status` from the nodes. All pods come up at once.
/// Errors where either list is malformed, and then changes nothing.
pub fn settle(nodes: &Value, daemonsets: &mut Value) -> Result<(), String> {
    let nodes: Vec<Node> =
        At::root(nodes, "nodes").at("items")?.list()?.iter().map(crate::objects::node).collect::<Result<_, _>>()?;
    let sets = At::root(daemonsets, "daemonsets").at("items")?.list()?;
    let sets: Vec<_> = sets.iter().map(crate::objects::workload).collect::<Result<_, _>>()?;
    let counts: Vec<usize> =
        sets.iter().map(|set| nodes.iter().filter(|node| lands_on(&set.pod, node)).count()).collect();
    let items = daemonsets.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten();
    for (item, count) in items.zip(counts) {
        let generation = item.pointer("/metadata/generation").cloned();
        let Some(item) = item.as_object_mut() else { continue };
        let status = item.entry("status").or_insert_with(|| json!({}));
        let Some(status) = status.as_object_mut() else { continue };
        for field in ["desiredNumberScheduled", "currentNumberScheduled"] {
            status.insert(field.into(), json!(count));
        }
        for field in ["numberReady", "numberAvailable", "updatedNumberScheduled"] {
            if let Some(value) = status.get_mut(field) {
                *value = json!(count);
            }
        }
        if let (Some(seen), Some(generation)) = (status.get_mut("observedGeneration"), generation) {
            *seen = generation;
        }
    }
    Ok(())
}

/// Namespace and name.
fn key(item: &Value) -> (&str, &str) {
    let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    (text("/metadata/namespace"), text("/metadata/name"))
}

/// What is refused before the stored object is looked at.
fn valid(op: &KubeOp) -> Result<(), String> {
    let text = |pointer: &str| op.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/kind") != op.kind || text("/apiVersion") != op.api_version {
        return Err(format!(
            "the body is {} {}, not {} {}",
            text("/apiVersion"),
            text("/kind"),
            op.api_version,
            op.kind
        ));
    }
    if key(&op.body) != (op.namespace.as_str(), op.name.as_str()) {
        return Err(format!("the body's name does not match {} {}", op.kind, op.name));
    }
    for pointer in ["/metadata/labels", "/spec/template/metadata/labels"] {
        for (key, value) in op.body.pointer(pointer).and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().ok_or_else(|| format!("{pointer}/{key} is no text"))?;
            label_key(key)?;
            label_value(value)?;
        }
    }
    if matches!(op.kind.as_str(), "DaemonSet" | "Deployment") {
        let selector = op.body.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
        let selector = selector.ok_or("spec.selector: Required value")?;
        let labels = op.body.pointer("/spec/template/metadata/labels");
        if selector.iter().any(|(key, value)| labels.and_then(|labels| labels.get(key)) != Some(value)) {
            return Err("spec.template.metadata.labels: `selector` does not match template `labels`".into());
        }
        let read = At::root(&op.body, "body");
        crate::objects::workload(&read)?;
        extended(&op.body)?;
    }
    Ok(())
}

/// Extended resources: a request needs an equal limit.
fn extended(body: &Value) -> Result<(), String> {
    let lists = ["/spec/template/spec/initContainers", "/spec/template/spec/containers"];
    for container in lists.iter().filter_map(|list| body.pointer(list)?.as_array()).flatten() {
        let limits = container.pointer("/resources/limits");
        for (key, value) in container.pointer("/resources/requests").and_then(Value::as_object).into_iter().flatten() {
            if key.starts_with("nvidia.com/") && limits.and_then(|limits| limits.get(key)) != Some(value) {
                return Err(format!("resources.requests: {key} must be equal to its limit"));
            }
        }
    }
    Ok(())
}

/// The object that a replace leaves: the body, with the status that only controllers write.
fn replaced(item: &Value, op: &KubeOp) -> Result<Value, String> {
    let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    if let (Some(read), Some(now)) = (version(&op.body), version(item))
        && read != now
    {
        return Err(format!(
            "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes to the \
             latest version and try again",
            op.kind, op.name
        ));
    }
    if matches!(op.kind.as_str(), "DaemonSet" | "Deployment")
        && op.body.pointer("/spec/selector") != item.pointer("/spec/selector")
    {
        return Err(format!("{} \"{}\" is invalid: spec.selector: field is immutable", op.kind, op.name));
    }
    let mut new = op.body.clone();
    if let Some(new) = new.as_object_mut() {
        match item.get("status") {
            Some(status) => {
                new.insert("status".into(), status.clone());
            }
            None => {
                new.shift_remove("status");
            }
        }
    }
    Ok(new)
}

fn label(item: &mut Value, op: &KubeOp) -> Result<(), String> {
    let wanted = op.body.as_object().ok_or("the labels are no object")?;
    for (key, value) in wanted {
        label_key(key)?;
        match value {
            Value::Null => {}
            Value::String(value) => label_value(value)?,
            _ => return Err(format!("the value of label {key} is no text")),
        }
    }
    let meta = item.get_mut("metadata").and_then(Value::as_object_mut).ok_or("the object has no metadata")?;
    let labels =
        meta.entry("labels").or_insert_with(|| json!({})).as_object_mut().ok_or("metadata.labels is no object")?;
    for (key, value) in wanted {
        match value {
            // The API server keeps labels sorted; a label comes back to its place.
            Value::Null => {
                labels.shift_remove(key);
            }
            value => {
                if let Some(old) = labels.get_mut(key) {
                    *old = value.clone();
                } else {
                    let place = labels.keys().position(|other| other > key).unwrap_or(labels.len());
                    labels.shift_insert(place, key.clone(), value.clone());
                }
            }
        }
    }
    Ok(())
}

/// Letters and digits at both ends; `-`, `_` and `.` between.
fn word(text: &str, limit: usize) -> bool {
    let end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= limit
        && end(text.bytes().next())
        && end(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || word(value, 63) {
        return Ok(());
    }
    Err(format!(
        "Invalid value: \"{}\": a label value has at most 63 of the characters A-Z a-z 0-9 - _ .",
        value.escape_debug()
    ))
}

fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let dns = |prefix: &str| word(prefix, 253) && prefix.bytes().all(|byte| !byte.is_ascii_uppercase() && byte != b'_');
    if word(name, 63) && prefix.is_none_or(dns) {
        return Ok(());
    }
    Err(format!("Invalid value: \"{}\" is no label key", key.escape_debug()))
}
