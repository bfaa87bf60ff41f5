//! What the shim adds to each container: the low-level runtime is replaced by a static program that only exits.
//!
//!     cargo bench -p thruway-runtime --bench shim
//!
//! The forms take turns, so that a slow moment of the machine meets all of them. Medians; sizes and memory beside.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "measures programs"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const SHIM: &str = env!("CARGO_BIN_EXE_thruway-runtime");
const CARDS: usize = 8;
const MOUNTS: usize = 60;

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A program that exits, without a library.
fn exits(at: &Path) {
    let source = at.with_extension("c");
    let text = "void _start(void) { __asm__ volatile (\"mov $60, %eax; xor %edi, %edi; syscall\"); }";
    write(&source, text);
    let made = Command::new("cc").args(["-static", "-nostdlib", "-O1", "-o"]).arg(at).arg(&source).status();
    if !made.is_ok_and(|made| made.success()) {
        write(at, "#!/bin/busybox true\n");
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Nodes that any machine has stand for the cards; what is measured does not open them.
fn spec(tree: &Path) -> Value {
    let node = |path: &str, host: &str| json!({"path": path, "hostPath": host});
    let card = |name: String, cards: &[usize]| {
        let nodes: Vec<Value> = cards
            .iter()
            .flat_map(|card| {
                [
                    node(&format!("/dev/nvidia{card}"), "/dev/null"),
                    node(&format!("/dev/dri/card{card}"), "/dev/zero"),
                    node(&format!("/dev/dri/renderD{}", 128 + card), "/dev/full"),
                ]
            })
            .collect();
        json!({"name": name, "containerEdits": {"deviceNodes": nodes}})
    };
    let mut devices = Vec::new();
    for number in 0..CARDS {
        devices.push(card(number.to_string(), &[number]));
        devices.push(card(format!("GPU-{number:08}-1111-2222-3333-444444444444"), &[number]));
    }
    devices.push(card("all".into(), &(0..CARDS).collect::<Vec<_>>()));
    let mounts: Vec<Value> = (0..MOUNTS)
        .map(|number| {
            let host = tree.join(format!("driver/libnvidia-part{number}.so.580.159.04"));
            write(&host, "x");
            json!({"hostPath": host, "containerPath": format!("/usr/lib/x86_64-linux-gnu/libnvidia-part{number}.so.580.159.04"),
                   "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]})
        })
        .collect();
    let mut links = vec!["thruway-hook".to_owned(), "create-container".to_owned()];
    for number in 0..MOUNTS {
        links.extend([
            "--link".to_owned(),
            format!("libnvidia-part{number}.so.580.159.04::/usr/lib/x86_64-linux-gnu/libnvidia-part{number}.so.1"),
        ]);
    }
    links.extend(["--driver".to_owned(), "580.159.04".to_owned()]);
    json!({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [node("/dev/nvidiactl", "/dev/null"), node("/dev/nvidia-uvm", "/dev/null"),
                        node("/dev/nvidia-uvm-tools", "/dev/null"), node("/dev/nvidia-modeset", "/dev/null")],
        "mounts": mounts,
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/thruway-hook", "args": links, "env": ["THRUWAY_HOOK=1"]}]
    }})
}

/// A configuration of docker's size: its mounts, its masked paths, a seccomp profile of 400 calls.
fn config(env: &str) -> String {
    let calls: Vec<String> = (0..400).map(|number| format!("some_system_call_{number}")).collect();
    let mounts: Vec<Value> = ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"]
        .iter()
        .map(|path| json!({"destination": path, "type": "bind", "source": format!("/var/lib/docker/containers{path}"), "options": ["rbind", "rprivate"]}))
        .collect();
    json!({
        "ociVersion": "1.2.1",
        "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["sleep"], "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=0123456789ab", "A=1", env],
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_NET_RAW"]}},
        "root": {"path": "rootfs"}, "mounts": mounts,
        "linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]},
            "namespaces": [{"type": "mount"}, {"type": "pid"}],
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": calls, "action": "SCMP_ACT_ALLOW"}]},
            "maskedPaths": ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys"]}
    })
    .to_string()
}

fn once(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    let took = start.elapsed();
    assert!(status.success());
    took
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

/// Peak resident memory in KiB of one run, as the kernel counts it for a child.
fn peak(command: &mut Command) -> i64 {
    use std::os::unix::process::CommandExt;
    // the low-level runtime would be counted in its place: it is left out by naming one that is not there
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
    let pid = child.id() as libc::pid_t;
    // SAFETY: rusage is plain numbers; wait4 fills it for our own child, which std has not waited for.
    #[allow(unsafe_code, reason = "wait4 has no wrapper in std or rustix")]
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::wait4(pid, std::ptr::null_mut(), 0, &raw mut usage);
        usage
    };
    let _ = child.try_wait();
    usage.ru_maxrss
}

fn main() {
    let folder = tempfile::Builder::new()
        .prefix("thruway-bench-")
        .tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let tree = folder.path();
    let low = tree.join("exits");
    exits(&low);
    write(&tree.join("cdi/nvidia.com-gpu.json"), &serde_json::to_string_pretty(&spec(tree)).unwrap());
    write(&tree.join("facts/sys/module/nvidia/version"), "580.159.04\n");
    let settings = |low: &Path| {
        format!(
            "disable-require = false\n[nvidia-container-cli]\nenvironment = []\nload-kmods = true\nldconfig = \"@/sbin/ldconfig\"\n\
             [nvidia-container-runtime]\ndebug = \"/dev/null\"\nlog-level = \"info\"\nmode = \"auto\"\nruntimes = [{low:?}]\n\
             [nvidia-container-runtime.modes.cdi]\nannotation-prefixes = [\"cdi.k8s.io/\"]\ndefault-kind = \"nvidia.com/gpu\"\n\
             spec-dirs = [{:?}]\n[nvidia-container-runtime.modes.csv]\nmount-spec-path = \"/etc/x\"\n[thruway]\nfacts-root = {:?}\n",
            tree.join("cdi"),
            tree.join("facts")
        )
    };
    write(&tree.join("config.toml"), &settings(&low));
    write(&tree.join("nowhere.toml"), &settings(&tree.join("absent")));
    let bundle = tree.join("bundle");
    // installed as a package manager does it: a copied file lies in the page cache in larger pieces than one that a linker
    // wrote through a mapping, and starts faster
    let installed = tempfile::Builder::new().prefix("thruway-bench-").tempdir().unwrap();
    let program = installed.path().join("thruway-runtime");
    std::fs::copy(SHIM, &program).unwrap();
    let shim = |settings: &str| {
        let mut command = Command::new(&program);
        command
            .env("NVIDIA_CTK_CONFIG_FILE_PATH", tree.join(settings))
            .arg("create")
            .arg("--bundle")
            .arg(&bundle)
            .arg("id");
        command
    };
    let plain = config("B=2");
    let one = config("NVIDIA_VISIBLE_DEVICES=0");
    let all = config("NVIDIA_VISIBLE_DEVICES=all");
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..1500 {
        let mut form = |at: usize, text: &str, command: &mut Command| {
            write(&bundle.join("config.json"), text);
            times.get_mut(at).unwrap().push(once(command));
        };
        form(0, &plain, Command::new(&low).arg("create").arg("--bundle").arg(&bundle).arg("id"));
        form(1, &plain, &mut shim("config.toml"));
        form(2, &one, &mut shim("config.toml"));
        form(3, &all, &mut shim("config.toml"));
        form(
            4,
            &plain,
            Command::new(&program).env("NVIDIA_CTK_CONFIG_FILE_PATH", tree.join("config.toml")).args(["state", "id"]),
        );
    }
    let [alone, nothing, one_card, all_cards, passed] = times.map(median);
    println!(
        "spec: {CARDS} cards, {MOUNTS} mounts, {} bytes; config.json {} bytes",
        std::fs::metadata(tree.join("cdi/nvidia.com-gpu.json")).unwrap().len(),
        plain.len()
    );
    println!("{:<42} {:>8} {:>9} {:>6}", "median of 1500", "ms", "added ms", "ratio");
    for (name, time, target) in [
        ("the runtime alone", alone, None),
        ("another verb than create", passed, None),
        ("create without a request", nothing, Some(0.6)),
        ("create, NVIDIA_VISIBLE_DEVICES=0", one_card, Some(1.2)),
        ("create, NVIDIA_VISIBLE_DEVICES=all", all_cards, Some(1.2)),
    ] {
        let target: Option<f64> = target;
        let verdict = target.map_or(String::new(), |target| {
            format!("  target {target} ms: {}", if time - alone <= target { "met" } else { "MISSED" })
        });
        println!("{name:<42} {time:>8.3} {:>9.3} {:>6.2}{verdict}", time - alone, time / alone);
    }
    println!("binary: {} bytes", std::fs::metadata(SHIM).unwrap().len());
    write(&bundle.join("config.json"), &plain);
    println!("peak memory without a request: {} KiB", peak(&mut shim("nowhere.toml")));
    write(&bundle.join("config.json"), &all);
    println!("peak memory with all cards: {} KiB", peak(&mut shim("nowhere.toml")));
}
