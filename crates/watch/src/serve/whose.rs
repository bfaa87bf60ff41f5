//! Processes of a card added up by whose they are: a pod's container, a container, a unit, a VM.

use std::collections::BTreeMap;

use gpu::Holder;
use gpu::attribution::{Engine, OwnedBy};
use machine::nvml::NvmlSession;
use model::Seen;
use serde::Serialize;

use crate::{CardNow, ProcessNow};

/// What one owner takes of one card.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Share {
    /// "pod", "container", "unit", "system", "vm", "process", "hidden".
    pub kind: &'static str,
    /// For people, in one line: "media/jellyfin", "docker jellyfin", "VM 100 (media)".
    pub owner: String,
    /// "docker", "containerd", "cri-o", "podman"; empty where it is none of an engine alone.
    pub engine: &'static str,
    pub namespace: String,
    pub pod: String,
    pub container: String,
    pub app: String,
    pub processes: usize,
    /// Bytes; none where the driver tells of no process.
    pub memory: Option<u64>,
    /// Per cent of time, added up.
    pub sm: Option<u32>,
    pub memory_use: Option<u32>,
    pub encoder: Option<u32>,
    pub decoder: Option<u32>,
    /// NVENC sessions; none where the driver does not list them.
    pub sessions: Option<usize>,
}

impl Share {
    fn of(process: &ProcessNow) -> Share {
        let whose = &process.whose;
        let mut share = Share { app: whose.app.clone().unwrap_or_default(), ..Share::default() };
        let short = |id: &str| id.get(..12).filter(|_| id.len() == 64).unwrap_or(id).to_owned();
        match &whose.owner {
            OwnedBy::Process => {
                share.kind = "process";
                share.owner = command(process);
            }
            OwnedBy::Unit { unit, .. } => (share.kind, share.owner) = ("unit", unit.clone()),
            OwnedBy::Container { engine, id, name, .. } => {
                (share.kind, share.engine) = ("container", engine_name(*engine));
                share.container = name.clone().unwrap_or_else(|| short(id));
                let engine = if share.engine.is_empty() { "container" } else { share.engine };
                share.owner = format!("{engine} {}", share.container);
            }
            OwnedBy::Pod { uid, namespace, pod, container, id } => {
                share.kind = "pod";
                share.namespace = namespace.clone().unwrap_or_default();
                share.pod = pod.clone().unwrap_or_else(|| uid.clone());
                share.container = container.clone().or_else(|| id.as_deref().map(short)).unwrap_or_default();
                share.owner = match namespace {
                    Some(namespace) => format!("{namespace}/{}", share.pod),
                    None => format!("pod {}", share.pod),
                };
            }
            OwnedBy::System { name, title } => {
                (share.kind, share.container) = ("system", name.clone());
                share.owner = titled("CT", name, title.as_deref());
            }
            OwnedBy::Vm { id, name } => (share.kind, share.owner) = ("vm", titled("VM", id, name.as_deref())),
            OwnedBy::Hidden => (share.kind, share.owner) = ("hidden", "another PID namespace".into()),
        }
        if let Some(outer) = &whose.outer {
            share.owner = format!("{} in {}", share.owner, outer.label());
        }
        share
    }

    /// All labels of a series of it on one card.
    pub fn labels<'a>(&'a self, gpu: &'a str, uuid: &'a str) -> [(&'a str, &'a str); 9] {
        [
            ("gpu", gpu),
            ("uuid", uuid),
            ("kind", self.kind),
            ("owner", &self.owner),
            ("engine", self.engine),
            ("namespace", &self.namespace),
            ("pod", &self.pod),
            ("container", &self.container),
            ("app", &self.app),
        ]
    }
}

fn titled(what: &str, id: &str, name: Option<&str>) -> String {
    match name {
        // libvirt's id is a UUID, which helps nobody
        Some(name) if id.len() > 20 => format!("{what} {name}"),
        Some(name) if name != id => format!("{what} {id} ({name})"),
        _ => format!("{what} {id}"),
    }
}

fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Docker => "docker",
        Engine::Containerd => "containerd",
        Engine::CriO => "cri-o",
        Engine::Podman => "podman",
        Engine::Unknown => "",
    }
}

/// The program's name, as far as anybody knows it.
pub fn command(process: &ProcessNow) -> String {
    let named = process.whose.command.get().or_else(|| process.process.name.get());
    named.filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| format!("PID {}", process.process.pid))
}

/// A process's owner in one line.
pub fn owner(process: &ProcessNow) -> Share {
    Share::of(process)
}

/// The shares of a card, the largest in memory first. Where NVML could not be asked for processes there is none.
pub fn shares(card: &CardNow) -> Vec<Share> {
    let sessions = card.gpu.engines.get().and_then(|engines| engines.sessions.get());
    let mut by: BTreeMap<(&'static str, String, String, String), Share> = BTreeMap::new();
    for process in card.processes.get().into_iter().flatten() {
        let new = Share::of(process);
        let key = (new.kind, new.owner.clone(), new.container.clone(), new.app.clone());
        add(by.entry(key).or_insert(new), process, sessions);
    }
    let mut shares: Vec<Share> = by.into_values().collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.memory));
    shares
}

fn add(share: &mut Share, process: &ProcessNow, sessions: Option<&Vec<NvmlSession>>) {
    fn sum<T: Copy + std::ops::Add<Output = T>>(to: &mut Option<T>, seen: &Seen<T>) {
        if let Some(value) = seen.get() {
            *to = Some(to.map_or(*value, |sum| sum + *value));
        }
    }
    let process = &process.process;
    share.processes += 1;
    sum(&mut share.memory, &process.memory);
    sum(&mut share.sm, &process.sm);
    sum(&mut share.memory_use, &process.memory_use);
    sum(&mut share.encoder, &process.encoder);
    sum(&mut share.decoder, &process.decoder);
    let own = sessions.map(|all| all.iter().filter(|session| session.pid == process.pid).count());
    share.sessions = own.map(|own| share.sessions.unwrap_or(0) + own).or(share.sessions);
}

/// A card that NVIDIA's driver has not: (kind, names).
pub fn holder(holder: &Holder) -> (&'static str, String) {
    match holder {
        Holder::Nobody => ("nobody", String::new()),
        Holder::Host(names) => ("host", names.join(", ")),
        Holder::Vm(names) => ("vm", names.join(", ")),
        Holder::Containers(names) => ("containers", names.join(", ")),
        Holder::Pods(names) => ("pods", names.join(", ")),
        Holder::Unknown(why) => ("unknown", why.clone()),
    }
}
