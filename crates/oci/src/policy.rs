//! Whether a container may have what it asks for.
//!
//! An environment says nothing of who wrote it: CUDA's images all carry NVIDIA_VISIBLE_DEVICES=all. On a machine of one's
//! own that is what one wants. On a node of a cluster it goes past the scheduler: a pod that was given no card, or one
//! of eight, would see them all. So of a pod only what was granted is given, and these are grants, since a pod's author
//! cannot write them without rights that amount to the node itself:
//!
//! - a volume-mount list (/dev/null below /var/run/nvidia-container-devices): made by the device plugin; by hand it
//!   would need a hostPath volume, which the pod security standard "baseline" forbids;
//! - CDI names in annotations of the container: kubelet writes them there from the device plugin's answer. (Pods' own
//!   annotations do not get there, unless someone lists `cdi.k8s.io/*` under containerd's pod_annotations.)
//! - device nodes (/dev/nvidiaN) that the engine was told to make: the device plugin's device specs. They grant their own
//!   cards and no other, whatever the environment says.
//!
//! The environment itself is no grant, even where a device plugin wrote it: nothing in a configuration tells that from
//! a pod's own. An image's `all` without a grant is passed over, since every CUDA image says it; a card named by hand is
//! refused, since whoever named it would else wonder.

use std::borrow::Cow;

use crate::config::Look;
use crate::request::{By, Gpus, Request};
use crate::settings::{ByEnv, Pods, Settings};

/// What the policy says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// Only cards all of whose nodes are among these paths.
    Only(Vec<String>),
    /// The container starts as if it had asked for nothing; with a sentence for the log.
    Ignore(String),
    /// It does not start; with a sentence for whoever started it.
    Refuse(String),
}

/// Whether a container is part of a Kubernetes pod, by what containerd and CRI-O write into its annotations. Podman uses
/// some of CRI-O's keys for its own pods; those are not among these.
pub fn is_pod(look: &Look<'_>) -> bool {
    const KEYS: [&str; 6] = [
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.sandbox-id",
        "io.kubernetes.cri-o.Metadata",
        "io.kubernetes.cri-o.KubeName",
        "io.kubernetes.cri-o.SandboxName",
        "io.kubernetes.pod.uid",
    ];
    look.annotations.iter().any(|(key, _)| KEYS.contains(&key.as_ref()))
}

/// Whether the engine itself asked: docker adds NVIDIA's hook for `--gpus` alone, whereas podman's and CRI-O's hook
/// directories may add it to every container.
fn by_engine(look: &Look<'_>) -> bool {
    look.nvidia_hook && look.annotation("io.container.manager").is_none()
}

/// Judges a request. `nodes` are the device nodes that the engine was told to make ([`Look::nodes`]), asked for only
/// where it matters.
pub fn judge<'a>(
    request: &Request,
    look: &Look<'a>,
    settings: &Settings,
    nodes: impl FnOnce() -> Vec<Cow<'a, str>>,
) -> Verdict {
    let variable = match &request.by {
        By::Annotations | By::Mounts => return Verdict::Allow,
        By::Env(name) => name.as_str(),
        By::OldImage => "CUDA_VERSION",
    };
    if is_pod(look) {
        return pod(request, settings, variable, nodes());
    }
    if by_engine(look) {
        return Verdict::Allow;
    }
    let (rule, who) = match look.sys_admin {
        true => (settings.privileged, "privileged"),
        false => (settings.unprivileged, "unprivileged"),
    };
    match rule {
        ByEnv::Allow => Verdict::Allow,
        ByEnv::Ignore => Verdict::Ignore(format!(
            "{variable} of an {who} container was passed over, as this machine's policy is (unprivileged containers get \
             cards by the engine's own option: docker run --gpus, --device nvidia.com/gpu=0)"
        )
        .replace("an privileged", "a privileged")),
        ByEnv::Refuse => Verdict::Refuse(format!(
            "this container asks for GPUs by its environment ({variable}), which this machine's policy refuses to {who} \
             containers: ask through the engine (docker run --gpus 0, or --device nvidia.com/gpu=0), set {variable}=void, \
             or set {who} = \"allow\" under [policy] in /etc/thruway/container.toml"
        )),
    }
}

fn pod(request: &Request, settings: &Settings, variable: &str, nodes: Vec<Cow<'_, str>>) -> Verdict {
    const HOW: &str = "request nvidia.com/gpu under the container's resources, with a device plugin that grants by \
                       volume-mounts, cdi-annotations, cdi-cri or device specs";
    match settings.pods {
        Pods::Allow => Verdict::Allow,
        Pods::Refuse => Verdict::Refuse(format!(
            "this pod asks for GPUs by its environment ({variable}), which this node's policy refuses to pods: {HOW}, or \
             set {variable}=void"
        )),
        Pods::Grant => {
            let granted: Vec<String> = nodes.iter().filter(|path| is_card(path)).map(|path| path.to_string()).collect();
            if !granted.is_empty() {
                return Verdict::Only(granted);
            }
            match &request.gpus {
                Gpus::Named(names) => Verdict::Refuse(format!(
                    "this pod names GPUs in its environment ({variable}={}), and no scheduler granted them: {HOW} (or, where \
                     the device plugin hands cards out by environment alone, set pods = \"allow\" under [policy] in \
                     /etc/thruway/container.toml, and know that every pod may then take every card)",
                    names.join(",")
                )),
                Gpus::All | Gpus::None => Verdict::Ignore(format!(
                    "{variable} of a pod without a grant was passed over: the container starts without a GPU ({HOW})"
                )),
            }
        }
    }
}

/// /dev/nvidia0, or an instance's node below /dev/nvidia-caps.
fn is_card(path: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    path.strip_prefix("/dev/nvidia").is_some_and(number)
        || path.strip_prefix("/dev/nvidia-caps/nvidia-cap").is_some_and(number)
}
