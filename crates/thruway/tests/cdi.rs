//! `thruway cdi` over laid-out drivers: flags, listing and judging, the generated files by themselves and while things happen.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs the program")]

mod common;
#[path = "../../simdriver/tests/common/nvml.rs"]
mod nvml;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{stderr, stdout};
use formats::cdispec::{self, Form, Spec};
use simcards::view::View;
use simdriver::{Built, Laid, Layout, lay};

struct Machine {
    laid: Laid,
    _folder: tempfile::TempDir,
}

/// `None`, and why, where device nodes cannot be made.
fn machine(name: &str, layout: Layout) -> Option<Machine> {
    let folder = tempfile::tempdir().expect("a directory");
    let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
    let laid = lay(folder.path(), View::named(name).expect("a box"), layout, &Built(deps)).expect("lays out");
    if !laid.missing_nodes.is_empty() {
        println!("SKIP: only root can make device nodes");
        return None;
    }
    Some(Machine { laid, _folder: folder })
}

impl Machine {
    fn root(&self) -> &Path {
        &self.laid.root
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
        command.args(["cdi"]).args(args).arg("--root").arg(self.root());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("runs")
    }

    fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    fn spec(&self, args: &[&str]) -> Spec {
        cdispec::parse(self.done(args).as_bytes(), Form::Json).expect("a spec")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    fn put(&self, path: &str, text: &str) {
        let place = self.at(path);
        std::fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        std::fs::write(place, text).expect("writes");
    }

    fn written(&self) -> Option<Spec> {
        let bytes = std::fs::read(self.at("/var/run/cdi/nvidia.com-gpu.json")).ok()?;
        Some(cdispec::parse(&bytes, Form::Json).expect("whole"))
    }
}

fn names(spec: &Spec) -> BTreeSet<&str> {
    spec.devices.iter().map(|device| device.name.as_str()).collect()
}

fn mounts(spec: &Spec) -> BTreeSet<&str> {
    spec.container_edits.mounts.iter().map(|mount| mount.container_path.as_str()).collect()
}

const PROMISE: &str = "/var/lib/thruway/ledger/0000:43:00.0.json";

fn promise() -> String {
    r#"{"form":1,"gpu":{"bdf":"0000:43:00.0","id":"10de:2330","subsystem":null,"uuid":"GPU-51a51a51-2330-4000-8000-000000000001"},"name":"H100","to":"vm:100"}"#.to_owned()
}

#[test]
fn the_flags_that_people_know() {
    let Some(machine) = machine("h100x8", Layout::Ubuntu) else { return };
    let hook = ["--hook", "/usr/bin/thruway-hook"];
    let spec =
        machine.spec(&["generate", "--device-name-strategy", "type-index", "--no-all-device", "--device-id", "3"]);
    assert_eq!(names(&spec), BTreeSet::from(["gpu3"]));
    assert_eq!(spec.cdi_version, "0.3.0", "no name begins with a digit");
    let spec = machine.spec(&["generate", "--vendor", "example.com", "--class", "card", "--device-id", "0"]);
    assert_eq!(spec.kind, "example.com/card");
    let output = machine.run(&["generate", "--device-id", "9"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no device is called \"9\"; there are 0, 1, 2"), "{}", stderr(&output));
    let few = machine.spec(&["generate", "--capabilities", "utility", hook[0], hook[1]]);
    let files: Vec<&str> = mounts(&few).into_iter().filter(|path| path.starts_with("/usr/lib/x86")).collect();
    assert!(
        files
            .iter()
            .all(|path| path.contains("libnvidia-ml") || path.contains("-cfg") || path.contains("sandboxutils")),
        "{files:?}"
    );
    assert!(files.len() >= 3);
    let twins = machine.spec(&["generate", "--capabilities", "compat32", hook[0], hook[1]]);
    assert!(
        mounts(&twins).iter().all(|path| path.starts_with("/usr/lib/i386-linux-gnu/")) && mounts(&twins).len() > 15
    );
    let output = machine.run(&["generate", "--capabilities", "teapot"]);
    assert!(stderr(&output).contains("\"teapot\" is no capability"), "{}", stderr(&output));
    // the same in YAML, by the output's name
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("nvidia.yaml");
    machine.done(&["generate", "--output", &path.to_string_lossy(), hook[0], hook[1]]);
    assert_eq!(std::fs::metadata(&path).expect("is there").mode() & 0o777, 0o644);
    let yaml = cdispec::parse(&std::fs::read(&path).expect("reads"), Form::Yaml).expect("is YAML");
    assert_eq!(yaml, machine.spec(&["generate", hook[0], hook[1]]));
    let off = machine.spec(&["generate", hook[0], hook[1], "--disable-hook", "all"]);
    assert!(off.container_edits.hooks.is_empty());
    assert!(machine.spec(&["generate", "--hook", "none"]).container_edits.hooks.is_empty());
    // with the hook a library is one mount
    let one = mounts(&yaml).iter().filter(|path| path.contains("/libcuda.so")).count();
    assert_eq!(one, 2, "64 bits and 32: {:?}", mounts(&yaml));
}

#[test]
fn a_driver_with_a_root_of_its_own() {
    let Some(machine) = machine("rtx3090", Layout::Container) else { return };
    // as the host sees it: the driver's root below /run/nvidia/driver, its kernel's /proc and /sys at the host's
    let host = machine.root().parent().and_then(Path::parent).and_then(Path::parent).expect("the host's root");
    for name in ["proc", "sys"] {
        std::fs::rename(machine.root().join(name), host.join(name)).expect("moves");
    }
    let run = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_thruway")).args(["--root"]).arg(host).arg("cdi").args(args).output();
        let output = output.expect("runs");
        assert!(output.status.success(), "{}", stderr(&output));
        cdispec::parse(stdout(&output).as_bytes(), Form::Json).expect("a spec")
    };
    // its nodes are in its own /dev; on the host there are none
    std::fs::create_dir_all(host.join("dev")).expect("a folder");
    for entry in std::fs::read_dir(machine.root().join("dev")).expect("lists").flatten() {
        std::fs::rename(entry.path(), host.join("dev").join(entry.file_name())).expect("moves");
    }
    let spec = run(&["generate", "--driver-root", "/run/nvidia/driver", "--hook", "/usr/bin/thruway-hook"]);
    let all = &spec.container_edits.mounts;
    assert!(all.len() > 40 && all.iter().all(|mount| mount.host_path.starts_with("/run/nvidia/driver/")), "{all:#?}");
    let cuda = all.iter().find(|mount| mount.container_path == "/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04");
    assert_eq!(cuda.expect("is there").host_path, "/run/nvidia/driver/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04");
    let spec = run(&["generate", "--driver-root", "/run/nvidia/driver", "--dev-root", "/host"]);
    let node = &spec.container_edits.device_nodes;
    assert!(node.is_empty(), "no node is below /host: {node:?}");
    let device = &spec.devices[0].container_edits.device_nodes[0];
    assert_eq!((device.path.as_str(), device.host_path.as_deref()), ("/dev/nvidia0", Some("/host/dev/nvidia0")));
}

