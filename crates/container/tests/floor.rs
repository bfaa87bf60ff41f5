//! Every check on a machine where it passes and on one where it does not; plans, their second run, and verify.
#![allow(clippy::unwrap_used, reason = "a test may end by a panic")]

use container::{CHECKS, Facts, SPEC_PATH, observe, plan, verify};
use gpu::{Card, DriverFacts, Holder, Inventory};
use machine::{Answer, Engine, FileKind, Memory, Node, NodeKind, Question, Stat};
use model::{
    Bdf, Before, Content, Digest, Identity, Intent, Op, OutcomeState, PciId, Plan, Presence, Reason, Seen, Verdict,
};

const VERSION: &str = "580.159.04";
const DOCKER: &str = "/etc/docker/daemon.json";
const DAEMON: &str = "{\n  \"runtimes\": {\n    \"nvidia\": {\n      \"path\": \"/usr/bin/nvidia-container-runtime\",\n      \
                      \"runtimeArgs\": []\n    }\n  }\n}\n";

fn device(machine: &mut Memory, path: &str, major: u32, minor: u32) {
    let kind = FileKind::CharDevice;
    let stat = Stat { kind, mode: 0o666, uid: 0, gid: 0, size: 0, mtime: 0, rdev: Some((major, minor)) };
    machine.insert(path, Node { stat, kind: NodeKind::Special });
}

fn docker(machine: &mut Memory, version: &str, cdi_dirs: &[&str], default: &str) {
    let info = serde_json::json!({
        "ServerVersion": version, "CDISpecDirs": cdi_dirs, "CgroupDriver": "systemd", "DefaultRuntime": default,
        "LiveRestoreEnabled": false, "Runtimes": {"nvidia": {}, "runc": {}},
    });
    machine.insert_answer(Question::EngineInfo(Engine::Docker), Seen::Is(Answer::Json(info)));
}

fn containers(machine: &mut Memory, env: &str, runtime: &str) {
    let all = serde_json::json!([{
        "Name": "/jellyfin", "Config": {"Image": "jellyfin/jellyfin:10.10", "Env": ["PATH=/bin", env]},
        "HostConfig": {"Runtime": runtime, "DeviceRequests": null, "Devices": []},
    }]);
    machine.insert_answer(Question::Containers(Engine::Docker), Seen::Is(Answer::Json(all)));
}

fn dpkg(machine: &mut Memory, packages: &[(&str, &str)]) {
    let mut text = String::new();
    for (name, version) in packages {
        text += &format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n");
    }
    machine.insert_file("/var/lib/dpkg/status", text.as_bytes());
}

/// One GT 1030 with its driver, and nothing of containers.
fn bare() -> Memory {
    let mut machine = Memory::new("a machine");
    for top in ["/usr", "/etc", "/var", "/dev", "/proc", "/sys", "/home", "/opt", "/bin", "/sbin", "/lib", "/run"] {
        machine.insert_gone(top, Seen::Absent);
    }
    for name in ["libcuda.so", "libnvidia-ml.so", "libnvidia-encode.so", "libnvcuvid.so"] {
        let dir = "/usr/lib/x86_64-linux-gnu";
        machine.insert_file(&format!("{dir}/{name}.{VERSION}"), b"\x7fELF");
        machine.insert_link(&format!("{dir}/{name}.1"), &format!("{name}.{VERSION}"));
    }
    machine.insert_file("/usr/bin/nvidia-smi", b"\x7fELF");
    device(&mut machine, "/dev/nvidia0", 195, 0);
    device(&mut machine, "/dev/nvidiactl", 195, 255);
    device(&mut machine, "/dev/nvidia-uvm", 234, 0);
    device(&mut machine, "/dev/nvidia-uvm-tools", 234, 1);
    let information =
        b"Model: \t GeForce GT 1030\nGPU UUID: \t GPU-aaaaaaaa-2222-3333-4444-555555555555\nDevice Minor: \t 0\n";
    machine.insert_file("/proc/driver/nvidia/gpus/0000:01:00.0/information", information);
    machine
}

