//! What engines write down of their containers, read without them.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use machine::{Machine, MachineExt as _};
use serde_json::Value;

use super::{InPod, Named};
use crate::attribution::Engine;

/// containerd's own, k3s' and RKE2's, MicroK8s', k0s', and the one that docker starts where it is given none.
const CONTAINERDS: [&str; 5] = [
    "/run/containerd",
    "/run/k3s/containerd",
    "/var/snap/microk8s/common/run/containerd",
    "/run/k0s/containerd",
    "/run/docker/containerd/daemon",
];
/// Of so many users of a machine is looked for an engine of their own.
const USERS: usize = 64;

/// The engines' files, and what of them was read.
#[derive(Default)]
pub(super) struct Files {
    /// Where docker keeps its containers; `None`: not looked for yet.
    docker: Option<Vec<Root>>,
    storage: Option<Vec<Root>>,
    /// containers/storage's lists by path, with their time and size.
    lists: HashMap<String, (i64, u64, BTreeMap<String, Named>)>,
}

/// An engine's directory, of the machine or of a user.
struct Root {
    path: String,
    user: Option<u32>,
}

impl Files {
    pub(super) fn find(&mut self, machine: &dyn Machine, id: &str, user: Option<u32>) -> Option<Named> {
        // An id is a name of a file below.
        if id.is_empty() || id.contains('/') || id.starts_with('.') {
            return None;
        }
        let bundled = || containerd(machine, id).filter(|named| named.pod.is_some() || named.name.is_some());
        self.docker(machine, id)
            .or_else(|| self.storage(machine, id, user))
            .or_else(bundled)
            .or_else(|| crio(machine, id))
    }

    fn docker(&mut self, machine: &dyn Machine, id: &str) -> Option<Named> {
        let roots = self.docker.get_or_insert_with(|| {
            let config = machine.read("/etc/docker/daemon.json").is().and_then(|bytes| json(&bytes));
            let moved =
                config.and_then(|it| it.get("data-root").or_else(|| it.get("graph"))?.as_str().map(str::to_owned));
            let own =
                moved.into_iter().chain(["/var/lib/docker".into(), "/var/snap/docker/common/var-lib-docker".into()]);
            let own = own.map(|path| Root { path, user: None });
            own.chain(homes(machine, ".local/share/docker")).collect()
        });
        roots.iter().find_map(|root| {
            let bytes = machine.read(&format!("{}/containers/{id}/config.v2.json", root.path)).is()?;
            let config = json(&bytes)?;
            let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str);
            Some(Named {
                engine: Some(Engine::Docker),
                name: text("/Name").map(|name| name.trim_start_matches('/').to_owned()).filter(|name| !name.is_empty()),
                image: text("/Config/Image").map(str::to_owned),
                user: root.user,
                pod: config.pointer("/Config/Labels").and_then(labelled),
            })
        })
    }

    /// Podman's and CRI-O's: containers/storage keeps one list for each storage driver.
    fn storage(&mut self, machine: &dyn Machine, id: &str, user: Option<u32>) -> Option<Named> {
        let roots = self.storage.get_or_insert_with(|| {
            let config = machine.text("/etc/containers/storage.conf").is().unwrap_or_default();
            let moved = config.lines().find_map(|line| {
                let value = line.trim().strip_prefix("graphroot")?.trim().strip_prefix('=')?.trim();
                Some(value.trim_matches('"').to_owned()).filter(|path| path.starts_with('/'))
            });
            let own = moved.into_iter().chain(["/var/lib/containers/storage".into()]);
            let own = own.map(|path| Root { path, user: None });
            own.chain(homes(machine, ".local/share/containers/storage")).collect()
        });
        // The user's own first, where it is known whose engine it is.
        let (first, rest): (Vec<&Root>, Vec<&Root>) =
            roots.iter().partition(|root| user.is_some() && root.user == user);
        let lists = &mut self.lists;
        first.into_iter().chain(rest).find_map(|root| {
            let drivers = machine.names(&root.path);
            let drivers = drivers.iter().filter(|name| name.ends_with("-containers"));
            drivers.into_iter().find_map(|driver| {
                ["containers.json", "volatile-containers.json"].iter().find_map(|file| {
                    let path = format!("{}/{driver}/{file}", root.path);
                    let named = listed(machine, lists, &path)?.get(id)?.clone();
                    Some(Named { user: root.user, ..named })
                })
            })
        })
    }
}

