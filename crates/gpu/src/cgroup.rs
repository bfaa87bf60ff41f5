//! Whose process is this: a container, a pod, a virtual machine or a service, by the text of `/proc/PID/cgroup`.
//!
//! Forms as docker, containerd, CRI-O, podman, LXC and the kubelet make them, with both cgroup drivers and both cgroup
//! versions: the same path stands in one line of v2 (`0::PATH`) and in several of v1 (`N:controllers:PATH`).

/// Who a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A pod's container: the pod's UID with dashes, and the container's 64 hex digits.
    Pod { uid: String, container: Option<String> },
    /// A container of an engine: its 64 hex digits, or its name where the engine uses that.
    Container(String),
    /// A system container of LXC or Proxmox VE, by name or VMID.
    System(String),
    /// A Proxmox VE virtual machine, by VMID.
    Vm(String),
}

/// The owner, or `None` for a process of the machine itself.
pub fn owner(text: &str) -> Option<Owner> {
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
    lines.iter().find_map(|(_, path)| of_path(path))
}

/// The system's own unit of a process, "nvidia-persistenced.service", where it is no container's. A user's units
/// (`user.slice/…/app.slice/x.service`) are his manager's and not ours to name.
pub fn unit(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if !matches!(controllers, "" | "name=systemd") || path.split('/').any(|part| part == "user.slice") {
            return None;
        }
        let service = |part: &&str| part.ends_with(".service") && part.len() > ".service".len();
        path.split('/').find(service).map(str::to_owned)
    })
}

fn of_path(path: &str) -> Option<Owner> {
    let mut pod = None;
    let mut container = None;
    let mut system = None;
    let mut vm = None;
    let mut before = "";
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if part.starts_with("crio-conmon-") || part.starts_with("libpod-conmon-") {
            // The engine's own watcher of a container, not the container.
            return None;
        }
        if let Some(uid) = pod_uid(part) {
            pod = Some(uid);
            container = None;
        }
        // The innermost identity counts: a node may itself be a container.
        if let Some(id) = id(part) {
            container = Some(id);
        } else if before == "default" && path.starts_with("/default/") {
            container = Some(part.to_owned());
        }
        if let Some(name) = part.strip_prefix("lxc.payload.") {
            system = Some(name.to_owned());
        } else if before == "lxc" {
            system = Some(part.to_owned());
        }
        if before == "qemu.slice" {
            vm = part.strip_suffix(".scope").map(str::to_owned);
        }
        before = part;
    }
    match (pod, container) {
        (Some(uid), container) => Some(Owner::Pod { uid, container }),
        (None, Some(id)) => Some(Owner::Container(id)),
        (None, None) => system.map(Owner::System).or_else(|| vm.map(Owner::Vm)),
    }
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

/// The last run of 64 hex digits in a path's part: `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `ID`.
fn id(part: &str) -> Option<String> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let start = part.len().checked_sub(64)?;
    let tail = part.get(start..)?;
    let front = part.get(..start)?;
    let whole = front.is_empty() || front.ends_with(['-', ':']);
    (whole && tail.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| tail.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "8f1e5a2c-1111-4222-8333-444455556666";

    fn pod() -> Option<Owner> {
        Some(Owner::Pod { uid: UID.into(), container: Some(ID.into()) })
    }

    #[test]
    fn knows_each_engine_and_driver() {
        let under = UID.replace('-', "_");
        let container = Some(Owner::Container(ID.into()));
        for (path, owner_is) in [
            (format!("0::/docker/{ID}"), container.clone()),
            (format!("0::/system.slice/docker-{ID}.scope"), container.clone()),
            (
                format!("0::/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{ID}.scope"),
                container.clone(),
            ),
            (format!("0::/machine.slice/libpod-{ID}.scope/container"), container.clone()),
            (format!("0::/system.slice/jellyfin.service/libpod-payload-{ID}"), container.clone()),
            (format!("0::/machine.slice/libpod-conmon-{ID}.scope"), None),
            (format!("0::/kubepods/burstable/pod{UID}/{ID}"), pod()),
            (format!("0::/kubepods/pod{UID}/crio-{ID}"), pod()),
            (
                format!(
                    "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/cri-containerd-{ID}.scope"
                ),
                pod(),
            ),
            (format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-{ID}.scope/container"), pod()),
            (format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-conmon-{ID}.scope"), None),
            (
                format!(
                    "1:name=systemd:/system.slice/containerd.service/kubepods-burstable-pod{under}.slice:cri-containerd:{ID}"
                ),
                pod(),
            ),
            (
                format!(
                    "0::/docker/{}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{under}.slice/cri-containerd-{ID}.scope",
                    "f".repeat(64)
                ),
                pod(),
            ),
            ("0::/default/trainer".into(), Some(Owner::Container("trainer".into()))),
            ("0::/lxc/105/ns/system.slice/jellyfin.service".into(), Some(Owner::System("105".into()))),
            ("0::/lxc.payload.media/init.scope".into(), Some(Owner::System("media".into()))),
            ("0::/qemu.slice/100.scope".into(), Some(Owner::Vm("100".into()))),
            ("0::/system.slice/jellyfin.service".into(), None),
            ("0::/user.slice/user-1000.slice/session-2.scope".into(), None),
            ("0::/".into(), None),
            ("".into(), None),
        ] {
            assert_eq!(owner(&path), owner_is, "{path}");
        }
    }

    #[test]
    fn names_the_units_of_the_system_alone() {
        for (text, unit_is) in [
            ("0::/system.slice/nvidia-persistenced.service\n", Some("nvidia-persistenced.service")),
            ("12:devices:/\n1:name=systemd:/system.slice/gdm.service\n", Some("gdm.service")),
            ("0::/system.slice/system-jellyfin.slice/jellyfin@1.service/x", Some("jellyfin@1.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/pipewire.service", None),
            ("0::/user.slice/user-1000.slice/session-2.scope", None),
            ("0::/system.slice/.service", None),
            ("11:memory:/system.slice/gdm.service", None),
            ("", None),
        ] {
            assert_eq!(unit(text).as_deref(), unit_is, "{text}");
        }
    }

    #[test]
    fn takes_the_unit_of_systemd_in_version_1() {
        let text = format!("12:cpuset:/\n11:memory:/docker/{ID}\n1:name=systemd:/kubepods/burstable/pod{UID}/{ID}\n");
        assert_eq!(owner(&text), pod());
    }

    proptest! {
        #[test]
        fn an_owner_is_made_of_the_text(text in "[0-9a-f/:.podkubelxc_-]{0,200}") {
            match owner(&text) {
                Some(Owner::Container(id) | Owner::System(id) | Owner::Vm(id)) => prop_assert!(text.contains(&id)),
                Some(Owner::Pod { uid, .. }) => prop_assert!(text.replace('_', "-").contains(&uid)),
                None => {}
            }
        }
    }
}
