//! Field management: server-side apply, and what other changes do to who owns what.
//!
//! Source: kubernetes.io, "Server-Side Apply": an apply's fields are compared with what other managers own; a value that
//! differs is a conflict; what the manager applied before and leaves out is removed unless another owns it. Any other change
//! gives its fields to its manager, under operation Update.

use serde_json::{Map, Value, json};

use super::fields::{Set, decode, encode, leaves, merge, remove, spelled};

#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    /// "Apply" or "Update".
    operation: String,
    subresource: String,
    api_version: String,
    time: String,
    fields: Set,
}

/// Who changes.
pub(super) struct Who<'a> {
    pub manager: &'a str,
    pub subresource: &'a str,
    pub api_version: &'a str,
    pub now: &'a str,
}

fn entries(object: &Value) -> Vec<Entry> {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let entry = |value: &Value| {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Entry {
            manager: text("manager"),
            operation: text("operation"),
            subresource: text("subresource"),
            api_version: text("apiVersion"),
            time: text("time"),
            fields: value.get("fieldsV1").map(decode).unwrap_or_default(),
        }
    };
    list.into_iter().flatten().map(entry).collect()
}

fn keep(object: &mut Value, entries: &[Entry]) {
    let list: Vec<Value> = entries
        .iter()
        .filter(|entry| !entry.fields.is_empty())
        .map(|entry| {
            let mut value = json!({
                "manager": entry.manager, "operation": entry.operation, "apiVersion": entry.api_version,
                "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": encode(&entry.fields),
            });
            if let (false, Some(map)) = (entry.subresource.is_empty(), value.as_object_mut()) {
                map.insert("subresource".into(), Value::from(entry.subresource.clone()));
            }
            value
        })
        .collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        match list.is_empty() {
            true => drop(metadata.remove("managedFields")),
            false => drop(metadata.insert("managedFields".into(), Value::Array(list))),
        }
    }
}

/// The object after a server-side apply; else field and manager of each conflict.
pub(super) fn apply(live: &Value, config: &Value, force: bool, who: &Who<'_>) -> Result<Value, Vec<(String, String)>> {
    let mut all = entries(live);
    let mine = |entry: &Entry| {
        entry.manager == who.manager && entry.operation == "Apply" && entry.subresource == who.subresource
    };
    let mut next = live.clone();
    merge(&mut next, config, &mut Vec::new());
    let wanted = leaves(config);
    let (there, merged) = (leaves(live), leaves(&next));
    let mut conflicts = Vec::new();
    for entry in all.iter_mut().filter(|entry| !mine(entry)) {
        let differs = |path: &&Vec<_>| wanted.contains_key(*path) && there.get(*path) != merged.get(*path);
        let lost: Vec<_> = entry.fields.iter().filter(differs).cloned().collect();
        for path in lost {
            match force {
                true => drop(entry.fields.remove(&path)),
                false => conflicts.push((spelled(&path), by(entry))),
            }
        }
    }
    if !conflicts.is_empty() {
        conflicts.sort();
        return Err(conflicts);
    }
    let new: Set = wanted.into_keys().collect();
    let old: Set = all.iter().find(|entry| mine(entry)).map(|entry| entry.fields.clone()).unwrap_or_default();
    for path in old.difference(&new) {
        let others = all.iter().any(|entry| !mine(entry) && entry.fields.contains(path));
        if !others {
            remove(&mut next, path);
        }
    }
    match all.iter_mut().find(|entry| mine(entry)) {
        Some(entry) if entry.fields == new => {}
        Some(entry) => {
            entry.fields = new;
            who.now.clone_into(&mut entry.time);
        }
        None => all.push(of(who, "Apply", new)),
    }
    keep(&mut next, &all);
    Ok(next)
}

/// After any other change: who owns what of `next`, which came from `old`.
pub(super) fn changed(old: &Value, next: &mut Value, who: &Who<'_>) {
    let mut all = entries(old);
    let (before, after) = (leaves(old), leaves(next));
    let touched: Set =
        after.iter().filter(|(path, value)| before.get(*path) != Some(*value)).map(|(p, _)| p.clone()).collect();
    let gone: Set = before.keys().filter(|path| !after.contains_key(*path)).cloned().collect();
    let mine = |entry: &Entry| {
        entry.manager == who.manager && entry.operation == "Update" && entry.subresource == who.subresource
    };
    for entry in &mut all {
        let own = mine(entry);
        entry.fields.retain(|path| !gone.contains(path) && (own || !touched.contains(path)));
    }
    if !touched.is_empty() {
        match all.iter_mut().find(|entry| mine(entry)) {
            Some(entry) => {
                entry.fields.extend(touched);
                who.now.clone_into(&mut entry.time);
            }
            None => all.push(of(who, "Update", touched)),
        }
    }
    keep(next, &all);
}

fn of(who: &Who<'_>, operation: &str, fields: Set) -> Entry {
    Entry {
        manager: who.manager.to_owned(),
        operation: operation.to_owned(),
        subresource: who.subresource.to_owned(),
        api_version: who.api_version.to_owned(),
        time: who.now.to_owned(),
        fields,
    }
}

fn by(entry: &Entry) -> String {
    match entry.subresource.as_str() {
        "" => entry.manager.clone(),
        sub => format!("{}\" with subresource \"{sub}", entry.manager),
    }
}

/// RFC 7396.
pub(super) fn merge_patch(onto: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *onto = patch.clone();
        return;
    };
    if !onto.is_object() {
        *onto = Value::Object(Map::new());
    }
    let Value::Object(map) = onto else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(map.shift_remove(key)),
            value => merge_patch(map.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}
