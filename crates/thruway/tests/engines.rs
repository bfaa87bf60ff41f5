//! Real engines and what thruway writes for them: loaded, reloaded, verified and taken back.
//!
//! Debian 12's Docker, containerd and Podman in every run; those of Debian 13 and sid, unpacked from the archive into trees
//! of their own (150 MB), in the long form:
//!
//!     cargo test -p thruway --test engines -- --ignored --nocapture
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks at the machine from outside")]
#![allow(clippy::print_stdout, reason = "says what it skips and counts")]

#[path = "common/engines.rs"]
mod engines;

use std::path::{Path, PathBuf};

use engines::{Engines, Programs, cannot};

const DAEMON: &str = "/etc/docker/daemon.json";
/// A file as people have it: their own settings, four spaces, no newline at its end.
const THEIRS: &str = "{\n    \"log-driver\": \"json-file\",\n    \"max-concurrent-downloads\": 2\n}";

/// runc under thruway-runtime's name: what is tested here is what engines make of their configuration.
fn runc() -> Programs {
    Programs { runtime: Some(PathBuf::from("/usr/sbin/runc")), hook: None }
}

fn runtimes(machine: &Engines) -> (Vec<String>, String) {
    let info = machine.docker_info();
    let names = info["Runtimes"].as_object().expect("runtimes").keys().cloned().collect();
    (names, info["DefaultRuntime"].as_str().unwrap_or_default().to_owned())
}

/// What must hold of every Docker: registered, default, `--gpus` known, by the plan's own reload or restart; and back.
fn docker(machine: &Engines, major: u32) {
    machine.write(DAEMON, THEIRS);
    machine.run(&["systemctl", "start", "docker.service"]);
    machine.busybox_image();
    let version = machine.docker_info()["ServerVersion"].as_str().unwrap_or_default().to_owned();
    println!("Docker {version}");
    let run = |args: &[&str]| {
        machine.tried(&[&["docker", "run", "--rm", "--network", "host"], args, &["img", "/bin/env"]].concat())
    };
    let before = run(&["--gpus", "all"]).expect_err("no driver for GPUs yet");
    assert!(before.contains("could not select device driver \"\" with capabilities: [[gpu]]"), "{before}");

    let wish = ["--engine", "docker", "--runtime", "thruway", "--default-runtime"];
    let applied = machine.run(&[&["thruway", "container", "apply", "--yes"], &wish[..]].concat());
    assert!(applied.contains("Applied as change 1"), "{applied}");
    assert!(!applied.contains("✗") && !applied.contains("pending"), "{applied}");
    let (names, default) = runtimes(machine);
    assert!(names.iter().any(|name| name == "nvidia") && default == "nvidia", "{names:?} {default}");
    if major >= 23 {
        machine.run(&["dockerd", "--validate", "--config-file", DAEMON]);
    }
    run(&[]).expect("under the default runtime");
    run(&["--runtime", "nvidia"]).expect("by the runtime's name");
    // dockerd has found the hook by its name: what it sets can be seen. (runc has no `prestart`: the hook itself fails.)
    let asked = run(&["--gpus", "all"]).unwrap_or_else(|text| text);
    assert!(!asked.contains("could not select device driver"), "{asked}");
    if major >= 25 {
        with_box(machine);
        proved(machine, &["--engine", "docker", "--ask", "cdi"]);
        proved(machine, &["--engine", "docker", "--ask", "cdi", "--image", "img"]);
        let device = machine.run(&[
            "docker",
            "run",
            "--rm",
            "--network",
            "host",
            "--device",
            "nvidia.com/gpu=all",
            "img",
            "ls",
            "/dev",
        ]);
        assert!(device.contains("nvidia0") && device.contains("nvidiactl"), "{device}");
    }
    let text = machine.read(DAEMON).expect("written");
    assert!(
        text.starts_with("{\n    \"log-driver\": \"json-file\",\n    \"max-concurrent-downloads\": 2,\n"),
        "{text}"
    );
    let again = machine.run(&[&["thruway", "container", "plan"], &wish[..]].concat());
    assert!(again.contains("Nothing to change") || !again.contains(" 1  "), "{again}");

    machine.run(&["thruway", "undo", "--yes"]);
    assert_eq!(machine.read(DAEMON).as_deref(), Some(THEIRS), "byte for byte");
    assert!(!machine.at("/usr/bin/nvidia-container-runtime-hook").exists());
    let (names, default) = runtimes(machine);
    assert!(!names.iter().any(|name| name == "nvidia") && default == "runc", "{names:?} {default}");
}

