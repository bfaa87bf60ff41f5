use machine::{Answer, KubeList, Memory, Question};
use model::{Presence, Reason, Seen, Verdict};
use serde_json::json;

use crate::world::{Gpu, World, inventory, says};

const NODE: &str = "mufti-4";

#[test]
fn the_cluster_as_found_shows_its_owners_three_pains() {
    let world = World::seed(Gpu::Nouveau);
    assert_eq!(
        says(&world.verdict("cluster/daemonset-everywhere")),
        "the device plugin kube-system/nvidia-device-plugin-daemonset also runs on mufti-1, mufti-2, mufti-3, and only \
         mufti-4 has a GPU"
    );
    let Verdict::Warn(trouble) = world.verdict("cluster/daemonset-everywhere") else { panic!("a warning") };
    assert!(trouble.evidence.iter().any(|e| e.value == "DESIRED 4, CURRENT 4"), "{trouble:?}");
    assert_eq!(
        says(&world.verdict("cluster/visible-devices-all")),
        "media/jellyfin takes every GPU of its node by NVIDIA_VISIBLE_DEVICES=all, past the scheduler's grant"
    );
    assert_eq!(
        says(&world.verdict("cluster/no-gpu-request")),
        "media/jellyfin is sent to a GPU node by nvidia.com/gpu In [dedicated], and asks for no GPU"
    );
    assert_eq!(
        says(&world.verdict("cluster/label-without-gpu")),
        "node mufti-4 says nvidia.com/gpu=dedicated, and no GPU works there"
    );
    assert_eq!(world.verdict("cluster/capabilities-missing-video"), Verdict::Pass);
    assert_eq!(world.verdict("cluster/gpu-node-unlabelled"), Verdict::NotApplicable);
}

#[test]
fn a_good_cluster_passes_every_check() {
    let facts = World::good().facts();
    for finding in model::run_all(kube::CHECKS, &facts) {
        // this world's host tells its guests nothing, and there is no operator, no sharing, no DRA in it
        let elsewhere = [
            "host-topology",
            "runtime-handler-missing",
            "plugin-without-driver",
            "promised-card-offered",
            "mixed-models",
            "workload-config",
            "init-chain",
            "driver-upgrade-stuck",
            "users-unseen-by-upgrade",
            "replicas-as-gpus",
            "time-slicing-memory",
            "mps-daemon",
            "dra-driver-down",
            "dra-checkpoint",
            "two-roads",
        ];
        let untold = elsewhere.iter().any(|id| finding.about.id.0 == format!("cluster/{id}"));
        let wanted = if untold { Verdict::NotApplicable } else { Verdict::Pass };
        assert_eq!(finding.verdict, wanted, "{}", finding.about.id);
    }
    assert_eq!(kube::presence(&facts), Presence::Here("Kubernetes, 4 nodes, this machine is mufti-4".into()));
}

#[test]
fn a_working_card_that_is_not_offered_fails() {
    let world = World::seed(Gpu::Works);
    assert_eq!(
        says(&world.verdict("cluster/capacity-zero")),
        "a GPU works on node mufti-4, and the node offers no nvidia.com/gpu"
    );
    assert!(says(&world.verdict("cluster/gpu-node-unlabelled")).contains(NODE));
    assert_eq!(world.verdict("cluster/label-without-gpu"), Verdict::Pass);
}

#[test]
fn an_unhealthy_device_warns() {
    let mut world = World::good();
    world.object(KubeList::Nodes, NODE)["status"]["allocatable"]["nvidia.com/gpu"] = json!("0");
    assert!(says(&world.verdict("cluster/capacity-zero")).contains("unhealthy"));
}

#[test]
fn a_driver_that_could_not_be_asked_is_unknown_and_never_a_pass() {
    let mut world = World::seed(Gpu::Hidden);
    for id in ["cluster/gpu-node-unlabelled", "cluster/capacity-zero", "cluster/label-without-gpu"] {
        let Verdict::Unknown { reason, .. } = world.verdict(id) else { panic!("{id}: {:?}", world.verdict(id)) };
        assert_eq!(reason, Reason::TimedOut, "{id}");
    }
    // What a plugin already offers needs no driver here.
    world.object(KubeList::Nodes, NODE)["status"]["capacity"]["nvidia.com/gpu"] = json!("1");
    assert_eq!(world.verdict("cluster/label-without-gpu"), Verdict::Pass);
}

