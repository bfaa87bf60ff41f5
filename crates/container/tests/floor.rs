//! Every check on a machine where it passes and on one where it does not; plans, their second run, and verify.
#![allow(clippy::unwrap_used, reason = "a test may end by a panic")]

mod common;

use common::{
    DAEMON, DOCKER, VERSION, apply, bare, containers, device, docker, dpkg, good, inventory, running, titles,
};
use container::{CHECKS, Facts, SPEC_PATH, observe, plan, verify};
use machine::{FileKind, Memory, Node, NodeKind, Stat};
use model::{Content, Intent, Op, OutcomeState, Presence, Reason, Seen, Verdict};

fn verdict(facts: &Facts, id: &str) -> Verdict {
    (CHECKS.iter().find(|check| check.about.id.0 == id).unwrap_or_else(|| panic!("no check {id}")).run)(facts)
}

fn is_bad(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Warn(_) | Verdict::Fail(_))
}

fn spec_text(machine: &Memory) -> String {
    let spec = cdi::generate(machine, &running(), &cdi::Options::default()).unwrap().spec;
    formats::cdispec::to_json(&spec)
}

/// The good machine with all of NVIDIA's toolkit beside it, and a container whose device rules can be looked at.
fn well() -> Memory {
    let mut machine = good();
    machine.insert_file("/usr/bin/podman", b"\x7fELF");
    dpkg(
        &mut machine,
        &[
            ("docker-ce", "5:28.3.0-1~debian.12~bookworm"),
            ("nvidia-container-toolkit", "1.18.0-1"),
            ("podman", "4.3.1-1"),
        ],
    );
    machine.insert_file(CONFIG, b"[nvidia-container-cli]\nldconfig = \"@/sbin/ldconfig\"\n");
    machine.insert_file("/etc/systemd/system/multi-user.target.wants/nvidia-cdi-refresh.path", b"[Path]\n");
    machine.insert_file("/var/run/cdi/nvidia.yaml", spec_text(&machine).as_bytes());
    given(&mut machine, "c 195:* rwm");
    machine
}

const CONFIG: &str = "/etc/nvidia-container-runtime/config.toml";

/// A running container that was given nvidia0, and the rules of its device cgroup.
fn given(machine: &mut Memory, rules: &str) {
    let all = serde_json::json!([{
        "Id": "4f1e9c", "State": {"Pid": 42}, "Name": "/jellyfin", "HostConfig": {"Runtime": "runc", "Devices": [{}]},
        "Config": {"Image": "jellyfin/jellyfin:10.10", "Env": []},
    }]);
    machine.insert_answer(machine::Question::Containers(machine::Engine::Docker), Seen::Is(machine::Answer::Json(all)));
    let bundle = "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/4f1e9c/config.json";
    let config =
        br#"{"linux": {"devices": [{"path": "/dev/nvidia0", "type": "c", "major": 195}, {"path": "/dev/null"}]}}"#;
    machine.insert_file(bundle, config);
    machine.insert_file("/proc/42/cgroup", b"5:memory:/docker/4f1e9c\n4:devices:/docker/4f1e9c\n0::/\n");
    machine
        .insert_file("/sys/fs/cgroup/devices/docker/4f1e9c/devices.list", format!("c 1:3 rwm\n{rules}\n").as_bytes());
}

#[test]
fn all_is_well_on_the_good_machine() {
    let facts = observe(&well(), &running());
    for check in CHECKS {
        assert_eq!((check.run)(&facts), Verdict::Pass, "{}", check.about.id);
    }
    let facts = observe(&good(), &running());
    assert!(plan(&facts, &Intent::default()).is_empty());
    assert!(verify(&facts, &Intent::default()).iter().all(|outcome| outcome.state == OutcomeState::Held));
    assert_eq!(container::presence(&facts), Presence::Here("Docker 28.3.0".into()));
}