/// The simulated NVML reads its box beside itself: a spec of a real driver needs no such mount.
fn with_box(machine: &Engines) {
    const SPEC: &str = "/run/cdi/nvidia.com-gpu.json";
    let text = machine.read(SPEC).expect("the service wrote it");
    // It would write the spec as it should be.
    machine.run(&["systemctl", "stop", "thruway-cdi-refresh.service"]);
    let mut spec: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mounts = spec["containerEdits"]["mounts"].as_array_mut().expect("mounts");
    let dir = |mount: &serde_json::Value| {
        let (dir, name) = mount["containerPath"].as_str()?.rsplit_once('/')?;
        (name.starts_with("libnvidia-ml.so") || name.starts_with("libcuda.so")).then(|| dir.to_owned())
    };
    let dirs: std::collections::BTreeSet<String> = mounts.iter().filter_map(dir).collect();
    assert!(!dirs.is_empty(), "NVML's library is in the spec");
    for dir in dirs {
        mounts.push(serde_json::json!({
            "hostPath": "/usr/lib/x86_64-linux-gnu/thruway-sim", "containerPath": format!("{dir}/thruway-sim"),
            "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]
        }));
    }
    machine.write(SPEC, &spec.to_string());
}

/// `container test` says yes, step by step, and leaves nothing.
fn proved(machine: &Engines, args: &[&str]) {
    proved_as(machine, &[], args);
}

/// As whom: words before the command.
fn proved_as(machine: &Engines, whom: &[&str], args: &[&str]) {
    let output = machine.output(&[whom, &["thruway", "--json", "container", "test", "--for", "1"], args].concat());
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"));
    println!("{}", report["command"].as_str().unwrap_or_default());
    let steps = report["steps"].as_array().expect("steps");
    for step in steps {
        assert_eq!(step["state"], "held", "{text}\n{}", machine.logs());
    }
    assert_eq!((steps.len(), output.status.code()), (6, Some(0)), "{text}");
    let nvml = steps[3]["says"].as_str().expect("words");
    assert!(nvml.contains("GeForce GT 1030"), "{nvml}");
}

