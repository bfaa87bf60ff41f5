//! Sets of fields, as `managedFields` keeps them (FieldsV1), and the shapes by which an object is taken apart.
//!
//! Source: kubernetes.io, "Server-Side Apply" (merge strategy; `x-kubernetes-list-type`, `x-kubernetes-map-type`), and the
//! OpenAPI document's marks for the kinds served here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Field(String),
    /// The item of an associative list with these keys, as JSON: `{"name":"gpu"}`.
    Item(String),
    /// The item of a set, as JSON.
    Member(String),
}

pub(super) type Path = Vec<Step>;
pub(super) type Set = BTreeSet<Path>;

/// How a value below a path is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Each field by itself.
    Granular,
    /// As a whole.
    Atomic,
    /// A list whose items are found by these keys.
    Items(&'static [&'static str]),
    /// A list of values, each of which is there or not.
    Members,
}

/// The shape of the map or list at a path: by its last fields, as they are called in all kinds served.
pub(super) fn shape(path: &[Step], value: &Value) -> Shape {
    let mut names = path.iter().rev().filter_map(|step| match step {
        Step::Field(name) => Some(name.as_str()),
        _ => None,
    });
    let (last, before) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    match value {
        Value::Object(_) => match (before, last) {
            (_, "nodeSelector" | "selector" | "labelSelector" | "fieldRef" | "configMapKeyRef" | "secretKeyRef") => {
                Shape::Atomic
            }
            (_, "resourceFieldRef" | "roleRef" | "requiredDuringSchedulingIgnoredDuringExecution") => Shape::Atomic,
            _ => Shape::Granular,
        },
        Value::Array(_) => match (before, last) {
            (_, "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" | "claims") => {
                Shape::Items(&["name"])
            }
            ("containers" | "initContainers", "ports") => Shape::Items(&["containerPort", "protocol"]),
            (_, "volumeMounts") => Shape::Items(&["mountPath"]),
            ("status", "conditions" | "addresses") => Shape::Items(&["type"]),
            ("metadata", "ownerReferences") => Shape::Items(&["uid"]),
            ("metadata", "finalizers") | (_, "podCIDRs") => Shape::Members,
            _ => Shape::Atomic,
        },
        _ => Shape::Atomic,
    }
}

/// The step to an item of an associative list; none where a key is missing.
pub(super) fn item_step(item: &Value, keys: &[&str]) -> Option<Step> {
    let mut found = BTreeMap::new();
    for key in keys {
        let value = match item.get(key) {
            Some(value) => value.clone(),
            None if *key == "protocol" => Value::from("TCP"),
            None => return None,
        };
        found.insert(*key, value);
    }
    serde_json::to_string(&found).ok().map(Step::Item)
}

/// The fields that no manager owns.
fn nobodys(path: &[Step]) -> bool {
    let names: Vec<&str> = path
        .iter()
        .map(|step| match step {
            Step::Field(name) => name.as_str(),
            _ => "",
        })
        .collect();
    matches!(
        names.as_slice(),
        ["apiVersion" | "kind"]
            | [
                "metadata",
                "name"
                    | "generateName"
                    | "namespace"
                    | "uid"
                    | "resourceVersion"
                    | "creationTimestamp"
                    | "generation"
                    | "managedFields"
                    | "selfLink",
                ..
            ]
    )
}

/// All fields of an object, each with its value (an item of a list by itself has none).
pub(super) fn leaves(object: &Value) -> BTreeMap<Path, Option<&Value>> {
    let mut found = BTreeMap::new();
    walk(object, &mut Vec::new(), &mut found);
    found.retain(|path, _| !nobodys(path));
    found
}

fn walk<'a>(value: &'a Value, path: &mut Path, found: &mut BTreeMap<Path, Option<&'a Value>>) {
    let into = |step: Step, value: &'a Value, path: &mut Path, found: &mut BTreeMap<Path, Option<&'a Value>>| {
        path.push(step);
        walk(value, path, found);
        path.pop();
    };
    match (shape(path, value), value) {
        (Shape::Granular, Value::Object(map)) if !map.is_empty() => {
            for (name, value) in map {
                into(Step::Field(name.clone()), value, path, found);
            }
        }
        (Shape::Items(keys), Value::Array(items)) if items.iter().all(|item| item_step(item, keys).is_some()) => {
            for item in items {
                let Some(step) = item_step(item, keys) else { continue };
                path.push(step.clone());
                found.insert(path.clone(), None);
                path.pop();
                into(step, item, path, found);
            }
        }
        (Shape::Members, Value::Array(items)) => {
            for item in items {
                path.push(Step::Member(item.to_string()));
                found.insert(path.clone(), None);
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => drop(found.insert(path.clone(), Some(value))),
    }
}

/// ".metadata.labels.nvidia.com/gpu", ".spec.containers[name="gpu"].image"
pub(super) fn spelled(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Field(name) => out.push_str(&format!(".{name}")),
            Step::Member(value) => out.push_str(&format!("[={value}]")),
            Step::Item(keys) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let all: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                out.push_str(&format!("[{}]", all.join(",")));
            }
        }
    }
    out
}

