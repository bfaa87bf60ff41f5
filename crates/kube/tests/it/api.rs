use machine::KubeList;
use model::{KubeOp, KubeVerb};
use serde_json::{Value, json};

use crate::world::{Gpu, World};

fn op(kind: &str, namespace: &str, name: &str, verb: KubeVerb, before: Option<Value>, body: Value) -> KubeOp {
    let api_version = if kind == "Node" { "v1" } else { "apps/v1" };
    KubeOp {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
        verb,
        before,
        body,
        preview: String::new(),
    }
}

/// Applies to a copy: what is refused must change nothing.
fn refused(list: &Value, op: &KubeOp) -> String {
    let mut copy = list.clone();
    let error = kube::apply_to_list(&mut copy, op).expect_err("a real API server refuses this");
    assert_eq!(copy, *list, "a refusal changes nothing");
    error
}

#[test]
fn what_a_real_api_server_refuses_is_refused() {
    let mut world = World::seed(Gpu::Works);
    let nodes = world.list(KubeList::Nodes).clone();
    let label = |name: &str, labels: Value| op("Node", "", name, KubeVerb::Label, None, labels);
    assert_eq!(refused(&nodes, &label("mufti-9", json!({"a": "b"}))), "Node \"mufti-9\" not found");
    assert!(refused(&nodes, &label("mufti-4", json!({"a": "x".repeat(64)}))).contains("at most 63"));
    assert!(refused(&nodes, &label("mufti-4", json!({"ok": "fine", "a": "-x"}))).contains("Invalid value"));
    assert!(refused(&nodes, &label("mufti-4", json!({"a b": "x"}))).contains("no label key"));
    assert!(refused(&nodes, &label("mufti-4", json!({"a": 1}))).contains("no text"));
    let crd = op("Widget", "", "w", KubeVerb::Delete, None, json!({}));
    assert!(refused(&nodes, &crd).starts_with("no matches for kind"));

    let sets = world.list(KubeList::DaemonSets).clone();
    let read = world.object(KubeList::DaemonSets, "nvidia-device-plugin-daemonset").clone();
    let apply = |before: Option<Value>, body: Value| {
        op("DaemonSet", "kube-system", "nvidia-device-plugin-daemonset", KubeVerb::Apply, before, body)
    };
    assert!(refused(&sets, &apply(None, read.clone())).ends_with("already exists"));
    let mut body = read.clone();
    body["spec"]["selector"]["matchLabels"] = json!({"name": "other"});
    body["spec"]["template"]["metadata"]["labels"] = json!({"name": "other"});
    assert!(refused(&sets, &apply(Some(read.clone()), body)).contains("immutable"));
    let mut body = read.clone();
    body["spec"]["template"]["metadata"]["labels"] = json!({"name": "other"});
    assert!(refused(&sets, &apply(Some(read.clone()), body)).contains("does not match template"));
    let mut body = read.clone();
    body["metadata"]["resourceVersion"] = json!("1");
    assert!(refused(&sets, &apply(Some(read.clone()), body)).contains("has been modified"));
    let mut body = read.clone();
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"nvidia.com/gpu": "1"}});
    assert!(refused(&sets, &apply(Some(read.clone()), body)).contains("equal to its limit"));
    let elsewhere = op("DaemonSet", "default", "nvidia-device-plugin-daemonset", KubeVerb::Apply, None, read);
    assert!(refused(&sets, &elsewhere).contains("name does not match"));
}

#[test]
fn a_replace_cannot_write_status() {
    let mut world = World::seed(Gpu::Works);
    let read = world.object(KubeList::Deployments, "jellyfin").clone();
    let mut body = read.clone();
    body["status"] = json!({"availableReplicas": 99});
    body["spec"]["replicas"] = json!(2);
    let change = op("Deployment", "media", "jellyfin", KubeVerb::Apply, Some(read.clone()), body);
    world.act(&change).unwrap();
    let now = world.object(KubeList::Deployments, "jellyfin");
    assert_eq!(now["status"], read["status"]);
    assert_eq!(now["spec"]["replicas"], json!(2));
}

#[test]
fn the_manifest_is_our_own_and_kept_to_gpu_nodes() {
    let options = kube::PluginManifest { runtime_class: Some("nvidia".into()), ..Default::default() };
    let yaml = kube::manifests(&options);
    for line in ["kind: DaemonSet", "              - key: nvidia.com/gpu.present", "      runtimeClassName: nvidia"] {
        assert!(yaml.lines().any(|l| l == line), "{line} in\n{yaml}");
    }
    assert!(!kube::manifests(&Default::default()).contains("runtimeClassName"));
}