#[test]
fn wsl_and_a_jetson() {
    let folder = tempfile::tempdir().expect("a directory");
    let made = simdriver::lay_wsl(folder.path()).expect("lays out");
    let tegra = tempfile::tempdir().expect("a directory");
    if !made || !simdriver::lay_tegra(tegra.path()).expect("lays out") {
        println!("SKIP: only root can make device nodes");
        return;
    }
    let run = |root: &Path, args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_thruway")).args(["cdi"]).args(args).arg("--root").arg(root).output();
        let output = output.expect("runs");
        assert!(output.status.success(), "{}", stderr(&output));
        (cdispec::parse(stdout(&output).as_bytes(), Form::Json).expect("a spec"), stderr(&output))
    };
    let (spec, _) = run(folder.path(), &["generate", "--hook", "/usr/bin/thruway-hook"]);
    assert_eq!(names(&spec), BTreeSet::from(["all"]));
    assert_eq!(spec.devices[0].container_edits.device_nodes[0].path, "/dev/dxg");
    let store = "/usr/lib/wsl/drivers/nv_dispi.inf_amd64_0123456789abcdef";
    let wanted = ["libcuda.so.1.1", "libnvidia-ml.so.1", "nvcubins.bin", "nvidia-smi", "nvngx.dll", "libnvwgf2umx.so"];
    for name in wanted {
        assert!(mounts(&spec).contains(format!("{store}/{name}").as_str()), "{name}");
    }
    assert!(!mounts(&spec).iter().any(|path| path.ends_with(".inf") || path.contains("iigd")), "{:?}", mounts(&spec));
    assert!(mounts(&spec).contains("/usr/lib/wsl/lib/libdxcore.so"));
    let args = &spec.container_edits.hooks[0].args;
    assert!(args.contains(&format!("{store}/nvidia-smi::/usr/bin/nvidia-smi")), "{args:?}");
    assert!(args.contains(&format!("libcuda.so.1.1::{store}/libcuda.so.1")), "{args:?}");

    let (spec, notes) = run(tegra.path(), &["generate", "--hook", "/usr/bin/thruway-hook"]);
    assert_eq!(names(&spec), BTreeSet::from(["0", "all"]));
    let nodes: Vec<&str> = spec.devices[0].container_edits.device_nodes.iter().map(|node| node.path.as_str()).collect();
    assert_eq!(nodes, ["/dev/nvhost-as-gpu", "/dev/nvhost-ctrl-gpu", "/dev/nvmap"]);
    assert_eq!(spec.devices[0].container_edits.additional_gids, [44]);
    assert!(mounts(&spec).contains("/usr/lib/aarch64-linux-gnu/nvidia/libnvrm_mem.so"));
    assert!(
        notes.contains("/dev/not-there is not there") && notes.contains("\"nonsense\" is not \"kind, /path\""),
        "{notes}"
    );
    let link = "libcuda.so.1.1::/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so".to_owned();
    assert!(spec.container_edits.hooks[0].args.contains(&link));
    let (spec, _) =
        run(tegra.path(), &["generate", "--csv.ignore-pattern", "/usr/lib/aarch64-linux-gnu/nvidia/libnvrm*"]);
    assert!(!mounts(&spec).iter().any(|path| path.contains("libnvrm")));
}

