use machine::KubeList;
use model::{Intent, KubeVerb, OutcomeState, Verdict};
use serde_json::json;

use crate::world::{Gpu, World, ops, says};

fn plan(world: &World) -> model::Plan {
    kube::plan(&world.facts(), &Intent::default())
}

#[test]
fn label_plugin_and_workload_are_mended_in_that_order() {
    let mut world = World::seed(Gpu::Works);
    let before = world.lists.clone();
    let first = plan(&world);
    let planned = ops(&first);
    let kinds: Vec<(&str, KubeVerb)> = planned.iter().map(|op| (op.kind.as_str(), op.verb)).collect();
    assert_eq!(kinds, [("Node", KubeVerb::Label), ("DaemonSet", KubeVerb::Apply), ("Deployment", KubeVerb::Apply)]);
    assert_eq!(planned[0].preview, "+nvidia.com/gpu.present: \"true\"\n");
    let added: Vec<&str> =
        planned[1].preview.lines().filter(|line| line.starts_with(['+', '-'])).map(str::trim_end).collect();
    assert_eq!(
        added,
        [
            "+      affinity:",
            "+        nodeAffinity:",
            "+          requiredDuringSchedulingIgnoredDuringExecution:",
            "+            nodeSelectorTerms:",
            "+            - matchExpressions:",
            "+              - key: nvidia.com/gpu.present",
            "+                operator: In",
            "+                values:",
            "+                - \"true\"",
        ]
    );
    let changed: Vec<&str> = planned[2].preview.lines().filter(|line| line.starts_with(['+', '-'])).collect();
    for line in ["-        - name: NVIDIA_VISIBLE_DEVICES", "+            nvidia.com/gpu: \"1\"", "+    type: Recreate"]
    {
        assert!(changed.contains(&line), "{line} in {changed:#?}");
    }
    assert!(!changed.iter().any(|line| line.contains("NVIDIA_DRIVER_CAPABILITIES")), "{changed:#?}");
    assert!(planned[2].body["spec"]["template"]["spec"]["affinity"].is_object(), "the affinity by hand stays");
    assert!(planned.iter().all(|op| op.body.get("status").is_none()));

    world.apply(&first);
    let again = plan(&world);
    assert!(again.changes.is_empty() && again.refusals.is_empty(), "{again:#?}");
    assert_ne!(again.based_on, first.based_on);
    let set = world.object(KubeList::DaemonSets, "nvidia-device-plugin-daemonset");
    assert_eq!(
        (&set["status"]["desiredNumberScheduled"], &set["status"]["currentNumberScheduled"]),
        (&json!(1), &json!(1))
    );
    for id in ["cluster/gpu-node-unlabelled", "cluster/daemonset-everywhere", "cluster/no-gpu-request"] {
        assert_eq!(world.verdict(id), Verdict::Pass, "{id}");
    }

    for op in ops(&first).into_iter().rev() {
        world.act(&kube::inverse(op)).expect("what was done can be taken back");
    }
    for ((kind, was), (_, now)) in before.iter().zip(&world.lists) {
        assert_eq!(was.to_string(), now.to_string(), "{kind:?} is as it was, byte for byte");
    }
}

#[test]
fn nothing_is_narrowed_or_asked_for_while_no_driver_works() {
    for gpu in [Gpu::Nouveau, Gpu::None, Gpu::Hidden] {
        let plan = plan(&World::seed(gpu));
        assert!(plan.is_empty(), "{plan:#?}");
        assert!(plan.notes.iter().any(|note| note.contains("media/jellyfin is left as it is")), "{:?}", plan.notes);
        assert!(plan.notes.iter().any(|note| note.contains("would run nowhere")), "{:?}", plan.notes);
    }
}

#[test]
fn another_node_that_offers_gpus_is_labelled_before_the_plugin_is_narrowed() {
    let mut world = World::seed(Gpu::Works);
    world.object(KubeList::Nodes, "mufti-2")["status"]["capacity"]["nvidia.com/gpu"] = json!("2");
    let plan = plan(&world);
    let labelled: Vec<&str> = ops(&plan).iter().filter(|op| op.kind == "Node").map(|op| op.name.as_str()).collect();
    assert_eq!(labelled, ["mufti-2", "mufti-4"]);
    world.apply(&plan);
    let set = world.object(KubeList::DaemonSets, "nvidia-device-plugin-daemonset");
    assert_eq!(set["status"]["desiredNumberScheduled"], json!(2));
}

