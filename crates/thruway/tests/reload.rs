//! What `systemctl daemon-reload` does to a container's card, with a real systemd and the real runc: what takes it away, and
//! that the ways of thruway do not lose it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "tests")]

#[path = "common/systemd.rs"]
mod systemd;

use serde_json::{Value, json};
use systemd::Systemd;

/// A spec as `thruway cdi refresh` writes it: paths, no numbers.
const SPEC: &str = r#"{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu",
"devices":[{"name":"0","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0"}]}},
           {"name":"all","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0"},{"path":"/dev/nvidia1"}]}}],
"containerEdits":{"env":["NVIDIA_VISIBLE_DEVICES=void"],"deviceNodes":[{"path":"/dev/nvidiactl"}]}}"#;

/// A program beside thruway, put where it would be installed: what is built may lie below a directory that is another there.
fn program(machine: &Systemd, name: &str) -> String {
    let test = std::env::current_exe().expect("this test");
    let profile = test.parent().and_then(std::path::Path::parent).expect("the profile's folder");
    let path = format!("/usr/bin/{name}");
    std::fs::copy(profile.join(name), machine.path(&path)).expect("it is built");
    path
}

/// A bundle at /bundle that sleeps, with a spec in /etc/cdi.
fn bundle(machine: &Systemd, change: impl FnOnce(&mut Value)) {
    let made = machine.run(
        "rm -rf /etc/cdi; mkdir -p /bundle/rootfs/bin /bundle/rootfs/dev /bundle/rootfs/proc /bundle/rootfs/sys /etc/cdi && \
         cp /bin/busybox /bundle/rootfs/bin/ && cd /bundle && rm -f config.json && runc spec",
    );
    assert_eq!(made, "");
    std::fs::write(machine.path("/etc/cdi/nvidia.json"), SPEC).expect("the spec");
    let path = machine.path("/bundle/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("runc's")).expect("JSON");
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/busybox", "sleep", "1000"]);
    change(&mut config);
    std::fs::write(&path, config.to_string()).expect("the configuration");
}

fn ask(config: &mut Value, variable: &str) {
    config["process"]["env"].as_array_mut().expect("env").push(json!(variable));
}

/// The numbers below 195 that container `name` may use, before and after a reload.
fn over_a_reload(machine: &Systemd, name: &str) -> (String, String) {
    let list = format!(
        "pid=$(runc state {name} | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'); \
         group=$(sed -n 's/.*:devices://p' /proc/$pid/cgroup); \
         sed -n 's/^c \\(195:[0-9]*\\) .*/\\1/p' /sys/fs/cgroup/devices$group/devices.list | sort | tr '\\n' ' '"
    );
    let before = machine.run(&list);
    assert_eq!(machine.run("systemctl daemon-reload"), "");
    (before, machine.run(&list))
}

/// Two ways in which cards are lost today: a hook that writes the group's list behind systemd's back, and nodes in the
/// configuration that runc cannot name to systemd for want of a link in /dev/char. Without this, the tests below show nothing.
#[test]
fn a_reload_takes_away_what_systemd_was_not_told() {
    let Some(machine) = Systemd::start() else { return };
    bundle(&machine, |_| ());
    let started =
        machine.run("cd /bundle && runc --systemd-cgroup run -d behind </dev/null >/tmp/out 2>&1; cat /tmp/out");
    assert_eq!(started, "");
    machine.run(
        "pid=$(runc state behind | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'); \
         group=$(sed -n 's/.*:devices://p' /proc/$pid/cgroup); \
         echo 'c 195:255 rw' > /sys/fs/cgroup/devices$group/devices.allow",
    );
    assert_eq!(over_a_reload(&machine, "behind"), ("195:255 ".into(), String::new()));
    machine.run("runc --systemd-cgroup delete -f behind");

    bundle(&machine, |config| {
        config["linux"]["devices"] = json!([{"path": "/dev/nvidiactl", "type": "c", "major": 195, "minor": 255}]);
        let rules = config["linux"]["resources"]["devices"].as_array_mut().expect("rules");
        rules.push(json!({"allow": true, "type": "c", "major": 195, "minor": 255, "access": "rwm"}));
    });
    machine.run("cd /bundle && runc --systemd-cgroup run -d nolink </dev/null >/tmp/out 2>&1");
    assert_eq!(over_a_reload(&machine, "nolink"), ("195:255 ".into(), String::new()), "runc 1.1.3 to 1.1.6");
    machine.run("runc --systemd-cgroup delete -f nolink");
}

/// `docker run --gpus` with plain runc: the hook tells systemd.
#[test]
fn the_prestart_hooks_card_outlives_a_reload() {
    let Some(machine) = Systemd::start() else { return };
    let path = program(&machine, "thruway-runtime");
    bundle(&machine, |config| {
        ask(config, "NVIDIA_VISIBLE_DEVICES=0");
        config["hooks"] = json!({"prestart": [{"path": path, "args": ["nvidia-container-runtime-hook", "prestart"]}]});
    });
    let started =
        machine.run("cd /bundle && runc --systemd-cgroup run -d hooked </dev/null >/tmp/out 2>&1; cat /tmp/out");
    assert_eq!(started, "");
    assert_eq!(over_a_reload(&machine, "hooked"), ("195:0 195:255 ".into(), "195:0 195:255 ".into()));
    machine.run("runc --systemd-cgroup delete -f hooked");
    let left = machine.run("ls /run/systemd/system.control /run/systemd/transient 2>/dev/null | grep hooked");
    assert_eq!(left, "", "nothing stays of a container that is gone");
}

/// The shim puts the nodes into the configuration; that runc can name them to systemd it sees to itself.
#[test]
fn the_shims_card_outlives_a_reload() {
    let Some(machine) = Systemd::start() else { return };
    bundle(&machine, |config| ask(config, "NVIDIA_VISIBLE_DEVICES=all"));
    let shim = program(&machine, "thruway-runtime");
    let started = machine
        .run(&format!("cd /bundle && {shim} --systemd-cgroup run -d shimmed </dev/null >/tmp/out 2>&1; cat /tmp/out"));
    assert_eq!(started, "");
    let all = "195:0 195:1 195:255 ";
    assert_eq!(over_a_reload(&machine, "shimmed"), (all.into(), all.into()));
    machine.run("runc --systemd-cgroup delete -f shimmed");
}

/// The refresh service comes up under its own hardening, takes away specs of a driver that is gone, and ends when told.
#[test]
fn the_refresh_service_runs_as_its_unit_says() {
    let Some(machine) = Systemd::start() else { return };
    machine.run("mkdir -p /usr/bin /run/cdi");
    program(&machine, "thruway");
    std::fs::write(machine.path(&format!("/etc/systemd/system/{}", cdi::unit::SERVICE_NAME)), cdi::unit::SERVICE)
        .expect("the unit");
    std::fs::write(machine.path("/run/cdi/nvidia.com-gpu.json"), SPEC).expect("an old spec");
    let started = machine
        .run("systemctl daemon-reload; systemctl start thruway-cdi-refresh; systemctl is-active thruway-cdi-refresh");
    let log = machine.run("journalctl -o cat -u thruway-cdi-refresh 2>&1 | tail -20");
    assert_eq!(started, "active\n", "{log}");
    let left = machine.run("ls /run/cdi");
    assert_eq!(left, "", "no driver runs here: {log}");
    let ended = machine.run("systemctl stop thruway-cdi-refresh; systemctl show -P Result thruway-cdi-refresh");
    assert_eq!(ended, "success\n");
}
