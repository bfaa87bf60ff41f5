//! The labels of the own Node: what is wanted, and the writer that has the API hold just that.
//!
//! The writer applies (server-side) under a field manager of its own: what it wanted before and wants no more goes by leaving it
//! out. It sends nothing where the Node's own word says that all is as wanted. What another manager holds with another value it
//! leaves as it is and names, unless told to take it.

use std::collections::{BTreeMap, BTreeSet};

use gpu::Inventory;
use kube::plugin::{Config, Found};
use machine::Machine;
use serde_json::{Value, json};

use crate::api::{Api, Error, Held, How, Object, Part};

/// The agent's field manager.
pub const MANAGER: &str = "thruway-node";

pub type Labels = BTreeMap<String, String>;

/// All labels that this node should have: GPU feature discovery's, `nvidia.com/gpu.present` where the driver answers for a card,
/// and the host's topology as the hypervisor told it, for a node with a card that works.
pub fn wanted(machine: &dyn Machine, inventory: &Inventory, found: &Found, config: &Config) -> Labels {
    let facts = kube::gfd::Facts::observe(machine, inventory, found, config);
    let mut labels = kube::gfd::labels(&facts, config);
    if labels.is_empty() {
        return labels;
    }
    labels.extend(kube::topology::of(inventory).is().unwrap_or_default());
    labels.retain(|key, value| is_legal(key, value));
    labels
}

/// Whether the API takes it: one that it does not take would keep all others from being set.
/// Source: kubernetes.io, "Labels and Selectors", syntax.
pub fn is_legal(key: &str, value: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let sound = |text: &str| {
        text.len() <= 63
            && edge(text.bytes().next())
            && edge(text.bytes().last())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let domain = |text: &str| {
        text.len() <= 253
            && edge(text.bytes().next())
            && edge(text.bytes().last())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
    };
    sound(name) && prefix.is_none_or(domain) && (value.is_empty() || sound(value))
}

/// What a Node's metadata says of its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub labels: Labels,
    /// The keys that our manager applied.
    pub ours: BTreeSet<String>,
    /// Keys held by others, each with one of them.
    pub others: BTreeMap<String, String>,
}

impl Standing {
    /// From an object with `metadata`, as the API tells it.
    pub fn of(node: &Value, manager: &str) -> Standing {
        let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut standing = Standing {
            labels: labels.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect(),
            ..Standing::default()
        };
        let entries = node.pointer("/metadata/managedFields").and_then(Value::as_array);
        for entry in entries.into_iter().flatten() {
            let says = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
            let fields = entry.pointer("/fieldsV1/f:metadata/f:labels").and_then(Value::as_object);
            let keys = fields.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("f:"));
            if says("manager") == manager && says("operation") == "Apply" && says("subresource").is_empty() {
                standing.ours.extend(keys.map(str::to_owned));
            } else {
                standing.others.extend(keys.map(|key| (key.to_owned(), says("manager").to_owned())));
            }
        }
        standing
    }
}

/// What is to be sent: none where all is as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// All labels that our manager is to hold from now on.
    pub apply: Option<Labels>,
    /// What another holds with another value and keeps.
    pub left: Vec<Held>,
}

/// Purely: from the Node's word and the wish to what is sent. `take`: also what others hold.
pub fn step(standing: &Standing, wanted: &Labels, take: bool) -> Step {
    let mut left = Vec::new();
    let mut apply = Labels::new();
    for (key, value) in wanted.iter().filter(|(key, value)| is_legal(key, value)) {
        let differs = standing.labels.get(key).is_some_and(|there| there != value);
        match standing.others.get(key).filter(|_| differs && !take) {
            Some(by) => left.push(Held { field: format!(".metadata.labels.{key}"), by: by.clone() }),
            None => drop(apply.insert(key.clone(), value.clone())),
        }
    }
    let held: BTreeSet<&String> = standing.ours.iter().collect();
    let same_keys = apply.keys().eq(held.iter().copied());
    let same_values = apply.iter().all(|(key, value)| standing.labels.get(key) == Some(value));
    Step { apply: (!(same_keys && same_values)).then_some(apply), left }
}

/// Who writes, and on which node.
#[derive(Clone, Debug)]
pub struct Writer {
    pub node: String,
    pub manager: &'static str,
    /// Take labels that others hold with another value.
    pub take: bool,
}

/// What a write came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// The Node's metadata after it; none where nothing was sent.
    pub node: Option<Value>,
    pub left: Vec<Held>,
}

impl Writer {
    /// Has the Node (its metadata as it was read last) hold these labels of ours and no others.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Held`] where another took a label between the reading and now: read again.
    pub async fn write(&self, api: &Api, node: &Value, wanted: &Labels) -> Result<Written, Error> {
        let Step { apply, left } = step(&Standing::of(node, self.manager), wanted, self.take);
        let Some(labels) = apply else { return Ok(Written { node: None, left }) };
        let how = How { force: self.take, answer: Part::Metadata, ..How::by(self.manager) };
        let after = api.apply(&Object::node(&self.node), &self.body(&labels), how).await?;
        Ok(Written { node: Some(after), left })
    }

