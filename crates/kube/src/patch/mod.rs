//! A workload made to ask the scheduler for its GPUs: `nvidia.com/gpu` in the limits, no NVIDIA_VISIBLE_DEVICES that goes
//! past the grant. NVIDIA_DRIVER_CAPABILITIES stays: it says what of the driver, not which card.
//!
//! [`pod`] edits a pod's specification as the API has it; [`file`] does the same to a YAML (or JSON) file and leaves every
//! byte that is not meant, comments and order too. What [`file`] wrote is read again and held to what [`pod`] makes of the
//! file's values: a form that cannot be edited surely is refused and not guessed at.

mod text;

use serde_json::{Map, Value, json};

use crate::objects::{RESOURCE, is_gpu_label};
pub use text::{Patched, Problem, file};

pub(crate) const VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// The way to the hard node affinity's terms.
const TERMS: [&str; 4] =
    ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];

/// What is wanted of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// How many GPUs, at least 1.
    pub gpus: u32,
    /// The container that gets them; `None`: the one that takes them by the variable, else one that asks already, else
    /// the first.
    pub container: Option<String>,
    /// Also take node selection by GPU labels out: the limit alone finds a node that has one.
    pub drop_affinity: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Wish { gpus: 1, container: None, drop_affinity: false }
    }
}

/// What a container's variable takes past the grant.
fn takes(entry: &Value) -> bool {
    let named = entry.get("name").and_then(Value::as_str) == Some(VARIABLE);
    let value = entry.get("value").and_then(Value::as_str).unwrap_or_default();
    named && entry.get("valueFrom").is_none() && !["", "void", "none"].contains(&value.trim())
}

fn containers<'a>(pod: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    pod.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn env(container: &Value) -> impl Iterator<Item = &Value> {
    container.get("env").and_then(Value::as_array).into_iter().flatten()
}

fn limits(container: &Value) -> Option<&Map<String, Value>> {
    container.pointer("/resources/limits").and_then(Value::as_object)
}

fn name_of(object: &Value) -> &str {
    object.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The place of the container that gets the GPUs among `containers`.
///
/// # Errors
/// None of that name, none at all, or one that asks for another NVIDIA resource already.
pub(crate) fn target(pod: &Value, wish: &Wish) -> Result<usize, String> {
    let all: Vec<&Value> = containers(pod, "containers").collect();
    let asks = |container: &&Value| {
        limits(container).is_some_and(|limits| limits.keys().any(|key| key.starts_with("nvidia.com/")))
    };
    let found = match &wish.container {
        Some(name) => all.iter().position(|container| name_of(container) == name).ok_or_else(|| {
            let known: Vec<&str> = all.iter().map(|container| name_of(container)).collect();
            format!("it has no container {name}; it has {}", known.join(", "))
        })?,
        None => all
            .iter()
            .position(|container| env(container).any(takes))
            .or_else(|| all.iter().position(asks))
            .unwrap_or(0),
    };
    let container = all.get(found).ok_or("it has no container")?;
    let other = limits(container)
        .and_then(|limits| limits.keys().find(|key| key.starts_with("nvidia.com/") && *key != RESOURCE));
    match other {
        Some(other) => {
            Err(format!("container {} asks for {other} already; one of the two must go by hand", name_of(container)))
        }
        None => Ok(found),
    }
}

/// Edits a pod's specification in place; gives what was done, in words. Nothing to do gives no words. `count` is how the
/// number is to be written: the API's objects have text, people write a number.
///
/// # Errors
/// As [`target`], and where the object has not the form of a pod's specification.
pub fn pod(pod: &mut Value, wish: &Wish, count: &Value) -> Result<Vec<String>, String> {
    let chosen = target(pod, wish)?;
    let mut words = Vec::new();
    for field in ["initContainers", "containers"] {
        let list = pod.get_mut(field).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten().filter_map(Value::as_object_mut) {
            let Some(list) = container.get_mut("env").and_then(Value::as_array_mut) else { continue };
            let before = list.len();
            list.retain(|entry| !takes(entry));
            if list.len() < before {
                if list.is_empty() {
                    container.shift_remove("env");
                }
                let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
                words.push(format!("drop {VARIABLE} from container {name}"));
            }
        }
    }
    let container = pod.get_mut("containers").and_then(Value::as_array_mut).and_then(|all| all.get_mut(chosen));
    let container = container.and_then(Value::as_object_mut).ok_or("a container is no object")?;
    if set_resource(container, count).ok_or("a container's resources are no object")? {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        words.push(format!("ask for {RESOURCE}: {} in container {name}", wish.gpus));
    }
    if wish.drop_affinity && drop_affinity(pod) {
        words.push("drop node selection by GPU labels".into());
    }
    Ok(words)
}

/// True where both say the same number: `1`, `"1"`.
fn same(now: Option<&Value>, count: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::String(text) => formats::quantity::whole(text),
        other => other.as_u64(),
    };
    now.is_some_and(|now| number(now).is_some() && number(now) == number(count))
}

