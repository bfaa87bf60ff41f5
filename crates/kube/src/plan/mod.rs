//! The cluster floor's planner: facts and intent in, changes of API objects out. Pure.
//!
//! What the hands that carry an [`Op::Kube`] out must do:
//!
//! - `Apply` with `before`: replace the object by `body` (`kubectl replace`). `body` is the whole object wanted, without
//!   `status` and `metadata.managedFields`. It keeps the `resourceVersion` that was read, so that the API refuses it
//!   when somebody else wrote in between. A replace, and no merge: an entry of a list that another manager owns (`env`)
//!   can only be removed so.
//! - `Apply` without `before`: create `body`; refused where the object exists.
//! - `Label`: set the labels in `body` on the object; `null` removes one. Other labels stay. `before` holds the object's
//!   name and labels as read.
//! - `Delete`: remove the object; `before` holds it whole.
//!
//! The way back is [`crate::inverse`].

mod daemonset;
mod deployment;
mod labels;

use std::collections::BTreeMap;

use model::{Before, Change, Digest, Effective, Intent, KubeOp, KubeVerb, Layer, Op, Plan, Risk, Seen, Undo};
use serde_json::{Value, json};

use crate::Facts;
use crate::objects::{Node, PRESENT, Workload};

/// What is to be changed in the cluster so that GPUs are offered where they are and granted to who asks.
pub fn plan(facts: &Facts, intent: &Intent) -> Plan {
    let mut plan = Plan::new(Layer::Cluster, intent, based_on(facts));
    if !facts.here() {
        return plan;
    }
    let Some(nodes) = facts.nodes.get() else {
        let why = match &facts.nodes.value {
            Seen::Unreadable(reason) => reason.to_string(),
            _ => "no kubectl or no kubeconfig on this machine".into(),
        };
        plan.notes.push(format!("the cluster is left as it is, since its API could not be asked: {why}"));
        return plan;
    };
    let after = labels::plan(facts, nodes, &mut plan);
    daemonset::plan(facts, intent, &after, &mut plan);
    deployment::plan(facts, intent, &after, &mut plan);
    plan
}

fn based_on(facts: &Facts) -> BTreeMap<String, String> {
    let mut basis = BTreeMap::new();
    if !facts.here() {
        return basis;
    }
    basis.insert("cluster own node".into(), facts.me.get().cloned().unwrap_or_default());
    basis.insert("cluster cards here".into(), facts.cards.get().map(|cards| cards.join(", ")).unwrap_or_default());
    let working = facts.working.get().map(u64::to_string).unwrap_or_else(|| "unknown".into());
    basis.insert("cluster GPUs that work here".into(), working);
    if let Some(told) = facts.topology.get().filter(|told| !told.is_empty()) {
        let words: Vec<String> = told.iter().map(|(key, value)| format!("{key}={value}")).collect();
        basis.insert("cluster topology told here".into(), words.join(" "));
    }
    for node in facts.nodes.get().into_iter().flatten() {
        let label = node.labels.get(PRESENT).cloned().unwrap_or_default();
        let words = format!("{PRESENT}={label}, offers {}", facts.offers(node));
        basis.insert(format!("node {}", node.name), words);
    }
    for set in facts.plugins() {
        basis.insert(format!("daemonset {}", set.full_name()), digest(set));
    }
    for deployment in facts.deployments.get().into_iter().flatten().filter(|d| deployment::concerns(facts, d)) {
        basis.insert(format!("deployment {}", deployment.full_name()), digest(deployment));
    }
    basis
}

fn digest(load: &Workload) -> String {
    Digest::of(load.raw.get("spec").map(Value::to_string).unwrap_or_default().as_bytes()).0
}

/// The object without what the server writes: what a replace sends.
fn wanted_from(raw: &Value) -> Value {
    let mut body = raw.clone();
    if let Some(map) = body.as_object_mut() {
        map.shift_remove("status");
    }
    if let Some(meta) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.shift_remove("managedFields");
    }
    body
}

/// Server-side apply or replace of a workload, with its diff.
struct Edit<'a> {
    kind: &'a str,
    title: String,
    because: &'a [&'a str],
    risk: Vec<Risk>,
}

fn apply(edit: Edit, before: Option<&Value>, body: Value) -> Change {
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let old = before.map(|before| formats::yamlout::print(&wanted_from(before))).unwrap_or_default();
    let new = formats::yamlout::print(&body);
    let diff = similar::TextDiff::from_lines(&old, &new);
    let op = KubeOp {
        api_version: "apps/v1".into(),
        kind: edit.kind.into(),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        verb: KubeVerb::Apply,
        before: before.cloned(),
        preview: diff.unified_diff().context_radius(3).to_string(),
        body,
    };
    change(op, edit.title, edit.because, edit.risk)
}

/// A node's label, set (`Some`) or removed.
fn label(node: &Node, key: &str, value: Option<&str>, title: String, because: &[&str], risk: Vec<Risk>) -> Change {
    label_all(node, &[(key.to_owned(), value.map(str::to_owned))], title, because, risk)
}

/// Several labels of a node, each set (`Some`) or removed, in one step.
fn label_all(
    node: &Node,
    labels: &[(String, Option<String>)],
    title: String,
    because: &[&str],
    risk: Vec<Risk>,
) -> Change {
    let mut preview = String::new();
    for (key, value) in labels {
        if let Some(old) = node.labels.get(key) {
            preview.push_str(&format!("-{key}: \"{old}\"\n"));
        }
        if let Some(new) = value {
            preview.push_str(&format!("+{key}: \"{new}\"\n"));
        }
    }
    let body: serde_json::Map<String, Value> = labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let op = KubeOp {
        api_version: "v1".into(),
        kind: "Node".into(),
        namespace: String::new(),
        name: node.name.clone(),
        verb: KubeVerb::Label,
        before: Some(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name, "labels": node.labels},
        })),
        body: Value::Object(body),
        preview,
    };
    change(op, title, because, risk)
}

fn change(op: KubeOp, title: String, because: &[&str], risk: Vec<Risk>) -> Change {
    Change {
        layer: Layer::Cluster,
        title,
        op: Op::Kube(Box::new(op)),
        // The API server itself holds the rest: a replace with an old resourceVersion is refused.
        expects: Before::Nothing,
        because: because.iter().map(|id| (*id).to_owned()).collect(),
        risk,
        effective: Effective::Now,
        undo: Undo::Inverse,
    }
}
