//! Whose a process is: PID → cgroup → container, pod, VM or service → the app that people know it by.

use model::Seen;
use serde::Serialize;

/// A process and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attribution {
    /// In this machine's PID namespace.
    pub pid: u32,
    /// The program's name: the last part of its first argument, else /proc/PID/comm.
    pub command: Seen<String>,
    /// The real user id. Absent: the process ended, or is not of this PID namespace.
    pub user: Seen<u32>,
    pub owner: OwnedBy,
    /// The app by the name that people give it ("jellyfin", "ollama"): by image, unit, VM's name or program.
    pub app: Option<String>,
}

/// What a process runs in. The innermost counts, but for a VM's process, which is its VM's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum OwnedBy {
    /// A process of the machine itself, started by hand or by a session.
    Process,
    /// A unit of systemd: "jellyfin.service"; with the user whose manager it is of.
    Unit { unit: String, user: Option<u32> },
    /// A container of an engine without Kubernetes.
    Container { engine: Engine, id: String, name: Option<String>, image: Option<String>, user: Option<u32> },
    /// A pod's container. Names are `None` where neither pod-resources, CRI, log directory nor API tells them.
    Pod { uid: String, namespace: Option<String>, pod: Option<String>, container: Option<String>, id: Option<String> },
    /// A system container of LXC, Incus or Proxmox VE, by name or VMID.
    System { name: String, title: Option<String> },
    /// A virtual machine: "100" and "media".
    Vm { id: String, name: Option<String> },
    /// Not of this PID namespace: NVML counts in the machine's own, which is hidden here.
    Hidden,
}

/// By the form of the cgroup's path, and by who knows the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    Docker,
    Containerd,
    #[serde(rename = "cri-o")]
    CriO,
    Podman,
    /// runc or crun by hand, or an engine that is not known.
    Unknown,
}
