//! The house's arrows go down only: read from `cargo metadata`, so that a new dependency upward is red.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "asks cargo")]

use std::collections::BTreeMap;
use std::process::Command;

/// The rooms, lowest first. Rooms on one line share a floor and never use each other.
const ROOMS: &[&[&str]] = &[
    // a driver's libraries, loaded by strangers: they stand outside and use nothing of the house but their card model
    &["simcards"],
    &["simnvml", "simcuvid", "simnvenc"],
    // its tests load those beside it
    &["simcuda"],
    &["model"],
    &["formats", "cuda", "kubelet", "rest"],
    &["oci", "hook"],
    // the small static programs that stand in every container's way: nothing above them
    &["runtime"],
    &["machine"],
    &["journal"],
    &["gpu"],
    &["decode"],
    &["cdi", "pve", "jellyfin"],
    &["host", "vm", "guest", "container", "kube", "app"],
    &["simdriver", "simkube"],
    // the one program that speaks the cluster's protocols
    &["node"],
    // the controller: it runs thruway elsewhere, and so knows the words alone
    &["sim", "watch", "up"],
    &["thruway"],
];

fn rank(room: &str) -> usize {
    ROOMS
        .iter()
        .position(|floor| floor.contains(&room))
        .unwrap_or_else(|| panic!("{room} has no place in the house: add it to ROOMS and docs/architecture.md"))
}

fn room(package: &str) -> &str {
    package.strip_prefix("thruway-").unwrap_or(package)
}

/// Every arrow between two rooms that does not go down.
fn upward(arrows: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (from, to) in arrows {
        for to in to {
            if rank(room(to)) >= rank(room(from)) {
                found.push(format!("{} -> {}", room(from), room(to)));
            }
        }
    }
    found
}

#[test]
fn arrows_go_down_only() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata's JSON");
    let mut arrows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name").to_owned();
        let ours = package["dependencies"].as_array().expect("dependencies").iter().filter_map(|dependency| {
            let name = dependency["name"].as_str()?;
            dependency["path"].is_string().then(|| name.to_owned())
        });
        arrows.insert(name.clone(), ours.collect());
    }
    assert!(arrows.len() >= 14, "the house has {} rooms only: was the metadata read?", arrows.len());
    assert!(arrows["thruway"].len() > 8, "the command line uses the floors");
    assert_eq!(upward(&arrows), Vec::<String>::new());
}

#[test]
fn an_arrow_upward_is_seen() {
    let arrows = |from: &str, to: &str| BTreeMap::from([(from.to_owned(), vec![to.to_owned()])]);
    assert_eq!(upward(&arrows("thruway-model", "thruway-machine")), ["model -> machine"]);
    assert_eq!(upward(&arrows("thruway-host", "thruway-vm")), ["host -> vm"], "floors never use each other");
    assert_eq!(upward(&arrows("thruway-host", "thruway-gpu")), Vec::<String>::new());
}
