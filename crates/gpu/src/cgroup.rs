//! What a process runs in, by the text of `/proc/PID/cgroup`.
//!
//! Forms as docker, containerd, CRI-O, podman, LXC, libvirt, Proxmox VE, systemd and the kubelet make them, with both cgroup
//! drivers and both cgroup versions: the same path stands in one line of v2 (`0::PATH`) and in several of v1
//! (`N:controllers:PATH`).

use crate::attribution::Engine;

/// A process's place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// What it is in, the outermost first: an LXC container, then docker's in it. Empty: the machine itself, or a unit.
    pub boxes: Vec<Inside>,
    /// The service of systemd, or of a user's own manager, that it is of outside of any box.
    pub unit: Option<String>,
    /// Whose slice it is in: of a rootless engine, a user's service, a session.
    pub user: Option<u32>,
    /// The path's last two parts, where no form is known: containerd's namespace and id of `ctr`, runc's id by hand.
    pub tail: Option<(String, String)>,
}

/// One box around a process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Inside {
    /// A pod's container: the pod's UID with dashes, and the container's 64 hex digits.
    Pod { uid: String, container: Option<String>, engine: Option<Engine> },
    /// A container of an engine: its 64 hex digits, or its name where the engine uses that.
    Container { id: String, engine: Option<Engine> },
    /// A system container of LXC, Incus, nspawn or Proxmox VE, by name or VMID.
    System(String),
    /// A virtual machine: Proxmox VE's VMID, or libvirt's name.
    Vm(String),
}

/// Reads a process's cgroups.
pub fn place(text: &str) -> Place {
    // v1 may place a process differently for each controller: systemd's own line tells the unit, then devices.
    let rank = |controllers: &str| match controllers {
        "" => 1,
        "name=systemd" => 0,
        list if list.split(',').any(|name| name == "devices") => 2,
        _ => 3,
    };
    let mut lines: Vec<(u8, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            Some((rank(controllers), path))
        })
        .collect();
    lines.sort_by_key(|(rank, _)| *rank);
    let mut found = Place::default();
    for (rank, path) in lines {
        let mut one = of_path(path);
        found.user = found.user.or(one.user);
        // Only systemd makes units.
        found.unit = found.unit.or(one.unit.take().filter(|_| rank < 2));
        found.tail = found.tail.or(one.tail);
        if found.boxes.is_empty() {
            found.boxes = one.boxes;
        }
    }
    found
}

fn of_path(path: &str) -> Place {
    let mut place = Place::default();
    let mut before = "";
    let mut managed = false;
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != "..").collect();
    for part in &parts {
        let part = *part;
        if part.starts_with("crio-conmon-") || part.starts_with("libpod-conmon-") {
            // The engine's own watcher of a container, not the container.
            place.boxes.pop_if(|inner| matches!(inner, Inside::Pod { .. }));
            return place;
        }
        if let Some(user) = user(part) {
            place.user = Some(user);
            managed = part.starts_with("user@");
        } else if place.boxes.is_empty()
            && part.ends_with(".service")
            && part.len() > ".service".len()
            && (place.user.is_none() || managed)
            && !part.starts_with("systemd-nspawn@")
        {
            place.unit = Some(unescaped(part));
        }
        if let Some(inner) = inside(part, before, path, place.boxes.last()) {
            let same =
                matches!((&inner, place.boxes.last()), (Inside::Pod { .. }, Some(Inside::Pod { container: None, .. })));
            if same {
                place.boxes.pop();
            }
            place.boxes.push(inner);
        }
        before = part;
    }
    // What is in no box yet: who knows an id of that name is asked later.
    if place.boxes.is_empty()
        && place.unit.is_none()
        && let Some(last) = parts.last().filter(|last| !is_systemds(last))
    {
        let above = parts.len().checked_sub(2).and_then(|at| parts.get(at)).copied().unwrap_or_default();
        place.tail = Some((above.to_owned(), (*last).to_owned()));
    }
    place
}

fn is_systemds(part: &str) -> bool {
    [".slice", ".service"].iter().any(|end| part.ends_with(end)) || part.starts_with("session-") || part == "init.scope"
}