/// A list of containers/storage, parsed again where it changed.
fn listed<'a>(
    machine: &dyn Machine,
    lists: &'a mut HashMap<String, (i64, u64, BTreeMap<String, Named>)>,
    path: &str,
) -> Option<&'a BTreeMap<String, Named>> {
    let stat = machine.stat(path).is()?;
    let same = lists.get(path).is_some_and(|(time, size, _)| (*time, *size) == (stat.mtime, stat.size));
    // A time has seconds: a file that was just written may be written again and look the same.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let settled = u64::try_from(stat.mtime).is_ok_and(|time| time + 2 < now);
    if !same || !settled {
        let list = machine.read(path).is().and_then(|bytes| json(&bytes))?;
        let all = list.as_array().into_iter().flatten().filter_map(stored).collect();
        lists.insert(path.to_owned(), (stat.mtime, stat.size, all));
    }
    lists.get(path).map(|(_, _, all)| all)
}

fn stored(container: &Value) -> Option<(String, Named)> {
    let id = container.get("id")?.as_str()?.to_owned();
    let name = container.pointer("/names/0").and_then(Value::as_str).map(str::to_owned);
    let metadata = container.get("metadata").and_then(Value::as_str).and_then(|text| json(text.as_bytes()));
    let text = |key: &str| metadata.as_ref()?.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    // CRI-O's own metadata name the pod; a name of its form does too: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT
    let pod = name.as_deref().filter(|_| text("pod-name").is_some() || text("metadata-name").is_some()).and_then(cri);
    let engine = Some(if pod.is_some() { Engine::CriO } else { Engine::Podman });
    Some((id, Named { engine, name, image: text("image-name"), user: None, pod }))
}

/// `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`: the kubelet's names, as docker and CRI-O have them. No part may hold a `_`.
fn cri(name: &str) -> Option<InPod> {
    let mut parts = name.strip_prefix("k8s_")?.split('_');
    let (container, pod, namespace, uid) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let container = Some(container.to_owned()).filter(|name| name != "POD");
    Some(InPod { namespace: namespace.into(), pod: pod.into(), uid: Some(uid.into()), container })
}

/// The labels that the kubelet gives to each container: docker's, and CRI-O's annotations.
pub(super) fn labelled(labels: &Value) -> Option<InPod> {
    let text = |key: &str| labels.get(key).and_then(Value::as_str).map(str::to_owned);
    Some(InPod {
        namespace: text("io.kubernetes.pod.namespace")?,
        pod: text("io.kubernetes.pod.name")?,
        uid: text("io.kubernetes.pod.uid"),
        container: text("io.kubernetes.container.name").filter(|name| name != "POD"),
    })
}

/// The bundle of a running task, in whatever namespace of whichever containerd.
fn containerd(machine: &dyn Machine, id: &str) -> Option<Named> {
    CONTAINERDS.iter().find_map(|root| {
        let tasks = format!("{root}/io.containerd.runtime.v2.task");
        machine
            .names(&tasks)
            .iter()
            .find_map(|namespace| bundle(machine, &format!("{tasks}/{namespace}/{id}"), namespace))
    })
}

/// A task of this namespace and id, by whichever containerd.
pub(super) fn containerd_in(machine: &dyn Machine, namespace: &str, id: &str) -> Option<Named> {
    let plain = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    if !plain(namespace) || !plain(id) {
        return None;
    }
    CONTAINERDS
        .iter()
        .find_map(|root| bundle(machine, &format!("{root}/io.containerd.runtime.v2.task/{namespace}/{id}"), namespace))
}

