//! Every manifest is what the API's own types make of it: an unknown field, a wrong type or a missing one shows as a
//! difference. And the pods' commands are ones that the program understands.

use std::collections::BTreeSet;

use clap::Parser as _;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::{Access, Placement, PluginManifest};
use serde_json::Value;

fn again<T: serde::de::DeserializeOwned + serde::Serialize>(object: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|bad| bad.to_string())?;
    serde_json::to_value(&typed).map_err(|bad| bad.to_string())
}

/// Why the API would not take this object as it stands; `None` where it would.
fn wrong(object: &Value) -> Option<String> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let typed = match (text("apiVersion"), text("kind")) {
        ("v1", "Namespace") => again::<Namespace>(object),
        ("v1", "ServiceAccount") => again::<ServiceAccount>(object),
        ("v1", "ConfigMap") => again::<ConfigMap>(object),
        ("apps/v1", "DaemonSet") => again::<DaemonSet>(object),
        ("node.k8s.io/v1", "RuntimeClass") => again::<RuntimeClass>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => again::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => again::<ClusterRoleBinding>(object),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => again::<ValidatingAdmissionPolicy>(object),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            again::<ValidatingAdmissionPolicyBinding>(object)
        }
        other => return Some(format!("{other:?} is no kind that we know")),
    };
    match typed {
        Err(bad) => Some(bad),
        Ok(typed) => difference(object, &typed, ""),
    }
}

/// The first place at which the two differ; the order of keys is none of it.
fn difference(ours: &Value, typed: &Value, path: &str) -> Option<String> {
    match (ours, typed) {
        (Value::Object(ours), Value::Object(typed)) => {
            let keys: BTreeSet<&String> = ours.keys().chain(typed.keys()).collect();
            keys.into_iter().find_map(|key| match (ours.get(key), typed.get(key)) {
                (Some(ours), Some(typed)) => difference(ours, typed, &format!("{path}.{key}")),
                _ => Some(format!("{path}.{key} is unknown to the API, or of another type there")),
            })
        }
        (Value::Array(ours), Value::Array(typed)) if ours.len() == typed.len() => ours
            .iter()
            .zip(typed)
            .enumerate()
            .find_map(|(n, (ours, typed))| difference(ours, typed, &format!("{path}[{n}]"))),
        _ if ours == typed => None,
        _ => Some(format!("{path}: {ours} is {typed} to the API")),
    }
}

fn all() -> Vec<(&'static str, Placement)> {
    let base = Placement::default;
    vec![
        ("as it comes", base()),
        ("privileged", Placement { access: Access::Privileged, ..base() }),
        (
            "with everything",
            Placement {
                namespace: "gpu".into(),
                audit: true,
                create_runtime_class: true,
                driver_root: "/run/nvidia/driver".into(),
                kubelet_dir: "/var/lib/k0s/kubelet".into(),
                config: Some("version: v1\n".into()),
                ..base()
            },
        ),
        ("with little", Placement { runtime_class: None, discover: false, policy: false, ..base() }),
    ]
}

#[test]
fn every_object_is_what_the_apis_types_make_of_it() {
    for (name, placement) in all() {
        for object in placement.objects() {
            assert_eq!(wrong(&object), None, "{name}: {} {}", object["kind"], object["metadata"]["name"]);
        }
        // what is printed is what was meant
        assert_eq!(formats::yamlin::parse_all(&placement.yaml()).expect("our own YAML"), placement.objects(), "{name}");
    }
    assert_eq!(wrong(&PluginManifest::default().daemonset()), None);
}

#[test]
fn the_comparison_sees_a_field_that_the_api_does_not_know() {
    let mut set = Placement::default().objects().pop().expect("the discovery");
    assert_eq!(set["metadata"]["name"], "thruway-discover");
    set["spec"]["template"]["spec"]["tolerate"] = Value::Array(Vec::new());
    assert_eq!(
        wrong(&set).as_deref(),
        Some(".spec.template.spec.tolerate is unknown to the API, or of another type there")
    );
    set["spec"]["template"]["spec"]["tolerate"].take();
    set["spec"]["template"]["spec"]["hostPID"] = "yes".into();
    assert!(wrong(&set).expect("a wrong type").contains("boolean"));
}

#[test]
fn nobody_has_more_rights_than_it_needs() {
    for (name, placement) in all() {
        for object in placement.objects() {
            let pod = &object["spec"]["template"]["spec"];
            for container in pod["containers"].as_array().into_iter().flatten() {
                let security = &container["securityContext"];
                let agent = container["name"] == "thruway-node";
                let privileged = security["privileged"] == true;
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(privileged, agent && placement.access == Access::Privileged, "{name}");
                if !privileged {
                    assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                    assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
                    let seccomp =
                        [&security["seccompProfile"]["type"], &pod["securityContext"]["seccompProfile"]["type"]];
                    assert!(seccomp.iter().any(|kind| **kind == "RuntimeDefault"), "{name}");
                }
                assert_eq!(pod["hostPID"] == true, agent && placement.audit, "{name}");
                assert!(pod.get("hostNetwork").is_none() && pod.get("hostIPC").is_none(), "{name}");
            }
            for rule in object["rules"].as_array().into_iter().flatten() {
                for resource in rule["resources"].as_array().into_iter().flatten() {
                    assert!(["nodes", "events"].iter().any(|known| resource == known), "{name}: {resource}");
                }
                for verb in rule["verbs"].as_array().into_iter().flatten() {
                    assert!(["get", "watch", "patch", "create"].iter().any(|known| verb == known), "{name}: {verb}");
                }
            }
        }
    }
}

#[test]
fn the_pods_commands_are_understood() {
    for (name, placement) in all() {
        for object in placement.objects() {
            for container in object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten() {
                let words = ["command", "args"].iter().flat_map(|key| container[*key].as_array().into_iter().flatten());
                let words: Vec<&str> = words.filter_map(Value::as_str).collect();
                if let Err(bad) = node::cli::Cli::try_parse_from(&words) {
                    panic!("{name}: {words:?}: {bad}");
                }
            }
        }
    }
}