#[test]
fn the_sets_that_must_be_asked_for() {
    let Some(machine) = machine("h100-mig", Layout::Ubuntu) else { return };
    let node = |name: &str, numbers: &str| {
        let place = machine.at(&format!("/dev/{name}"));
        std::fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        let (major, minor) = numbers.split_once(':').expect("numbers");
        assert!(Command::new("mknod").arg(&place).args(["c", major, minor]).status().expect("runs").success());
    };
    for mode in ["imex", "gds", "gdrcopy", "mofed", "nvswitch"] {
        let output = machine.run(&["generate", "--mode", mode]);
        assert_eq!(output.status.code(), Some(2), "{mode}");
        assert!(stderr(&output).contains("is not on this machine"), "{mode}: {}", stderr(&output));
    }
    for (name, numbers) in [
        ("nvidia-caps-imex-channels/channel0", "242:0"),
        ("nvidia-caps-imex-channels/channel7", "242:7"),
        ("nvidia-fs0", "505:0"),
        ("gdrdrv", "506:0"),
        ("infiniband/uverbs0", "231:192"),
        ("infiniband/rdma_cm", "10:58"),
        ("nvidia-nvswitchctl", "239:255"),
        ("nvidia-nvswitch0", "239:0"),
    ] {
        node(name, numbers);
    }
    machine.put("/etc/cufile.json", "{}");
    for (mode, kind, devices, nodes) in [
        ("imex", "nvidia.com/imex-channel", vec!["0", "7"], 2),
        ("gds", "nvidia.com/gds", vec!["all"], 1),
        ("gdrcopy", "nvidia.com/gdrcopy", vec!["all"], 1),
        ("mofed", "nvidia.com/mofed", vec!["all"], 2),
        ("nvswitch", "nvidia.com/nvswitch", vec!["all"], 2),
    ] {
        let spec = machine.spec(&["generate", "--mode", mode]);
        assert_eq!(spec.kind, kind);
        assert_eq!(spec.problems(), Vec::<String>::new(), "{mode}");
        assert_eq!(names(&spec), devices.into_iter().collect(), "{mode}");
        let found: usize = spec.devices.iter().map(|device| device.container_edits.device_nodes.len()).sum();
        assert_eq!(found, nodes, "{mode}");
        assert!(spec.container_edits.device_nodes.is_empty());
    }
    assert!(mounts(&machine.spec(&["generate", "--mode", "gds"])).contains("/etc/cufile.json"));
    let spec = machine.spec(&["generate", "--mode", "management", "--hook", "/usr/bin/thruway-hook"]);
    assert_eq!((spec.kind.as_str(), names(&spec)), ("management.nvidia.com/gpu", BTreeSet::from(["all"])));
    let all: Vec<&str> = spec.devices[0].container_edits.device_nodes.iter().map(|node| node.path.as_str()).collect();
    for wanted in
        ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps-imex-channels/channel7"]
    {
        assert!(all.contains(&wanted), "{wanted}: {all:?}");
    }
    assert!(!all.iter().any(|path| path.contains("nvidia-fs") || path.contains("nvswitch")), "{all:?}");
    assert!(!spec.container_edits.hooks[0].args.contains(&"--guard-params".to_owned()));
}

