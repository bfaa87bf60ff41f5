//! The objects, their versions, and what happened to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::Kind;

/// What happened to one object.
#[derive(Clone)]
pub(super) struct Event {
    pub version: u64,
    pub kind: &'static str,
    pub namespace: String,
    /// As it was, and as it is: none where it was not there, or is not any more.
    pub old: Option<Arc<Value>>,
    pub new: Option<Arc<Value>>,
}

pub(super) type Key = (&'static str, String, String);

pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    pub version: u64,
    log: VecDeque<Event>,
    /// A watch from before this version is told 410.
    pub oldest: u64,
    history: usize,
    /// Gives out names and UIDs.
    pub serial: u64,
    /// Seconds since the server began, by its own clock.
    pub seconds: u64,
    /// Kinds changed since the controllers looked.
    pub dirty: BTreeSet<&'static str>,
}

impl Store {
    pub fn new(history: usize) -> Self {
        Store {
            objects: BTreeMap::new(),
            version: 1000,
            log: VecDeque::new(),
            oldest: 1000,
            history,
            serial: 0,
            seconds: 0,
            dirty: BTreeSet::new(),
        }
    }

    pub fn key(kind: Kind, namespace: &str, name: &str) -> Key {
        (kind.kind, if kind.namespaced { namespace.to_owned() } else { String::new() }, name.to_owned())
    }

    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.objects.get(&Store::key(kind, namespace, name)).cloned()
    }

    /// Of one namespace, or of all ("").
    pub fn list(&self, kind: Kind, namespace: &str) -> Vec<Arc<Value>> {
        let of = |key: &&Key| key.0 == kind.kind && (namespace.is_empty() || key.1 == namespace);
        self.objects.iter().filter(|(key, _)| of(key)).map(|(_, value)| value.clone()).collect()
    }

    /// What happened after that version.
    pub fn since(&self, version: u64) -> impl Iterator<Item = &Event> {
        self.log.iter().filter(move |event| event.version > version)
    }

    pub fn forget(&mut self) {
        self.log.clear();
        self.oldest = self.version;
    }

    /// Now, as the API writes it.
    pub fn now(&self) -> String {
        let (hours, rest) = (self.seconds / 3600 % 24, self.seconds % 3600);
        let day = 1 + (self.seconds / 86400).min(27);
        format!("2026-01-{day:02}T{hours:02}:{:02}:{:02}Z", rest / 60, rest % 60)
    }

    pub fn uid(&mut self) -> String {
        self.serial += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.serial)
    }

    /// Keeps the object, with a new version; where nothing but that would change, nothing happens.
    pub fn put(&mut self, kind: Kind, mut object: Value) -> Arc<Value> {
        let text = |object: &Value, key: &str| {
            object.pointer(&format!("/metadata/{key}")).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let key = Store::key(kind, &text(&object, "namespace"), &text(&object, "name"));
        let old = self.objects.get(&key).cloned();
        if let Some(old) = &old {
            if let (Some(metadata), Some(version)) = (metadata(&mut object), old.pointer("/metadata/resourceVersion")) {
                metadata.insert("resourceVersion".into(), version.clone());
            }
            if **old == object {
                return old.clone();
            }
            let spec_changed = old.get("spec") != object.get("spec");
            if kind.counts() && spec_changed {
                let count = old.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or(1);
                if let Some(metadata) = metadata(&mut object) {
                    metadata.insert("generation".into(), json!(count + 1));
                }
            }
        }
        self.version += 1;
        let (uid, now) = (self.uid(), self.now());
        let version = self.version;
        if let Some(metadata) = metadata(&mut object) {
            metadata.insert("resourceVersion".into(), Value::from(version.to_string()));
            metadata.entry("uid").or_insert_with(|| Value::from(uid));
            metadata.entry("creationTimestamp").or_insert_with(|| Value::from(now));
            if kind.counts() {
                metadata.entry("generation").or_insert(json!(1));
            }
        }
        let object = Arc::new(object);
        self.objects.insert(key.clone(), object.clone());
        self.note(Event { version, kind: kind.kind, namespace: key.1, old, new: Some(object.clone()) });
        object
    }

    pub fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = Store::key(kind, namespace, name);
        let old = self.objects.remove(&key)?;
        self.version += 1;
        let version = self.version;
        self.note(Event { version, kind: kind.kind, namespace: key.1, old: Some(old.clone()), new: None });
        Some(old)
    }

    fn note(&mut self, event: Event) {
        self.dirty.insert(event.kind);
        self.log.push_back(event);
        while self.log.len() > self.history {
            if let Some(first) = self.log.pop_front() {
                self.oldest = first.version;
            }
        }
    }
}

fn metadata(object: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    object.get_mut("metadata").and_then(Value::as_object_mut)
}
