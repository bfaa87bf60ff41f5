//! Whose a process is, told of real engines: a process in a container of each, and `thruway top` names engine, id, name and image.
//! NVML is the simulated one, with the processes' numbers as this machine's own PID namespace has them.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "looks from outside")]

#[path = "common/engines.rs"]
mod engines;
#[path = "common/systemd.rs"]
mod systemd;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use engines::{Engines, Programs, cannot};
use gpu::attribution::{Attributor, Engine, OwnedBy};
use serde_json::Value;
use systemd::Systemd;

const BOX: &str = "/usr/lib/x86_64-linux-gnu/thruway-sim/control.toml";

fn machine() -> Engines {
    Engines::new(Path::new("/"), &Programs { runtime: Some(PathBuf::from("/usr/sbin/runc")), hook: None })
}

/// The process of this command line, as this machine numbers it: the containers' sleepers are told apart by how long they sleep.
fn sleeper(seconds: u32) -> u32 {
    let wanted = format!("sleep\0{seconds}\0");
    let start = Instant::now();
    loop {
        let here = std::fs::read_dir("/proc").expect("/proc").flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            // whoever starts it has a line that ends so too
            (line.ends_with(wanted.as_bytes()) && ["busybox", "sleep"].contains(&name.trim())).then_some(pid)
        });
        match here {
            Some(pid) => return pid,
            None if start.elapsed() > Duration::from_secs(20) => panic!("no process sleeps {seconds} s"),
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// What `thruway top` says of this process on the card: in the machine's files, with this machine's processes.
fn whose(machine: &Engines, pid: u32) -> Value {
    machine.write(
        BOX,
        &format!(
            "[[gpus]]\nindex = 0\nset = {{ processes = [{{ pid = {pid}, kind = 'C', memory_mib = 949, sm = 36 }}] }}\n"
        ),
    );
    let mut command = machine.outside(&["thruway", "top", "--json"]);
    let output = command.stdin(Stdio::null()).output().expect("nsenter, of util-linux");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"));
    let process = &report["cards"][0]["processes"]["is"][0];
    assert_eq!((&process["pid"], &process["sm"]["is"]), (&pid.into(), &36.into()), "{text}");
    process["whose"].clone()
}

fn said(whose: &Value, kind: &str, engine: &str) {
    let owner = &whose["owner"];
    assert_eq!((&owner["kind"], &owner["engine"]), (&kind.into(), &engine.into()), "{whose}");
    println!("{owner}");
}

#[test]
fn dockers_containers_have_their_names() {
    if let Some(why) = cannot(&["dockerd", "docker", "runc", "busybox", "unshare", "nsenter"]) {
        return println!("SKIP: {why}");
    }
    let machine = machine();
    machine.run(&["systemctl", "start", "docker.service"]);
    machine.busybox_image();
    machine.run(&["docker", "tag", "img", "example.test/jellyfin/jellyfin:10.11"]);
    let run = ["docker", "run", "-d", "--network", "host", "--name", "films", "example.test/jellyfin/jellyfin:10.11"];
    let id = machine.run(&[&run[..], &["busybox", "sleep", "7101"]].concat());
    let found = whose(&machine, sleeper(7101));
    said(&found, "container", "docker");
    let owner = &found["owner"];
    assert_eq!(owner["id"], id.lines().last().unwrap_or_default());
    assert_eq!((&owner["name"], &owner["image"]), (&"films".into(), &"example.test/jellyfin/jellyfin:10.11".into()));
    assert_eq!(found["app"], "jellyfin");
    // in a PID namespace of its own nobody is named, whoever has that number there
    let report: Value = serde_json::from_slice(&machine.output(&["thruway", "--json", "top"]).stdout).expect("JSON");
    let process = &report["cards"][0]["processes"]["is"][0];
    assert_eq!((&report["blind"], &process["whose"]["owner"]["kind"]), (&true.into(), &"hidden".into()), "{process}");
    let once = machine.run(&["thruway", "top", "--once"]);
    assert!(once.contains("another PID namespace") && once.contains("hidden"), "{once}");
    // renamed while it runs: who looks anew is told so
    machine.run(&["docker", "rename", "films", "series"]);
    assert_eq!(whose(&machine, sleeper(7101))["owner"]["name"], "series");
    machine.run(&["docker", "rm", "-f", "series"]);
}

#[test]
fn containerds_containers_go_by_their_ids_in_every_namespace() {
    if let Some(why) = cannot(&["containerd", "ctr", "runc", "busybox", "unshare", "nsenter"]) {
        return println!("SKIP: {why}");
    }
    let machine = machine();
    machine.run(&["systemctl", "start", "containerd.service"]);
    rootfs(&machine);
    for (namespace, name, seconds) in [("default", "trainer", "7102"), ("films", "server", "7103")] {
        let run =
            ["ctr", "-n", namespace, "run", "-d", "--rootfs", "/tmp/rootfs", name, "/bin/busybox", "sleep", seconds];
        machine.run(&run);
        let found = whose(&machine, sleeper(seconds.parse().expect("a number")));
        said(&found, "container", "containerd");
        assert_eq!((&found["owner"]["id"], &found["owner"]["name"]), (&name.into(), &name.into()));
        machine.run(&["ctr", "-n", namespace, "task", "kill", "-s", "KILL", name]);
    }
}

#[test]
fn podmans_containers_have_their_names_for_root_and_for_a_user() {
    let why = cannot(&["podman", "runc", "newuidmap", "conmon", "setpriv", "busybox", "unshare", "nsenter"]);
    if let Some(why) = why {
        return println!("SKIP: {why}");
    }
    let machine = machine();
    rootfs(&machine);
    machine.run(&["sh", "-c", "cd /tmp/rootfs && busybox tar -c . | podman import - example.test/plex:1"]);
    let run = |seconds: &'static str| {
        [
            "podman",
            "run",
            "-d",
            "--network",
            "host",
            "--name",
            "films",
            "example.test/plex:1",
            "busybox",
            "sleep",
            seconds,
        ]
    };
    let id = machine.run(&run("7104"));
    let found = whose(&machine, sleeper(7104));
    said(&found, "container", "podman");
    let owner = &found["owner"];
    assert_eq!(owner["id"], id.lines().last().unwrap_or_default());
    assert_eq!(
        (&owner["name"], &owner["image"], &owner["user"]),
        (&"films".into(), &"example.test/plex:1".into(), &Value::Null)
    );
    assert_eq!(found["app"], "plex");
    machine.run(&["podman", "rm", "-f", "-t", "0", "films"]);

    // a user's own, to whom version 1 of cgroups gives none: conmon tells
    machine.user();
    let ann = ["setpriv", "--reuid", "4242", "--regid", "4242", "--clear-groups", "busybox", "env"];
    let home = ["HOME=/home/ann", "USER=ann", "XDG_RUNTIME_DIR=/run/user/4242"];
    let as_ann = |argv: &[&str]| machine.run(&[&ann[..], &home[..], argv].concat());
    as_ann(&["sh", "-c", "cd /tmp/rootfs && busybox tar -c . | podman import - example.test/plex:1"]);
    let id = as_ann(&run("7105"));
    let found = whose(&machine, sleeper(7105));
    said(&found, "container", "podman");
    let owner = &found["owner"];
    assert_eq!(owner["id"], id.lines().last().unwrap_or_default());
    assert_eq!(
        (&owner["name"], &owner["image"], &owner["user"]),
        (&"films".into(), &"example.test/plex:1".into(), &4242.into())
    );
    as_ann(&["podman", "rm", "-f", "-t", "0", "films"]);
}

