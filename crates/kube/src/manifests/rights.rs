//! Accounts and what they may do. RBAC cannot say "its own node"; [`super::policy`] does.

use serde_json::{Value, json};

/// API group, resource, verbs.
pub(super) type Rule = (&'static str, &'static str, &'static [&'static str]);

/// The agent: its Node, whose labels it writes and whose cordon it hears, and Events of pods that go round the grant.
pub(super) const AGENT_RULES: &[Rule] = &[
    ("", "nodes", &["get", "watch", "patch"]),
    ("", "events", &["create", "patch"]),
    ("events.k8s.io", "events", &["create", "patch"]),
];

/// Discovery: one label of its Node.
pub(super) const DISCOVER_RULES: &[Rule] = &[("", "nodes", &["get", "watch", "patch"])];

/// Host paths are forbidden by the pod security standards below "privileged".
pub(super) fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
    })
}

/// An account, its role and the binding.
pub(super) fn of(name: &str, namespace: &str, rules: &[Rule]) -> [Value; 3] {
    let labels = json!({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "thruway"});
    let rules: Vec<Value> = rules
        .iter()
        .map(|(group, resource, verbs)| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs}))
        .collect();
    [
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name, "labels": labels},
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name, "labels": labels},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }),
    ]
}
