//! thruway's agent and its discovery: two DaemonSets, their accounts and what those may do.

use serde_json::{Map, Value, json};

use super::{PCI_PRESENT, policy, rights};
use crate::objects::PRESENT;

/// A node that carries one of these with the value "true" gets the agent: thruway's own discovery, node-feature-discovery
/// in both of its spellings (by vendor; by class and vendor), and what an agent before this one proved.
pub const GPU_NODE_LABELS: [&str; 5] = [
    PCI_PRESENT,
    "feature.node.kubernetes.io/pci-10de.present",
    "feature.node.kubernetes.io/pci-0300_10de.present",
    "feature.node.kubernetes.io/pci-0302_10de.present",
    PRESENT,
];

/// How the agent's container comes to the driver's device nodes, which a container's device cgroup keeps from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Through a container runtime that injects the driver, asked by a RuntimeClass and the environment. No privilege.
    #[default]
    Runtime,
    /// As a privileged container: where no such runtime is, or where the runtime gives pods nothing without a grant
    /// (thruway's own does not), which the agent cannot have before it runs.
    Privileged,
}

/// What of the manifests can be chosen.
#[derive(Clone, Debug)]
pub struct Placement {
    pub namespace: String,
    /// With its tag.
    pub image: String,
    /// `Always`, `IfNotPresent`, `Never`.
    pub pull_policy: String,
    pub access: Access,
    /// The RuntimeClass of the agent's pods; `None` where the injecting runtime is the engines' default.
    pub runtime_class: Option<String>,
    /// A RuntimeClass object of that name and handler too.
    pub create_runtime_class: bool,
    /// The host's directory with the driver: "/", "/run/nvidia/driver".
    pub driver_root: String,
    /// The kubelet's directory: "/var/lib/kubelet"; "/var/lib/k0s/kubelet" on k0s.
    pub kubelet_dir: String,
    /// Discovery pods on all nodes. Without them node-feature-discovery or a label by hand must mark the nodes.
    pub discover: bool,
    /// Also look which processes use a GPU without a grant: needs the host's process ids.
    pub audit: bool,
    /// The ValidatingAdmissionPolicy that keeps each pod to its own Node (Kubernetes 1.32).
    pub policy: bool,
    /// NVIDIA's device plugin configuration, as its text.
    pub config: Option<String>,
}

impl Default for Placement {
    fn default() -> Self {
        Placement {
            namespace: "thruway".into(),
            image: concat!("thruway-node:", env!("CARGO_PKG_VERSION")).into(),
            pull_policy: "IfNotPresent".into(),
            access: Access::default(),
            runtime_class: Some("nvidia".into()),
            create_runtime_class: false,
            driver_root: "/".into(),
            kubelet_dir: "/var/lib/kubelet".into(),
            discover: true,
            audit: false,
            policy: true,
            config: None,
        }
    }
}

/// Where the agent's container sees the host.
const HOST: &str = "/host";
/// Where it serves its metrics and health.
const PORT: u16 = 9847;

impl Placement {
    pub const AGENT: &'static str = "thruway-node";
    pub const DISCOVER: &'static str = "thruway-discover";

