//! What one node costs the API: an hour of the server's clock, measured, and 5,000 nodes computed from it. Flat when nothing
//! changes.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "writes a kubeconfig below a temporary directory; the figures are printed"
)]

use std::time::Duration;

use node::api::Access;
use node::cluster::{Pace, Task, begin};
use node::labels::{Labels, MANAGER, Writer};
use serde_json::{Value, json};
use simkube::api::{Account, Call, Options, Rule, Server};

/// A node as a kubelet keeps it: 50 images, five conditions, the usual labels.
fn node() -> Value {
    let images: Vec<Value> = (0..50)
        .map(|n| {
            let name = format!("registry.example/team/service-{n}");
            json!({"names": [format!("{name}@sha256:{n:064x}"), format!("{name}:1.{n}")], "sizeBytes": 120_000_000 + n})
        })
        .collect();
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "False", "reason": "KubeletHasSufficientResources", "message": "kubelet is well",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let conditions: Vec<Value> =
        ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready", "NetworkUnavailable"].map(condition).into();
    let quantities = json!({"cpu": "64", "memory": "527942484Ki", "ephemeral-storage": "1855Gi", "pods": "110", "nvidia.com/gpu": "8"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": "gpu-1",
            "annotations": {"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            "labels": {
                "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": "gpu-1", "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "a",
            },
        },
        "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        "status": {
            "capacity": quantities, "allocatable": quantities, "conditions": conditions, "images": images,
            "nodeInfo": {"kubeletVersion": "v1.34.1", "kernelVersion": "6.8.0", "osImage": "Ubuntu 24.04"},
        },
    })
}

fn labels() -> Labels {
    // as many as a node of eight H100 has
    let pair = |n: usize| (format!("nvidia.com/label-{n}"), format!("NVIDIA-H100-80GB-HBM3-{n}"));
    (0..30).map(pair).chain([("nvidia.com/gpu.present".to_owned(), "true".to_owned())]).collect()
}

struct Hour {
    /// Until the labels stood.
    start: Vec<Call>,
    /// The hour after that.
    calls: Vec<Call>,
}

impl Hour {
    fn count(&self, method: &str) -> usize {
        self.calls.iter().filter(|call| call.method == method).count()
    }

    fn bytes(&self) -> usize {
        bytes(&self.calls)
    }
}

fn bytes(calls: &[Call]) -> usize {
    calls.iter().map(|call| call.came + call.went).sum()
}

/// An hour of one node. `kubelet`: it reports its status every five minutes, as it does where nothing changes.
fn hour(speed: u32, kubelet: bool) -> Hour {
    let rule = Rule::new(&["get", "list", "watch", "patch"], "", &["nodes"]);
    let account = Account::pod("node", "thruway", "node", "gpu-1", vec![rule]);
    let server = Server::start(vec![account], Options { speed, ..Options::default() }).expect("a server");
    server.put("kubelet", node());
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config");
    std::fs::write(&path, server.kubeconfig("node")).expect("a kubeconfig");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let access = Access { kubeconfig: Some(path), context: None };
        let writer = Writer { node: "gpu-1".into(), manager: MANAGER, take: false };
        // a pause after a forgotten version is of the same clock
        let pace = Pace { first: Duration::from_millis(1), ..Pace::default() };
        let mut link = begin(Task { access, writer, sweeps: None, pace });
        link.labels.send_replace(Some(labels()));
        link.state.wait_for(|state| state.settled).await.expect("settled");
        let start = server.calls();
        server.count_anew();
        let minutes = |count: u32| Duration::from_secs(60) * count / speed;
        for tick in 0..12u32 {
            tokio::time::sleep(minutes(5)).await;
            if kubelet {
                let at = format!("2026-01-01T00:{:02}:00Z", tick * 5);
                let patch = json!({"status": {"nodeInfo": {"heartbeat": at}}});
                assert!(server.patch("kubelet", "Node", "", "gpu-1", &patch));
            }
        }
        assert_eq!(link.state.borrow().trouble, None);
        Hour { start, calls: server.calls() }
    })
}

fn report(name: &str, hour: &Hour) {
    let (nodes, per_minute) = (5000.0, 60.0);
    println!(
        "{name}: {} requests and {} bytes in an hour ({} watches, {} writes); 5,000 nodes: {:.0} requests and {:.0} KiB a minute",
        hour.calls.len(),
        hour.bytes(),
        hour.count("GET"),
        hour.count("PATCH") + hour.count("POST"),
        hour.calls.len() as f64 * nodes / per_minute,
        hour.bytes() as f64 * nodes / per_minute / 1024.0,
    );
}

fn judge(speed: u32) {
    let quiet = hour(speed, false);
    let kubelet = hour(speed, true);
    println!("start: {} requests, {} bytes", quiet.start.len(), bytes(&quiet.start));
    report("nothing changes", &quiet);
    report("with the kubelet's status every 5 minutes", &kubelet);
    // read, write, watch
    let start: Vec<&str> =
        quiet.start.iter().map(|call| call.method.as_str()).filter(|method| *method != "GET").collect();
    assert_eq!(start, ["PATCH"], "{:?}", quiet.start);
    assert!(quiet.start.len() <= 3 && bytes(&quiet.start) < 64 << 10, "{:?}", quiet.start);
    for hour in [&quiet, &kubelet] {
        assert_eq!(hour.count("PATCH") + hour.count("POST"), 0, "nothing is written while nothing changes");
        assert!(hour.count("GET") <= 13, "a watch lasts five to ten minutes: {:?}", hour.calls);
        assert!(hour.calls.iter().all(|call| call.code == 200), "{:?}", hour.calls);
    }
    // a bookmark a minute, and the watches' heads
    assert!(quiet.bytes() < 48 << 10, "{}", quiet.bytes());
    // and twelve times the Node's metadata
    assert!(kubelet.bytes() < quiet.bytes() + 12 * (12 << 10), "{}", kubelet.bytes());
}

#[test]
fn an_hour_of_one_node_is_flat() {
    judge(3000);
}

/// The same at a tenth of the speed, for the figures: `cargo test -p thruway-node --test traffic -- --ignored --nocapture`.
#[test]
#[ignore = "half a minute"]
fn an_hour_of_one_node_for_the_figures() {
    judge(240);
}
