//! `thruway vm list` and `thruway vm check`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program and writes logs into a tree")]

mod common;

use std::path::Path;

use common::{on, stderr, stdout, thruway};
use machine::scratch::Scratch;
use serde_json::Value;

fn json(output: &std::process::Output) -> Value {
    serde_json::from_str(&stdout(output))
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}

fn built(name: &str) -> Scratch {
    let scratch = Scratch::temporary().expect("a directory");
    sim::build_named(name, &scratch).expect("the box");
    scratch
}

fn put(root: &Path, path: &str, text: &str) {
    let full = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(full.parent().expect("a parent")).expect("a directory");
    std::fs::write(full, text).expect("written");
}

const UPID: &str = "UPID:pve:00001F2A:0003D5B1:61FBC0A7:qmstart:100:root@pam:";
const TASK: &str = "kvm: -device vfio-pci,host=0000:26:00.0,id=hostpci0.0: vfio 0000:26:00.0: failed to open /dev/vfio/14: \
    Device or resource busy\nTASK ERROR: start failed: QEMU exited with code 1\n";

#[test]
fn vms_are_listed_with_their_cards() {
    let output = thruway(&["--sim", "vm-two-vms", "vm", "list"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for word in ["simulated", "mufti-4", "games", "26:00.0 (GeForce GT 1030)", "q35, UEFI", "starts with the host"] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    let list = json(&thruway(&["--sim", "vm-two-vms", "vm", "list", "--json"]));
    assert_eq!(list["vms"].as_array().map(Vec::len), Some(2));
    assert_eq!(list["vms"][1]["cards"][0]["bdf"], "0000:26:00.0");
    assert_eq!(list["vms"][1]["running"], false);
    let domain = json(&thruway(&["--sim", "vm-libvirt", "vm", "list", "--json"]));
    assert_eq!((&domain["vms"][0]["id"], &domain["vms"][0]["kind"]), (&"media".into(), &"libvirt".into()));
}

#[test]
fn a_qemu_started_by_hand_is_listed() {
    let scratch = built("vm-good");
    put(scratch.path(), "/proc/777/comm", "qemu-system-x86\n");
    put(
        scratch.path(),
        "/proc/777/cmdline",
        "qemu-system-x86_64\0-name\0bench\0-M\0q35\0-device\0vfio-pci,host=26:00.0\0",
    );
    let output = on(scratch.path(), &["vm", "list"]);
    let text = stdout(&output);
    assert!(text.contains("bench") && text.contains("pid 777") && text.contains("started by hand"), "{text}");
    assert!(text.contains("26:00.0"), "{text}");
}

#[test]
fn a_check_is_of_one_vm_alone() {
    // VM 101 shares the card with VM 100: said of both; only what is wrong with the one asked for is said otherwise.
    let checked = json(&thruway(&["--sim", "vm-two-vms", "vm", "check", "games", "--json"]));
    let verdict = |id: &str| {
        let finding = checked["findings"].as_array().expect("findings").iter().find(|one| one["id"] == id).cloned();
        finding.unwrap_or_else(|| panic!("no {id}"))["verdict"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(verdict("vm/two-vms-one-card"), "warn");
    assert_eq!(verdict("vm/machine-not-q35"), "pass");
    assert_eq!(verdict("host/group-shared"), "pass");
    let scratch = built("vm-two-vms");
    let conf = "/etc/pve/nodes/pve/qemu-server/100.conf";
    let text = std::fs::read_to_string(scratch.path().join(&conf[1..])).expect("VM 100");
    put(scratch.path(), conf, &text.replace("machine: q35\n", "").replace("bios: ovmf\n", ""));
    let failing = |vm: &str| {
        let checked = json(&on(scratch.path(), &["vm", "check", vm, "--json"]));
        let all = checked["findings"].as_array().expect("findings").clone();
        all.iter().any(|one| one["id"] == "vm/machine-not-q35" && one["verdict"] != "pass")
    };
    assert!(failing("100") && !failing("101"), "the other VM's machine type is no trouble of this one");
}

#[test]
fn statuses_are_as_documented() {
    assert_eq!(thruway(&["--sim", "vm-secure-boot", "vm", "check", "100"]).status.code(), Some(1));
    let none = thruway(&["--sim", "vm-good", "vm", "check", "999"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("vm list"), "{}", stderr(&none));
    // A VM without any card.
    let scratch = built("vm-good");
    put(scratch.path(), "/etc/pve/nodes/pve/qemu-server/105.conf", "name: plain\nmemory: 512\n");
    let output = on(scratch.path(), &["vm", "check", "plain"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("no card"), "{}", stdout(&output));
}

#[test]
fn a_failed_start_is_explained_from_its_task_log() {
    let scratch = built("vm-good");
    let root = scratch.path();
    put(root, "/var/log/pve/tasks/index", &format!("{UPID} 61FBC0A9 start failed: QEMU exited with code 1\n"));
    put(root, &format!("/var/log/pve/tasks/7/{UPID}"), TASK);
    put(
        root,
        "/var/log/kern.log",
        "Feb  3 11:58:47 pve kernel: [ 12.1] vfio-pci 0000:26:00.0: BAR 1: can't reserve [mem 0xe0000000-0xefffffff 64bit pref]\n\
         Feb  3 11:58:47 pve kernel: [ 12.2] vfio-pci 0000:99:00.0 AER: Corrected error message received\n\
         Feb  3 11:58:47 pve kernel: [ 12.3] nvme 0000:01:00.0: BAR 0: can't assign; no space\n",
    );
    let output = on(root, &["vm", "check", "100"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    for word in
        ["The last start of 2022-02-03", "qemu/vfio-busy", "vm/two-vms-one-card", "kern.log:1", "host/bootfb-holds-bar"]
    {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    assert!(!text.contains("kernel/bar-no-space"), "another device's line is no cause:\n{text}");
    // A later start that went well is the last one.
    let later = "UPID:pve:00001F2B:0003D5B2:61FBC1A7:qmstart:100:root@pam:";
    put(
        root,
        "/var/log/pve/tasks/index",
        &format!("{UPID} 61FBC0A9 start failed: QEMU exited with code 1\n{later} 61FBC1A9 OK\n"),
    );
    assert!(!stdout(&on(root, &["vm", "check", "100"])).contains("qemu/vfio-busy"));
    // One of another VM is not ours.
    put(root, "/var/log/pve/tasks/index", &format!("{} 61FBC0A9 start failed\n", UPID.replace(":100:", ":101:")));
    assert!(!stdout(&on(root, &["vm", "check", "100"])).contains("last start"));
}

#[test]
fn a_failed_start_is_explained_from_libvirts_log() {
    let scratch = built("vm-libvirt");
    let log = "2026-01-01 10:00:00.000+0000: starting up libvirt version: 9.0.0\n\
        qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory\n\
        2026-01-01 10:00:01.000+0000: shutting down, reason=failed\n\
        2026-01-02 10:00:00.000+0000: starting up libvirt version: 9.0.0\n\
        2026-01-02T10:00:00.1Z qemu-system-x86_64: -device vfio-pci,host=0000:26:00.0: vfio 0000:26:00.0: group 14 is not viable\n\
        2026-01-02 10:00:01.000+0000: shutting down, reason=failed\n";
    put(scratch.path(), "/var/log/libvirt/qemu/media.log", log);
    let checked = json(&on(scratch.path(), &["vm", "check", "media", "--json"]));
    let explained = &checked["last_start"]["is"]["explained"][0];
    assert_eq!(explained[1][0]["id"], "qemu/group-not-viable");
    assert_eq!(explained[1][0]["line"], 5, "lines keep their numbers");
    assert_eq!(explained[1].as_array().map(Vec::len), Some(1), "an older start is another matter");

    // The machine was booted at 09:59:00: 58 s after it is before the start, 61 s is in it.
    put(scratch.path(), "/proc/stat", "cpu 1 2 3 4\nbtime 1767347940\n");
    put(
        scratch.path(),
        "/var/log/kern.log",
        "Jan  2 10:00:01 h kernel: [   61.0] vfio_pin_pages_remote: RLIMIT_MEMLOCK (65536) exceeded\n\
         Jan  2 10:59:00 h kernel: [    0.0] Linux version 6.1.0\n\
         Jan  2 10:59:50 h kernel: [   50.0] vfio_pin_pages_remote: RLIMIT_MEMLOCK (65536) exceeded\n",
    );
    let kernels = || {
        let checked = json(&on(scratch.path(), &["vm", "check", "media", "--json"]));
        checked["last_start"]["is"]["explained"][1][1][0]["line"].as_u64()
    };
    assert_eq!(kernels(), None, "the one is of an earlier boot, the other of an earlier time");
    let log = std::fs::read_to_string(scratch.path().join("var/log/kern.log")).expect("just written");
    put(scratch.path(), "/var/log/kern.log", &log.replace("[   50.0]", "[   61.0]"));
    assert_eq!(kernels(), Some(3));
}

/// The findings of one check of a VM's.
fn verdict(args: &std::process::Output, id: &str) -> Value {
    let checked = json(args);
    let findings = checked["findings"].as_array().cloned().unwrap_or_default();
    findings.into_iter().find(|one| one["id"] == id).unwrap_or_default()
}

const KEYS: &str = "vm/efidisk-enrolled-keys";

#[test]
fn a_libvirt_domains_own_variables_count_and_before_its_first_start_the_templates() {
    use formats::efistore::{SecureBoot, store_of};
    let scratch = built("vm-libvirt");
    let root = scratch.path();
    let path = root.join("etc/libvirt/qemu/media.xml");
    let own = "/var/lib/libvirt/qemu/nvram/media_VARS.fd";
    let xml = std::fs::read_to_string(&path).expect("the box's domain");
    let nvram = format!("<nvram template='/usr/share/OVMF/VARS.fd'>{own}</nvram>\n    <boot dev='hd'/>");
    put(root, "/etc/libvirt/qemu/media.xml", &xml.replace("<boot dev='hd'/>", &nvram));
    let ask = || verdict(&on(root, &["vm", "check", "media", "--json"]), KEYS)["verdict"].clone();
    assert_eq!(ask(), "pass", "the definition says that no keys are enrolled, and no store is there");
    let write = |path: &str, keys: bool| {
        let path = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(path, store_of(&SecureBoot { platform_key: keys, ..SecureBoot::default() })).expect("a file");
    };
    write("/usr/share/OVMF/VARS.fd", true);
    assert_eq!(ask(), "warn", "the first start takes the template");
    write(own, false);
    assert_eq!(ask(), "pass", "its own store counts from then on");
    put(root, own, "no store");
    assert_eq!(ask(), "unknown");
}

#[test]
fn a_capture_says_of_secure_boot_what_the_machine_says_and_keeps_nothing_else_of_the_guests_disk() {
    let scratch = built("vm-secure-boot-since");
    let root = scratch.path();
    let file = root.join("machine.thruway");
    let recorded = on(root, &["capture", "--output", &file.to_string_lossy()]);
    assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
    let live = verdict(&on(root, &["vm", "check", "100", "--json"]), KEYS);
    let from = thruway(&["--from", &file.to_string_lossy(), "vm", "check", "100", "--json"]);
    let captured = verdict(&from, KEYS);
    assert_eq!(captured["verdict"], "warn");
    let evidence = |of: &Value| of["evidence"].as_array().map(Vec::len);
    assert!(live.to_string().contains("shimx64") && !captured.to_string().contains("shimx64"), "{captured}");
    assert_eq!(evidence(&live).map(|count| count - 1), evidence(&captured), "{live}\n{captured}");
}