    /// All objects, in the order in which they are to be made.
    pub fn objects(&self) -> Vec<Value> {
        let mut all = vec![rights::namespace(&self.namespace)];
        if let (true, Some(class)) = (self.create_runtime_class, &self.runtime_class) {
            all.push(json!({
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": class},
                "handler": class,
            }));
        }
        all.extend(rights::of(Self::AGENT, &self.namespace, rights::AGENT_RULES));
        if self.discover {
            all.extend(rights::of(Self::DISCOVER, &self.namespace, rights::DISCOVER_RULES));
        }
        if self.policy {
            all.extend(policy::own_node(&self.namespace));
        }
        if let Some(config) = &self.config {
            all.push(json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": self.meta(Self::AGENT),
                "data": {"config.yaml": config},
            }));
        }
        all.push(self.agent());
        if self.discover {
            all.push(self.discovery());
        }
        all
    }

    /// The objects as one YAML text, for `kubectl apply --server-side --filename=-`.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        for (number, object) in self.objects().iter().enumerate() {
            if number > 0 {
                text.push_str("---\n");
            }
            text.push_str(&formats::yamlout::print(object));
        }
        text
    }

    fn meta(&self, name: &str) -> Value {
        json!({"name": name, "namespace": self.namespace, "labels": labels(name)})
    }

    fn daemonset(&self, name: &str, unavailable: Value, pod: Value) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": self.meta(name),
            "spec": {
                "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable}},
                "template": {"metadata": {"labels": labels(name)}, "spec": pod},
            },
        })
    }

    fn agent(&self) -> Value {
        let mut args = vec![format!("--root={HOST}"), format!("--listen=0.0.0.0:{PORT}")];
        if self.driver_root != "/" {
            args.push(format!("--driver-root={}", self.driver_root));
        }
        if self.kubelet_dir != "/var/lib/kubelet" {
            args.push(format!("--plugin-dir={}/device-plugins", self.kubelet_dir));
        }
        let mut env = vec![json!({"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}})];
        let mut capabilities = json!({"drop": ["ALL"]});
        let mut security = json!({"readOnlyRootFilesystem": true, "runAsUser": 0});
        match self.access {
            Access::Runtime => {
                // the runtime's own words: all cards to look at, of the libraries only NVML
                env.push(json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}));
                env.push(json!({"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "utility"}));
                set(&mut security, "allowPrivilegeEscalation", json!(false));
                if self.audit {
                    set(&mut capabilities, "add", json!(["SYS_PTRACE", "DAC_READ_SEARCH"]));
                }
                set(&mut security, "capabilities", capabilities);
                set(&mut security, "seccompProfile", json!({"type": "RuntimeDefault"}));
            }
            Access::Privileged => set(&mut security, "privileged", json!(true)),
        }
        let plugins = format!("{}/device-plugins", self.kubelet_dir);
        let resources = format!("{}/pod-resources", self.kubelet_dir);
        let mounts = [
            ("host", "/", true, "Directory"),
            ("device-plugins", plugins.as_str(), false, "DirectoryOrCreate"),
            ("pod-resources", resources.as_str(), true, "DirectoryOrCreate"),
            // the host's /var/run is a link to /run, which a mount inside a container does not follow
            ("cdi", "/run/cdi", false, "DirectoryOrCreate"),
            ("state", "/var/lib/thruway/node", false, "DirectoryOrCreate"),
        ];
        let mut volume_mounts = Vec::new();
        let mut volumes = Vec::new();
        for (name, path, read_only, kind) in mounts {
            let mut mount = json!({"name": name, "mountPath": format!("{HOST}{}", path.trim_end_matches('/'))});
            if read_only {
                set(&mut mount, "readOnly", json!(true));
            }
            if name == "host" {
                // a driver container that starts later mounts its root below it
                set(&mut mount, "mountPropagation", json!("HostToContainer"));
            }
            volume_mounts.push(mount);
            volumes.push(json!({"name": name, "hostPath": {"path": path, "type": kind}}));
        }
        if self.config.is_some() {
            args.push("--config-file=/config/config.yaml".into());
            volume_mounts.push(json!({"name": "config", "mountPath": "/config", "readOnly": true}));
            volumes.push(json!({"name": "config", "configMap": {"name": Self::AGENT}}));
        }
        let terms = GPU_NODE_LABELS
            .map(|label| json!({"matchExpressions": [{"key": label, "operator": "In", "values": ["true"]}]}));
        let probe = |path: &str, period: u32| json!({"httpGet": {"path": path, "port": "metrics"}, "periodSeconds": period, "timeoutSeconds": 2});
        let mut pod = json!({
            "serviceAccountName": Self::AGENT,
            "priorityClassName": "system-node-critical",
            "terminationGracePeriodSeconds": 10,
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "CriticalAddonsOnly", "operator": "Exists"},
            ],
            "containers": [{
                "name": Self::AGENT,
                "image": self.image,
                "imagePullPolicy": self.pull_policy,
                "command": ["/usr/bin/thruway-node", "run"],
                "args": args,
                "env": env,
                "ports": [{"name": "metrics", "containerPort": PORT}],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "securityContext": security,
                "livenessProbe": probe("/healthz", 20),
                "readinessProbe": probe("/readyz", 5),
                "volumeMounts": volume_mounts,
            }],
            "volumes": volumes,
        });
        if let (Access::Runtime, Some(class)) = (self.access, &self.runtime_class) {
            set(&mut pod, "runtimeClassName", json!(class));
        }
        if self.audit {
            set(&mut pod, "hostPID", json!(true));
        }
        self.daemonset(Self::AGENT, json!(1), pod)
    }

    /// Reads PCI ids in the container's own /sys, which is the host's: no mount, no right, no root. The one volume says
    /// which cards are promised to VMs.
    fn discovery(&self) -> Value {
        let pod = json!({
            "serviceAccountName": Self::DISCOVER,
            "terminationGracePeriodSeconds": 5,
            // any node may have a card, control planes too
            "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}, {"operator": "Exists", "effect": "NoExecute"}],
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65534,
                "runAsGroup": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": Self::DISCOVER,
                "image": self.image,
                "imagePullPolicy": self.pull_policy,
                "command": ["/usr/bin/thruway-node", "discover"],
                "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "ledger", "mountPath": "/var/lib/thruway/ledger", "readOnly": true}],
            }],
            "volumes": [
                {"name": "ledger", "hostPath": {"path": "/var/lib/thruway/ledger", "type": "DirectoryOrCreate"}},
            ],
        });
        self.daemonset(Self::DISCOVER, json!("10%"), pod)
    }
}

fn labels(name: &str) -> Value {
    json!({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "thruway"})
}

fn set(object: &mut Value, key: &str, value: Value) {
    let map: Option<&mut Map<String, Value>> = object.as_object_mut();
    if let Some(map) = map {
        map.insert(key.to_owned(), value);
    }
}
