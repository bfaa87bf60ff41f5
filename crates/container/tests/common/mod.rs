//! Machines for the floor's tests: one GT 1030, engines beside it, and a hand that carries plans' file operations out.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses its part, and may end by a panic")]

use gpu::{Card, DriverFacts, Holder, Inventory};
use machine::{Answer, Engine, FileKind, Memory, Node, NodeKind, Question, Stat};
use model::{Bdf, Before, Content, Digest, Identity, Op, PciId, Plan, Seen};

pub const VERSION: &str = "580.159.04";
pub const DOCKER: &str = "/etc/docker/daemon.json";
pub const DAEMON: &str = "{\n  \"runtimes\": {\n    \"nvidia\": {\n      \"path\": \"/usr/bin/nvidia-container-runtime\",\n      \
                          \"runtimeArgs\": []\n    }\n  }\n}\n";

pub fn device(machine: &mut Memory, path: &str, major: u32, minor: u32) {
    let kind = FileKind::CharDevice;
    let stat = Stat { kind, mode: 0o666, uid: 0, gid: 0, size: 0, mtime: 0, rdev: Some((major, minor)) };
    machine.insert(path, Node { stat, kind: NodeKind::Special });
}

pub fn docker(machine: &mut Memory, version: &str, cdi_dirs: &[&str], default: &str) {
    let info = serde_json::json!({
        "ServerVersion": version, "CDISpecDirs": cdi_dirs, "CgroupDriver": "systemd", "DefaultRuntime": default,
        "LiveRestoreEnabled": false, "Runtimes": {"nvidia": {}, "runc": {}},
    });
    machine.insert_answer(Question::EngineInfo(Engine::Docker), Seen::Is(Answer::Json(info)));
}

pub fn containers(machine: &mut Memory, env: &str, runtime: &str) {
    let all = serde_json::json!([{
        "Name": "/jellyfin", "Config": {"Image": "jellyfin/jellyfin:10.10", "Env": ["PATH=/bin", env]},
        "HostConfig": {"Runtime": runtime, "DeviceRequests": null, "Devices": []},
    }]);
    machine.insert_answer(Question::Containers(Engine::Docker), Seen::Is(Answer::Json(all)));
}

pub fn dpkg(machine: &mut Memory, packages: &[(&str, &str)]) {
    let mut text = String::new();
    for (name, version) in packages {
        text += &format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n");
    }
    machine.insert_file("/var/lib/dpkg/status", text.as_bytes());
}

/// One GT 1030 with its driver, and nothing of containers.
pub fn bare() -> Memory {
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

pub fn inventory(kernel: Seen<String>) -> Inventory {
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

pub fn running() -> Inventory {
    inventory(Seen::Is(VERSION.into()))
}

/// Docker 28.3 that reads CDI, the toolkit beside it, a true spec, links for systemd, a container under runc.
pub fn good() -> Memory {
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

/// Carries the file operations of a plan out on the machine, checking what each expects.
pub fn apply(machine: &mut Memory, plan: &Plan) {
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
            Op::Link { path, target } => machine.insert_link(path, target),
            Op::Service { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

pub fn titles(plan: &Plan) -> Vec<&str> {
    plan.changes.iter().map(|change| change.title.as_str()).collect()
}

/// The files that a plan writes, with their texts.
pub fn texts(plan: &Plan) -> Vec<(String, String)> {
    let text = |op: &Op| match op {
        Op::WriteFile { path, content: Content::Text(text), .. } => Some((path.clone(), text.clone())),
        _ => None,
    };
    plan.changes.iter().filter_map(|change| text(&change.op)).collect()
}
