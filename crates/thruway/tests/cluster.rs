//! The cluster floor's own words: a file patched and brought back, a Deployment patched by name and brought back.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{differ, on, snapshot, stderr, stdout, thruway};

const FILE: &str = "\
# films
apiVersion: apps/v1
kind: Deployment
metadata: {name: jellyfin, namespace: media}
spec:
  template:
    spec:
      containers:
      - name: jellyfin
        env:
        - name: NVIDIA_VISIBLE_DEVICES   # all of them
          value: all
        - name: NVIDIA_DRIVER_CAPABILITIES # decode
          value: all
";

#[test]
fn a_file_asks_for_its_gpu_and_comes_back_byte_for_byte() {
    let scratch = machine::scratch::Scratch::temporary().expect("a directory");
    let root = scratch.path();
    let path = root.join("jellyfin.yaml");
    fs::write(&path, FILE).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("its mode");
    let before = snapshot(root, &|_| false);
    let file = path.to_str().expect("UTF-8");

    let shown = on(root, &["kube", "patch", "-f", file, "--gpus", "2", "--dry-run"]);
    assert!(shown.status.success(), "{}", stderr(&shown));
    assert!(stdout(&shown).contains("nvidia.com/gpu: 2"), "{}", stdout(&shown));
    assert_eq!(fs::read_to_string(&path).expect("the file"), FILE);
    let printed = thruway(&["kube", "patch", "-f", file, "--print"]);
    assert!(stdout(&printed).starts_with("# films\n"), "{}", stderr(&printed));

    let done = on(root, &["kube", "patch", "-f", file, "--gpus", "2", "--yes"]);
    assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    let text = fs::read_to_string(&path).expect("the file");
    assert!(!text.contains("VISIBLE_DEVICES") && text.contains("CAPABILITIES # decode"), "{text}");
    assert!(text.ends_with("        resources:\n          limits:\n            nvidia.com/gpu: 2\n"), "{text}");
    let again = on(root, &["kube", "patch", "-f", file, "--gpus", "2", "--yes"]);
    assert!(stdout(&again).contains("already"), "{}", stdout(&again));

    let undone = on(root, &["undo", "--yes"]);
    assert!(undone.status.success(), "{}", stderr(&undone));
    assert_eq!(differ(&before, &snapshot(root, &|_| false)), ["/var", "/var/lib"]);

    let wrong = on(root, &["kube", "patch", "-f", "/etc/hostname"]);
    assert_eq!(wrong.status.code(), Some(2));
    fs::write(&path, "kind: Pod\nkind: Pod\n").expect("a file");
    let wrong = on(root, &["kube", "patch", "-f", file]);
    assert!(stderr(&wrong).contains(":2: the key kind stands twice"), "{}", stderr(&wrong));
}

#[test]
fn the_seeds_deployment_is_patched_by_name_and_brought_back() {
    let scratch = machine::scratch::Scratch::temporary().expect("a directory");
    let root = scratch.path().join("node");
    fs::create_dir(&root).expect("a directory");
    let built = thruway(&["demo", "--build", "kube-seed", root.to_str().expect("UTF-8")]);
    assert!(built.status.success(), "{}", stderr(&built));
    let deployments = || {
        let text = fs::read(root.join(".thruway-sim/answers/kube-deployments.json")).expect("the simulated API's list");
        serde_json::from_slice::<serde_json::Value>(&text).expect("JSON")
    };
    let before = deployments();
    let words = ["kube", "patch", "deployment/media/jellyfin", "--gpus", "1", "--drop-affinity", "--yes"];
    let done = on(&root, &words);
    assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    let said = stdout(&done);
    for line in
        ["drop NVIDIA_VISIBLE_DEVICES", "ask for nvidia.com/gpu: 1", "drop node selection by GPU labels", "Applied"]
    {
        assert!(said.contains(line), "{said}");
    }
    // no label and no DaemonSet: the one Deployment alone
    assert!(!said.contains("DaemonSet "), "{said}");
    assert_ne!(deployments(), before);
    let doctor = stdout(&on(&root, &["doctor", "--layer", "cluster", "--json"]));
    let failing = |id: &str| {
        let report: serde_json::Value = serde_json::from_str(&doctor).expect("JSON");
        report.to_string().contains(&format!("\"id\":\"{id}\",\"verdict\":\"warn\""))
    };
    assert!(!failing("cluster/visible-devices-all") && !failing("cluster/no-gpu-request"), "{doctor}");
    let undone = on(&root, &["undo", "--yes"]);
    assert!(undone.status.success(), "{}", stderr(&undone));
    assert_eq!(deployments(), before);

    let other = on(&root, &["kube", "patch", "deployment/media/plex", "--yes"]);
    assert_eq!(other.status.code(), Some(1), "{}", stdout(&other));
    assert!(stdout(&other).contains("there is no Deployment media/plex"), "{}", stdout(&other));
}