#[test]
fn every_check_fails_where_it_should() {
    type Fault = fn(&mut Memory);
    let faults: &[(&str, Fault)] = &[
        ("container/gpu-way", |machine| {
            docker(machine, "20.10.12", &[], "runc");
            for program in ["nvidia-container-runtime", "nvidia-container-runtime-hook"] {
                machine.insert_link(&format!("/usr/bin/{program}"), "/usr/nowhere");
            }
        }),
        ("container/daemon-json-broken", |machine| machine.insert_file(DOCKER, b"{\n  \"a\": 1,\n}\n")),
        ("container/runtime-path-missing", |machine| {
            machine.insert_file(DOCKER, DAEMON.replace("/usr/bin/", "/opt/").as_bytes());
        }),
        ("container/cdi-not-enabled", |machine| docker(machine, "27.1.0", &[], "runc")),
        ("container/cdi-spec-missing", |machine| machine.insert_file("/etc/cdi/nvidia.json", b"{")),
        ("container/cdi-spec-broken", |machine| {
            let text = spec_text(machine).replace("0.5.0", "0.3.0");
            machine.insert_file("/etc/cdi/nvidia.json", text.as_bytes());
        }),
        ("container/cdi-spec-stale", |machine| {
            let text = spec_text(machine).replace(VERSION, "570.10.01");
            machine.insert_file("/etc/cdi/nvidia.json", text.as_bytes());
        }),
        ("container/cdi-spec-conflict", |machine| {
            let text = spec_text(machine);
            machine.insert_file("/etc/cdi/other.json", text.as_bytes());
        }),
        ("container/cdi-spec-incomplete", |machine| {
            let text = spec_text(machine).replace("/dev/nvidia-uvm\"", "/dev/nvidiactl\"");
            machine.insert_file("/etc/cdi/nvidia.json", text.as_bytes());
        }),
        ("container/cdi-libraries-unfound", |machine| {
            let mut spec: serde_json::Value = serde_json::from_str(&spec_text(machine)).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            spec["containerEdits"]["mounts"].as_array_mut().unwrap().retain_mut(|mount| {
                let path = mount["containerPath"].as_str().unwrap().to_owned();
                let name = path.rsplit('/').next().unwrap();
                mount["containerPath"] = format!("/usr/lib/x86_64-linux-gnu/nvidia/current/{name}").into();
                seen.insert(name.to_owned())
            });
            machine.insert_file("/etc/cdi/nvidia.json", spec.to_string().as_bytes());
        }),
        ("container/cdi-dir-unread", |machine| docker(machine, "28.3.0", &["/srv/cdi"], "runc")),
        ("container/cdi-refresh-raced", |machine| {
            machine.insert_file("/etc/systemd/system/multi-user.target.wants/nvidia-cdi-refresh.path", b"[Path]\n");
        }),
        ("container/card-lost-in-container", |machine| given(machine, "c 136:* rwm")),
        ("container/toolkit-config-broken", |machine| machine.insert_file(CONFIG, b"disable-require = maybe\n")),
        ("container/management-kind", |machine| {
            let text = b"[nvidia-container-runtime.modes.cdi]\ndefault-kind = \"management.nvidia.com/gpu\"\n";
            machine.insert_file(CONFIG, text);
        }),
        ("container/toolkit-ldconfig", |machine| {
            machine.insert_file(CONFIG, b"[nvidia-container-cli]\nldconfig = \"/sbin/ldconfig\"\n");
        }),
        ("container/legacy-hook-files", |machine| {
            machine.insert_file("/usr/bin/podman", b"\x7fELF");
            machine.insert_file(
                "/usr/share/containers/oci/hooks.d/oci-nvidia-hook.json",
                b"{\"hook\": {\"path\": \"/usr/bin/nvidia-container-runtime-hook\"}}",
            );
        }),
        ("container/docker-snap", |machine| machine.insert_file("/snap/bin/docker", b"")),
        ("container/dev-char-links", |machine| device(machine, "/dev/nvidia-uvm", 511, 0)),
        ("container/toolkit-vulnerable", |machine| dpkg(machine, &[("nvidia-container-toolkit", "1.17.7-1")])),
        ("container/nvidia-docker2", |machine| dpkg(machine, &[("nvidia-docker2", "2.13.0-1")])),
        ("container/default-runtime", |machine| {
            machine.insert_file(
                DOCKER,
                DAEMON.replace("{\n  \"r", "{\n  \"default-runtime\": \"nvidia\",\n  \"r").as_bytes(),
            );
        }),
        ("container/visible-devices-all", |machine| containers(machine, "NVIDIA_VISIBLE_DEVICES=all", "nvidia")),
    ];
    for check in CHECKS {
        let (_, fault) = faults.iter().find(|(id, _)| *id == check.about.id.0).expect(check.about.id.0);
        let mut machine = good();
        fault(&mut machine);
        let found = (check.run)(&observe(&machine, &running()));
        let (Verdict::Warn(trouble) | Verdict::Fail(trouble)) = &found else { panic!("{}: {found:?}", check.about.id) };
        assert!(!trouble.evidence.is_empty() && !trouble.says.ends_with('.'), "{}", check.about.id);
    }
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let denied = || Seen::Unreadable(Reason::PermissionDenied);
    let cases: &[(&str, &str)] = &[
        ("container/daemon-json-broken", DOCKER),
        ("container/cdi-spec-broken", "/etc/cdi/nvidia.json"),
        ("container/cdi-spec-missing", "/etc/cdi/nvidia.json"),
        ("container/toolkit-vulnerable", "/var/lib/dpkg/status"),
        ("container/default-runtime", DOCKER),
    ];
    for (id, path) in cases {
        let mut machine = good();
        let stat = Stat { kind: FileKind::File, mode: 0, uid: 0, gid: 0, size: 9, mtime: 0, rdev: None };
        machine.insert(path, Node { stat, kind: NodeKind::File(denied().map(|(): ()| Vec::new().into())) });
        let found = verdict(&observe(&machine, &running()), id);
        assert!(matches!(found, Verdict::Unknown { .. }), "{id}: {found:?}");
    }
}

