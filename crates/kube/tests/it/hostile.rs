//! Answers are untrusted: any JSON, and real lists with fields of other types.

use machine::{Answer, KubeList, Question};
use model::{Intent, Reason, Seen, Verdict};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::world::{Gpu, World, inventory};

fn any_json() -> impl Strategy<Value = Value> {
    let words = ["items", "metadata", "name", "namespace", "spec", "status", "labels", "template", "containers", "env"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        let key = prop_oneof![proptest::sample::select(words.to_vec()).prop_map(str::to_owned), "\\PC{0,4}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..5)
                .prop_map(|pairs| Value::from(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Everything this floor does with a machine's answers.
fn walk(world: &World) -> Vec<Verdict> {
    let facts = world.facts();
    let plan = kube::plan(&facts, &Intent::default());
    for change in &plan.changes {
        if let model::Op::Kube(op) = &change.op {
            let _ = kube::inverse(op);
        }
    }
    kube::verify(&facts, &Intent::default());
    model::run_all(kube::CHECKS, &facts).into_iter().map(|finding| finding.verdict).collect()
}

/// Puts `evil` in the place of the n-th value of the tree.
fn poison(value: &mut Value, n: &mut usize, evil: &Value) {
    if *n == 0 {
        *value = evil.clone();
    }
    *n = n.wrapping_sub(1);
    match value {
        Value::Array(list) => list.iter_mut().for_each(|item| poison(item, n, evil)),
        Value::Object(map) => map.values_mut().for_each(|item| poison(item, n, evil)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_answer_is_survived(value in any_json(), which in 0usize..4) {
        let mut world = World::seed(Gpu::Works);
        *world.list(KubeList::ALL[which]) = value.clone();
        prop_assert_eq!(walk(&world).len(), kube::CHECKS.len());
        let mut sets = World::seed(Gpu::Works).list(KubeList::DaemonSets).clone();
        let before = sets.clone();
        if kube::settle(&value, &mut sets).is_err() {
            prop_assert_eq!(sets, before, "an error changes nothing");
        }
    }

    #[test]
    fn a_poisoned_field_is_survived(n in 1usize..400, evil in any_json(), which in 0usize..4) {
        let mut world = World::seed(Gpu::Works);
        poison(world.list(KubeList::ALL[which]), &mut n.clone(), &evil);
        prop_assert_eq!(walk(&world).len(), kube::CHECKS.len());
        // What is planned on what was read is acceptable to the API it was read from.
        let plan = kube::plan(&world.facts(), &Intent::default());
        for change in &plan.changes {
            if let model::Op::Kube(op) = &change.op {
                let _ = world.act(op);
            }
        }
    }
}

#[test]
fn a_field_of_another_type_is_malformed_and_named() {
    for (pointer, evil, says) in [
        ("/items/0/metadata/name", json!(7), "kube-deployments.items[0].metadata.name is no text"),
        (
            "/items/0/spec/template/spec/containers",
            json!({}),
            "kube-deployments.items[0].spec.template.spec.containers is no list",
        ),
        (
            "/items/0/spec/template/spec/containers/0/env/1/value",
            json!(["all"]),
            "kube-deployments.items[0].spec.template.spec.containers[0].env[1].value is no text",
        ),
        ("/items", json!("x"), "kube-deployments.items is no list"),
    ] {
        let mut world = World::seed(Gpu::Works);
        *world.list(KubeList::Deployments).pointer_mut(pointer).expect("the field is there") = evil;
        let Verdict::Unknown { reason, .. } = world.verdict("cluster/visible-devices-all") else { panic!("{pointer}") };
        assert_eq!(reason, Reason::Malformed(says.into()));
    }
}

#[test]
fn an_answer_of_another_kind_is_malformed() {
    let mut memory = World::seed(Gpu::Works).memory();
    let Seen::Is(report) = inventory(Gpu::Works).nvml else { panic!("the driver answers") };
    memory.insert_answer(Question::Kube(KubeList::Nodes), Seen::Is(Answer::Nvml(Box::new(report))));
    let facts = kube::observe(&memory, &inventory(Gpu::Works));
    assert!(matches!(facts.nodes.value, Seen::Unreadable(Reason::Malformed(_))));
}