#[test]
fn a_node_that_only_says_it_has_a_gpu_is_named_before_the_plugin_leaves_it() {
    let mut world = World::seed(Gpu::Works);
    assert!(!plan(&world).notes.iter().any(|note| note.contains("offers none")));
    world.object(KubeList::Nodes, "mufti-2")["metadata"]["labels"]["feature.node.kubernetes.io/pci-0302_10de.present"] =
        json!("true");
    let plan = plan(&world);
    assert!(plan.notes.iter().any(|note| note.starts_with("node mufti-2 says that it has a GPU and offers none")));
}

#[test]
fn a_chart_that_waits_for_a_label_gets_it() {
    let mut world = World::seed(Gpu::Works);
    let set = world.object(KubeList::DaemonSets, "nvidia-device-plugin-daemonset");
    let term = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["true"]}]});
    let by_vendor = term("feature.node.kubernetes.io/pci-10de.present");
    let affinity = |terms| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    // The chart knows our label too: labelling is enough.
    set["spec"]["template"]["spec"]["affinity"] = affinity(json!([by_vendor.clone(), term("nvidia.com/gpu.present")]));
    assert!(says(&world.verdict("cluster/nfd-label-trap")).contains("runs nowhere"));
    let first = plan(&world);
    assert_eq!(first.changes[0].because, ["cluster/gpu-node-unlabelled", "cluster/nfd-label-trap"]);
    assert!(ops(&first).iter().all(|op| op.kind != "DaemonSet"));
    // One that does not is widened by an alternative, and nothing of it is lost.
    let set = world.object(KubeList::DaemonSets, "nvidia-device-plugin-daemonset");
    set["spec"]["template"]["spec"]["affinity"] = affinity(json!([by_vendor]));
    let second = plan(&world);
    let body = &ops(&second).into_iter().find(|op| op.kind == "DaemonSet").expect("it is widened").body;
    let terms =
        &body["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(terms["nodeSelectorTerms"].as_array().map(Vec::len), Some(2));
    world.apply(&second);
    assert_eq!(world.verdict("cluster/nfd-label-trap"), Verdict::Pass);
    assert!(plan(&world).is_empty());
}

#[test]
fn a_label_is_taken_off_only_where_certainly_no_card_is() {
    let mut world = World::seed(Gpu::None);
    world.object(KubeList::Nodes, "mufti-4")["metadata"]["labels"]["nvidia.com/gpu.present"] = json!("true");
    let removal = plan(&world);
    assert_eq!(ops(&removal).len(), 1);
    assert_eq!(ops(&removal)[0].body, json!({"nvidia.com/gpu.present": null}));
    world.apply(&removal);
    assert!(plan(&world).is_empty());
    let mut hidden = World::seed(Gpu::Hidden);
    hidden.object(KubeList::Nodes, "mufti-4")["metadata"]["labels"]["nvidia.com/gpu.present"] = json!("true");
    assert!(ops(&plan(&hidden)).iter().all(|op| op.verb != KubeVerb::Label));
}