/// The box that this part of a path opens.
fn inside(part: &str, before: &str, path: &str, around: Option<&Inside>) -> Option<Inside> {
    if let Some(uid) = pod_uid(part) {
        // The old form has the container in the same part: `…pod<uid>.slice:cri-containerd:id`.
        let (container, engine) = id(part).map(|(id, engine)| (id, engine.or(Some(Engine::Containerd)))).unzip();
        return Some(Inside::Pod { uid, container, engine: engine.flatten() });
    }
    if let Some((id, engine)) = id(part) {
        let engine = engine.or(match before {
            "docker" => Some(Engine::Docker),
            "libpod_parent" => Some(Engine::Podman),
            "default" => Some(Engine::Containerd),
            _ => None,
        });
        return Some(match around {
            // Below a pod's own part, the first id is its container; what follows is a container in that.
            Some(Inside::Pod { uid, container: None, .. }) => {
                Inside::Pod { uid: uid.clone(), container: Some(id), engine }
            }
            _ => Inside::Container { id, engine },
        });
    }
    if before == "default" && path.starts_with("/default/") {
        return Some(Inside::Container { id: part.to_owned(), engine: Some(Engine::Containerd) });
    }
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(Inside::System(name.to_owned()));
    }
    if before == "lxc" || before == "lxc.payload" {
        return Some(Inside::System(part.to_owned()));
    }
    if before == "qemu.slice" {
        return part.strip_suffix(".scope").map(|id| Inside::Vm(id.to_owned()));
    }
    if let Some(name) = part.strip_prefix("systemd-nspawn@").and_then(|name| name.strip_suffix(".service")) {
        return Some(Inside::System(unescaped(name)));
    }
    let name = part.strip_prefix("machine-").and_then(|name| name.strip_suffix(".scope")).map(unescaped);
    if let Some(name) = name.filter(|_| before == "machine.slice") {
        return Some(libvirt(&name).unwrap_or(Inside::System(name)));
    }
    // libvirt without systemd: /machine/qemu-3-media.libvirt-qemu
    if let Some((name, _)) = part.rsplit_once(".libvirt-") {
        return libvirt(name);
    }
    None
}

/// "qemu-3-media": the driver, the number of this run, the name.
fn libvirt(text: &str) -> Option<Inside> {
    let mut words = text.splitn(3, '-');
    let (driver, number, name) = (words.next()?, words.next()?, words.next()?);
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) || name.is_empty() {
        return None;
    }
    match driver {
        "qemu" => Some(Inside::Vm(name.to_owned())),
        "lxc" => Some(Inside::System(name.to_owned())),
        _ => None,
    }
}

/// `user-1000.slice`, `user@1000.service`.
fn user(part: &str) -> Option<u32> {
    let slice = part.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice"));
    slice.or_else(|| part.strip_prefix("user@")?.strip_suffix(".service"))?.parse().ok()
}

/// systemd's escapes: `\x2d` is a dash.
fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = match rest.get(..4) {
            Some([b'\\', b'x', digits @ ..]) => {
                std::str::from_utf8(digits).ok().and_then(|it| u8::from_str_radix(it, 16).ok())
            }
            _ => None,
        };
        match code {
            Some(byte) => {
                out.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `pod<uid>`, or `kubepods-burstable-pod<uid with underscores>.slice`, or the old `…pod<uid>.slice:cri-containerd:id`.
fn pod_uid(part: &str) -> Option<String> {
    let part = part.split(':').next().unwrap_or(part);
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match part.strip_prefix("pod") {
        Some(uid) => uid,
        None => part.contains("kubepods").then(|| part.rsplit_once("-pod"))??.1,
    };
    let uid = uid.replace('_', "-");
    // A UUID, or the 32 digits of a static pod.
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    (digits == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')).then_some(uid)
}

/// The last run of 64 hex digits in a path's part, and whose form it is: `docker-ID.scope`, `cri-containerd-ID.scope`,
/// `crio-ID`, `ID`.
fn id(part: &str) -> Option<(String, Option<Engine>)> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let start = part.len().checked_sub(64)?;
    let tail = part.get(start..)?;
    let front = part.get(..start)?;
    let whole = front.is_empty() || front.ends_with(['-', ':']);
    if !whole || !tail.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let word = front.trim_end_matches(['-', ':']).rsplit(':').next().unwrap_or_default();
    let engine = match word {
        "docker" => Some(Engine::Docker),
        "cri-containerd" | "nerdctl" => Some(Engine::Containerd),
        "crio" => Some(Engine::CriO),
        "libpod" | "libpod-payload" => Some(Engine::Podman),
        _ => None,
    };
    Some((tail.to_owned(), engine))
}

#[cfg(test)]
#[path = "cgroup/tests.rs"]
mod tests;
