//! Where the agent lands, and which link of a node's way is the first that broke.

use std::collections::{BTreeMap, BTreeSet};

use kube::Placement;
use kube::plugin::{Found, found};
use kube::preflight::{Agent, preflight};
use kube::why::{Grant, Here, State, Use, links, ungranted};
use machine::KubeList;
use model::{Reason, Seen};
use serde_json::json;

use crate::world::{Gpu, World};

const UUID: &str = "GPU-00000000-0000-4000-8000-000000000001";

fn landing(world: &World, node: &str) -> (Agent, Vec<String>) {
    let all = preflight(&world.facts(), &Placement::default());
    let one = all.into_iter().find(|landing| landing.node == node).expect("the node");
    (one.agent, one.notes)
}

#[test]
fn each_node_is_told_whether_the_agent_comes_and_why_not() {
    let mut world = World::good();
    let (agent, notes) = landing(&world, "mufti-4");
    assert_eq!(agent, Agent::Lands { label: "nvidia.com/gpu.present=true".into() });
    let says = notes.join("\n");
    assert!(says.contains("kube-system/nvidia-device-plugin-daemonset serves nvidia.com/gpu there"), "{says}");
    assert!(says.contains("v1.23.4: CDI names by the kubelet need 1.28"), "{says}");
    assert!(says.contains("docker behind the kubelet"), "{says}");
    assert_eq!(landing(&world, "mufti-1").0, Agent::Discovered);

    // the other spelling of node-feature-discovery is as good
    let labels = &mut world.object(KubeList::Nodes, "mufti-1")["metadata"]["labels"];
    labels["feature.node.kubernetes.io/pci-0300_10de.present"] = json!("true");
    let (agent, _) = landing(&world, "mufti-1");
    assert_eq!(agent, Agent::Lands { label: "feature.node.kubernetes.io/pci-0300_10de.present=true".into() });
    // a taint that nobody of ours tolerates
    world.object(KubeList::Nodes, "mufti-1")["spec"]["taints"] =
        json!([{"key": "team", "value": "ml", "effect": "NoSchedule"}]);
    assert_eq!(landing(&world, "mufti-1").0, Agent::Not { why: "its taint team:NoSchedule is not tolerated".into() });
    // a label that somebody set by hand draws no agent
    world.object(KubeList::Nodes, "mufti-2")["metadata"]["labels"]["nvidia.com/gpu"] = json!("dedicated");
    let (agent, notes) = landing(&world, "mufti-2");
    assert_eq!(agent, Agent::Discovered);
    assert_eq!(notes[0], "it carries nvidia.com/gpu=dedicated, by which the agent does not go");
    let without = Placement { discover: false, ..Placement::default() };
    let all = preflight(&world.facts(), &without);
    let two = all.into_iter().find(|landing| landing.node == "mufti-2").expect("the node");
    assert!(matches!(two.agent, Agent::Not { why } if why.contains("none of the labels")));
}

/// A node on which all is well: one card, its spec, a plugin that registered it, a pod that has it.
fn well() -> Here {
    let mut seen = Found { form: found::FORM, nvml: true, ..Found::default() };
    seen.gpus.push(found::Gpu {
        bdf: "0000:01:00.0".parse().expect("an address"),
        uuid: Some(UUID.into()),
        index: 0,
        minor: Some(0),
        product: "NVIDIA GeForce GT 1030".into(),
        numa: None,
        nodes: vec!["/dev/nvidia0".into()],
        mig: false,
        parts: Vec::new(),
        withheld: None,
        path: Vec::new(),
        board: None,
        nvlinks: Vec::new(),
    });
    let pod = "media/jellyfin-7b9f6c8d55-q4w7z";
    Here {
        found: seen,
        cdi: BTreeSet::from([format!("nvidia.com/gpu={UUID}")]),
        sockets: Seen::Is(vec!["kubelet.sock".into(), "nvidia-gpu.sock".into()]),
        registered: Seen::Is(BTreeMap::from([("nvidia.com/gpu".into(), vec![UUID.into()])])),
        grants: Seen::Is(vec![Grant {
            pod: pod.into(),
            container: "jellyfin".into(),
            resource: "nvidia.com/gpu".into(),
            device: UUID.into(),
        }]),
        users: vec![Use { card: UUID.into(), pod: Some(pod.into()), who: format!("pod {pod}"), memory: Some(949) }],
    }
}