#[test]
fn a_dead_api_is_unknown_everywhere() {
    let mut memory = World::good().memory();
    for list in KubeList::ALL {
        memory.insert_answer(Question::Kube(list), Seen::Unreadable(Reason::TimedOut));
    }
    let facts = kube::observe(&memory, &inventory(Gpu::Works));
    for finding in model::run_all(kube::CHECKS, &facts) {
        assert!(matches!(finding.verdict, Verdict::Unknown { .. }), "{}: {:?}", finding.about.id, finding.verdict);
    }
    assert!(matches!(kube::presence(&facts), Presence::Here(says) if says.contains("could not be asked")));
    let plan = kube::plan(&facts, &model::Intent::default());
    assert!(plan.is_empty());
    assert_eq!(plan.notes.len(), 1);
}

#[test]
fn a_machine_without_kubernetes_is_not_this_floor() {
    let mut memory = Memory::new("a desktop");
    for path in ["/etc", "/var"] {
        memory.insert_gone(path, Seen::Absent);
    }
    for list in KubeList::ALL {
        memory.insert_answer(Question::Kube(list), Seen::Absent);
    }
    let facts = kube::observe(&memory, &inventory(Gpu::Works));
    assert!(matches!(kube::presence(&facts), Presence::NotHere(_)), "{:?}", kube::presence(&facts));
    for finding in model::run_all(kube::CHECKS, &facts) {
        assert_eq!(finding.verdict, Verdict::NotApplicable, "{}", finding.about.id);
    }
    assert!(kube::plan(&facts, &model::Intent::default()).is_empty());
    assert!(kube::verify(&facts, &model::Intent::default()).is_empty());
}

#[test]
fn feature_discovery_and_agents_are_no_plugins() {
    let mut world = World::seed(Gpu::Works);
    let set = world.object(KubeList::DaemonSets, "nvidia-device-plugin-daemonset");
    set["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["gpu-feature-discovery"]);
    assert_eq!(world.verdict("cluster/daemonset-everywhere"), Verdict::NotApplicable);
    let set = world.object(KubeList::DaemonSets, "nvidia-device-plugin-daemonset");
    set["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["/usr/bin/nvidia-device-plugin"]);
    assert!(says(&world.verdict("cluster/daemonset-everywhere")).contains("mufti-1"));
}

#[test]
fn taints_keep_the_plugin_and_the_users_off() {
    let mut world = World::good();
    world.object(KubeList::Nodes, NODE)["spec"]["taints"] =
        json!([{"key": "nvidia.com/gpu", "effect": "NoSchedule", "value": "present"}]);
    let Verdict::Warn(trouble) = world.verdict("cluster/taint-untolerated") else { panic!("the plugin tolerates it") };
    assert!(trouble.says.contains("media/jellyfin does not tolerate"), "{}", trouble.says);
    world.object(KubeList::Nodes, NODE)["spec"]["taints"] = json!([{"key": "x", "effect": "NoExecute"}]);
    assert!(matches!(world.verdict("cluster/taint-untolerated"), Verdict::Fail(_)));
    world.object(KubeList::Nodes, NODE)["spec"]["taints"] = json!([{"key": "x", "effect": "PreferNoSchedule"}]);
    assert_eq!(world.verdict("cluster/taint-untolerated"), Verdict::Pass);
}

#[test]
fn capabilities_from_a_config_map_are_unknown() {
    let mut world = World::good();
    let deployment = world.object(KubeList::Deployments, "jellyfin");
    let env = &mut deployment["spec"]["template"]["spec"]["containers"][0]["env"];
    *env = json!([{"name": "NVIDIA_DRIVER_CAPABILITIES", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]);
    assert!(matches!(world.verdict("cluster/capabilities-missing-video"), Verdict::Unknown { .. }));
    let deployment = world.object(KubeList::Deployments, "jellyfin");
    deployment["spec"]["template"]["spec"]["containers"][0]["env"] = json!([]);
    assert!(matches!(world.verdict("cluster/capabilities-missing-video"), Verdict::Fail(_)));
}

#[test]
fn the_node_is_found_by_machine_id_only_where_it_is_unique() {
    let world = World::seed(Gpu::Works);
    let mut memory = world.memory();
    memory.insert_file("/etc/hostname", b"renamed\n");
    memory.insert_file("/etc/machine-id", b"7c1d3c0e7a2f4d6899aabbccddee0f24\n");
    let facts = kube::observe(&memory, &inventory(Gpu::Works));
    assert_eq!(facts.me.get().map(String::as_str), Some(NODE));
    let mut cloned = world.clone();
    cloned.object(KubeList::Nodes, "mufti-2")["status"]["nodeInfo"]["machineID"] =
        json!("7c1d3c0e7a2f4d6899aabbccddee0f24");
    memory.insert_answer(Question::Kube(KubeList::Nodes), Seen::Is(Answer::Json(cloned.list(KubeList::Nodes).clone())));
    let facts = kube::observe(&memory, &inventory(Gpu::Works));
    assert_eq!(facts.me.value, Seen::Absent);
}