fn bundle(machine: &dyn Machine, dir: &str, namespace: &str) -> Option<Named> {
    let bytes = machine.read(&format!("{dir}/config.json")).is()?;
    let config = json(&bytes)?;
    let annotations = config.get("annotations");
    let text = |key: &str| annotations.and_then(|all| all.get(key)).and_then(Value::as_str).map(str::to_owned);
    let pod = || {
        Some(InPod {
            namespace: text("io.kubernetes.cri.sandbox-namespace")?,
            pod: text("io.kubernetes.cri.sandbox-name")?,
            uid: text("io.kubernetes.cri.sandbox-uid"),
            container: text("io.kubernetes.cri.container-name"),
        })
    };
    Some(Named {
        engine: Some(if namespace == "moby" { Engine::Docker } else { Engine::Containerd }),
        name: text("nerdctl/name").filter(|name| !name.is_empty()),
        image: text("io.kubernetes.cri.image-name"),
        user: None,
        pod: pod(),
    })
}

/// CRI-O's own copy of a container's config.json.
fn crio(machine: &dyn Machine, id: &str) -> Option<Named> {
    let dirs = machine.names("/run/containers/storage");
    let bytes = dirs
        .iter()
        .filter(|name| name.ends_with("-containers"))
        .find_map(|driver| machine.read(&format!("/run/containers/storage/{driver}/{id}/userdata/config.json")).is())?;
    let config = json(&bytes)?;
    let annotations = config.get("annotations")?;
    let text = |key: &str| annotations.get(key).and_then(Value::as_str).map(str::to_owned);
    let pod = labelled(annotations)?;
    let image = text("io.kubernetes.cri-o.ImageName").or_else(|| text("io.kubernetes.cri-o.Image"));
    Some(Named {
        engine: Some(Engine::CriO),
        name: text("io.kubernetes.cri-o.Name"),
        image,
        user: None,
        pod: Some(pod),
    })
}

/// First process → container, of runc and crun that no engine started: root's state directories, and the users'.
pub(super) fn first_processes(machine: &dyn Machine) -> BTreeMap<u32, (String, Option<u32>)> {
    let users = machine.names("/run/user").into_iter().filter_map(|name| name.parse::<u32>().ok());
    let dirs = users.map(|user| (format!("/run/user/{user}"), Some(user))).chain([("/run".to_owned(), None)]);
    let mut found = BTreeMap::new();
    for (dir, user) in dirs {
        for (runtime, file, key) in [("runc", "state.json", "init_process_pid"), ("crun", "status", "pid")] {
            for id in machine.names(&format!("{dir}/{runtime}")) {
                let state = machine.read(&format!("{dir}/{runtime}/{id}/{file}")).is().and_then(|bytes| json(&bytes));
                let pid = state.and_then(|state| u32::try_from(state.get(key)?.as_u64()?).ok());
                found.extend(pid.map(|pid| (pid, (id, user))));
            }
        }
    }
    found
}

/// This directory in the homes of people (and of root), where it is there.
fn homes(machine: &dyn Machine, below: &str) -> Vec<Root> {
    let passwd = machine.text("/etc/passwd").is().unwrap_or_default();
    let users = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (user, home) = (fields.nth(2)?.parse::<u32>().ok()?, fields.nth(2)?);
        // Services have homes too; theirs hold no engine's files, and `nobody` has none.
        let person = home.starts_with('/') && home != "/" && (user == 0 || (1000..65534).contains(&user));
        person.then(|| Root { path: format!("{}/{below}", home.trim_end_matches('/')), user: Some(user) })
    });
    users.take(USERS).filter(|root| machine.exists(&root.path)).collect()
}

fn json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}