#[test]
fn podman_of_debian_12_has_the_card_by_cdi() {
    if let Some(why) = cannot(&["podman", "crun", "conmon", "busybox", "unshare", "nsenter"]) {
        println!("SKIP: {why}");
        return;
    }
    let machine = Engines::new(Path::new("/"), &runc());
    // Without a spec the test says so, in the doctor's words.
    let output = machine.output(&["thruway", "container", "test", "--engine", "podman"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("✗ the engine accepts the request") && text.contains("thruway container plan"), "{text}");
    machine.run(&["thruway", "container", "apply", "--yes", "--engine", "podman"]);
    with_box(&machine);
    proved(&machine, &["--engine", "podman"]);
    let left = machine.run(&["podman", "ps", "--all", "--quiet"]) + &machine.run(&["podman", "images", "--quiet"]);
    assert_eq!(left.trim(), "", "nothing is left behind");
}

#[test]
fn docker_of_debian_12() {
    if let Some(why) = cannot(&["dockerd", "docker", "runc", "busybox", "unshare", "nsenter"]) {
        println!("SKIP: {why}");
        return;
    }
    docker(&Engines::new(Path::new("/"), &runc()), 20);
}

/// `docker run --rm --gpus all IMAGE thruway smi`, with the default runtime and without: through thruway's shim, and through
/// its prestart hook under plain runc.
fn seed(machine: &Engines, defaults: &[bool]) {
    machine.run(&["systemctl", "start", "docker.service"]);
    println!("the seed's line by Docker {}", machine.docker_info()["ServerVersion"].as_str().unwrap_or_default());
    machine.seed_image();
    let line = |args: &[&str], command: &[&str]| {
        machine.tried(&[&["docker", "run", "--rm", "--network", "host"], args, &["seed"], command].concat())
    };
    for default in defaults {
        let default = *default;
        let mut wish = vec!["thruway", "container", "apply", "--yes", "--engine", "docker", "--runtime", "thruway"];
        wish.extend(default.then_some("--default-runtime"));
        machine.run(&wish);
        with_box(machine);
        assert_eq!(runtimes(machine).1, if default { "nvidia" } else { "runc" });
        let table =
            line(&["--gpus", "all"], &["thruway", "smi"]).unwrap_or_else(|text| panic!("{text}\n{}", machine.logs()));
        assert!(table.contains("GeForce GT 1030") && table.contains("simulated"), "{table}");
        if default {
            println!("{table}");
        }
        let bare = line(&[], &["ls", "/dev"]).expect("a container that asks for nothing");
        assert!(!bare.contains("nvidia"), "{bare}");
        proved(machine, &["--engine", "docker", "--ask", "gpus"]);
        machine.run(&["thruway", "undo", "--yes"]);
    }
}

/// thruway's own runtime and hook, as the workspace's build has them.
fn own() -> Result<Programs, String> {
    let (runtime, hook) = (engines::built("thruway-runtime"), engines::built("thruway-hook"));
    match (&runtime, &hook) {
        (Some(_), Some(_)) => Ok(Programs { runtime, hook }),
        _ => Err("thruway-runtime and thruway-hook are not built (cargo build --workspace)".into()),
    }
}

#[test]
fn the_seeds_line_on_debian_12() {
    match (cannot(&["dockerd", "docker", "runc", "busybox", "unshare", "nsenter"]), own()) {
        (Some(why), _) | (None, Err(why)) => println!("SKIP: {why}"),
        (None, Ok(programs)) => seed(&Engines::new(Path::new("/"), &programs), &[true, false]),
    }
}

#[test]
fn containerd_of_debian_12_has_the_card_by_the_runtime() {
    match (cannot(&["containerd", "ctr", "runc", "busybox", "unshare", "nsenter"]), own()) {
        (Some(why), _) | (None, Err(why)) => println!("SKIP: {why}"),
        (None, Ok(programs)) => {
            let machine = Engines::new(Path::new("/"), &programs);
            machine.run(&["systemctl", "start", "containerd.service"]);
            machine.run(&["thruway", "container", "apply", "--yes", "--engine", "containerd", "--runtime", "thruway"]);
            with_box(&machine);
            proved(&machine, &["--engine", "containerd"]);
            let left = machine.run(&["ctr", "namespaces", "ls", "-q"]);
            assert!(!left.contains("thruway"), "{left}");
        }
    }
}

#[test]
fn rootless_podman_has_the_card_by_cdi() {
    let why = cannot(&["podman", "runc", "newuidmap", "conmon", "setpriv", "busybox", "unshare", "nsenter"]);
    if let Some(why) = why {
        println!("SKIP: {why}");
        return;
    }
    let machine = Engines::new(Path::new("/"), &runc());
    machine.run(&["thruway", "container", "apply", "--yes", "--engine", "podman"]);
    with_box(&machine);
    machine.user();
    let ann = [
        "setpriv",
        "--reuid",
        "4242",
        "--regid",
        "4242",
        "--clear-groups",
        "busybox",
        "env",
        "HOME=/home/ann",
        "USER=ann",
        "XDG_RUNTIME_DIR=/run/user/4242",
    ];
    proved_as(&machine, &ann, &["--engine", "podman"]);
}

#[test]
#[ignore = "downloads 150 MB of Debian 13 and sid"]
fn the_seeds_line_on_newer_ones() {
    for suite in ["trixie", "sid"] {
        match (engines::tree(suite, NEWER), own()) {
            (Err(why), _) | (_, Err(why)) => println!("SKIP: {why}"),
            (Ok(base), Ok(programs)) => seed(&Engines::new(&base, &programs), &[true, false]),
        }
    }
}

const NEWER: &[&str] = &["docker.io", "docker-cli", "containerd", "runc", "crun"];

/// Runs it over another suite's tree, where that can be had.
fn over(suite: &str, test: impl FnOnce(&Engines)) {
    if let Some(why) = cannot(&["apt-get", "dpkg", "busybox", "unshare", "nsenter"]) {
        println!("SKIP: {why}");
        return;
    }
    match engines::tree(suite, NEWER) {
        Err(why) => println!("SKIP: {why}"),
        Ok(base) => {
            let runtime = Some(base.join("usr/sbin/runc")).filter(|path| path.exists());
            let programs = Programs { runtime: runtime.or(Some(base.join("usr/bin/runc"))), hook: None };
            test(&Engines::new(&base, &programs));
        }
    }
}

#[test]
#[ignore = "downloads 75 MB of Debian 13"]
fn docker_of_debian_13() {
    over("trixie", |machine| docker(machine, 26));
}

#[test]
#[ignore = "downloads 76 MB of sid"]
fn docker_of_sid() {
    over("sid", |machine| docker(machine, 28));
}

/// containerd with a file as its package or its user left it: loaded, by its own reading with our runtime and without loss,
/// and back.
fn containerd(machine: &Engines, file: Option<&str>, cdi: bool) {
    const CONFIG: &str = "/etc/containerd/config.toml";
    let _ = std::fs::remove_file(machine.at(CONFIG));
    if let Some(file) = file {
        machine.write(CONFIG, file);
    }
    machine.run(&["systemctl", "restart", "containerd.service"]);
    let version = machine.run(&["containerd", "--version"]);
    println!("{} over {}", version.trim(), file.map_or("no file", |_| "a file of the user's"));
    let before = dump(machine);
    let wish = ["--engine", "containerd", "--runtime", "thruway", "--default-runtime"];
    let applied = machine.run(&[&["thruway", "container", "apply", "--yes"], &wish[..]].concat());
    assert!(applied.contains("containerd knows the runtime nvidia"), "{applied}");
    let after = dump(machine);
    let binary = |name: &str| after.runtimes.iter().find(|(known, _)| known == name).map(|(_, binary)| binary.clone());
    assert_eq!(binary("nvidia"), Some(Some("/usr/bin/thruway-runtime".into())), "{:?}", after.runtimes);
    assert_eq!(after.default_runtime.as_deref(), Some("nvidia"));
    for (name, _) in &before.runtimes {
        assert!(after.runtimes.iter().any(|(known, _)| known == name), "{name} was lost: {:?}", after.runtimes);
    }
    if cdi {
        assert!(after.enable_cdi.is_some_and(|(on, _)| on), "{applied}");
    }
    let words = machine.run(&["containerd", "config", "dump"]);
    if file.is_some_and(|file| file.contains("example.test/pause")) {
        assert!(words.contains("example.test/pause:1"), "the user's own settings were lost:\n{words}");
    }
    // The daemon came up with it, its CRI plugin too.
    let log = machine.read("/var/log/containerd.log").unwrap_or_default();
    let last = log.rsplit_once("starting containerd").map_or(log.as_str(), |(_, last)| last);
    let bad = last.lines().find(|line| line.contains("io.containerd.grpc.v1.cri") && line.contains("failed to load"));
    let bad = bad.or_else(|| last.lines().find(|line| line.contains("invalid plugin config")));
    assert_eq!(bad, None);
    machine.run(&["thruway", "undo", "--yes"]);
    assert_eq!(machine.read(CONFIG).as_deref(), file, "byte for byte");
    assert_eq!(dump(machine).runtimes, before.runtimes);
}

fn dump(machine: &Engines) -> formats::containerdtoml::ContainerdToml {
    let output = machine.output(&["containerd", "config", "dump"]);
    formats::containerdtoml::ContainerdToml::parse(&output.stdout).expect("containerd's own TOML")
}

/// Settings of their own, an unknown runtime, the cgroup driver, comments.
const TWO: &str = "# theirs\nversion = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \
                   \"example.test/pause:1\" # mirror\n    restrict_oom_score_adj = true\n    \
                   [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n      runtime_type = \
                   \"io.containerd.runc.v2\"\n      [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n        \
                   SystemdCgroup = false\n    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\n      \
                   runtime_type = \"io.containerd.kata.v2\"\n";
const ONE: &str = "[plugins.cri]\n  sandbox_image = \"example.test/pause:1\"\n";
const THREE: &str =
    "version = 3\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = 'example.test/pause:1'\n";

#[test]
fn containerd_of_debian_12() {
    if let Some(why) = cannot(&["containerd", "runc", "busybox", "unshare", "nsenter"]) {
        println!("SKIP: {why}");
        return;
    }
    containerd(&Engines::new(Path::new("/"), &runc()), Some(TWO), false);
}

#[test]
#[ignore = "a minute"]
fn containerd_of_debian_12_over_other_files() {
    let machine = Engines::new(Path::new("/"), &runc());
    for file in [None, Some(ONE)] {
        containerd(&machine, file, false);
    }
}

#[test]
#[ignore = "downloads 75 MB of Debian 13"]
fn containerd_of_debian_13() {
    over("trixie", |machine| {
        for file in [None, Some(TWO), Some(ONE)] {
            containerd(machine, file, true);
        }
    });
}

#[test]
#[ignore = "downloads 76 MB of sid"]
fn containerd_of_sid() {
    over("sid", |machine| {
        for file in [None, Some(TWO), Some(THREE)] {
            containerd(machine, file, true);
        }
    });
}
