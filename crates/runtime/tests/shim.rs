//! The shim with the real runc and crun: what a container sees of what it asked for.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "runs runtimes"
)]

mod common;

use std::os::unix::fs::MetadataExt;

use common::{Machine, SHIM, stderr, stdout, write};
use serde_json::{Value, json};

/// Which nodes and files are there, and what opening each node says.
const LOOK: &str = "for n in nvidia0 nvidia1 nvidiactl nvidia-uvm; do \
     [ -e /dev/$n ] || { echo $n absent; continue; }; \
     echo $n $(head -c1 /dev/$n 2>&1 | sed 's/.*: //'); done; \
     cat /usr/lib/x86_64-linux-gnu/* /usr/bin/nvidia-smi 2>/dev/null; echo env $NVIDIA_VISIBLE_DEVICES";

fn look(machine: &Machine, name: &str, env: &[&str]) -> String {
    let bundle = machine.bundle(name, env, &LOOK.replace("sed 's/.*: //'", "busybox sed 's/.*: //'"));
    let output = machine.run(&bundle);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

const ALLOWED: &str = "No such device or address";

fn with_both(test: impl Fn(&Machine)) {
    for runtime in ["runc", "crun"] {
        if let Some(why) = common::lacks(runtime) {
            println!("SKIP: {why}");
            continue;
        }
        let machine = Machine::new();
        machine.settings_with("", runtime, "");
        test(&machine);
    }
}

#[test]
fn a_container_gets_the_cards_it_asks_for() {
    with_both(|machine| {
        let first = look(machine, "one", &["NVIDIA_VISIBLE_DEVICES=0"]);
        assert_eq!(
            first,
            format!(
                "nvidia0 {ALLOWED}\nnvidia1 absent\nnvidiactl {ALLOWED}\nnvidia-uvm {ALLOWED}\n\
                 simulated libcuda.so.580.1\nsimulated libnvidia-ml.so.580.1\nsimulated nvidia-smi\nenv void\n"
            )
        );
        for name in ["1", "GPU-2222", "1:0", "nvidia.com/gpu=1"] {
            let env = format!("NVIDIA_VISIBLE_DEVICES={name}");
            let said = look(machine, &format!("second{}", name.len()), &[&env]);
            assert!(said.starts_with(&format!("nvidia0 absent\nnvidia1 {ALLOWED}\n")), "{name}: {said}");
        }
        let all = look(machine, "all", &["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"]);
        assert!(
            all.starts_with(&format!("nvidia0 {ALLOWED}\nnvidia1 {ALLOWED}\n")) && all.contains("libnvcuvid"),
            "{all}"
        );
        let utility = look(machine, "utility", &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=utility"]);
        assert!(utility.contains("libnvidia-ml") && !utility.contains("libcuda"), "{utility}");
        let none = look(machine, "none", &["NVIDIA_VISIBLE_DEVICES=none"]);
        assert!(none.starts_with(&format!("nvidia0 absent\nnvidia1 absent\nnvidiactl {ALLOWED}\n")), "{none}");
    });
}

#[test]
fn a_container_without_a_request_sees_nothing_and_cannot_open_a_card() {
    with_both(|machine| {
        for (name, env) in
            [("unset", "X=1"), ("void", "NVIDIA_VISIBLE_DEVICES=void"), ("empty", "NVIDIA_VISIBLE_DEVICES=")]
        {
            let said = look(machine, name, &[env]);
            assert!(
                said.starts_with("nvidia0 absent\nnvidia1 absent\nnvidiactl absent\nnvidia-uvm absent\nenv"),
                "{said}"
            );
        }
        // a node of its own is refused by the device cgroup, already when it is made
        let bundle = machine.bundle("mknod", &[], "mknod /dev/mine c 195 0; head -c1 /dev/mine");
        let said = stderr(&machine.run(&bundle));
        assert!(said.contains("Operation not permitted"), "{said}");
        // and the same container with the card may open that card, and not the other
        let script = "head -c1 /dev/nvidia0; mknod /tmp/other c 195 1 && head -c1 /tmp/other";
        let bundle = machine.bundle("other", &["NVIDIA_VISIBLE_DEVICES=0"], script);
        let said = stderr(&machine.run(&bundle));
        assert!(said.contains(ALLOWED) && said.contains("Operation not permitted"), "{said}");
    });
}

/// `create` by a shim whose low-level runtime does nothing: its exit status, what it said, and the configuration.
fn create(machine: &Machine, bundle: &common::Bundle, more: &[&str]) -> std::process::Output {
    machine.shim().args(more).args(["create", "--bundle"]).arg(&bundle.folder).arg(&bundle.id).output().unwrap()
}

fn idle() -> Machine {
    let machine = Machine::new();
    machine.settings_with("", "true", "");
    machine
}

#[test]
fn the_configuration_is_replaced_whole_and_all_else_in_it_stays() {
    need!("runc");
    let machine = idle();
    let bundle = machine.bundle("keep", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    let text = bundle.config_text().replacen(
        '{',
        r#"{"future":{"n":18446744073709551617,"f":1e400,"o":{"z":1,"a":[ 1,  2 ]}},"#,
        1,
    );
    let path = bundle.folder.join("config.json");
    std::fs::write(&path, &text).unwrap();
    std::os::unix::fs::chown(&path, Some(1000), Some(1001)).unwrap();
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o640)).unwrap();
    let before = std::fs::metadata(&path).unwrap();
    let held = std::fs::File::open(&path).unwrap();
    let output = create(&machine, &bundle, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let new = bundle.config_text();
    assert!(new.starts_with(r#"{"future":{"n":18446744073709551617,"f":1e400,"o":{"z":1,"a":[ 1,  2 ]}},"#), "{new}");
    assert!(new.contains("/dev/nvidia0"));
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), 1000, 1001));
    assert_ne!(after.ino(), before.ino(), "replaced, not written over");
    assert_eq!(std::io::read_to_string(held).unwrap(), text, "who had it open reads the old one to its end");
    assert_eq!(std::fs::read_dir(&bundle.folder).unwrap().count(), 2, "nothing beside config.json and rootfs");
    // a second time changes nothing, not even the file
    assert!(create(&machine, &bundle, &[]).status.success());
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), after.ino());
}

