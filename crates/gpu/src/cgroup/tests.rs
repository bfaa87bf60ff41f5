use proptest::prelude::*;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OUTER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
const UID: &str = "8f1e5a2c-1111-4222-8333-444455556666";
const STATIC: &str = "8f1e5a2c111142228333444455556666";

fn shown(place: &Place) -> String {
    let engine = |engine: &Option<Engine>| engine.map_or("?".into(), |engine| format!("{engine:?}").to_lowercase());
    let one = |inside: &Inside| match inside {
        Inside::Pod { uid, container, engine: by } => {
            let uid = if uid == UID { "UID" } else { "STATIC" };
            format!("pod {uid} {} {}", if container.as_deref() == Some(ID) { "ID" } else { "-" }, engine(by))
        }
        Inside::Container { id, engine: by } => {
            format!("container {} {}", id.replace(ID, "ID").replace(OUTER, "OUTER"), engine(by))
        }
        Inside::System(name) => format!("system {name}"),
        Inside::Vm(id) => format!("vm {id}"),
    };
    let mut words: Vec<String> = place.boxes.iter().map(one).collect();
    words.extend(place.unit.iter().map(|unit| format!("unit {unit}")));
    words.extend(place.user.iter().map(|user| format!("user {user}")));
    words.join(", ")
}

/// Every row of the table in the research's §1.5, both drivers, and what else was met. U: the UID with underscores.
const PATHS: &[(&str, &str)] = &[
    // docker
    ("/docker/ID", "container ID docker"),
    ("/system.slice/docker-ID.scope", "container ID docker"),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/docker-ID.scope", "container ID docker, user 1000"),
    ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", "container ID docker, user 1000"),
    ("/system.slice/docker-ID.scope/init", "container ID docker"),
    // docker under Kubernetes
    ("/kubepods/burstable/podUID/ID", "pod UID ID ?"),
    ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU.slice/docker-ID.scope", "pod UID ID docker"),
    // containerd's CRI
    ("/kubepods/besteffort/podUID/ID", "pod UID ID ?"),
    ("/kubepods/podUID/ID", "pod UID ID ?"),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU.slice/cri-containerd-ID.scope",
        "pod UID ID containerd",
    ),
    ("/kubepods.slice/kubepods-podU.slice/cri-containerd-ID.scope", "pod UID ID containerd"),
    (
        "/system.slice/containerd.service/kubepods-burstable-podU.slice:cri-containerd:ID",
        "pod UID ID containerd, unit containerd.service",
    ),
    ("/k3s.slice/kubepods/podUID/ID", "pod UID ID ?"),
    // static pods: a hash for a UID
    ("/kubepods/burstable/podSTATIC/ID", "pod STATIC ID ?"),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice/cri-containerd-ID.scope",
        "pod STATIC ID containerd",
    ),
    // ctr, nerdctl
    ("/default/trainer", "container trainer containerd"),
    ("/default/ID", "container ID containerd"),
    ("/system.slice/nerdctl-ID.scope", "container ID containerd"),
    // CRI-O
    ("/kubepods/podUID/crio-ID", "pod UID ID crio"),
    ("/kubepods.slice/kubepods-podU.slice/crio-ID.scope", "pod UID ID crio"),
    ("/kubepods.slice/kubepods-podU.slice/crio-ID.scope/container", "pod UID ID crio"),
    ("/kubepods.slice/kubepods-podU.slice/crio-conmon-ID.scope", ""),
    // podman
    ("/libpod_parent/libpod-ID", "container ID podman"),
    ("/machine.slice/libpod-ID.scope", "container ID podman"),
    ("/machine.slice/libpod-ID.scope/container", "container ID podman"),
    ("/machine.slice/libpod-conmon-ID.scope", ""),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
        "container ID podman, user 1000",
    ),
    ("/system.slice/jellyfin.service/libpod-payload-ID", "container ID podman, unit jellyfin.service"),
    // a node that is itself a container (kind, minikube): the innermost counts
    (
        "/docker/OUTER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU.slice/cri-containerd-ID.scope",
        "container OUTER docker, pod UID ID containerd",
    ),
    ("/docker/OUTER/docker/ID", "container OUTER docker, container ID docker"),
    ("/kubepods/podUID/ID/docker/OUTER", "pod UID ID ?, container OUTER docker"),
    // LXC and Proxmox VE
    ("/lxc/105/ns/system.slice/jellyfin.service", "system 105"),
    ("/lxc/105/ns/docker/ID", "system 105, container ID docker"),
    ("/lxc.payload.media/init.scope", "system media"),
    ("/lxc.payload.media/system.slice/docker-ID.scope", "system media, container ID docker"),
    ("/lxc.monitor.media", ""),
    ("/qemu.slice/100.scope", "vm 100"),
    // libvirt, nspawn
    ("/machine.slice/machine-qemu\\x2d3\\x2dmedia\\x2dbox.scope", "vm media-box"),
    ("/machine.slice/machine-qemu\\x2d3\\x2dmedia.scope/libvirt/emulator", "vm media"),
    ("/machine/qemu-3-media.libvirt-qemu", "vm media"),
    ("/machine.slice/machine-lxc\\x2d44\\x2dweb.scope", "system web"),
    ("/machine.slice/machine-debian.scope", "system debian"),
    ("/machine.slice/systemd-nspawn@debian.service/payload", "system debian"),
    // systemd
    ("/system.slice/jellyfin.service", "unit jellyfin.service"),
    ("/system.slice/system-jellyfin.slice/jellyfin@1.service/x", "unit jellyfin@1.service"),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service", "unit ollama.service, user 1000"),
    ("/user.slice/user-1000.slice/session-2.scope", "user 1000"),
    ("/user.slice/user-1000.slice/user@1000.service/init.scope", "user 1000"),
    ("/system.slice/.service", ""),
    ("/init.scope", ""),
    ("/", ""),
    // from inside a cgroup namespace
    ("/../../system.slice/docker-ID.scope", "container ID docker"),
];

