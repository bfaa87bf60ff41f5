//! The objects of the API that this floor judges, as far as it judges them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::read::{At, Bad};

/// The prefix of all that NVIDIA's plugin offers: `nvidia.com/gpu`, `nvidia.com/mig-1g.10gb`.
pub const RESOURCE: &str = "nvidia.com/gpu";
/// The node label that says a GPU works here. NVIDIA's chart selects by it and thruway sets it.
pub const PRESENT: &str = "nvidia.com/gpu.present";

#[derive(Clone, Debug, Serialize)]
pub struct Node {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Extended resources under `nvidia.com/` only.
    pub capacity: BTreeMap<String, u64>,
    pub allocatable: BTreeMap<String, u64>,
    /// `status.nodeInfo.machineID`: the node's /etc/machine-id. Cloned machines share one.
    pub machine_id: Option<String>,
    /// `status.nodeInfo.kubeletVersion`: "v1.31.4".
    pub kubelet: Option<String>,
    /// `status.nodeInfo.containerRuntimeVersion`: "containerd://1.7.24".
    pub runtime: Option<String>,
    /// The condition Ready is there and not True.
    pub unready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taint {
    pub key: String,
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub effect: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Toleration {
    pub key: Option<String>,
    pub exists: bool,
    pub value: String,
    pub effect: Option<String>,
}

/// A DaemonSet or Deployment.
#[derive(Clone, Debug, Serialize)]
pub struct Workload {
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// `Kind/name` of the owner, where one writes this object.
    pub owner: Option<String>,
    pub pod: PodSpec,
    /// Deployments: `spec.replicas`, 1 where left out.
    pub replicas: i64,
    /// Deployments: `spec.strategy.type`, `RollingUpdate` where left out.
    pub strategy: String,
    pub generation: Option<i64>,
    pub status: Counts,
    /// The object as read: what a plan's change starts from.
    #[serde(skip)]
    pub raw: Value,
}

/// What the controller counts. `None` where it has not yet written it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    pub observed_generation: Option<i64>,
    /// DaemonSets: `desiredNumberScheduled` and `currentNumberScheduled`.
    pub desired: Option<i64>,
    pub current: Option<i64>,
    /// Deployments: `updatedReplicas` and `availableReplicas`.
    pub updated: Option<i64>,
    pub available: Option<i64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub owner: Option<String>,
    pub pod: PodSpec,
    pub node: Option<String>,
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    pub phase: String,
    /// The scheduler's words where it found no node.
    pub unscheduled: Option<String>,
    pub reason: Option<String>,
    /// The kubelet has taken it in (`status.startTime`).
    pub admitted: bool,
    /// All of its containers are ready.
    pub ready: bool,
    pub states: Vec<State>,
}

/// What the kubelet says of a container that does not run, or did not.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    pub container: String,
    pub init: bool,
    /// `Running`, or the reason: `CrashLoopBackOff`, `CreateContainerError`, `PodInitializing`.
    pub reason: String,
    /// The message of its state, and of the one before.
    pub messages: Vec<String>,
}

