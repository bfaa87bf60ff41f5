//! Whose a process is: PID → cgroup → container, pod, VM or service → the app that people know it by.

mod apps;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use machine::{Machine, MachineExt as _};
use model::Seen;
use serde::Serialize;

use crate::cgroup::{self, Inside};
use crate::naming::Names;
use crate::vms;

/// A process and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attribution {
    /// In this machine's PID namespace.
    pub pid: u32,
    /// The program's name: the last part of its first argument, else /proc/PID/comm.
    pub command: Seen<String>,
    /// Its first argument, whole: "/usr/lib/jellyfin-ffmpeg/ffmpeg".
    pub program: Seen<String>,
    /// The real user id. Absent: the process ended, or is not of this PID namespace.
    pub user: Seen<u32>,
    pub owner: OwnedBy,
    /// The app by the name that people give it ("jellyfin", "ollama"): by image, unit, VM's name or program.
    pub app: Option<String>,
    /// What the owner itself runs in: the system container around docker's, the node's container around a pod (kind).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer: Option<OwnedBy>,
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
    /// A virtual machine: "100" and "media"; libvirt's by its UUID, where that is told.
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

impl Engine {
    /// As people write it; "container" where it is not known.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Containerd => "containerd",
            Engine::CriO => "cri-o",
            Engine::Podman => "podman",
            Engine::Unknown => "container",
        }
    }
}

/// The first twelve digits of an id of 64, as engines show them; a name as it is.
pub fn short(id: &str) -> &str {
    match id.get(..12) {
        Some(short) if id.len() == 64 => short,
        _ => id,
    }
}

impl OwnedBy {
    /// In few words and by its best name: "media/jellyfin", "jellyfin", "CT 105 (media)", "100 (films)", "jellyfin.service".
    pub fn label(&self) -> String {
        let titled = |id: &str, name: &Option<String>| match name {
            Some(name) => format!("{id} ({name})"),
            None => id.to_owned(),
        };
        match self {
            OwnedBy::Process => "-".into(),
            OwnedBy::Unit { unit, .. } => unit.clone(),
            OwnedBy::Container { id, name, .. } => name.clone().unwrap_or_else(|| short(id).to_owned()),
            OwnedBy::Pod { namespace: Some(namespace), pod: Some(pod), .. } => format!("{namespace}/{pod}"),
            OwnedBy::Pod { uid, .. } => format!("with UID {uid}"),
            OwnedBy::System { name, title } => format!("CT {}", titled(name, title)),
            // libvirt's is known by its name; a UUID helps nobody to find it
            OwnedBy::Vm { id, name: Some(name) } if id.len() > 20 => name.clone(),
            OwnedBy::Vm { id, name } => titled(id, name),
            OwnedBy::Hidden => "hidden".into(),
        }
    }
}

/// What /proc tells of a process, read once.
pub(crate) struct Told {
    pub(crate) arguments: Vec<String>,
    /// The number in each PID namespace, the outermost first; more than one: it is in a namespace of its own.
    nested: bool,
    parent: Option<u32>,
    user: Seen<u32>,
}

impl Told {
    pub(crate) fn read(machine: &dyn Machine, pid: u32) -> Told {
        let text = machine.text(&format!("/proc/{pid}/cmdline"));
        let arguments =
            text.get().map(|text| text.split_terminator('\0').map(str::to_owned).collect()).unwrap_or_default();
        let status = machine.text(&format!("/proc/{pid}/status"));
        let field = |name: &str| {
            let text = status.get()?;
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let user = status.as_ref().and_then(|_| {
            let user = field("Uid").and_then(|line| line.split_whitespace().next()?.parse().ok());
            user.into()
        });
        Told {
            arguments,
            nested: field("NSpid").is_some_and(|line| line.split_whitespace().count() > 1),
            parent: field("PPid").and_then(|pid| pid.parse().ok()),
            user,
        }
    }

    fn command(&self, machine: &dyn Machine, pid: u32) -> Seen<String> {
        match self.arguments.first().map(|first| first.rsplit('/').next().unwrap_or_default()) {
            // a title that a program gave itself ("nginx: worker process") is one argument
            Some(name) if !name.is_empty() => Seen::Is(name.to_owned()),
            _ => machine.value(&format!("/proc/{pid}/comm")),
        }
    }
}

/// So long a container's name that nobody told is not asked for again.
const AGAIN: Duration = Duration::from_secs(5);

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
    /// Where a name is wanting: when it was looked for.
    nameless: Option<Instant>,
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
            return whose(machine, &mut self.names, pid);
        };
        if let Some(known) = self.known.get(&pid).filter(|known| known.started == started && known.comm == comm)
            && known.nameless.is_none_or(|at| at.elapsed() < AGAIN)
        {
            return known.whose.clone();
        }
        let whose = whose(machine, &mut self.names, pid);
        let nameless = is_nameless(&whose.owner).then(Instant::now);
        self.known.insert(pid, Known { started, comm: comm.to_owned(), whose: whose.clone(), nameless });
        whose
    }
}

