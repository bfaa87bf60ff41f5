//! Whose a process is: PID → cgroup → container, pod, VM or service → the app that people know it by.

use std::collections::{HashMap, HashSet};

use machine::{Machine, MachineExt as _};
use model::Seen;
use serde::Serialize;

use crate::holder::Names;

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

/// Knows processes from look to look: only what is new is read.
#[derive(Default)]
pub struct Attributor {
    known: HashMap<u32, Known>,
    names: Names,
}

/// A process as it was first seen. Another start or another program is another process.
struct Known {
    started: u64,
    comm: String,
    whose: Attribution,
}

impl Attributor {
    pub fn new() -> Self {
        Attributor::default()
    }

    /// Whose each of these is, in their order. Forgets those that are not asked for.
    pub fn look(&mut self, machine: &dyn Machine, pids: &[u32]) -> Vec<Attribution> {
        let found: Vec<Attribution> = pids.iter().map(|pid| self.one(machine, *pid)).collect();
        if self.known.len() > pids.len() {
            let asked: HashSet<u32> = pids.iter().copied().collect();
            self.known.retain(|pid, _| asked.contains(pid));
        }
        found
    }

    fn one(&mut self, machine: &dyn Machine, pid: u32) -> Attribution {
        let stat = machine.text(&format!("/proc/{pid}/stat"));
        let Some((comm, started)) = stat.get().and_then(|text| stat_of(text)) else {
            self.known.remove(&pid);
            return self.read(machine, pid);
        };
        if let Some(known) = self.known.get(&pid).filter(|known| known.started == started && known.comm == comm) {
            return known.whose.clone();
        }
        let comm = comm.to_owned();
        let whose = self.read(machine, pid);
        self.known.insert(pid, Known { started, comm, whose: whose.clone() });
        whose
    }

    fn read(&mut self, machine: &dyn Machine, pid: u32) -> Attribution {
        let text = machine.text(&format!("/proc/{pid}/cmdline"));
        let arguments: Vec<String> =
            text.get().map(|text| text.split_terminator('\0').map(str::to_owned).collect()).unwrap_or_default();
        let command = match arguments.first().map(|first| first.rsplit('/').next().unwrap_or_default()) {
            Some(name) if !name.is_empty() => Seen::Is(name.to_owned()),
            _ => machine.value(&format!("/proc/{pid}/comm")),
        };
        let user = machine.text(&format!("/proc/{pid}/status")).and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).into()
        });
        let cgroup = machine.text(&format!("/proc/{pid}/cgroup"));
        let owner = self.names.owner(machine, cgroup.get().map_or("", String::as_str), &arguments);
        Attribution { pid, command, user, owner, app: None }
    }
}

/// The name and field 22, the start, out of /proc/PID/stat. The name stands in brackets and may hold any character.
fn stat_of(text: &str) -> Option<(&str, u64)> {
    let (front, rest) = text.rsplit_once(") ")?;
    Some((front.split_once('(')?.1, rest.split(' ').nth(19)?.trim().parse().ok()?))
}
