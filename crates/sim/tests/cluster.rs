//! The simulated API server under the cluster floor's own plans.

mod common;

use common::{Laid, lay_out};
use journal::Hands;
use machine::{KubeList, Machine, Question};
use model::{Intent, KubeOp, KubeVerb, Op, Seen};
use serde_json::{Value, json};
use sim::SimHands;
use sim::physics::{boot, install_driver, install_packages};

fn list(machine: &Laid, list: KubeList) -> Value {
    match machine.root.ask(&Question::Kube(list)) {
        Seen::Is(answer) => answer.json().cloned().expect("a list"),
        other => panic!("{other:?}"),
    }
}

fn desired(machine: &Laid, name: &str) -> u64 {
    let sets = list(machine, KubeList::DaemonSets);
    let items = sets["items"].as_array().expect("items").clone();
    let set = items.into_iter().find(|set| set["metadata"]["name"] == name).expect("the set");
    set["status"]["desiredNumberScheduled"].as_u64().expect("a count")
}

fn with_driver() -> Laid {
    let guest = lay_out("seed-guest");
    guest.write("/etc/modprobe.d/nouveau.conf", "blacklist nouveau\n");
    SimHands::new(guest.path()).act(&Op::Regenerate(model::Tool::UpdateInitramfs)).expect("update-initramfs");
    boot(guest.path()).expect("boots");
    install_packages(guest.path(), &["build-essential", "linux-headers-5.4.0-100-generic"]).expect("apt");
    install_driver(guest.path(), "510.54").expect("installs");
    guest
}

#[test]
fn the_floors_plan_is_carried_out_and_taken_back() {
    let guest = with_driver();
    let facts = kube::observe(&guest.root, &gpu::observe(&guest.root));
    let plan = kube::plan(&facts, &Intent::default());
    assert!(!plan.changes.is_empty(), "{:?} {:?}", plan.notes, plan.refusals);
    let before: Vec<Value> = KubeList::ALL.map(|l| list(&guest, l)).to_vec();
    assert_eq!(desired(&guest, "nvidia-device-plugin-daemonset"), 4);
    let hands = SimHands::new(guest.path());
    for change in &plan.changes {
        hands.act(&change.op).unwrap_or_else(|error| panic!("{}: {error}", change.title));
    }
    assert_eq!(desired(&guest, "nvidia-device-plugin-daemonset"), 1);
    assert_eq!(desired(&guest, "kube-proxy"), 4);
    let pods = list(&guest, KubeList::Pods).to_string();
    assert!(!pods.contains("NVIDIA_VISIBLE_DEVICES"), "the pod is not made again from its template");
    let facts = kube::observe(&guest.root, &gpu::observe(&guest.root));
    assert_eq!(kube::plan(&facts, &Intent::default()).changes, [], "a second plan is not empty");
    for change in plan.changes.iter().rev() {
        hands.take_back(&change.op).unwrap_or_else(|error| panic!("{}: {error}", change.title));
    }
    let after: Vec<Value> = KubeList::ALL.map(|l| list(&guest, l)).to_vec();
    assert_eq!(after, before);
}

#[test]
fn the_server_refuses_what_a_real_one_refuses() {
    let guest = lay_out("seed-guest");
    let mut op = KubeOp {
        api_version: "v1".into(),
        kind: "Node".into(),
        namespace: String::new(),
        name: "mufti-9".into(),
        verb: KubeVerb::Label,
        before: None,
        body: json!({"nvidia.com/gpu.present": "true"}),
        preview: String::new(),
    };
    let act = |op: &KubeOp| SimHands::new(guest.path()).act(&Op::Kube(Box::new(op.clone())));
    assert!(act(&op).unwrap_err().to_string().contains("\"mufti-9\" not found"));
    op.name = "mufti-4".into();
    op.kind = "Gizmo".into();
    assert!(act(&op).unwrap_err().to_string().contains("no matches for kind"));
}

#[test]
fn a_node_offers_its_card_once_the_plugin_can_see_the_driver() {
    let guest = with_driver();
    let offers = |guest: &Laid| {
        let nodes = list(guest, KubeList::Nodes);
        let node =
            nodes["items"].as_array().expect("items").iter().find(|n| n["metadata"]["name"] == "mufti-4").cloned();
        node.expect("the node")["status"]["capacity"].get("nvidia.com/gpu").cloned()
    };
    assert_ne!(offers(&guest), Some(json!("1")), "docker's runc shows the plugin no driver");
    install_packages(guest.path(), &["nvidia-container-toolkit"]).expect("apt");
    let runtimes = "{\"default-runtime\": \"nvidia\", \"runtimes\": {\"nvidia\": {\"path\": \"/usr/bin/nvidia-container-runtime\", \"runtimeArgs\": []}}}\n";
    guest.write("/etc/docker/daemon.json", runtimes);
    let restart = Op::Service { unit: "docker.service".into(), verb: model::ServiceVerb::Restart };
    SimHands::new(guest.path()).act(&restart).expect("restarts");
    assert_eq!(offers(&guest), Some(json!("1")));
}