/// A number that was written as text stays text.
fn as_before(before: Option<&Value>, count: &Value) -> Value {
    match before {
        Some(Value::String(_)) if count.is_u64() => count.to_string().into(),
        _ => count.clone(),
    }
}

/// Extended resources are never overcommitted: where a request is written it must be equal to the limit.
fn set_resource(container: &mut Map<String, Value>, count: &Value) -> Option<bool> {
    let mut changed = false;
    let resources = filled(container.entry("resources").or_insert(Value::Null))?;
    let limits = filled(resources.entry("limits").or_insert(Value::Null))?;
    if !same(limits.get(RESOURCE), count) {
        let written = as_before(limits.get(RESOURCE), count);
        limits.insert(RESOURCE.into(), written);
        changed = true;
    }
    if let Some(requests) = resources.get_mut("requests").and_then(Value::as_object_mut)
        && requests.contains_key(RESOURCE)
        && !same(requests.get(RESOURCE), count)
    {
        let written = as_before(requests.get(RESOURCE), count);
        requests.insert(RESOURCE.into(), written);
        changed = true;
    }
    Some(changed)
}

/// An object where nothing stood.
fn filled(value: &mut Value) -> Option<&mut Map<String, Value>> {
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

/// An expression that sends the pod to nodes with a GPU label.
fn sends(expression: &Value) -> bool {
    let text = |key: &str| expression.get(key).and_then(Value::as_str).unwrap_or_default();
    is_gpu_label(text("key")) && ["In", "Exists", "Gt", "Lt"].contains(&text("operator"))
}

fn drop_affinity(pod: &mut Value) -> bool {
    let mut dropped = false;
    if let Some(selector) = pod.get_mut("nodeSelector").and_then(Value::as_object_mut) {
        let before = selector.len();
        selector.retain(|key, _| !is_gpu_label(key));
        dropped |= selector.len() < before;
        if dropped && selector.is_empty() {
            remove(pod, &["nodeSelector"]);
        }
    }
    let pointer = format!("/{}", TERMS.join("/"));
    let mut emptied = false;
    if let Some(terms) = pod.pointer_mut(&pointer).and_then(Value::as_array_mut) {
        for term in terms.iter_mut().filter_map(Value::as_object_mut) {
            let Some(list) = term.get_mut("matchExpressions").and_then(Value::as_array_mut) else { continue };
            let before = list.len();
            list.retain(|expression| !sends(expression));
            if list.len() < before {
                dropped = true;
                if list.is_empty() {
                    term.shift_remove("matchExpressions");
                }
            }
        }
        if dropped {
            terms.retain(|term| term.as_object().is_none_or(|term| !term.is_empty()));
        }
        emptied = terms.is_empty();
    }
    // whatever is empty now goes too, from the inside out
    for depth in (1..=TERMS.len()).rev() {
        if !dropped || !emptied {
            break;
        }
        let Some(way) = TERMS.get(..depth) else { break };
        remove(pod, way);
        let parent = format!("/{}", TERMS.get(..depth - 1).unwrap_or_default().join("/"));
        emptied = pod.pointer(&parent).and_then(Value::as_object).is_some_and(Map::is_empty);
    }
    dropped
}

fn remove(value: &mut Value, way: &[&str]) {
    let Some((last, parents)) = way.split_last() else { return };
    let mut here = value;
    for key in parents {
        let Some(next) = here.get_mut(*key) else { return };
        here = next;
    }
    if let Some(map) = here.as_object_mut() {
        map.shift_remove(*last);
    }
}