#[test]
fn a_card_that_is_cut_is_its_parts() {
    let Some(machine) = machine("h100-mig", Layout::Ubuntu) else { return };
    let output = machine.run(&["generate"]);
    assert!(stderr(&output).contains("MIG is on for every card"), "no NVML answers here: {}", stderr(&output));
    nvml::answer(&machine.laid, View::named("h100-mig").expect("a box"));
    let spec = machine.spec(&["generate"]);
    let parts: Vec<&str> = names(&spec).into_iter().filter(|name| name.contains(':')).collect();
    assert_eq!(parts, ["0:0", "0:1", "0:2", "0:3"]);
    assert!(!names(&spec).contains("0"), "no whole card");
    let uuids = names(&spec).into_iter().filter(|name| name.starts_with("MIG-")).count();
    assert_eq!(uuids, 4);
    let first = spec.devices.iter().find(|device| device.name == "0:0").expect("is there");
    let nodes: Vec<&str> = first.container_edits.device_nodes.iter().map(|node| node.path.as_str()).collect();
    // gi 1 of card 0: 12 and 13 in the driver's own list
    assert_eq!(nodes, ["/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps/nvidia-cap13"]);
}

#[test]
fn what_is_wrong_with_specs_is_said_with_its_fix() {
    let Some(machine) = machine("h100x8", Layout::Ubuntu) else { return };
    machine.done(&["refresh"]);
    let ours = "/var/run/cdi/nvidia.com-gpu.json";
    assert!(machine.done(&["check"]).contains("all true of this machine"));
    let text = std::fs::read_to_string(machine.at(ours)).expect("reads");
    let found = |wanted: &[&str]| {
        let output = machine.run(&["check"]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        for wanted in wanted {
            assert!(stdout(&output).contains(wanted), "no {wanted:?} in\n{}", stdout(&output));
        }
    };
    // another generator, the same directory: nobody gets a card
    machine.put("/var/run/cdi/nvidia.json", &text);
    found(&["nvidia.com/gpu=0 stands in", "so engines give it to no container", "rm /var/run/cdi/nvidia.json"]);
    let listed = machine.run(&["list", "--json"]);
    assert_eq!(listed.status.code(), Some(1));
    assert!(stdout(&listed).contains("\"conflict\": \"/var/run/cdi/nvidia"), "{}", stdout(&listed));
    let output = machine.run(&["refresh"]);
    assert!(stderr(&output).contains("/var/run/cdi/nvidia.json defines GPUs as well"), "{}", stderr(&output));
    assert!(machine.at("/var/run/cdi/nvidia.json").exists(), "another's file is left alone");
    std::fs::remove_file(machine.at("/var/run/cdi/nvidia.json")).expect("removes");
    // a lower directory: hidden, with numbers of another boot
    let uvm = r#"{ "path": "/dev/nvidia-uvm", "major": 511, "minor": 0 }"#;
    let frozen = format!(
        r#"{{"cdiVersion":"1.1.0","kind":"nvidia.com/gpu","devices":[{{"name":"0","containerEdits":{{"deviceNodes":[{uvm}]}}}}],
        "containerEdits":{{"mounts":[{{"hostPath":"/usr/lib/libcuda.so.470.1.2","containerPath":"/x"}},{{"hostPath":"/gone","containerPath":"/y"}}]}}}}"#
    );
    machine.put("/etc/cdi/nvidia.json", &frozen);
    found(&[
        "nvidia.com/gpu=0 is hidden by /var/run/cdi/nvidia.com-gpu.json",
        "/dev/nvidia-uvm is written as 511:0 and is 238:0 now",
        "is of driver 470.1.2; 580.159.04 runs",
        "/gone is not there",
        "it says cdiVersion 1.1.0 and needs 0.5.0 only",
    ]);
    machine.put("/etc/cdi/nvidia.json", "{\n \"cdiVersion\": \"0.5.0\",\n \"nonsense\": 1 }");
    found(&["/etc/cdi/nvidia.json:3", "it is no CDI spec"]);
    machine.put("/etc/cdi/nvidia.json", &text.replace("\"0.5.0\"", "\"0.3.0\""));
    found(&["engines refuse it: cdiVersion 0.3.0 is too low"]);
}