/// The first link that broke, and what it says.
fn first(world: &World, here: &Here) -> Option<(&'static str, String)> {
    let links = links(&world.facts(), here);
    let broken = links.into_iter().find(|link| link.state == State::Broken)?;
    assert!(broken.fixes.iter().all(|fix| !fix.paste.is_empty() && !fix.undo.is_empty()), "{}", broken.name);
    Some((broken.name, broken.says))
}

#[test]
fn the_first_broken_link_is_named_with_its_fix() {
    let good = World::good();
    assert_eq!(first(&good, &well()), None);
    let broken = |world: &World, here: &Here| first(world, here).expect("something is broken").0;
    assert_eq!(broken(&World::seed(Gpu::None), &well()), "card");
    assert_eq!(broken(&World::seed(Gpu::Nouveau), &well()), "driver");

    let mut here = well();
    here.found.gpus[0].withheld = Some("promised to vm:100".into());
    let (name, says) = first(&good, &here).expect("broken");
    assert_eq!(
        (name, says.as_str()),
        ("whose it is", "no card is for pods: 01:00.0 NVIDIA GeForce GT 1030: promised to vm:100")
    );
    let here = Here { cdi: BTreeSet::from(["nvidia.com/gpu=all".into()]), ..well() };
    assert_eq!(broken(&good, &here), "CDI spec");
    let here = Here { sockets: Seen::Is(vec!["nvidia-gpu.sock".into()]), ..well() };
    assert_eq!(broken(&good, &here), "kubelet");
    let here = Here { sockets: Seen::Is(vec!["kubelet.sock".into()]), ..well() };
    let (name, says) = first(&good, &here).expect("broken");
    assert_eq!(name, "device plugin");
    assert!(says.contains("is to run here and serves no socket"), "{says}");
    let here = Here { registered: Seen::Is(BTreeMap::new()), ..well() };
    assert_eq!(broken(&good, &here), "registration");

    // the plugin's DaemonSet passes the node by
    let mut world = World::good();
    world.object(KubeList::Nodes, "mufti-4")["metadata"]["labels"]["nvidia.com/gpu.present"].take();
    let labels = world.object(KubeList::Nodes, "mufti-4")["metadata"]["labels"].as_object_mut().expect("labels");
    labels.remove("nvidia.com/gpu.present");
    let (name, says) = first(&world, &well()).expect("broken");
    assert_eq!(name, "device plugin");
    assert!(says.contains("has not the label that it waits for (nvidia.com/gpu.present In [true])"), "{says}");
    let mut world = World::good();
    world.object(KubeList::Nodes, "mufti-4")["status"]["allocatable"]["nvidia.com/gpu"] = json!("0");
    assert_eq!(broken(&world, &well()), "node status");

    // what could not be looked at is neither
    let here = Here { grants: Seen::Unreadable(Reason::Other("no answer".into())), registered: Seen::Absent, ..well() };
    assert_eq!(first(&good, &here), None);
    let unknown = links(&good.facts(), &here).into_iter().filter(|link| link.state == State::Unknown).count();
    assert_eq!(unknown, 2);
}

#[test]
fn a_pod_that_goes_round_the_grant_is_seen() {
    assert!(ungranted(&well()).is_empty());
    let mut here = well();
    let spy =
        Use { card: UUID.into(), pod: Some("monitoring/spy".into()), who: "pod monitoring/spy".into(), memory: None };
    here.users.push(spy.clone());
    // the host's own programs and the agent are no pods that go round anything
    here.users.push(Use { pod: None, who: "nvidia-persistenced.service".into(), ..spy.clone() });
    here.users.push(Use { pod: Some("thruway/thruway-node-abcde".into()), ..spy.clone() });
    assert_eq!(ungranted(&here), [&spy]);
    // a slice of the card is a grant of it; another card's is none
    let grant = |device: &str| Grant {
        pod: "monitoring/spy".into(),
        container: "spy".into(),
        resource: "nvidia.com/gpu".into(),
        device: device.into(),
    };
    here.grants = Seen::Is(vec![grant("GPU-00000000-0000-4000-8000-000000000002")]);
    assert_eq!(ungranted(&here).len(), 2);
    here.grants = Seen::Is(vec![grant(&format!("{UUID}::3"))]);
    assert_eq!(ungranted(&here).len(), 1);
    here.grants = Seen::Absent;
    assert!(ungranted(&here).is_empty(), "unknown grants accuse nobody");
}
