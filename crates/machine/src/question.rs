//! The closed questions: what is asked of a machine that is no file. A capture records the answers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::nvml::NvmlReport;

/// Closed on purpose: an observer cannot run a free-form command, so each answer can be recorded and simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// NVML's inventory. → [`Answer::Nvml`]. Absent where no library or no driver is.
    Nvml,
    /// The same with all of each card's topics, among them what takes time: throughput (40 ms a card), NVLink, MIG
    /// profiles, processes' and sessions' use. → [`Answer::Nvml`]. Ask by [`crate::nvml::ask`].
    NvmlAll,
    /// What the cards' video engines decode and encode, asked of themselves. → [`Answer::Json`], a
    /// [`crate::codecs::CodecsReport`]. Takes a CUDA context and, for a moment, an NVENC session of each card, so that
    /// nobody asks it in passing. Absent where no driver is.
    Codecs,
    /// Running containers with their devices and environment, as the engine's `inspect` JSON. → [`Answer::Json`], an array.
    Containers(Engine),
    /// The engine's own facts (`docker info`, `docker version`): version, runtimes, CDI directories. → [`Answer::Json`].
    EngineInfo(Engine),
    /// containerd's version and what its configuration comes to (`containerd config dump`), as far as a GPU goes: the keys
    /// of [`crate::ContainerdSays`]. → [`Answer::Json`]. Absent where no containerd listens.
    ContainerdConfig,
    /// All objects of a kind, as the API server's List. → [`Answer::Json`]. Absent where no kubectl or kubeconfig is.
    Kube(KubeList),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    Docker,
    Podman,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KubeList {
    Nodes,
    Pods,
    DaemonSets,
    Deployments,
}

impl KubeList {
    /// The resource as kubectl spells it.
    pub fn resource(self) -> &'static str {
        match self {
            KubeList::Nodes => "nodes",
            KubeList::Pods => "pods",
            KubeList::DaemonSets => "daemonsets.apps",
            KubeList::Deployments => "deployments.apps",
        }
    }

    pub const ALL: [KubeList; 4] = [KubeList::Nodes, KubeList::Pods, KubeList::DaemonSets, KubeList::Deployments];
}

impl Question {
    pub const ALL: [Question; 12] = [
        Question::Nvml,
        Question::NvmlAll,
        Question::Codecs,
        Question::Containers(Engine::Docker),
        Question::Containers(Engine::Podman),
        Question::EngineInfo(Engine::Docker),
        Question::EngineInfo(Engine::Podman),
        Question::ContainerdConfig,
        Question::Kube(KubeList::Nodes),
        Question::Kube(KubeList::Pods),
        Question::Kube(KubeList::DaemonSets),
        Question::Kube(KubeList::Deployments),
    ];

    /// The name under which a capture, a simulated tree and a report know this question: `kube-nodes`.
    pub fn key(self) -> &'static str {
        match self {
            Question::Nvml => "nvml",
            Question::NvmlAll => "nvml-all",
            Question::Codecs => "codecs",
            Question::Containers(Engine::Docker) => "docker-containers",
            Question::Containers(Engine::Podman) => "podman-containers",
            Question::EngineInfo(Engine::Docker) => "docker-info",
            Question::EngineInfo(Engine::Podman) => "podman-info",
            Question::ContainerdConfig => "containerd-config",
            Question::Kube(KubeList::Nodes) => "kube-nodes",
            Question::Kube(KubeList::Pods) => "kube-pods",
            Question::Kube(KubeList::DaemonSets) => "kube-daemonsets",
            Question::Kube(KubeList::Deployments) => "kube-deployments",
        }
    }

    /// Whether a recording asks it unasked: what disturbs nobody.
    pub fn in_passing(self) -> bool {
        self != Question::Codecs
    }

    pub fn from_key(key: &str) -> Option<Question> {
        Question::ALL.into_iter().find(|q| q.key() == key)
    }
}

/// In words, as a report's source line has it.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Nvml | Question::NvmlAll => f.write_str("NVML"),
            Question::Codecs => f.write_str("NVDEC and NVENC"),
            Question::Containers(Engine::Docker) => f.write_str("docker inspect"),
            Question::Containers(Engine::Podman) => f.write_str("podman inspect"),
            Question::EngineInfo(Engine::Docker) => f.write_str("docker info"),
            Question::EngineInfo(Engine::Podman) => f.write_str("podman info"),
            Question::ContainerdConfig => f.write_str("containerd config dump"),
            Question::Kube(list) => write!(f, "kubectl get {}", list.resource()),
        }
    }
}

/// containerd by itself, out of `containerd --version` and `containerd config dump`; registries and their secrets are
/// not among it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerdSays {
    /// "1.7.24".
    pub version: Option<String>,
    /// `enable_cdi` of the CRI plugin; `None`: this containerd has no such setting.
    pub enable_cdi: Option<bool>,
    /// BinaryName by runtime; empty: the default, runc.
    pub runtimes: std::collections::BTreeMap<String, String>,
    pub default_runtime: Option<String>,
    /// What it says where it cannot load its configuration.
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Nvml(Box<NvmlReport>),
    Json(serde_json::Value),
}

impl Answer {
    pub fn json(&self) -> Option<&serde_json::Value> {
        match self {
            Answer::Json(value) => Some(value),
            Answer::Nvml(_) => None,
        }
    }
}