impl State {
    /// Ended badly, or cannot start; waiting for its turn is none of it.
    pub fn failing(&self) -> bool {
        [
            "CrashLoopBackOff",
            "Error",
            "OOMKilled",
            "RunContainerError",
            "CreateContainerError",
            "StartError",
            "ContainerCannotRun",
            "ImagePullBackOff",
            "ErrImagePull",
        ]
        .contains(&self.reason.as_str())
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct PodSpec {
    pub containers: Vec<Container>,
    pub node_selector: BTreeMap<String, String>,
    /// `requiredDuringSchedulingIgnoredDuringExecution`: one of these must match. `None`: no such field.
    pub required: Option<Vec<Term>>,
    pub tolerations: Vec<Toleration>,
    pub runtime_class: Option<String>,
    pub host_paths: Vec<String>,
}

/// All of these must match; a term with none matches nothing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Term {
    pub labels: Vec<Expression>,
    /// `matchFields`; the only field is `metadata.name`.
    pub fields: Vec<Expression>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Expression {
    pub key: String,
    pub operator: String,
    pub values: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Container {
    pub name: String,
    pub image: String,
    /// Command and arguments.
    pub command: Vec<String>,
    pub env: BTreeMap<String, Env>,
    /// Limits under `nvidia.com/`.
    pub limits: BTreeMap<String, u64>,
    pub privileged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Env {
    Text(String),
    /// `valueFrom` or a text that expands `$(OTHER)`: not known before the container starts.
    From,
}

impl Container {
    pub fn gpus(&self) -> u64 {
        self.limits.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The value of `NVIDIA_VISIBLE_DEVICES` where it takes devices past the scheduler: all but `void`, `none`, empty.
    pub fn takes_by_env(&self) -> Option<&str> {
        match self.env.get("NVIDIA_VISIBLE_DEVICES")? {
            Env::Text(text) if ["", "void", "none"].contains(&text.trim()) => None,
            Env::Text(text) => Some(text),
            Env::From => None,
        }
    }

    /// True where this container runs NVIDIA's (or a fork's) device plugin for `nvidia.com/` resources. The same image
    /// also runs feature discovery and the MPS daemon, so the command decides where there is one.
    fn is_plugin(&self) -> bool {
        let base = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
        let words: Vec<String> = self.command.iter().flat_map(|part| part.split_whitespace()).map(base).collect();
        if ["gpu-feature-discovery", "mps-control-daemon", "config-manager"]
            .iter()
            .any(|no| words.iter().any(|w| w == no))
        {
            return false;
        }
        if words.iter().any(|word| word == "nvidia-device-plugin") || self.is_agent() {
            return true;
        }
        let image = base(&self.image);
        let repository = image.split([':', '@']).next().unwrap_or_default();
        ["k8s-device-plugin", "nvidia-device-plugin", "nvidia-gpu-device-plugin"].contains(&repository)
    }
}

impl Container {
    fn words(&self) -> impl Iterator<Item = &str> {
        self.command
            .iter()
            .flat_map(|part| part.split_whitespace())
            .map(|word| word.rsplit('/').next().unwrap_or_default())
    }

    /// thruway's own agent.
    pub fn is_agent(&self) -> bool {
        let mut words = self.words();
        words.any(|word| word == "thruway-node") && words.next() == Some("run")
    }

    /// NVIDIA's DRA driver: the kubelet's plugin of it.
    pub fn is_dra(&self) -> bool {
        let image = self.image.rsplit('/').next().unwrap_or_default();
        let image = image.split([':', '@']).next().unwrap_or_default();
        let dra = ["k8s-dra-driver-gpu", "dra-driver-nvidia-gpu"].contains(&image);
        self.words().any(|word| word == "gpu-kubelet-plugin") || dra && self.name.starts_with("gpu")
    }
}

impl PodSpec {
    pub fn gpus(&self) -> u64 {
        self.containers.iter().fold(0, |sum, container| sum.saturating_add(container.gpus()))
    }

    pub fn is_plugin(&self) -> bool {
        self.containers.iter().any(Container::is_plugin)
    }

    /// The pod of thruway's own agent, whose health comes back by itself.
    pub fn is_agent(&self) -> bool {
        self.containers.iter().any(Container::is_agent)
    }

    pub fn is_dra(&self) -> bool {
        self.containers.iter().any(Container::is_dra)
    }

    /// The GPU labels that node selection names, in words: `nvidia.com/gpu In [dedicated]`.
    pub fn gpu_selection(&self) -> Vec<String> {
        let by_selector =
            self.node_selector.iter().filter(|(key, _)| is_gpu_label(key)).map(|(k, v)| format!("{k}={v}"));
        let by_term = self.required.iter().flatten().flat_map(|term| &term.labels);
        let by_term = by_term.filter(|e| is_gpu_label(&e.key) && e.positive()).map(ToString::to_string);
        by_selector.chain(by_term).collect()
    }
}

impl Expression {
    /// Asks for the label, and does not shun it.
    fn positive(&self) -> bool {
        matches!(self.operator.as_str(), "In" | "Exists" | "Gt" | "Lt")
    }
}

impl std::fmt::Display for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.key, self.operator)?;
        if self.values.is_empty() { Ok(()) } else { write!(f, " [{}]", self.values.join(", ")) }
    }
}

/// Labels that people and tools mark GPU nodes with.
pub fn is_gpu_label(key: &str) -> bool {
    key.starts_with("nvidia.com/") || (key.starts_with("feature.node.kubernetes.io/pci-") && key.contains("10de"))
}

impl Workload {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

pub(crate) fn node(at: &At) -> Result<Node, Bad> {
    let meta = at.at("metadata")?;
    let status = at.at("status")?;
    let taint = |at: &At| {
        Ok::<Taint, Bad>(Taint {
            key: at.at("key")?.name()?,
            value: at.at("value")?.text()?.unwrap_or_default(),
            effect: at.at("effect")?.name()?,
        })
    };
    let mut unready = false;
    for condition in status.at("conditions")?.list()? {
        let ready = condition.at("type")?.text()?.as_deref() == Some("Ready");
        unready |= ready && condition.at("status")?.text()?.as_deref() != Some("True");
    }
    Ok(Node {
        name: meta.at("name")?.name()?,
        labels: meta.at("labels")?.pairs()?,
        taints: at.down(&["spec", "taints"])?.list()?.iter().map(taint).collect::<Result<_, _>>()?,
        capacity: status.at("capacity")?.resources()?,
        allocatable: status.at("allocatable")?.resources()?,
        machine_id: status.down(&["nodeInfo", "machineID"])?.text()?,
        kubelet: status.down(&["nodeInfo", "kubeletVersion"])?.text()?,
        runtime: status.down(&["nodeInfo", "containerRuntimeVersion"])?.text()?,
        unready,
    })
}

fn owner(meta: &At) -> Result<Option<String>, Bad> {
    match meta.at("ownerReferences")?.list()?.first() {
        None => Ok(None),
        Some(first) => Ok(Some(format!("{}/{}", first.at("kind")?.name()?, first.at("name")?.name()?))),
    }
}

pub(crate) fn workload(at: &At) -> Result<Workload, Bad> {
    let (meta, spec, status) = (at.at("metadata")?, at.at("spec")?, at.at("status")?);
    Ok(Workload {
        namespace: meta.at("namespace")?.name()?,
        name: meta.at("name")?.name()?,
        labels: meta.at("labels")?.pairs()?,
        owner: owner(&meta)?,
        pod: pod_spec(&spec.down(&["template", "spec"])?)?,
        replicas: spec.at("replicas")?.number()?.unwrap_or(1),
        strategy: spec.down(&["strategy", "type"])?.text()?.unwrap_or_else(|| "RollingUpdate".into()),
        generation: meta.at("generation")?.number()?,
        status: Counts {
            observed_generation: status.at("observedGeneration")?.number()?,
            desired: status.at("desiredNumberScheduled")?.number()?,
            current: status.at("currentNumberScheduled")?.number()?,
            updated: status.at("updatedReplicas")?.number()?,
            available: status.at("availableReplicas")?.number()?,
        },
        raw: at.raw().cloned().unwrap_or_default(),
    })
}

pub(crate) fn pod(at: &At) -> Result<Pod, Bad> {
    let (meta, spec, status) = (at.at("metadata")?, at.at("spec")?, at.at("status")?);
    let mut unscheduled = None;
    for condition in status.at("conditions")?.list()? {
        let kind = condition.at("type")?.text()?;
        if kind.as_deref() == Some("PodScheduled") && condition.at("status")?.text()?.as_deref() == Some("False") {
            unscheduled = Some(condition.at("message")?.text()?.unwrap_or_default());
        }
    }
    let mut states = Vec::new();
    let mut ready = true;
    for (field, init) in [("initContainerStatuses", true), ("containerStatuses", false)] {
        for item in status.at(field)?.list()? {
            ready &= init || item.at("ready")?.flag()?;
            states.push(state(&item, init)?);
        }
    }
    let phase = status.at("phase")?.text()?.unwrap_or_default();
    Ok(Pod {
        admitted: status.at("startTime")?.is_there() || phase != "Pending",
        ready: ready && phase == "Running",
        states,
        namespace: meta.at("namespace")?.name()?,
        name: meta.at("name")?.name()?,
        owner: owner(&meta)?,
        pod: pod_spec(&spec)?,
        node: spec.at("nodeName")?.text()?,
        phase,
        unscheduled,
        reason: status.at("reason")?.text()?,
    })
}

fn state(at: &At, init: bool) -> Result<State, Bad> {
    let mut reason = "Running".to_owned();
    let mut messages = Vec::new();
    for (field, now) in [("state", true), ("lastState", false)] {
        for kind in ["waiting", "terminated"] {
            let here = at.down(&[field, kind])?;
            if !here.is_there() {
                continue;
            }
            if now {
                reason = here.at("reason")?.text()?.unwrap_or_else(|| kind.to_owned());
            }
            messages.extend(here.at("message")?.text()?.filter(|text| !text.is_empty()));
        }
    }
    Ok(State { container: at.at("name")?.name()?, init, reason, messages })
}

pub(crate) fn pod_spec(at: &At) -> Result<PodSpec, Bad> {
    let mut containers = Vec::new();
    for field in ["initContainers", "containers"] {
        for item in at.at(field)?.list()? {
            containers.push(container(&item)?);
        }
    }
    let node_affinity = at.down(&["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"])?;
    let required = if node_affinity.is_there() {
        Some(node_affinity.at("nodeSelectorTerms")?.list()?.iter().map(term).collect::<Result<_, _>>()?)
    } else {
        None
    };
    let toleration = |at: &At| {
        Ok::<Toleration, Bad>(Toleration {
            key: at.at("key")?.text()?.filter(|key| !key.is_empty()),
            exists: at.at("operator")?.text()?.as_deref() == Some("Exists"),
            value: at.at("value")?.text()?.unwrap_or_default(),
            effect: at.at("effect")?.text()?.filter(|effect| !effect.is_empty()),
        })
    };
    let mut host_paths = Vec::new();
    for volume in at.at("volumes")?.list()? {
        host_paths.extend(volume.down(&["hostPath", "path"])?.text()?);
    }
    Ok(PodSpec {
        containers,
        node_selector: at.at("nodeSelector")?.pairs()?,
        required,
        tolerations: at.at("tolerations")?.list()?.iter().map(toleration).collect::<Result<_, _>>()?,
        runtime_class: at.at("runtimeClassName")?.text()?,
        host_paths,
    })
}

fn term(at: &At) -> Result<Term, Bad> {
    let expression = |at: &At| {
        Ok::<Expression, Bad>(Expression {
            key: at.at("key")?.name()?,
            operator: at.at("operator")?.name()?,
            values: at.at("values")?.texts()?,
        })
    };
    Ok(Term {
        labels: at.at("matchExpressions")?.list()?.iter().map(expression).collect::<Result<_, _>>()?,
        fields: at.at("matchFields")?.list()?.iter().map(expression).collect::<Result<_, _>>()?,
    })
}

fn container(at: &At) -> Result<Container, Bad> {
    let mut env = BTreeMap::new();
    for item in at.at("env")?.list()? {
        let value = match item.at("value")?.text()? {
            Some(text) if text.contains("$(") => Env::From,
            Some(text) => Env::Text(text),
            None if item.at("valueFrom")?.is_there() => Env::From,
            None => Env::Text(String::new()),
        };
        // Of two entries with one name the last counts.
        env.insert(item.at("name")?.name()?, value);
    }
    let mut command = at.at("command")?.texts()?;
    command.extend(at.at("args")?.texts()?);
    Ok(Container {
        name: at.at("name")?.name()?,
        image: at.at("image")?.text()?.unwrap_or_default(),
        command,
        env,
        limits: at.down(&["resources", "limits"])?.resources()?,
        privileged: at.down(&["securityContext", "privileged"])?.flag()?,
    })
}
