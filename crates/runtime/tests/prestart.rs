//! docker's way: the prestart hook under the real runc and crun. What it gives is what the shim gives.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "runs runtimes"
)]

mod common;

use std::collections::BTreeSet;

use common::{Bundle, Machine, stderr, stdout};
use serde_json::json;

const SCRIPT: &str = "for n in nvidia0 nvidia1 nvidiactl nvidia-uvm; do \
     [ -e /dev/$n ] || { echo node $n absent; continue; }; \
     echo node $n $(stat -c '%t:%T %a' /dev/$n) $(head -c1 /dev/$n 2>&1); done; \
     for f in /usr/lib/x86_64-linux-gnu/* /usr/bin/nvidia-smi; do [ -f $f ] && echo file $f $(cat $f); done; \
     while read a b c root at options rest; do case $at in *nvidia*|*libcuda*|*libnvcuvid*) case $at in /dev/*) ;; \
     *) echo mount $at $options;; esac;; esac; done < /proc/self/mountinfo; cat /proc/self/cgroup; \
     (echo x > /usr/bin/nvidia-smi) 2>&1";

/// What the container sees, and the device list of its cgroup: runc sets it from the configuration, the hook adds to it.
fn seen(output: &std::process::Output) -> BTreeSet<String> {
    assert!(output.status.success() || stdout(output).contains("node "), "{}", stderr(output));
    let lines = stdout(output);
    lines.lines().filter(|line| !line.contains("/thruway-test/") && !line.contains(":/")).map(str::to_owned).collect()
}

fn with_both(test: impl Fn(&Machine, &str)) {
    for runtime in ["runc", "crun"] {
        if let Some(why) = common::lacks(runtime) {
            println!("SKIP: {why}");
            continue;
        }
        let machine = Machine::new();
        machine.settings_with("", runtime, "");
        test(&machine, runtime);
    }
}

#[test]
fn the_hook_gives_what_the_edits_give() {
    with_both(|machine, runtime| {
        for (name, env) in [
            ("one", &["NVIDIA_VISIBLE_DEVICES=0"][..]),
            ("all", &["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"]),
            ("utility", &["NVIDIA_VISIBLE_DEVICES=GPU-2222", "NVIDIA_DRIVER_CAPABILITIES=utility"]),
            ("none", &["NVIDIA_VISIBLE_DEVICES=none"]),
            ("void", &["NVIDIA_VISIBLE_DEVICES=void"]),
            ("nothing", &["A=1"]),
        ] {
            let by_edits = seen(&machine.run(&machine.bundle(&format!("e{name}"), env, SCRIPT)));
            let by_hook = seen(&machine.run_with_hook(&machine.bundle(&format!("h{name}"), env, SCRIPT), runtime));
            assert_eq!(by_edits, by_hook, "{runtime} {name}");
            let nodes = by_hook.iter().filter(|line| line.contains("No such device or address")).count();
            let wanted = [("one", 3), ("all", 4), ("utility", 3), ("none", 2), ("void", 0), ("nothing", 0)];
            assert_eq!(Some(&(name, nodes)), wanted.iter().find(|(known, _)| *known == name), "{by_hook:?}");
        }
    });
}

/// The device list of a running container, of version 1.
fn device_list(machine: &Machine, bundle: &Bundle, create: &mut std::process::Command) -> BTreeSet<String> {
    // what a container that waits inherits it would hold open
    let null = || std::process::Stdio::null();
    let status = create
        .args(["--root", &machine.text("state"), "create", "--bundle"])
        .arg(&bundle.folder)
        .arg(&bundle.id)
        .stdin(null())
        .stdout(null())
        .stderr(std::fs::File::create(machine.path("create.err")).unwrap())
        .status()
        .unwrap();
    let said = std::fs::read_to_string(machine.path("create.err")).unwrap();
    assert!(status.success(), "{said}");
    let config = bundle.config();
    let path = format!("/sys/fs/cgroup/devices{}/devices.list", config["linux"]["cgroupsPath"].as_str().unwrap());
    let list = std::fs::read_to_string(path).unwrap();
    let delete =
        machine.program("runc").args(["--root", &machine.text("state"), "delete", "--force", &bundle.id]).status();
    assert!(delete.unwrap().success());
    list.lines().map(str::to_owned).collect()
}