/// An engine writes a container's name a moment after it has started it.
fn is_nameless(owner: &OwnedBy) -> bool {
    matches!(
        owner,
        OwnedBy::Container { name: None, .. } | OwnedBy::Pod { pod: None, .. } | OwnedBy::Pod { container: None, .. }
    )
}

/// The name and field 22, the start, out of /proc/PID/stat. The name stands in brackets and may hold any character.
pub(crate) fn stat_of(text: &str) -> Option<(&str, u64)> {
    let (front, rest) = text.rsplit_once(") ")?;
    Some((front.split_once('(')?.1, rest.split(' ').nth(19)?.trim().parse().ok()?))
}

/// Whose a process is.
pub(crate) fn whose(machine: &dyn Machine, names: &mut Names, pid: u32) -> Attribution {
    let told = Told::read(machine, pid);
    let cgroup = machine.text(&format!("/proc/{pid}/cgroup"));
    let (owner, outer) = owner(machine, names, pid, cgroup.get().map_or("", String::as_str), &told);
    let command = told.command(machine, pid);
    let app = apps::of(&owner, &told.arguments, command.get().map_or("", String::as_str));
    let program = told.arguments.into_iter().next().filter(|first| !first.is_empty()).into();
    Attribution { pid, command, program, user: told.user, owner, app, outer }
}

fn owner(machine: &dyn Machine, names: &mut Names, pid: u32, cgroup: &str, told: &Told) -> (OwnedBy, Option<OwnedBy>) {
    let place = cgroup::place(cgroup);
    let mut owners: Vec<OwnedBy> = place
        .boxes
        .iter()
        .map(|inside| match inside {
            Inside::Pod { uid, container, .. } => names.pod(machine, uid, container.as_deref()),
            Inside::Container { id, engine } => names.container(machine, id, *engine, place.user),
            Inside::System(name) => names.system(machine, name),
            Inside::Vm(id) => vm(machine, names, id, &told.arguments),
        })
        .collect();
    if owners.is_empty() {
        let by_hand = place.tail.as_ref().and_then(|(above, last)| names.by_state(machine, above, last, place.user));
        // Without a cgroup of its own (a rootless engine on version 1) whoever watches over a container still knows it.
        owners.extend(by_hand.or_else(|| told.nested.then(|| watched(machine, names, pid, told.parent)).flatten()));
    }
    if !matches!(owners.last(), Some(OwnedBy::Vm { .. }))
        && vms::is_vmm(&told.arguments)
        && vms::is_named(&told.arguments)
    {
        owners.push(vm(machine, names, "", &told.arguments));
    }
    match owners.pop() {
        Some(owner) => (owner, owners.pop()),
        None => match place.unit {
            Some(unit) => (OwnedBy::Unit { unit, user: place.user }, None),
            None => (OwnedBy::Process, None),
        },
    }
}

/// `id`: Proxmox VE's VMID or libvirt's name, where the cgroup tells it.
fn vm(machine: &dyn Machine, names: &Names, id: &str, arguments: &[String]) -> OwnedBy {
    let (vmid, name) = vms::named(arguments);
    let uuid = || vms::after(arguments, "-uuid").filter(|uuid| uuid.len() == 36).map(str::to_owned);
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if number(id) {
        return OwnedBy::Vm { id: id.to_owned(), name: name.or_else(|| names.of_vm(machine, id)) };
    }
    let name = name.or_else(|| Some(id.to_owned()).filter(|id| !id.is_empty()));
    let id = vmid.or_else(uuid).or_else(|| name.clone()).unwrap_or_default();
    let name = name.filter(|name| *name != id);
    OwnedBy::Vm { id, name }
}

/// A container by the program that its engine left to watch over it, or by its runtime's word of its first process, among a process
/// and its parents.
fn watched(machine: &dyn Machine, names: &mut Names, pid: u32, parent: Option<u32>) -> Option<OwnedBy> {
    let (mut pid, mut parent) = (pid, parent);
    for _ in 0..32 {
        if let Some(owner) = names.by_first_process(machine, pid) {
            return Some(owner);
        }
        pid = parent.filter(|pid| *pid > 1)?;
        let told = Told::read(machine, pid);
        let after = |flag: &str| vms::after(&told.arguments, flag);
        let program = told.arguments.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        match program {
            "conmon" => {
                let podman = told.arguments.iter().any(|argument| argument.ends_with("podman"));
                let engine = if podman { Engine::Podman } else { Engine::CriO };
                return Some(names.container(machine, after("-c")?, Some(engine), told.user.get().copied()));
            }
            "containerd-shim-runc-v2" | "containerd-shim" => {
                let engine = if after("-namespace") == Some("moby") { Engine::Docker } else { Engine::Containerd };
                return Some(names.container(machine, after("-id")?, Some(engine), told.user.get().copied()));
            }
            _ => parent = told.parent,
        }
    }
    None
}

#[cfg(test)]
mod tests;