/// As `fieldsV1`.
pub(super) fn encode(set: &Set) -> Value {
    let mut root = Value::Object(Map::new());
    for path in set {
        place(&mut root, path);
    }
    trim(&mut root);
    root
}

fn place(at: &mut Value, path: &[Step]) {
    let Value::Object(map) = at else { return };
    let Some((step, rest)) = path.split_first() else {
        // a step that is owned itself; trimmed where nothing stands below it
        map.insert(".".into(), Value::Object(Map::new()));
        return;
    };
    let name = match step {
        Step::Field(name) => format!("f:{name}"),
        Step::Item(keys) => format!("k:{keys}"),
        Step::Member(value) => format!("v:{value}"),
    };
    place(map.entry(name).or_insert_with(|| Value::Object(Map::new())), rest);
}

/// "." is written only beside others.
fn trim(value: &mut Value) {
    let Value::Object(map) = value else { return };
    if map.len() == 1 {
        map.remove(".");
    }
    map.values_mut().for_each(trim);
}

pub(super) fn decode(value: &Value) -> Set {
    let mut found = Set::new();
    if let Value::Object(map) = value {
        below(map, &mut Vec::new(), &mut found);
    }
    found
}

fn below(map: &Map<String, Value>, path: &mut Path, found: &mut Set) {
    if map.is_empty() && !path.is_empty() {
        found.insert(path.clone());
    }
    for (name, value) in map {
        let step = match name.split_at_checked(2) {
            _ if name == "." => {
                found.insert(path.clone());
                continue;
            }
            Some(("f:", name)) => Step::Field(name.to_owned()),
            Some(("k:", keys)) => Step::Item(keys.to_owned()),
            Some(("v:", value)) => Step::Member(value.to_owned()),
            _ => continue,
        };
        path.push(step);
        if let Value::Object(map) = value {
            below(map, path, found);
        }
        path.pop();
    }
}

/// Takes the field away, and what becomes empty by that above it.
pub(super) fn remove(object: &mut Value, path: &[Step]) {
    let Some((first, rest)) = path.split_first() else { return };
    match (object, first) {
        (Value::Object(map), Step::Field(name)) => {
            if rest.is_empty() {
                map.remove(name);
            } else if let Some(next) = map.get_mut(name) {
                remove(next, rest);
                let empty = matches!(next, Value::Object(map) if map.is_empty())
                    || matches!(next, Value::Array(items) if items.is_empty());
                if empty {
                    map.remove(name);
                }
            }
        }
        (Value::Array(items), Step::Item(keys)) => {
            let wanted: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let is = |item: &Value| {
                wanted.iter().all(|(key, value)| match item.get(key) {
                    Some(has) => has == value,
                    None => key == "protocol" && value == "TCP",
                })
            };
            let Some(at) = items.iter().position(is) else { return };
            if rest.is_empty() {
                items.remove(at);
            } else if let Some(item) = items.get_mut(at) {
                remove(item, rest);
            }
        }
        (Value::Array(items), Step::Member(value)) => {
            let gone: Option<Value> = serde_json::from_str(value).ok();
            items.retain(|item| Some(item) != gone.as_ref());
        }
        _ => {}
    }
}

/// Lays `from` over `onto`, by the shapes.
pub(super) fn merge(onto: &mut Value, from: &Value, path: &mut Path) {
    match (shape(path, from), onto, from) {
        (Shape::Granular, Value::Object(onto), Value::Object(from)) => {
            for (name, value) in from {
                path.push(Step::Field(name.clone()));
                match onto.get_mut(name) {
                    Some(there) => merge(there, value, path),
                    None => drop(onto.insert(name.clone(), value.clone())),
                }
                path.pop();
            }
        }
        (Shape::Items(keys), Value::Array(onto), Value::Array(from)) => {
            for item in from {
                let step = item_step(item, keys);
                match onto.iter_mut().find(|there| step.is_some() && item_step(there, keys) == step) {
                    Some(there) => {
                        path.extend(step);
                        merge(there, item, path);
                        path.pop();
                    }
                    None => onto.push(item.clone()),
                }
            }
        }
        (Shape::Members, Value::Array(onto), Value::Array(from)) => {
            for item in from {
                if !onto.contains(item) {
                    onto.push(item.clone());
                }
            }
        }
        (_, onto, from) => *onto = from.clone(),
    }
}
