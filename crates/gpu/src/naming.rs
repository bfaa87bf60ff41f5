//! Names for ids: first from files that need no engine, then from the cluster's API and the engines themselves. What was found is
//! kept; what was not is looked for again, but not at every look.

mod files;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use machine::{KubeList, Machine, MachineExt as _, Question};
use model::Seen;
use serde_json::Value;

use crate::attribution::{Engine, OwnedBy};
use files::Files;

/// So often at most is asked again what takes a program or an API.
const SLOW: Duration = Duration::from_secs(30);
/// So often at most a directory is listed again for a name that was not in it.
const LIST: Duration = Duration::from_secs(2);
/// No node has as many containers; one whose containers come and go all day forgets them all now and then.
const KEPT: usize = 4096;

/// What an engine calls a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) engine: Option<Engine>,
    pub(crate) name: Option<String>,
    pub(crate) image: Option<String>,
    /// Whose engine it is, where it is a user's own.
    pub(crate) user: Option<u32>,
    pub(crate) pod: Option<InPod>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InPod {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: Option<String>,
    /// The container's name in it.
    pub(crate) container: Option<String>,
}

/// What is kept for a while, and since when.
struct Aged<T>(Option<(T, Instant)>);

impl<T> Default for Aged<T> {
    fn default() -> Self {
        Aged(None)
    }
}

impl<T> Aged<T> {
    /// What `found` finds in it; it is made anew where it does not and is older than this.
    fn find<R>(&mut self, most: Duration, make: impl Fn() -> T, found: impl Fn(&T) -> Option<R>) -> Option<R> {
        if let Some((value, at)) = &self.0 {
            match found(value) {
                Some(result) => return Some(result),
                None if at.elapsed() < most => return None,
                None => {}
            }
        }
        let (value, _) = self.0.insert((make(), Instant::now()));
        found(value)
    }
}

/// All names that one looker knows.
#[derive(Default)]
pub(crate) struct Names {
    containers: HashMap<String, Named>,
    files: Files,
    /// UID → namespace and pod, by the kubelet's log directories.
    logs: Aged<BTreeMap<String, (String, String)>>,
    /// Container id → its pod, by the links beside them.
    links: Aged<BTreeMap<String, InPod>>,
    cluster: Aged<Cluster>,
    engines: Aged<BTreeMap<String, Named>>,
    /// First process → container of runc and crun by hand, and whose it is.
    first: Aged<BTreeMap<u32, (String, Option<u32>)>>,
}

impl Names {
    /// A container of an engine; one that belongs to a pod is the pod's.
    pub(crate) fn container(
        &mut self,
        machine: &dyn Machine,
        id: &str,
        engine: Option<Engine>,
        user: Option<u32>,
    ) -> OwnedBy {
        let named = self.named(machine, id, user).unwrap_or_default();
        if let Some(InPod { namespace, pod, uid: Some(uid), container }) = named.pod {
            let (namespace, pod, id) = (Some(namespace), Some(pod), Some(id.to_owned()));
            return OwnedBy::Pod { uid, namespace, pod, container, id };
        }
        let engine = engine.or(named.engine).unwrap_or(Engine::Unknown);
        // An engine without names of its own goes by ids that people chose.
        let name = named.name.or_else(|| (id.len() != 64).then(|| id.to_owned()));
        OwnedBy::Container { engine, id: id.to_owned(), name, image: named.image, user: user.or(named.user) }
    }

    fn named(&mut self, machine: &dyn Machine, id: &str, user: Option<u32>) -> Option<Named> {
        if let Some(known) = self.containers.get(id) {
            return Some(known.clone());
        }
        let named = self
            .files
            .find(machine, id, user)
            .or_else(|| self.engines.find(SLOW, || engines(machine), |all| all.get(id).cloned()))?;
        if self.containers.len() >= KEPT {
            self.containers.clear();
        }
        self.containers.insert(id.to_owned(), named.clone());
        Some(named)
    }