#[test]
fn existing_affinity_is_kept_in_every_term() {
    let mut world = World::seed(Gpu::Works);
    let set = world.object(KubeList::DaemonSets, "nvidia-device-plugin-daemonset");
    let expression = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "Exists"}]});
    let terms = json!([expression("kubernetes.io/arch"), expression("beta.kubernetes.io/arch")]);
    set["spec"]["template"]["spec"]["affinity"] = json!({"podAntiAffinity": {}, "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let plan = plan(&world);
    let body = &ops(&plan).into_iter().find(|op| op.kind == "DaemonSet").expect("the plugin is narrowed").body;
    let affinity = &body["spec"]["template"]["spec"]["affinity"];
    assert!(affinity["podAntiAffinity"].is_object());
    let terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        .as_array()
        .unwrap();
    assert_eq!(terms.len(), 2);
    for term in terms {
        assert_eq!(term["matchExpressions"].as_array().unwrap().len(), 2);
        assert_eq!(term["matchExpressions"][1]["key"], "nvidia.com/gpu.present");
    }
}

#[test]
fn what_an_operator_writes_is_left_to_it() {
    let mut world = World::seed(Gpu::Works);
    world.object(KubeList::DaemonSets, "nvidia-device-plugin-daemonset")["metadata"]["ownerReferences"] =
        json!([{"kind": "ClusterPolicy", "name": "cluster-policy"}]);
    let plan = plan(&world);
    assert!(ops(&plan).iter().all(|op| op.kind != "DaemonSet"));
    assert!(plan.notes.iter().any(|note| note.contains("ClusterPolicy/cluster-policy")), "{:?}", plan.notes);
}

#[test]
fn a_named_deployment_asks_and_gets_a_plugin_where_there_is_none() {
    let mut world = World::seed(Gpu::Works);
    world.list(KubeList::DaemonSets)["items"] = json!([]);
    assert!(plan(&world).notes.iter().any(|note| note.starts_with("no device plugin runs in this cluster")));
    let intent = Intent { deployment: Some("media/jellyfin".into()), ..Intent::default() };
    let plan = kube::plan(&world.facts(), &intent);
    let made = ops(&plan).into_iter().find(|op| op.kind == "DaemonSet").expect("a plugin is made");
    assert_eq!(made.before, None);
    world.apply(&plan);
    let set = world.object(KubeList::DaemonSets, "thruway-nvidia-device-plugin");
    assert_eq!(set["status"]["desiredNumberScheduled"], json!(1));
    assert!(kube::plan(&world.facts(), &intent).is_empty());
    let outcomes = kube::verify(&world.facts(), &intent);
    assert!(outcomes.iter().all(|outcome| outcome.state == OutcomeState::Held), "{outcomes:#?}");
    for op in ops(&plan).into_iter().rev() {
        world.act(&kube::inverse(op)).expect("taken back");
    }
    assert_eq!(world.list(KubeList::DaemonSets)["items"], json!([]));
}

#[test]
fn a_deployment_that_is_not_there_is_refused_with_the_names_that_are() {
    let world = World::seed(Gpu::Works);
    let intent = Intent { deployment: Some("media/jelyfin".into()), ..Intent::default() };
    let plan = kube::plan(&world.facts(), &intent);
    assert_eq!(plan.refusals.len(), 1);
    assert!(plan.refusals[0].instead.contains("media/jellyfin"), "{:?}", plan.refusals);
}

#[test]
fn verify_says_what_holds_and_what_does_not() {
    let good = kube::verify(&World::good().facts(), &Intent::default());
    assert_eq!(good.len(), 3, "{good:#?}");
    assert!(good.iter().all(|outcome| outcome.state == OutcomeState::Held), "{good:#?}");
    assert_eq!(good[1].says, "kube-system/nvidia-device-plugin-daemonset runs on 1 of 4 nodes, those with a GPU");

    let intent = Intent { deployment: Some("media/jellyfin".into()), ..Intent::default() };
    let found = kube::verify(&World::seed(Gpu::Works).facts(), &intent);
    assert!(found.iter().all(|outcome| matches!(outcome.state, OutcomeState::Failed(_))), "{found:#?}");

    let mut waiting = World::good();
    let pod = waiting.object(KubeList::Pods, "jellyfin-7b9f6c8d55-q4w7z");
    pod["status"]["phase"] = json!("Pending");
    pod["spec"]["nodeName"] = json!(null);
    let outcomes = kube::verify(&waiting.facts(), &intent);
    let last = outcomes.last().expect("the deployment's");
    assert_eq!(last.state, OutcomeState::Pending("a node with a free GPU".into()));
    assert!(says(&waiting.verdict("cluster/pod-pending-gpu")).contains("jellyfin-7b9f6c8d55-q4w7z"));
}

#[test]
fn a_rolling_update_that_needs_a_second_gpu_is_found_and_mended() {
    let mut world = World::good();
    world.object(KubeList::Deployments, "jellyfin")["spec"]["strategy"] = json!({"type": "RollingUpdate"});
    assert!(says(&world.verdict("cluster/rollout-deadlock")).starts_with("media/jellyfin can never be updated"));
    let mend = plan(&world);
    world.apply(&mend);
    assert_eq!(world.verdict("cluster/rollout-deadlock"), Verdict::Pass);
    // With a GPU to spare, or none surged, the update ends by itself.
    for strategy in [
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
        json!({"type": "Recreate"}),
    ] {
        world.object(KubeList::Deployments, "jellyfin")["spec"]["strategy"] = strategy;
        assert_eq!(world.verdict("cluster/rollout-deadlock"), Verdict::Pass);
    }
}