#[test]
fn the_device_cgroup_is_the_same_by_both_ways() {
    need!("runc");
    if std::fs::metadata("/sys/fs/cgroup/devices/devices.list").is_err() {
        println!("SKIP: this machine has no device cgroup of version 1");
        return;
    }
    let machine = Machine::new();
    let bundle = machine.bundle("edits", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    let by_edits = device_list(&machine, &bundle, &mut machine.shim());
    let bundle = machine.bundle("hook", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    bundle.edit(|config| config["hooks"] = json!({"prestart": [machine.hook()]}));
    let by_hook = device_list(&machine, &bundle, &mut machine.program("runc"));
    assert_eq!(by_edits, by_hook);
    assert!(by_hook.contains("c 195:0 rwm") && !by_hook.contains("c 195:1 rwm"), "{by_hook:?}");
    // no-cgroups leaves it alone
    machine.settings_with("[nvidia-container-cli]\nno-cgroups = true", "runc", "");
    let bundle = machine.bundle("without", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    bundle.edit(|config| config["hooks"] = json!({"prestart": [machine.hook()]}));
    let without = device_list(&machine, &bundle, &mut machine.program("runc"));
    assert!(!without.iter().any(|line| line.contains("195")), "{without:?}");
}

#[test]
fn what_the_hook_refuses_stops_the_container_and_leaves_nothing() {
    need!("runc");
    let machine = Machine::new();
    let refused = |name: &str, env: &[&str]| {
        let bundle = machine.bundle(name, env, "echo started");
        let output = machine.run_with_hook(&bundle, "runc");
        assert!(!output.status.success() && stdout(&output).is_empty(), "{name}");
        (bundle, stderr(&output))
    };
    let (_, says) = refused("teapot", &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=tea"]);
    assert!(says.contains("which is no driver capability"), "{says}");
    let (_, says) = refused("cuda", &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_REQUIRE_CUDA=cuda>=99"]);
    assert!(says.contains("requires cuda>=99"), "{says}");
    machine.settings_with("", "runc", "");
    let cdi = machine.path("config.toml");
    let text = std::fs::read_to_string(&cdi).unwrap();
    std::fs::write(&cdi, text.replace("[nvidia-container-runtime]\n", "[nvidia-container-runtime]\nmode = \"cdi\"\n"))
        .unwrap();
    let (_, says) = refused("mode", &["NVIDIA_VISIBLE_DEVICES=0"]);
    assert!(says.contains("--runtime nvidia"), "{says}");
    std::fs::write(&cdi, text).unwrap();
    // midway: the last of the mounts cannot be made, since the image has a link there that leads nowhere
    let bundle = machine.bundle("midway", &["NVIDIA_VISIBLE_DEVICES=0"], "echo started");
    std::os::unix::fs::symlink("/nowhere/at/all", bundle.folder.join("rootfs/usr/bin/nvidia-smi")).unwrap();
    std::fs::create_dir_all(bundle.folder.join("rootfs/usr/lib/x86_64-linux-gnu")).unwrap();
    let mut spec = machine.default_spec();
    let mounts = spec["containerEdits"]["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["containerPath"] != "/usr/bin/nvidia-smi");
    mounts.push(
        json!({"hostPath": machine.text("driver/nvidia-smi"), "containerPath": "/usr/lib/x86_64-linux-gnu/a/b/x"}),
    );
    std::os::unix::fs::symlink("/nowhere", bundle.folder.join("rootfs/usr/lib/x86_64-linux-gnu/a")).unwrap();
    machine.spec(&spec);
    let output = machine.run_with_hook(&bundle, "runc");
    assert!(!output.status.success() && stderr(&output).contains("a/b/x cannot be mounted"), "{}", stderr(&output));
    let left: Vec<_> = std::fs::read_dir(bundle.folder.join("rootfs/usr/lib/x86_64-linux-gnu")).unwrap().collect();
    assert_eq!(left.len(), 1, "what was made to mount on is gone: {left:?}");
    assert!(!std::path::Path::new("/nowhere").exists());
    no_mounts(&machine);
}

fn no_mounts(machine: &Machine) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = machine.tree.path().to_str().unwrap();
    assert!(!mounts.contains(own), "mounts were left behind:\n{mounts}");
}

/// The image's links: absolute, climbing, and to a place that exists on the host. Everything stays in the root.
#[test]
fn an_image_leads_the_hook_nowhere() {
    with_both(|machine, runtime| {
        let outside = machine.path("outside");
        std::fs::create_dir_all(&outside).unwrap();
        let host = outside.to_str().unwrap();
        for (name, target) in [("absolute", host.to_owned()), ("climbing", format!("../../../../../../../../..{host}"))]
        {
            let bundle =
                machine.bundle(name, &["NVIDIA_VISIBLE_DEVICES=0"], "cat /usr/lib/x86_64-linux-gnu/libcuda.so.1");
            let rootfs = bundle.folder.join("rootfs");
            std::fs::create_dir_all(rootfs.join("usr/lib")).unwrap();
            std::os::unix::fs::symlink(&target, rootfs.join("usr/lib/x86_64-linux-gnu")).unwrap();
            // the same place exists in the root, which is where the link then leads
            std::fs::create_dir_all(rootfs.join(host.trim_start_matches('/'))).unwrap();
            let output = machine.run_with_hook(&bundle, runtime);
            assert_eq!(stdout(&output), "simulated libcuda.so.580.1\n", "{runtime}: {}", stderr(&output));
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{name}: nothing was made outside");
        }
        no_mounts(machine);
    });
}

#[test]
fn the_specs_hook_is_carried_out_in_the_container() {
    with_both(|machine, runtime| {
        let mut spec = machine.default_spec();
        spec["containerEdits"]["hooks"] = json!([{
            "hookName": "createContainer", "path": "/usr/bin/thruway-hook",
            "args": ["thruway-hook", "create-container", "--link", "libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so",
                     "--driver", "580.1"],
            "env": ["THRUWAY_HOOK=1"]}]);
        machine.spec(&spec);
        let bundle = machine.bundle("link", &["NVIDIA_VISIBLE_DEVICES=0"], "cat /usr/lib/x86_64-linux-gnu/libcuda.so");
        let output = machine.run_with_hook(&bundle, runtime);
        assert_eq!(stdout(&output), "simulated libcuda.so.580.1\n", "{runtime}: {}", stderr(&output));
    });
}

#[test]
fn a_state_that_is_none_is_an_error() {
    need!("runc");
    let machine = Machine::new();
    let said = |state: &str, args: &[&str]| {
        use std::io::Write;
        let mut child = machine
            .program(common::SHIM)
            .args(args)
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(state.as_bytes());
        let output = child.wait_with_output().unwrap();
        (output.status.code(), stderr(&output))
    };
    assert!(matches!(said("", &["prestart"]), (Some(1), says) if says.contains("no OCI state")));
    assert!(
        matches!(said("{\"pid\":0,\"bundle\":\"x\"}", &["prestart"]), (Some(1), says) if says.contains("no process"))
    );
    // a process that shares our mounts is no container
    let bundle = machine.bundle("self", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    let state = json!({"pid": std::process::id(), "bundle": bundle.folder}).to_string();
    assert!(matches!(said(&state, &["prestart"]), (Some(1), says) if says.contains("no mount namespace of its own")));
}