    /// What is sent.
    pub fn body(&self, labels: &Labels) -> Value {
        let mut body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}});
        // an empty map would be owned as such
        if let (false, Some(metadata)) = (labels.is_empty(), body.get_mut("metadata").and_then(Value::as_object_mut)) {
            metadata.insert("labels".into(), json!(labels));
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// A Node with these labels, of these managers.
    fn node(managers: &[(&str, &str, &[&str])], now: &[(&str, &str)]) -> Standing {
        let entry = |(manager, operation, keys): &(&str, &str, &[&str])| {
            let fields: BTreeMap<String, Value> = keys.iter().map(|key| (format!("f:{key}"), json!({}))).collect();
            json!({"manager": manager, "operation": operation, "fieldsV1": {"f:metadata": {"f:labels": fields}}})
        };
        let managed: Vec<Value> = managers.iter().map(entry).collect();
        Standing::of(&json!({"metadata": {"labels": labels(now), "managedFields": managed}}), MANAGER)
    }

    #[test]
    fn nothing_is_sent_where_all_is_as_wanted() {
        let wanted = labels(&[("nvidia.com/gpu.count", "1"), ("nvidia.com/gpu.present", "true")]);
        let ours = (MANAGER, "Apply", &["nvidia.com/gpu.count", "nvidia.com/gpu.present"][..]);
        let kubelet = ("kubelet", "Update", &["kubernetes.io/os"][..]);
        let now = [("nvidia.com/gpu.count", "1"), ("nvidia.com/gpu.present", "true"), ("kubernetes.io/os", "linux")];
        assert_eq!(step(&node(&[ours, kubelet], &now), &wanted, false), Step::default());
        assert_eq!(step(&node(&[kubelet], &[("kubernetes.io/os", "linux")]), &Labels::new(), false), Step::default());
        // the same labels that are nobody's of ours yet
        let sent = step(&node(&[kubelet], &now), &wanted, false);
        assert_eq!(sent.apply, Some(wanted.clone()));
        // a value that somebody changed, and one that somebody took off
        let mut other = now;
        other[0].1 = "2";
        assert_eq!(step(&node(&[ours, kubelet], &other), &wanted, false).apply, Some(wanted.clone()));
        assert_eq!(step(&node(&[ours, kubelet], &now[1..]), &wanted, false).apply, Some(wanted));
        // the card is gone: an apply of nothing
        assert_eq!(step(&node(&[ours, kubelet], &now), &Labels::new(), false).apply, Some(Labels::new()));
    }

    #[test]
    fn what_another_holds_is_left_or_taken() {
        let wanted = labels(&[("nvidia.com/gpu.count", "1"), ("nvidia.com/gpu.product", "T4")]);
        let nfd = ("nfd-master", "Apply", &["nvidia.com/gpu.product"][..]);
        let now = [("nvidia.com/gpu.product", "A100")];
        let sent = step(&node(&[nfd], &now), &wanted, false);
        assert_eq!(sent.apply, Some(labels(&[("nvidia.com/gpu.count", "1")])));
        assert_eq!(
            sent.left,
            [Held { field: ".metadata.labels.nvidia.com/gpu.product".into(), by: "nfd-master".into() }]
        );
        // and then again nothing
        let ours = (MANAGER, "Apply", &["nvidia.com/gpu.count"][..]);
        let after = [("nvidia.com/gpu.product", "A100"), ("nvidia.com/gpu.count", "1")];
        assert_eq!(step(&node(&[nfd, ours], &after), &wanted, false).apply, None);
        assert_eq!(step(&node(&[nfd], &now), &wanted, true).apply, Some(wanted.clone()));
        // the same value is shared
        let agreed = step(&node(&[nfd], &[("nvidia.com/gpu.product", "T4")]), &wanted, false);
        assert_eq!((agreed.apply, agreed.left), (Some(wanted), Vec::new()));
    }

    #[test]
    fn an_illegal_label_keeps_no_other_from_being_set() {
        let long = "x".repeat(64);
        let wanted = labels(&[("a", "b"), ("nvidia.com/gpu.machine", &long), ("B/", "c"), ("-x", "d"), ("y", "é")]);
        assert_eq!(step(&Standing::default(), &wanted, false).apply, Some(labels(&[("a", "b")])));
        assert!(is_legal("nvidia.com/mig-1g.5gb.me.count", "") && is_legal("a_b", "A.1"));
        assert!(!is_legal("nvidia.com/a/b", "x") && !is_legal("", "x") && !is_legal("Nvidia.com/x", "x"));
    }
}