#[test]
fn no_engine_no_floor() {
    let facts = observe(&bare(), &running());
    assert!(matches!(container::presence(&facts), Presence::NotHere(_)));
    assert!(CHECKS.iter().all(|check| (check.run)(&facts) == Verdict::NotApplicable));
    assert!(plan(&facts, &Intent::default()).is_empty());
    assert!(verify(&facts, &Intent::default()).is_empty());
}

#[test]
fn docker_26_gets_a_spec_and_reads_it() {
    let mut machine = good();
    docker(&mut machine, "26.1.0", &[], "runc");
    machine.insert_file("/etc/cdi/nvidia.json", spec_text(&machine).replace(VERSION, "570.10.01").as_bytes());
    let facts = observe(&machine, &running());
    let first = plan(&facts, &Intent::default());
    assert_eq!(
        titles(&first),
        [
            "take away /etc/cdi/nvidia.json, which is not true of this machine any more",
            "tell engines of 1 card and of driver 580.159.04 in a CDI spec",
            "let Docker read CDI specs",
            "restart docker.service, which reads its configuration only then"
        ]
    );
    assert!(first.refusals.is_empty());
    assert_eq!(plan(&facts, &Intent::default()), first, "the same facts give the same plan");
    apply(&mut machine, &first);
    let facts = observe(&machine, &running());
    assert_eq!(titles(&plan(&facts, &Intent::default())), Vec::<&str>::new());
    let states: Vec<_> = verify(&facts, &Intent::default()).into_iter().map(|outcome| outcome.state).collect();
    // The daemon has not been restarted here, and says so.
    assert_eq!(states[..2], [OutcomeState::Held, OutcomeState::Pending("a restart of Docker".into())]);
}

#[test]
fn docker_20_gets_nvidias_runtime_where_it_is_installed() {
    let found = "{\n    \"log-driver\": \"json-file\"\n}\n";
    let mut machine = good();
    docker(&mut machine, "20.10.12", &[], "runc");
    machine.insert_file(DOCKER, found.as_bytes());
    let intent = Intent { default_runtime: true, ..Intent::default() };
    let first = plan(&observe(&machine, &running()), &intent);
    assert_eq!(titles(&first)[0], "name NVIDIA's runtime, make it the default");
    let Op::WriteFile { content: Content::Text(text), .. } = &first.changes[0].op else { panic!() };
    assert_eq!(
        text,
        "{\n    \"log-driver\": \"json-file\",\n    \"runtimes\": {\n        \"nvidia\": {\n            \"path\": \
         \"/usr/bin/nvidia-container-runtime\",\n            \"runtimeArgs\": []\n        }\n    },\n    \
         \"default-runtime\": \"nvidia\"\n}\n"
    );
    apply(&mut machine, &first);
    assert!(plan(&observe(&machine, &running()), &intent).is_empty());
}

