//! A stranger's client against the simulated API server: kubectl takes it for a cluster, and meets its refusals.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs kubectl below a temporary directory")]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use simkube::api::{Account, Options, Rule, Server};

/// Status, stdout, stderr.
fn kubectl(home: &Path, config: &str, words: &[&str]) -> (bool, String, String) {
    let output = Command::new("kubectl")
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .arg("--kubeconfig")
        .arg(home.join(config))
        .args(words)
        .output()
        .expect("kubectl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn kubectl_takes_it_for_a_cluster() {
    if !["/usr/bin/kubectl", "/usr/local/bin/kubectl"].iter().any(|path| Path::new(path).exists()) {
        println!("SKIP: kubectl is not installed (Debian: kubernetes-client)");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let reader = Rule::new(&["get", "list"], "", &["nodes"]);
    let accounts = vec![Account::admin("admin"), Account::pod("reader", "default", "reader", "mufti-1", vec![reader])];
    let server = Server::start(accounts, Options::default()).expect("a server");
    std::fs::write(home.path().join("admin"), server.kubeconfig("admin")).expect("a kubeconfig");
    std::fs::write(home.path().join("reader"), server.kubeconfig("reader")).expect("a kubeconfig");
    for name in ["mufti-1", "mufti-4"] {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
            "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        server.put("kubelet", node);
    }
    let admin = |words: &[&str]| kubectl(home.path(), "admin", words);

    let (ok, out, err) = admin(&["get", "nodes", "-o", "name"]);
    assert!(ok && out == "node/mufti-1\nnode/mufti-4\n", "{out}{err}");
    let (ok, out, err) = admin(&["label", "node", "mufti-4", "nvidia.com/gpu=dedicated"]);
    assert!(ok && out.contains("labeled"), "{out}{err}");
    let (_, out, _) = admin(&["get", "node", "mufti-4", "-o", "json", "--show-managed-fields"]);
    let node: Value = serde_json::from_str(&out).expect("a node");
    let of = |manager: &str| {
        let all = node["metadata"]["managedFields"].as_array().expect("managers");
        all.iter().find(|entry| entry["manager"] == manager).cloned()
    };
    let label = of("kubectl-label").expect("kubectl as a field manager");
    assert_eq!(label["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:nvidia.com/gpu": {}}}}));
    assert_eq!(label["operation"], "Update");

    // what kubectl's label holds is not taken by another's apply, unless forced
    let apply = home.path().join("node.yaml");
    let body = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "mufti-4", "labels": {"nvidia.com/gpu": "other"}},
    });
    std::fs::write(&apply, body.to_string()).expect("a file");
    let file = apply.to_string_lossy().into_owned();
    let words = ["apply", "--server-side", "--validate=false", "--field-manager=me", "-f", &file];
    let (ok, _, err) = admin(&words);
    assert!(!ok && err.contains("conflict with \"kubectl-label\""), "{err}");
    assert!(err.contains(".metadata.labels.nvidia.com/gpu"), "{err}");
    let (ok, out, err) = admin(&[&words[..], &["--force-conflicts"]].concat());
    assert!(ok && out.contains("serverside-applied"), "{out}{err}");
    let (_, out, _) = admin(&["get", "node", "mufti-4", "-o", "jsonpath={.metadata.labels.nvidia\\.com/gpu}"]);
    assert_eq!(out, "other");

    let (ok, out, err) = admin(&["get", "nodes", "-l", "nvidia.com/gpu=other", "-o", "name"]);
    assert!(ok && out == "node/mufti-4\n", "{out}{err}");
    let (ok, _, err) = admin(&["label", "node", "mufti-4", "a=-b"]);
    assert!(!ok, "an illegal label is refused: {err}");
    let (ok, _, err) = kubectl(home.path(), "reader", &["label", "node", "mufti-4", "b=c"]);
    assert!(!ok && err.contains("cannot patch resource \"nodes\""), "{err}");
    let (_, out, _) = kubectl(home.path(), "reader", &["get", "nodes", "-o", "name"]);
    assert_eq!(out.lines().count(), 2);
    let (ok, _, err) = admin(&["get", "node", "mufti-9"]);
    assert!(!ok && err.contains("nodes \"mufti-9\" not found"), "{err}");
    let (ok, out, err) = admin(&["delete", "node", "mufti-1", "--wait=false"]);
    assert!(ok && out.contains("deleted"), "{out}{err}");
    assert!(server.get("Node", "", "mufti-1").is_none());
}