/// A bundle that sleeps so long, at /tmp/NAME.
fn bundle(machine: &Engines, program: &str, seconds: u32) {
    let script = format!(
        "mkdir -p /tmp/{program} && cd /tmp/{program} && {program} spec && busybox sed -i 's/\"terminal\": true/\"terminal\": false/; \
         s/\"sh\"/\"busybox\", \"sleep\", \"{seconds}\"/; s/\"path\": \"rootfs\"/\"path\": \"\\/tmp\\/rootfs\"/' config.json"
    );
    machine.run(&["sh", "-c", &script]);
}

#[test]
fn what_runc_started_by_hand_is_a_container_of_that_id() {
    if let Some(why) = cannot(&["runc", "busybox", "unshare", "nsenter"]) {
        return println!("SKIP: {why}");
    }
    let machine = machine();
    rootfs(&machine);
    bundle(&machine, "runc", 7106);
    machine.run(&[
        "sh",
        "-c",
        "cd /tmp/runc && runc run --detach by-hand > /tmp/out 2>&1 < /dev/null || { cat /tmp/out; exit 1; }",
    ]);
    let found = whose(&machine, sleeper(7106));
    said(&found, "container", "unknown");
    assert_eq!((&found["owner"]["id"], &found["owner"]["name"]), (&"by-hand".into(), &"by-hand".into()));
    machine.run(&["runc", "delete", "--force", "by-hand"]);
}