#[test]
fn nothing_asked_nothing_touched() {
    need!("runc");
    let machine = idle();
    let bundle = machine.bundle("nothing", &[], "true");
    let ino = || std::fs::metadata(bundle.folder.join("config.json")).unwrap().ino();
    let before = ino();
    assert!(create(&machine, &bundle, &[]).status.success());
    assert_eq!(ino(), before);
    // settings that are wrong stop nobody who asks for nothing, and everybody who asks
    write(&machine.path("config.toml"), "[policy]\npod = 'grant'\n");
    let bin = machine.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink("/bin/true", bin.join("runc")).unwrap();
    let output = machine.shim().env("PATH", &bin).args(["create", "-b"]).arg(&bundle.folder).arg("x").output().unwrap();
    assert!(output.status.success() && stderr(&output).contains("warning: the settings"), "{}", stderr(&output));
    let asks = machine.bundle("asks", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    let said = stderr(&create(&machine, &asks, &[]));
    assert!(said.contains("cannot be used") && said.contains("unknown field `pod`"), "{said}");
}

#[test]
fn docker_and_containerd_find_the_sentence_in_the_log() {
    need!("runc");
    let machine = idle();
    let bundle = machine.bundle("log", &["NVIDIA_VISIBLE_DEVICES=7"], "true");
    let log = machine.text("log.json");
    let output = create(&machine, &bundle, &["--log", &log, "--log-format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let last: Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    let says = last["msg"].as_str().unwrap();
    assert!(says.contains("asks for \"7\" of nvidia.com/gpu, and this machine has 0, 1, GPU-1111"), "{says}");
    assert!(last["time"].as_str().unwrap().ends_with('Z'));
    assert!(stderr(&output).contains(says));
    let text = machine.text("log.txt");
    create(&machine, &bundle, &["--log", &text]);
    assert!(std::fs::read_to_string(&text).unwrap().contains("level=error msg=\"this container asks"));
}

#[test]
fn what_cannot_be_had_is_refused_before_the_container_is_made() {
    need!("runc");
    let machine = idle();
    let refused = |name: &str, env: &[&str]| {
        let bundle = machine.bundle(name, env, "true");
        let before = bundle.config_text();
        let output = create(&machine, &bundle, &[]);
        assert_eq!(output.status.code(), Some(1), "{env:?}");
        assert_eq!(bundle.config_text(), before);
        stderr(&output)
    };
    let says = refused("tea", &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=utility,tea"]);
    assert!(says.contains("\"tea\", which is no driver capability"), "{says}");
    let says = refused("cuda", &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_REQUIRE_CUDA=cuda>=99.0"]);
    assert!(
        says.contains("requires cuda>=99.0 (NVIDIA_REQUIRE_CUDA), and driver 580.1 on this machine supports CUDA 13.0"),
        "{says}"
    );
    let says = refused("mig", &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_MIG_CONFIG_DEVICES=all"]);
    assert!(says.contains("CAP_SYS_ADMIN"), "{says}");
    let says = refused("imex", &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_IMEX_CHANNELS=3"]);
    assert!(says.contains("IMEX channel 3"), "{says}");
    // brand and architecture from the file of facts, of the cards that the container gets
    let facts = json!({"schema":1,"driver":"580.1","cuda":"13.0","gpus":[
        {"index":0,"minor":0,"brand":"tesla","arch":"7.5"},{"index":1,"minor":1,"brand":"nvidia","arch":"9.0"}]});
    write(&machine.path("facts/run/thruway/driver.json"), &facts.to_string());
    let says = refused("arch", &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_REQUIRE_ARCH=arch>=8.0"]);
    assert!(says.contains("compute capability is 7.5"), "{says}");
    let fine = machine.bundle("fine", &["NVIDIA_VISIBLE_DEVICES=1", "NVIDIA_REQUIRE_ARCH=arch>=8.0"], "true");
    let output = create(&machine, &fine, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn volume_mounts_and_annotations_ask_too() {
    need!("runc");
    let machine = idle();
    machine.settings_with(
        "accept-nvidia-visible-devices-as-volume-mounts = true\naccept-nvidia-visible-devices-envvar-when-unprivileged = false",
        "true",
        "",
    );
    let nodes = |bundle: &common::Bundle| -> Vec<String> {
        let config = bundle.config();
        let devices = config["linux"]["devices"].as_array().cloned().unwrap_or_default();
        devices.iter().map(|device| device["path"].as_str().unwrap().to_owned()).collect()
    };
    let bundle = machine.bundle("mount", &["NVIDIA_VISIBLE_DEVICES=all"], "true");
    bundle.edit(|config| {
        config["mounts"].as_array_mut().unwrap().push(
            json!({"destination":"/var/run/nvidia-container-devices/GPU-2222","source":"/dev/null","type":"bind","options":["bind"]}),
        );
    });
    assert!(create(&machine, &bundle, &[]).status.success());
    assert_eq!(nodes(&bundle), ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    let bundle = machine.bundle("annotation", &["NVIDIA_VISIBLE_DEVICES=all"], "true");
    bundle.edit(|config| config["annotations"] = json!({"cdi.k8s.io/x": "nvidia.com/gpu=0"}));
    assert!(create(&machine, &bundle, &[]).status.success());
    assert_eq!(nodes(&bundle), ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    assert!(bundle.config_text().contains("libnvcuvid"), "a CDI name brings the whole spec");
    // the hardened pair: the environment alone gets nothing, and no hook either
    let bundle = machine.bundle("env", &["NVIDIA_VISIBLE_DEVICES=all"], "true");
    bundle.edit(|config| {
        config["annotations"] = json!({"io.container.manager": "libpod"});
        config["hooks"] = json!({"prestart": [{"path": "/usr/bin/nvidia-container-runtime-hook"}]});
    });
    let output = create(&machine, &bundle, &[]);
    assert!(output.status.success() && stderr(&output).contains("passed over"), "{}", stderr(&output));
    assert!(nodes(&bundle).is_empty() && !bundle.config_text().contains("nvidia-container-runtime-hook"));
}

#[test]
fn dockers_hook_gives_way_to_the_edits() {
    need!("runc");
    let machine = idle();
    let bundle = machine.bundle("hook", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    bundle.edit(|config| {
        config["hooks"] = json!({"prestart": [{"path": "/bin/other"}, {"path": "/usr/bin/nvidia-container-runtime-hook",
            "args": ["nvidia-container-runtime-hook", "prestart"]}]});
    });
    assert!(create(&machine, &bundle, &[]).status.success());
    assert_eq!(bundle.config()["hooks"]["prestart"], json!([{"path": "/bin/other"}]));
    assert!(bundle.config_text().contains("/dev/nvidia0"));
}

#[test]
fn a_stale_spec_is_written_anew_once_and_never_names_a_wrong_device() {
    need!("runc");
    let machine = idle();
    // numbers written down in another life: the live ones are taken, and it is said
    let mut spec = machine.default_spec();
    spec["containerEdits"]["deviceNodes"][1]["major"] = json!(511);
    machine.spec(&spec);
    let bundle = machine.bundle("major", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    let output = create(&machine, &bundle, &[]);
    assert!(output.status.success() && stderr(&output).contains("511:0"), "{}", stderr(&output));
    let config = bundle.config_text();
    assert!(config.contains(r#""major":238"#) && !config.contains("511"), "{config}");
    // another driver than the spec's, and nobody beside us to write it anew
    write(&machine.path("facts/sys/module/nvidia/version"), "590.2\n");
    let bundle = machine.bundle("driver", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    let says = stderr(&create(&machine, &bundle, &[]));
    assert!(says.contains("for driver 580.1 and the loaded kernel module is 590.2"), "{says}");
    // with thruway beside the shim it is written anew, once
    let bin = machine.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy(SHIM, bin.join("thruway-runtime")).unwrap();
    let fresh = serde_json::to_string(&machine.default_spec()).unwrap().replace("580.1", "590.2");
    for name in ["libcuda.so.590.2", "libnvidia-ml.so.590.2", "libnvcuvid.so.590.2"] {
        write(&machine.path(&format!("driver/{name}")), name);
    }
    write(&machine.path("fresh.json"), &fresh);
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {0}/calls; cp {0}/fresh.json {0}/cdi/nvidia.com-gpu.json\n",
        machine.tree.path().display()
    );
    write(&bin.join("thruway"), &script);
    rustix::fs::chmod(bin.join("thruway"), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    for name in ["again", "then"] {
        let bundle = machine.bundle(name, &["NVIDIA_VISIBLE_DEVICES=0"], "true");
        let output = machine
            .program(bin.join("thruway-runtime"))
            .args(["create", "-b"])
            .arg(&bundle.folder)
            .arg("x")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(bundle.config_text().contains("libcuda.so.590.2"));
    }
    assert_eq!(std::fs::read_to_string(machine.path("calls")).unwrap(), "cdi refresh\n");
    // a node that is gone stops the container; a daemon's socket does not
    let mut spec: Value = serde_json::from_str(&fresh).unwrap();
    spec["containerEdits"]["mounts"].as_array_mut().unwrap().push(json!({
        "hostPath": "/run/thruway-test-absent/socket", "containerPath": "/run/thruway-test-absent/socket"}));
    machine.spec(&spec);
    let bundle = machine.bundle("socket", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    assert!(create(&machine, &bundle, &[]).status.success());
    assert!(!bundle.config_text().contains("thruway-test-absent"));
    std::fs::remove_file(machine.path("dev/nvidia0")).unwrap();
    let bundle = machine.bundle("gone", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    let says = stderr(&create(&machine, &bundle, &[]));
    assert!(says.contains("dev/nvidia0, which the CDI spec gives"), "{says}");
}

/// A spec as nvidia-ctk writes it: YAML, majors written down, a hook of its own for each task.
#[test]
fn nvidias_own_spec_is_read_too() {
    need!("runc");
    let machine = idle();
    std::fs::remove_file(machine.path("cdi/nvidia.com-gpu.json")).unwrap();
    let yaml = format!(
        "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n\
         \x20   - path: /dev/nvidia0\n      hostPath: {0}/dev/nvidia0\n      major: 195\n      fileMode: 438\n      permissions: rwm\n\
         containerEdits:\n  env:\n  - NVIDIA_VISIBLE_DEVICES=void\n  deviceNodes:\n  - path: /dev/nvidia-uvm\n    hostPath: \
         {0}/dev/nvidia-uvm\n    major: 511\n  hooks:\n  - hookName: createContainer\n    path: /usr/bin/nvidia-cdi-hook\n    args:\n\
         \x20 - nvidia-cdi-hook\n    - enable-cuda-compat\n    - --host-driver-version=580.1\n    env:\n    - NVIDIA_CTK_DEBUG=false\n",
        machine.tree.path().display()
    )
    .replace("args:\n  - nvidia", "args:\n    - nvidia");
    write(&machine.path("cdi/nvidia.yaml"), &yaml);
    let bundle = machine.bundle("yaml", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    let output = create(&machine, &bundle, &[]);
    assert!(output.status.success() && stderr(&output).contains("511:0"), "{}", stderr(&output));
    let config = bundle.config();
    assert_eq!(config["linux"]["devices"][1]["major"], 238);
    assert_eq!(config["linux"]["devices"][0]["fileMode"], 438);
    assert_eq!(
        config["hooks"]["createContainer"],
        json!([{"path": "/usr/bin/nvidia-cdi-hook",
                "args": ["nvidia-cdi-hook", "enable-cuda-compat", "--host-driver-version=580.1"],
                "env": ["NVIDIA_CTK_DEBUG=false"]}]),
        "a spec's hooks are taken as they are"
    );
    write(&machine.path("facts/sys/module/nvidia/version"), "590.2\n");
    let bundle = machine.bundle("stale", &["NVIDIA_VISIBLE_DEVICES=0"], "true");
    let says = stderr(&create(&machine, &bundle, &[]));
    assert!(says.contains("for driver 580.1 and the loaded kernel module is 590.2"), "{says}");
}

#[test]
fn it_never_becomes_itself() {
    need!("runc");
    let machine = Machine::new();
    let run = |runtime: &str| {
        machine.settings_with("", runtime, "");
        machine.shim().args(["state", "x"]).output().unwrap()
    };
    let link = machine.path("runc");
    std::os::unix::fs::symlink(SHIM, &link).unwrap();
    let says = stderr(&run(link.to_str().unwrap()));
    assert!(says.contains("is this program itself"), "{says}");
    // by a wrapper, which cannot be seen beforehand
    let wrapper = machine.path("wrapper");
    write(&wrapper, &format!("#!/bin/sh\nexec {SHIM} \"$@\"\n"));
    rustix::fs::chmod(&wrapper, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let says = stderr(&run(wrapper.to_str().unwrap()));
    assert!(says.contains("leads back to this program"), "{says}");
    let says = stderr(&run("thruway-no-such-runtime"));
    assert!(says.contains("install runc"), "{says}");
}

#[test]
fn version_is_ours_then_the_low_level_runtimes() {
    need!("runc");
    let machine = Machine::new();
    let said = stdout(&machine.shim().arg("--version").output().unwrap());
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some(concat!("thruway-runtime version ", env!("CARGO_PKG_VERSION"))));
    assert!(lines.next().is_some_and(|line| line.starts_with("runc version")), "{said}");
}

#[test]
fn the_policy_holds_for_pods() {
    need!("runc");
    let machine = idle();
    let pod = |name: &str, env: &str, device: Option<&str>, policy: &str| {
        machine.settings_with("", "true", policy);
        let bundle = machine.bundle(name, &[env], "true");
        bundle.edit(|config| {
            config["annotations"] = json!({"io.kubernetes.cri.container-type": "container"});
            if let Some(device) = device {
                config["linux"]["devices"] = json!([{"path": device, "type": "c", "major": 195, "minor": 1}]);
            }
        });
        let output = create(&machine, &bundle, &[]);
        let given = bundle.config_text();
        let given = ["/dev/nvidia0", "/dev/nvidia1"].map(|node| given.contains(&format!("\"{node}\"")));
        (output.status.success(), given, stderr(&output))
    };
    let all = "NVIDIA_VISIBLE_DEVICES=all";
    let grant = "[policy]\npods = 'grant'";
    assert_eq!(pod("a", all, None, "").1, [true, true], "NVIDIA's own file, as it was");
    let (started, given, says) = pod("b", all, None, grant);
    assert!(started && given == [false, false] && says.contains("without a grant"), "{says}");
    let (started, given, says) = pod("c", "NVIDIA_VISIBLE_DEVICES=0", None, grant);
    assert!(!started && given == [false, false] && says.contains("no scheduler granted"), "{says}");
    let (started, given, says) = pod("d", all, Some("/dev/nvidia1"), grant);
    assert!(started && given == [false, true], "{says}");
    let (started, _, says) = pod("e", "NVIDIA_VISIBLE_DEVICES=0", Some("/dev/nvidia1"), grant);
    assert!(!started && says.contains("granted it /dev/nvidia1 only"), "{says}");
    let (started, _, says) = pod("f", all, None, "[policy]\npods = 'refuse'");
    assert!(!started && says.contains("this node's policy refuses to pods"), "{says}");
}
