//! The device plugin's DaemonSet, kept to nodes whose GPU works. Everything else in it stays as it is.

use model::{Intent, Plan, Risk};
use serde_json::{Value, json};

use super::{Edit, apply, wanted_from};
use crate::Facts;
use crate::manifests::{PluginManifest, present_expression, present_term};
use crate::objects::{Node, PRESENT, Workload};
use crate::placement::{lands_on, selects};

pub(super) fn plan(facts: &Facts, intent: &Intent, after: &[Node], plan: &mut Plan) {
    if facts.daemonsets.get().is_none() {
        plan.notes.push("DaemonSets could not be listed; they are left as they are".into());
        return;
    }
    let sets = facts.plugins();
    if sets.is_empty() {
        return none(facts, intent, after, plan);
    }
    for set in sets {
        let stray: Vec<&str> = after
            .iter()
            .filter(|node| lands_on(&set.pod, node) && !facts.may_have_gpu(node))
            .map(|node| node.name.as_str())
            .collect();
        let nowhere = !after.iter().any(|node| selects(&set.pod, node));
        if stray.is_empty() && !nowhere {
            continue;
        }
        let name = set.full_name();
        if !after.iter().any(|node| node.labels.get(PRESENT).map(String::as_str) == Some("true")) {
            plan.notes.push(format!(
                "DaemonSet {name} is left as it is: no node carries {PRESENT}=true yet, so it would run nowhere"
            ));
            continue;
        }
        if let Some(owner) = &set.owner {
            plan.notes
                .push(format!("DaemonSet {name} is written by {owner}, which would undo a change: change it there"));
            continue;
        }
        if nowhere && (!set.pod.node_selector.is_empty() || set.pod.required.is_none()) {
            let selector = set.pod.node_selector.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ");
            plan.notes
                .push(format!("DaemonSet {name} waits for nodes with {selector}, which none is; that is left to you"));
            continue;
        }
        let mut body = wanted_from(&set.raw);
        if narrow(&mut body, nowhere).is_none() {
            plan.notes.push(format!("DaemonSet {name} has a pod template that cannot be edited; it is left as it is"));
            continue;
        }
        left_out(facts, after, set, plan);
        plan.intent.push(format!("inferred: the device plugin {name} runs on GPU nodes alone"));
        let (title, because) = if nowhere {
            (format!("let {name} also run on nodes labelled {PRESENT}=true"), "cluster/nfd-label-trap")
        } else {
            (
                format!("keep {name} to nodes labelled {PRESENT}=true, off {}", stray.join(", ")),
                "cluster/daemonset-everywhere",
            )
        };
        let outage =
            "its pods are replaced one by one; running containers keep their GPU, new ones wait for the new pod";
        let edit = Edit { kind: "DaemonSet", title, because: &[because], risk: vec![Risk::Outage(outage.into())] };
        plan.changes.push(apply(edit, Some(&set.raw), body));
        if helm(set) {
            plan.notes.push(format!(
                "{name} comes from a Helm release: put the same affinity into its values, or the next upgrade undoes it"
            ));
        }
    }
}

/// Nodes that say they have a GPU, by another label, and offer none: the plugin leaves them too.
fn left_out(facts: &Facts, after: &[Node], set: &Workload, plan: &mut Plan) {
    let unmarked = |node: &&Node| node.labels.get(PRESENT).map(String::as_str) != Some("true");
    for node in after.iter().filter(unmarked).filter(|node| facts.may_have_gpu(node) && lands_on(&set.pod, node)) {
        plan.notes.push(format!(
            "node {} says that it has a GPU and offers none: {} leaves it until it is labelled {PRESENT}=true, which \
             thruway does there once the driver works",
            node.name,
            set.full_name()
        ));
    }
}

fn helm(set: &Workload) -> bool {
    set.labels.get("app.kubernetes.io/managed-by").map(String::as_str) == Some("Helm")
}

/// Adds the label to the required node affinity: to every term there (each is an alternative), or as a term of its own
/// where `widen` says that no term is ever met. `None` where the object has not the form it was read with.
fn narrow(body: &mut Value, widen: bool) -> Option<()> {
    let pod = body.pointer_mut("/spec/template/spec")?.as_object_mut()?;
    let affinity = child(pod, "affinity")?;
    let node = child(affinity, "nodeAffinity")?;
    let required = child(node, "requiredDuringSchedulingIgnoredDuringExecution")?;
    let terms = required.entry("nodeSelectorTerms").or_insert_with(|| json!([])).as_array_mut()?;
    if widen || terms.is_empty() {
        terms.push(present_term());
        return Some(());
    }
    for term in terms {
        let expressions = term.as_object_mut()?.entry("matchExpressions").or_insert_with(|| json!([]));
        if expressions.is_null() {
            *expressions = json!([]);
        }
        expressions.as_array_mut()?.push(present_expression());
    }
    Some(())
}

/// The object under a key, made where it is absent or null.
fn child<'a>(map: &'a mut serde_json::Map<String, Value>, key: &str) -> Option<&'a mut serde_json::Map<String, Value>> {
    let value = map.entry(key).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

/// No device plugin at all. One is made only for a Deployment that was named: without it that could never be granted.
fn none(facts: &Facts, intent: &Intent, after: &[Node], plan: &mut Plan) {
    let offered = after.iter().any(|node| facts.offers(node) > 0);
    if offered || !after.iter().any(|node| facts.has_gpu(node)) {
        return;
    }
    let options = PluginManifest { runtime_class: runtime_class(facts), ..PluginManifest::default() };
    let Some(deployment) = &intent.deployment else {
        plan.notes.push(
            "no device plugin runs in this cluster, so no GPU can be granted; with --deployment NAMESPACE/NAME the plan \
             adds NVIDIA's, kept to GPU nodes"
                .into(),
        );
        return;
    };
    plan.intent.push(format!("inferred: {deployment} needs a device plugin, and the cluster has none"));
    let edit = Edit {
        kind: "DaemonSet",
        title: format!("run NVIDIA's device plugin on nodes labelled {PRESENT}=true"),
        because: &["cluster/capacity-zero"],
        risk: Vec::new(),
    };
    plan.changes.push(apply(edit, None, options.daemonset()));
    if options.runtime_class.is_none() {
        plan.notes.push(
            "the plugin finds the driver only where the nvidia runtime is the engine's default; else name a RuntimeClass".into(),
        );
    }
}

/// The runtime class that GPU workloads of this cluster already use.
fn runtime_class(facts: &Facts) -> Option<String> {
    let loads = facts.deployments.get().into_iter().chain(facts.daemonsets.get()).flatten();
    loads.filter_map(|load| load.pod.runtime_class.clone()).find(|class| class.contains("nvidia"))
}