fn inventory(kernel: Seen<String>) -> Inventory {
    let card = Card {
        identity: Identity { bdf: Bdf::new(0, 1, 0, 0), id: PciId::new(0x10de, 0x1d01), subsystem: None, uuid: None },
        class: 0x030000,
        class_name: "VGA compatible controller".into(),
        vendor_name: "NVIDIA Corporation".into(),
        device_name: "GP108 [GeForce GT 1030]".into(),
        subsystem_name: None,
        revision: 0xa1,
        driver: Seen::Is(if kernel.is_there() { "nvidia" } else { "nouveau" }.into()),
        driver_override: Seen::Absent,
        group: Seen::Absent,
        companions: Vec::new(),
        reset: Seen::Absent,
        boot_vga: false,
        bars: Vec::new(),
        bar_sum: 0,
        link: Seen::Absent,
        numa: None,
        slot: Seen::Absent,
        port: None,
        power: Seen::Absent,
        arch: None,
        nvml: None,
        holder: Holder::Host(Vec::new()),
    };
    let driver =
        DriverFacts { library: kernel.clone(), kernel, kind: None, library_path: Seen::Absent, library_via: None };
    Inventory {
        cards: vec![card],
        functions: Vec::new(),
        looked: Seen::Is(()),
        nvml: Seen::Absent,
        driver,
        hints: Seen::Absent,
    }
}

fn running() -> Inventory {
    inventory(Seen::Is(VERSION.into()))
}

/// Docker 28.3 that reads CDI, the toolkit beside it, a true spec, links for systemd, a container under runc.
fn good() -> Memory {
    let mut machine = bare();
    for program in ["dockerd", "nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-ctk"] {
        machine.insert_file(&format!("/usr/bin/{program}"), b"\x7fELF");
    }
    docker(&mut machine, "28.3.0", &["/etc/cdi", "/var/run/cdi"], "runc");
    containers(&mut machine, "NVIDIA_VISIBLE_DEVICES=void", "runc");
    dpkg(&mut machine, &[("docker-ce", "5:28.3.0-1~debian.12~bookworm"), ("nvidia-container-toolkit", "1.18.0-1")]);
    machine.insert_file(DOCKER, DAEMON.as_bytes());
    for (numbers, node) in
        [("195:0", "nvidia0"), ("195:255", "nvidiactl"), ("234:0", "nvidia-uvm"), ("234:1", "nvidia-uvm-tools")]
    {
        machine.insert_link(&format!("/dev/char/{numbers}"), &format!("../{node}"));
    }
    let spec = cdi::generate(&machine, &running(), &cdi::Options::default()).unwrap().spec;
    machine.insert_file("/etc/cdi/nvidia.json", formats::cdispec::to_json(&spec).as_bytes());
    machine
}

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

#[test]
fn all_is_well_on_the_good_machine() {
    let facts = observe(&good(), &running());
    for check in CHECKS {
        assert_eq!((check.run)(&facts), Verdict::Pass, "{}", check.about.id);
    }
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

/// Carries the file operations of a plan out on the machine, checking what each expects.
fn apply(machine: &mut Memory, plan: &Plan) {
    use machine::Machine as _;
    for change in &plan.changes {
        match &change.op {
            Op::WriteFile { path, content: Content::Text(text), .. } => {
                match (&change.expects, machine.read(path)) {
                    (Before::NoFile, Seen::Absent) => {}
                    (Before::File(digest), Seen::Is(bytes)) => assert_eq!(*digest, Digest::of(&bytes), "{path}"),
                    (expects, found) => panic!("{path}: {expects:?} {found:?}"),
                }
                machine.insert_file(path, text.as_bytes());
            }
            Op::RemoveFile { path } => {
                // A link to nowhere: listed and not there. Enough to see that the plan is done with it.
                machine.insert_file(&path.replace(".json", ".removed"), b"");
                machine.insert_link(path, "/usr/nowhere");
            }
            Op::Service { unit, .. } => assert_eq!(unit, "docker.service"),
            other => panic!("{other:?}"),
        }
    }
}

fn titles(plan: &Plan) -> Vec<&str> {
    plan.changes.iter().map(|change| change.title.as_str()).collect()
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