#[test]
fn without_runtime_and_driver_the_plan_says_what_is_missing() {
    let mut machine = bare();
    machine.insert_file("/usr/bin/dockerd", b"\x7fELF");
    docker(&mut machine, "20.10.12", &[], "runc");
    let facts = observe(&machine, &inventory(Seen::Absent));
    let made = plan(&facts, &Intent::default());
    assert!(made.is_empty(), "{made:?}");
    assert!(made.notes.iter().any(|note| note.contains("kernel driver does not run")), "{:?}", made.notes);
    assert!(made.notes.iter().any(|note| note.contains("Docker 20.10.12 reads no CDI specs")), "{:?}", made.notes);
    assert!(is_bad(&verdict(&facts, "container/gpu-way")));
    // With the driver, the spec is written all the same: other engines and a later Docker read it.
    let facts = observe(&machine, &running());
    let made = plan(&facts, &Intent::default());
    let Op::WriteFile { path, .. } = &made.changes[0].op else { panic!() };
    assert_eq!((path.as_str(), made.changes.len()), (SPEC_PATH, 1));
}

#[test]
fn a_broken_daemon_json_refuses_only_who_asks_for_docker() {
    let mut machine = good();
    machine.insert_file(DOCKER, b"{,}");
    let facts = observe(&machine, &running());
    assert!(plan(&facts, &Intent::default()).refusals.is_empty());
    let asked = Intent { engine: Some("docker".into()), ..Intent::default() };
    assert_eq!(plan(&facts, &asked).refusals[0].because, "container/daemon-json-broken");
    let elsewhere = Intent { engine: Some("podman".into()), ..Intent::default() };
    assert!(plan(&facts, &elsewhere).refusals[0].says.contains("podman is not on this machine"));
}

#[test]
fn containerd_under_kubernetes() {
    let mut machine = bare();
    machine.insert_file("/usr/bin/containerd", b"\x7fELF");
    dpkg(&mut machine, &[("containerd.io", "1.7.27-1")]);
    machine.insert_file(
        "/var/lib/kubelet/kubeadm-flags.env",
        b"--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
    );
    machine.insert_file("/etc/containerd/config.toml", b"version = 2\n# mine\n");
    let facts = observe(&machine, &running());
    assert!(is_bad(&verdict(&facts, "container/cdi-not-enabled")));
    let made = plan(&facts, &Intent::default());
    let Op::WriteFile { content: Content::Text(text), .. } = &made.changes[1].op else { panic!() };
    assert!(text.starts_with("version = 2\n# mine\n") && text.contains("enable_cdi = true"), "{text}");
    machine.insert_file("/etc/containerd/config.toml", text.as_bytes());
    assert_eq!(verdict(&observe(&machine, &running()), "container/cdi-not-enabled"), Verdict::Pass);
}

#[test]
fn one_healthy_spec_is_enough_and_nothing_may_hide_it() {
    let mut machine = good();
    let text = spec_text(&machine);
    // Stale, and in the directory that wins.
    machine.insert_file("/var/run/cdi/nvidia.json", text.replace(VERSION, "570.10.01").as_bytes());
    let facts = observe(&machine, &running());
    assert!(matches!(verify(&facts, &Intent::default())[0].state, OutcomeState::Failed(_)));
    assert_eq!(
        titles(&plan(&facts, &Intent::default())),
        ["take away /var/run/cdi/nvidia.json, which is not true of this machine any more"]
    );
    // Both true, in one directory: they cancel each other, and ours goes.
    let mut machine = good();
    machine.insert_file(SPEC_PATH, text.as_bytes());
    let facts = observe(&machine, &running());
    assert!(matches!(verify(&facts, &Intent::default())[0].state, OutcomeState::Failed(_)));
    let made = plan(&facts, &Intent::default());
    assert_eq!(titles(&made), ["take away /etc/cdi/thruway-nvidia.json, since another spec says the same"]);
    apply(&mut machine, &made);
    assert!(plan(&observe(&machine, &running()), &Intent::default()).is_empty());
}
