//! Our own manifest for NVIDIA's device plugin: kept to nodes whose GPU works.

use serde_json::{Value, json};

use crate::objects::PRESENT;

/// NVIDIA's device plugin, the release that the manifest was written for.
pub const PLUGIN_IMAGE: &str = "nvcr.io/nvidia/k8s-device-plugin:v0.20.0";

/// What of the manifest can be chosen.
#[derive(Clone, Debug)]
pub struct PluginManifest {
    pub namespace: String,
    pub image: String,
    /// `nvidia` where the GPU runtime is not the engine's default, as thruway sets engines up; `None` where it is.
    pub runtime_class: Option<String>,
}

impl Default for PluginManifest {
    fn default() -> Self {
        PluginManifest { namespace: "kube-system".into(), image: PLUGIN_IMAGE.into(), runtime_class: None }
    }
}

impl PluginManifest {
    pub const NAME: &'static str = "thruway-nvidia-device-plugin";

    /// The DaemonSet as the API takes it.
    pub fn daemonset(&self) -> Value {
        let name = Self::NAME;
        let mut pod = json!({
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [present_term()]}}},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "system-node-critical",
            "containers": [{
                "name": "nvidia-device-plugin",
                "image": self.image,
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "device-plugins", "mountPath": "/var/lib/kubelet/device-plugins"}],
            }],
            "volumes": [{"name": "device-plugins", "hostPath": {"path": "/var/lib/kubelet/device-plugins"}}],
        });
        if let (Some(class), Some(pod)) = (&self.runtime_class, pod.as_object_mut()) {
            pod.insert("runtimeClassName".into(), json!(class));
        }
        json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "thruway"},
            },
            "spec": {
                "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
                "updateStrategy": {"type": "RollingUpdate"},
                "template": {"metadata": {"labels": {"app.kubernetes.io/name": name}}, "spec": pod},
            },
        })
    }
}

/// The node affinity that keeps pods to nodes whose GPU works.
pub(crate) fn present_expression() -> Value {
    json!({"key": PRESENT, "operator": "In", "values": ["true"]})
}

pub(crate) fn present_term() -> Value {
    json!({"matchExpressions": [present_expression()]})
}

/// The manifest as YAML, to be read, kept, or given to `kubectl apply --filename=-`.
pub fn manifests(options: &PluginManifest) -> String {
    format!(
        "# NVIDIA's device plugin, on nodes labelled {PRESENT}=true alone.\n{}",
        formats::yamlout::print(&options.daemonset())
    )
}