#[test]
fn a_spec_is_moved_to_another_root() {
    let spec = r#"{"cdiVersion":"0.3.0","kind":"a.b/c","devices":[{"name":"x","containerEdits":{"deviceNodes":[{"path":"/dev/x"}]}}],
        "containerEdits":{"mounts":[{"hostPath":"/driver/lib/a","containerPath":"/lib/a"},{"hostPath":"/drivers/b","containerPath":"/b"}]}}"#;
    let mut child = Command::new(env!("CARGO_BIN_EXE_thruway"))
        .args(["cdi", "transform", "root", "--from", "/driver", "--to", "/host"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    child.stdin.take().expect("a pipe").write_all(spec.as_bytes()).expect("writes");
    let output = child.wait_with_output().expect("ends");
    let moved = cdispec::parse(stdout(&output).as_bytes(), Form::Json).expect("a spec");
    let hosts: Vec<&str> = moved.container_edits.mounts.iter().map(|mount| mount.host_path.as_str()).collect();
    assert_eq!(hosts, ["/host/lib/a", "/drivers/b"]);
}

#[test]
fn a_refresh_touches_only_what_changed() {
    let Some(machine) = machine("h100x8", Layout::Ubuntu) else { return };
    let would = machine.done(&["refresh", "--dry-run"]);
    assert!(would.starts_with("would have: wrote ") && machine.written().is_none(), "{would}");
    std::fs::remove_file(machine.at("/dev/nvidia-uvm")).expect("removes");
    let made = machine.done(&["refresh", "--create-nodes", "--dev-char-links"]);
    assert!(made.contains("made /dev/nvidia-uvm, /dev/char/"), "{made}");
    let meta = std::fs::metadata(machine.at("/dev/nvidia-uvm")).expect("is there");
    assert_eq!((meta.rdev(), meta.mode() & 0o777), (rustix::fs::makedev(238, 0), 0o666));
    let link = std::fs::read_link(machine.at("/dev/char/195:0")).expect("a link");
    assert_eq!(link, Path::new("../nvidia0"));
    let dir = machine.at("/var/run/cdi");
    let inodes = || -> Vec<(String, u64)> {
        let mut found: Vec<(String, u64)> = std::fs::read_dir(&dir)
            .expect("lists")
            .flatten()
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.metadata().expect("is there").ino()))
            .collect();
        found.sort();
        found
    };
    let before = inodes();
    assert_eq!(before.len(), 8, "{before:?}");
    assert_eq!(machine.done(&["refresh", "--create-nodes", "--dev-char-links"]), "nothing to do\n");
    assert_eq!(inodes(), before, "what is right is not written again");
    let json = std::fs::read_to_string(machine.at("/run/thruway/driver.json")).expect("is there");
    assert!(
        json.starts_with(r#"{"schema":1,"driver":"580.159.04","cuda":"13.0","gpus":[{"index":0,"uuid":"GPU-"#),
        "{json}"
    );
    for name in ["thruway.dev-utility.json", "thruway.dev-compat32.json"] {
        let spec = cdispec::parse(&std::fs::read(dir.join(name)).expect("reads"), Form::Json).expect("a spec");
        assert_eq!(spec.problems(), Vec::<String>::new());
        assert!(names(&spec).contains("all") && !spec.container_edits.device_nodes.is_empty(), "complete in itself");
    }
    // a card that a VM was promised leaves, and comes back
    machine.put(PROMISE, &promise());
    let output = machine.run(&["refresh"]);
    assert!(
        stderr(&output).contains("43:00.0") && stderr(&output).contains("is promised to vm:100"),
        "{}",
        stderr(&output)
    );
    assert!(!names(&machine.written().expect("a spec")).contains("1"), "{}", stderr(&output));
    std::fs::remove_file(machine.at(PROMISE)).expect("removes");
    machine.done(&["refresh"]);
    assert!(names(&machine.written().expect("a spec")).contains("1"));
    // the driver goes
    std::fs::remove_dir_all(machine.at("/proc/driver/nvidia")).expect("removes");
    std::fs::remove_dir_all(machine.at("/sys/module/nvidia")).expect("removes");
    machine.put("/var/run/cdi/other.json", "{}");
    let output = machine.run(&["refresh"]);
    assert!(
        output.status.success() && stderr(&output).contains("NVIDIA's kernel driver does not run"),
        "{}",
        stderr(&output)
    );
    let left: Vec<String> = inodes().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["other.json"]);
    assert!(!machine.at("/run/thruway/driver.json").exists());
}

struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, limit: Duration, is_so: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = start.elapsed();
    println!("{what}: {} ms", took.as_millis());
    took
}

#[test]
fn the_spec_follows_what_happens() {
    let Some(machine) = machine("h100x8", Layout::Ubuntu) else { return };
    let mig = self::machine("h100-mig", Layout::Ubuntu).expect("as the first");
    // before the driver is loaded
    let hidden = machine.at("/hidden");
    std::fs::create_dir(&hidden).expect("a folder");
    std::fs::rename(machine.at("/proc/driver/nvidia"), hidden.join("proc")).expect("moves");
    std::fs::rename(machine.at("/sys/module/nvidia"), hidden.join("module")).expect("moves");
    std::fs::create_dir_all(machine.at("/var/lib/thruway/ledger")).expect("a folder");
    let socket = machine.at("/notify");
    let notified = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    notified.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let child = machine
        .command(&["refresh", "--watch", "--every", "1"])
        .env("NOTIFY_SOCKET", &socket)
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut watching = Watching(child);
    let mut word = [0; 64];
    let length = notified.recv(&mut word).expect("systemd is told");
    assert!(word[..length].starts_with(b"READY=1"));
    assert!(machine.written().is_none(), "no driver, no spec");
    let limit = Duration::from_secs(8);
    let has = |name: &'static str| machine.written().is_some_and(|spec| names(&spec).contains(name));

    std::fs::rename(hidden.join("module"), machine.at("/sys/module/nvidia")).expect("moves");
    std::fs::rename(hidden.join("proc"), machine.at("/proc/driver/nvidia")).expect("moves");
    until("driver loaded → spec", limit, || has("7"));
    std::thread::sleep(Duration::from_millis(900));
    machine.put(PROMISE, &promise());
    until("card promised to a VM → out of the spec", limit, || !has("1") && has("0"));
    std::fs::remove_file(machine.at(PROMISE)).expect("removes");
    until("promise taken back → in the spec", limit, || has("1"));
    // the seventh card falls off the bus
    let card = "/proc/driver/nvidia/gpus/0000:df:00.0";
    std::fs::rename(machine.at(card), hidden.join("card")).expect("moves");
    until("card unplugged → out of the spec", limit, || !has("7") && has("6"));
    std::fs::rename(hidden.join("card"), machine.at(card)).expect("moves");
    until("card plugged in → in the spec", limit, || has("7"));
    // bound to vfio-pci
    let driver = machine.at("/sys/bus/pci/devices/0000:1b:00.0/driver");
    std::fs::remove_file(&driver).expect("removes");
    symlink("../../drivers/vfio-pci", &driver).expect("a link");
    until("card bound to vfio-pci → out of the spec", limit, || {
        names(&machine.written().unwrap_or_default()).len() == 15
    });
    std::fs::remove_file(&driver).expect("removes");
    symlink("../../drivers/nvidia", &driver).expect("a link");
    until("card back → in the spec", limit, || has("7") && names(&machine.written().unwrap_or_default()).len() == 17);
    // somebody deletes it
    std::fs::remove_file(machine.at("/var/run/cdi/nvidia.com-gpu.json")).expect("removes");
    until("spec deleted → written again", limit, || has("0"));
    // cut by MIG: the driver's listing appears, NVML tells the parts
    nvml::answer(&mig.laid, View::named("h100-mig").expect("a box"));
    let kill = |child: &Child| {
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("runs").success());
    };
    kill(&watching.0);
    let status = watching.0.wait().expect("ends");
    assert!(status.success(), "{status:?}");
    let errors = BufReader::new(watching.0.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    let errors: Vec<String> = errors.collect();
    assert!(errors.iter().any(|line| line.contains("is promised to vm:100")), "{errors:#?}");

    // MIG: a card that is whole, then cut
    let listing = mig.at("/proc/driver/nvidia/capabilities/gpu0");
    let aside = mig.at("/gpu0");
    std::fs::rename(&listing, &aside).expect("moves");
    let mut watching =
        Watching(mig.command(&["refresh", "--watch", "--every", "1"]).stderr(Stdio::null()).spawn().expect("runs"));
    let has = |name: &'static str| mig.written().is_some_and(|spec| names(&spec).contains(name));
    until("first spec of a whole card", limit, || has("0"));
    std::fs::rename(&aside, &listing).expect("moves");
    until("card cut by MIG → its parts", limit, || has("0:3") && !has("0"));
    kill(&watching.0);
    assert!(watching.0.wait().expect("ends").success());
}