    pub(crate) fn pod(&mut self, machine: &dyn Machine, uid: &str, id: Option<&str>) -> OwnedBy {
        let known = id.and_then(|id| self.containers.get(id)).and_then(|named| named.pod.clone());
        let found = known.unwrap_or_else(|| {
            let found = self.in_pod(machine, uid, id);
            if let (Some(id), true) = (id, !found.pod.is_empty() && found.container.is_some()) {
                self.containers.insert(id.to_owned(), Named { pod: Some(found.clone()), ..Named::default() });
            }
            found
        });
        let there = |text: String| Some(text).filter(|text| !text.is_empty());
        OwnedBy::Pod {
            uid: uid.to_owned(),
            namespace: there(found.namespace),
            pod: there(found.pod),
            container: found.container,
            id: id.map(str::to_owned),
        }
    }

    fn in_pod(&mut self, machine: &dyn Machine, uid: &str, id: Option<&str>) -> InPod {
        let linked = id.and_then(|id| self.links.find(LIST, || links(machine), |all| all.get(id).cloned()));
        if let Some(found) = linked.or_else(|| self.files.find(machine, id?, None)?.pod) {
            return found;
        }
        let logged = self.logs.find(LIST, || logged_pods(machine), |all| all.get(uid).cloned());
        // Names are worth the API only where nothing else knows the pod.
        let pod =
            logged.or_else(|| self.cluster.find(SLOW, || Cluster::ask(machine), |all| all.pods.get(uid).cloned()));
        let known = self.cluster.0.as_ref();
        let container = id.and_then(|id| known.and_then(|(all, _)| all.containers.get(id).cloned()));
        let (namespace, pod) = pod.unwrap_or_default();
        InPod { namespace, pod, uid: Some(uid.to_owned()), container }
    }

    /// A container that no form of a path tells, by the state that its runtime keeps of it: `ctr`'s, runc's and crun's by hand.
    pub(crate) fn by_state(
        &mut self,
        machine: &dyn Machine,
        above: &str,
        last: &str,
        user: Option<u32>,
    ) -> Option<OwnedBy> {
        if let Some(named) = files::containerd_in(machine, above, last) {
            let name = named.name.or_else(|| Some(last.to_owned()));
            let engine = named.engine.unwrap_or(Engine::Containerd);
            return Some(OwnedBy::Container { engine, id: last.to_owned(), name, image: named.image, user: None });
        }
        let last = last.strip_suffix(".scope").unwrap_or(last);
        let id = ["runc-", "crun-"].iter().find_map(|front| last.strip_prefix(front)).unwrap_or(last);
        let own = user.map(|user| format!("/run/user/{user}"));
        let dirs = own.iter().map(String::as_str).chain(["/run"]);
        let kept = |dir: &str| {
            machine.exists(&format!("{dir}/runc/{id}/state.json")) || machine.exists(&format!("{dir}/crun/{id}/status"))
        };
        let plain = !id.is_empty() && !id.contains('/') && id != "." && id != "..";
        (plain && dirs.into_iter().any(kept)).then(|| {
            let (id, name) = (id.to_owned(), Some(id.to_owned()));
            OwnedBy::Container { engine: Engine::Unknown, id, name, image: None, user }
        })
    }

    /// A container of runc or crun by hand, by its first process: where it has no cgroup of its own.
    pub(crate) fn by_first_process(&mut self, machine: &dyn Machine, pid: u32) -> Option<OwnedBy> {
        let (id, user) = self.first.find(LIST, || files::first_processes(machine), |all| all.get(&pid).cloned())?;
        Some(OwnedBy::Container { engine: Engine::Unknown, name: Some(id.clone()), id, image: None, user })
    }

    /// A system container, by Proxmox VE's configuration where it has one.
    pub(crate) fn system(&self, machine: &dyn Machine, name: &str) -> OwnedBy {
        let title = configured(machine, &format!("/etc/pve/lxc/{name}.conf"), "hostname");
        OwnedBy::System { name: name.to_owned(), title }
    }

    pub(crate) fn of_vm(&self, machine: &dyn Machine, id: &str) -> Option<String> {
        configured(machine, &format!("/etc/pve/qemu-server/{id}.conf"), "name")
    }
}

