//! Each pod changes its own Node alone, and of that only what is ours: a ValidatingAdmissionPolicy.
//!
//! A bound service account token names the node that its pod runs on (KEP 4193, on by default since Kubernetes 1.32), so that a
//! node that was taken over cannot mark another as one with GPUs. Source: kubernetes.io, Validating Admission Policy.

use serde_json::{Value, json};

use super::Placement;

const NAME: &str = "thruway-own-node";

/// The policy and its binding.
pub(super) fn own_node(namespace: &str) -> [Value; 2] {
    let user = |name: &str| format!("system:serviceaccount:{namespace}:{name}");
    let (agent, discover) = (user(Placement::AGENT), user(Placement::DISCOVER));
    let labels = json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "thruway"});
    let variable = |name: &str, expression: &str| json!({"name": name, "expression": expression});
    // every key of either side is ours or is the same on both
    let kept = |map: &str| {
        let same = format!(
            "k in variables.old{map} && k in variables.new{map} && variables.old{map}[k] == variables.new{map}[k]"
        );
        let ours = "variables.prefixes.exists(p, k.startsWith(p))";
        // discovery takes off what an agent that is gone has left
        let swept =
            format!("!(k in variables.new{map}) && (k.startsWith('nvidia.com/') || k.startsWith('thruway.dev/'))");
        format!(
            "variables.new{map}.all(k, {ours} || ({same})) && variables.old{map}.all(k, {ours} || ({same}) || ({swept}))"
        )
    };
    let rule = |expression: String, message: &str| json!({"expression": expression, "message": message});
    [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": NAME, "labels": labels},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "resourceRules": [{
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["nodes"],
                    }],
                },
                "matchConditions": [{
                    "name": "ours",
                    "expression": format!("request.userInfo.username in ['{agent}', '{discover}']"),
                }],
                "variables": [
                    variable("node", "request.userInfo.extra[?'authentication.kubernetes.io/node-name'][0].orValue('')"),
                    variable(
                        "prefixes",
                        &format!(
                            "request.userInfo.username == '{discover}' ? ['thruway.dev/nvidia-pci.'] : ['nvidia.com/', 'thruway.dev/']"
                        ),
                    ),
                    variable("newlabels", "object.metadata.?labels.orValue({})"),
                    variable("oldlabels", "oldObject.metadata.?labels.orValue({})"),
                    variable("newannotations", "object.metadata.?annotations.orValue({})"),
                    variable("oldannotations", "oldObject.metadata.?annotations.orValue({})"),
                ],
                "validations": [
                    rule("request.operation == 'UPDATE'".into(), "a Node is made by its kubelet, not by thruway's pods"),
                    rule(
                        "variables.node != '' && variables.node == object.metadata.name".into(),
                        "thruway's pods change the Node alone that they run on; their token must name it (Kubernetes 1.32)",
                    ),
                    rule(
                        "object.spec == oldObject.spec".into(),
                        "thruway's pods change no taint and nothing else of a Node's spec",
                    ),
                    rule(kept("labels"), "thruway's pods change labels of nvidia.com/ and thruway.dev/ alone"),
                    rule(kept("annotations"), "thruway's pods change annotations of thruway.dev/ alone"),
                ],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": NAME, "labels": labels},
            "spec": {"policyName": NAME, "validationActions": ["Deny"]},
        }),
    ]
}