/// crun takes no hybrid cgroups: it sees version 2 alone, and gives its container no cgroup of its own.
#[test]
fn what_crun_started_without_a_cgroup_is_known_by_its_first_process() {
    if let Some(why) = cannot(&["crun", "busybox", "unshare", "nsenter"]) {
        return println!("SKIP: {why}");
    }
    let machine = machine();
    rootfs(&machine);
    bundle(&machine, "crun", 7107);
    let script = "[ ! -d /sys/fs/cgroup/unified ] || mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup; cd /tmp/crun && crun \
                  --cgroup-manager=disabled run --detach by-hand > /tmp/out 2>&1 < /dev/null || { cat /tmp/out; exit 1; }";
    machine.run(&["unshare", "-m", "sh", "-c", script]);
    let status: Value =
        serde_json::from_str(&machine.read("/run/crun/by-hand/status").expect("its state")).expect("JSON");
    let pid = u32::try_from(status["pid"].as_u64().expect("a number")).expect("a number");
    // the machine's own processes, as its own files number them
    let root = machine::Root::mounted(&machine.at("/"), "/").expect("its root");
    let found = Attributor::new().look(&root, &[pid]).remove(0);
    let (id, name) = ("by-hand".to_owned(), Some("by-hand".to_owned()));
    assert_eq!(found.owner, OwnedBy::Container { engine: Engine::Unknown, id, name, image: None, user: None });
    machine.run(&["crun", "delete", "--force", "by-hand"]);
}

/// busybox and a shell at /tmp/rootfs.
fn rootfs(machine: &Engines) {
    let script = "mkdir -p /tmp/rootfs/bin /tmp/rootfs/proc /tmp/rootfs/dev /tmp/rootfs/sys && cp /usr/bin/busybox /tmp/rootfs/bin/ && \
                  ln -sf busybox /tmp/rootfs/bin/sh && chmod -R a+rX /tmp/rootfs";
    machine.run(&["sh", "-c", script]);
}

#[test]
fn units_of_a_real_systemd_have_their_names() {
    let Some(systemd) = Systemd::start() else { return };
    systemd.run("systemd-run --unit=jellyfin sleep 7108");
    let machine = machine::Root::live().expect("the root");
    let found = Attributor::new().look(&machine, &[sleeper(7108)]).remove(0);
    assert_eq!(found.owner, OwnedBy::Unit { unit: "jellyfin.service".into(), user: None });
    assert_eq!((found.app.as_deref(), found.command.get().map(String::as_str)), (Some("jellyfin"), Some("sleep")));
}