/// A key of a Proxmox VE configuration as it runs: sections below are snapshots and pending changes.
fn configured(machine: &dyn Machine, path: &str, key: &str) -> Option<String> {
    let text = machine.text(path).is()?;
    let current = text.lines().take_while(|line| !line.starts_with('['));
    let value = current.filter_map(|line| line.split_once(':')).find(|(name, _)| *name == key)?.1.trim().to_owned();
    (!value.is_empty()).then_some(value)
}

/// The kubelet names a pod's log directory `NAMESPACE_POD_UID`.
fn logged_pods(machine: &dyn Machine) -> BTreeMap<String, (String, String)> {
    let dirs = machine.names("/var/log/pods");
    let parts = dirs.iter().filter_map(|dir| {
        let (namespace, rest) = dir.split_once('_')?;
        let (pod, uid) = rest.rsplit_once('_')?;
        Some((uid.to_owned(), (namespace.to_owned(), pod.to_owned())))
    });
    parts.collect()
}

/// And links each container's log as `POD_NAMESPACE_CONTAINER-ID.log`.
fn links(machine: &dyn Machine) -> BTreeMap<String, InPod> {
    let names = machine.names("/var/log/containers");
    let parts = names.iter().filter_map(|name| {
        let (pod, rest) = name.strip_suffix(".log")?.split_once('_')?;
        let (namespace, rest) = rest.split_once('_')?;
        let (container, id) = rest.rsplit_once('-')?;
        let (namespace, pod, container) = (namespace.to_owned(), pod.to_owned(), Some(container.to_owned()));
        Some((id.to_owned(), InPod { namespace, pod, uid: None, container }))
    });
    parts.collect()
}

/// What the API server tells.
#[derive(Default)]
struct Cluster {
    pods: BTreeMap<String, (String, String)>,
    /// Container id → its name in its pod.
    containers: BTreeMap<String, String>,
}

impl Cluster {
    /// A static pod's cgroup has the hash of its manifest for a UID, which its mirror pod carries as annotation
    /// `kubernetes.io/config.hash`.
    fn ask(machine: &dyn Machine) -> Cluster {
        let mut found = Cluster::default();
        let Seen::Is(answer) = machine.ask(&Question::Kube(KubeList::Pods)) else { return found };
        let list = answer.json().and_then(|list| list.get("items")?.as_array());
        for item in list.into_iter().flatten() {
            let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str);
            let (Some(namespace), Some(name)) = (text("/metadata/namespace"), text("/metadata/name")) else { continue };
            let uids = [text("/metadata/uid"), text("/metadata/annotations/kubernetes.io~1config.hash")];
            let pod = (namespace.to_owned(), name.to_owned());
            found.pods.extend(uids.into_iter().flatten().map(|uid| (uid.to_owned(), pod.clone())));
            let statuses = item.pointer("/status/containerStatuses").and_then(Value::as_array).into_iter().flatten();
            found.containers.extend(statuses.filter_map(|status| {
                let id = status.get("containerID")?.as_str()?.rsplit('/').next()?.to_owned();
                Some((id, status.get("name")?.as_str()?.to_owned()))
            }));
        }
        found
    }
}

/// What docker and podman tell of their running containers: for whom their files are not to be read.
fn engines(machine: &dyn Machine) -> BTreeMap<String, Named> {
    let mut all = BTreeMap::new();
    for (question, engine) in [(machine::Engine::Docker, Engine::Docker), (machine::Engine::Podman, Engine::Podman)] {
        let Seen::Is(answer) = machine.ask(&Question::Containers(question)) else { continue };
        for container in answer.json().and_then(Value::as_array).into_iter().flatten() {
            let text = |pointer: &str| container.pointer(pointer).and_then(Value::as_str);
            let Some(id) = text("/Id").or_else(|| text("/ID")) else { continue };
            let named = Named {
                engine: Some(engine),
                name: text("/Name").map(|name| name.trim_start_matches('/').to_owned()),
                image: text("/ImageName").or_else(|| text("/Config/Image")).map(str::to_owned),
                user: None,
                pod: container.pointer("/Config/Labels").and_then(files::labelled),
            };
            all.insert(id.to_owned(), named);
        }
    }
    all
}