fn filled(path: &str) -> String {
    let under = UID.replace('-', "_");
    path.replace("UID", UID)
        .replace("STATIC", STATIC)
        .replace("podU.", &format!("pod{under}."))
        .replace("OUTER", OUTER)
        .replace("ID", ID)
}

#[test]
fn every_form_is_known_in_each_version() {
    for (path, is) in PATHS {
        let path = filled(path);
        for text in [
            format!("0::{path}\n"),
            // version 1, where systemd's line is as the others
            format!("12:cpuset:{path}\n11:memory:{path}\n5:devices:{path}\n1:name=systemd:{path}\n"),
            // hybrid
            format!("11:memory:{path}\n1:name=systemd:{path}\n0::{path}\n"),
        ] {
            assert_eq!(shown(&place(&text)), *is, "{text}");
        }
    }
    assert_eq!(place(""), Place::default());
}

#[test]
fn version_1_takes_systemds_line_first_and_units_from_it_alone() {
    let text = format!("12:cpuset:/\n11:memory:/docker/{OUTER}\n1:name=systemd:/kubepods/burstable/pod{UID}/{ID}\n");
    assert_eq!(shown(&place(&text)), "pod UID ID ?");
    // without systemd only the controllers tell
    let text = format!("9:name=systemd:/\n8:pids:/docker/{ID}\n5:devices:/docker/{ID}\n0::/\n");
    assert_eq!(shown(&place(&text)), "container ID docker");
    assert_eq!(shown(&place("11:memory:/system.slice/gdm.service\n")), "");
    assert_eq!(shown(&place("12:devices:/\n1:name=systemd:/system.slice/gdm.service\n")), "unit gdm.service");
}

#[test]
fn what_no_form_is_known_of_may_be_an_id() {
    for (path, tail) in [
        ("/by-hand", Some(("", "by-hand"))),
        ("/k8s/by-hand", Some(("k8s", "by-hand"))),
        ("/user.slice/user-0.slice/session-2.scope/by-hand", Some(("session-2.scope", "by-hand"))),
        ("/system.slice/runc-x.scope", Some(("system.slice", "runc-x.scope"))),
        ("/system.slice/ssh.service", None),
        ("/user.slice/user-0.slice/session-2.scope", None),
        ("/", None),
    ] {
        let found = place(&format!("0::{path}\n")).tail;
        assert_eq!(found.as_ref().map(|(above, last)| (above.as_str(), last.as_str())), tail, "{path}");
    }
}

proptest! {
    #[test]
    fn what_is_told_is_of_the_text(text in "[0-9a-f/:.podkubelxc_@useri-]{0,200}") {
        for inside in place(&text).boxes {
            match inside {
                Inside::Container { id, .. } | Inside::System(id) | Inside::Vm(id) => prop_assert!(text.contains(&id)),
                Inside::Pod { uid, .. } => prop_assert!(text.replace('_', "-").contains(&uid)),
            }
        }
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,300}") {
        place(&text);
    }
}