/// Writers are killed at random moments: every reader sees whole files, the old or the new.
#[test]
fn a_killed_writer_leaves_whole_files() {
    let Some(machine) = machine("h100x8", Layout::Ubuntu) else { return };
    // spread over as long as a run takes here at its quickest, and a little longer
    let run = || {
        let start = Instant::now();
        machine.done(&["refresh"]);
        start.elapsed()
    };
    let whole = (0..3).map(|_| run()).min().expect("three");
    let (mut killed, mut seen) = (0, BTreeSet::new());
    // how many are met in the middle depends on what else the machine does
    for round in 0..600_u32 {
        if round >= 60 && killed > 20 && seen.len() > 8 {
            break;
        }
        // two states in turn, so that each run has something to write
        if round % 2 == 0 {
            machine.put(PROMISE, &promise());
        } else {
            let _ = std::fs::remove_file(machine.at(PROMISE));
        }
        let mut child =
            machine.command(&["refresh"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        // a machine that is busier now than at the start is waited for longer
        std::thread::sleep(whole * (round * 17 % 60) / 45 * (1 + round / 60));
        let _ = child.kill();
        killed += u32::from(!child.wait().expect("ends").success());
        let Ok(entries) = std::fs::read_dir(machine.at("/var/run/cdi")) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".json") {
                continue;
            }
            let bytes = std::fs::read(entry.path()).expect("reads");
            let spec = cdispec::parse(&bytes, Form::Json).unwrap_or_else(|error| panic!("{name}: {error}"));
            seen.insert((name, spec.devices.len()));
        }
    }
    machine.done(&["refresh"]);
    let left = std::fs::read_dir(machine.at("/var/run/cdi")).expect("lists").flatten();
    let left: Vec<String> = left.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    println!("{killed} killed, {} states seen, left: {}", seen.len(), left.len());
    assert!(killed > 20 && seen.len() > 8, "{killed} killed, seen {seen:?}");
    assert!(left.iter().all(|name| name.ends_with(".json")), "{left:?}");
}
