//! `thruway gpus` and `thruway doctor` on a live machine whose NVML is the simulated library: their own reader over the C
//! interface, with a box's sysfs mounted where the kernel's would be. Root and mount namespaces, or SKIP.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs the program")]

mod common;
#[path = "common/live.rs"]
mod live;

use common::{stderr, stdout};
use live::{Live, namespaces};
use serde_json::Value;

/// A field that is there.
fn is(value: impl Into<Value>) -> Value {
    serde_json::json!({ "is": value.into() })
}

#[test]
fn what_a_card_does_not_tell_is_not_there() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-good", "gt1030");
    let text = stdout(&live.thruway(&["gpus"]));
    for line in [
        "NVML      NVIDIA GeForce GT 1030, GPU-51a51a51-1d01-4000-8000-000000000000",
        "memory    2 of 2048 MiB used",
        "state     38 °C, fan 35 %, P8, power N/A of 30 W, ECC N/A, MIG N/A",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    let [nvml] = live.nvml().try_into().expect("one card");
    let read = |field: &str| Value::clone(&nvml[field]);
    assert_eq!((read("vbios"), read("architecture")), (is("86.08.0C.00.1A (simulated)"), is("Pascal")));
    assert_eq!((read("memory_total"), read("memory_reserved")), (is(2048_u64 << 20), is(59_u64 << 20)));
    assert_eq!((read("pcie_width_max"), read("brand"), read("power_limit")), (is(4), is("GeForce"), is(30_000)));
    for field in ["power_draw", "serial", "ecc_enabled", "ecc_uncorrected_volatile", "mig_enabled"] {
        assert_eq!(read(field), "absent", "{field}");
    }
}

#[test]
fn an_old_driver_and_a_cut_card_give_na_and_no_error() {
    if !namespaces() {
        return;
    }
    // it has neither nvmlDeviceGetMemoryInfo_v2 nor the third form of the process lists: the older ones are asked
    let [old] = Live::new("guest-good", "gt1030-470").nvml().try_into().expect("one card");
    assert_eq!(old["memory_total"], is(2_147_483_648_u64));
    assert!(old["processes"]["is"].is_array(), "{}", old["processes"]);
    for field in ["memory_reserved", "power_draw"] {
        assert_eq!(old[field], "absent", "{field}");
    }
    assert_eq!(old["temperature"], is(38));
    // cards are matched by address, so the tree's may be of another model
    let [cut] = Live::new("guest-mig", "a100-mig").nvml().try_into().expect("one card");
    assert_eq!((&cut["mig_enabled"], &cut["name"]), (&is(true), &is("NVIDIA A100-SXM4-40GB")));
    for field in ["utilization_gpu", "utilization_encoder", "fan"] {
        assert_eq!(cut[field], "absent", "{field}: a card that is cut up does not tell, a passive one has none");
    }
}

#[test]
fn eight_cards_are_each_their_own() {
    if !namespaces() {
        return;
    }
    let live = Live::new("eight-gpu", "h100x8");
    let all = live.nvml();
    assert_eq!(all.len(), 8);
    for (index, nvml) in all.iter().enumerate() {
        assert_eq!(nvml["uuid"], is(format!("GPU-51a51a51-2330-4000-8000-{index:012x}")));
        assert_eq!(nvml["power_draw"], is(73_610));
    }
    assert_eq!(all[7]["utilization_gpu"], is(71));
    assert_eq!(all[7]["processes"]["is"][0]["pid"], 11327);
    live.control("[[gpus]]\nindex = 4\nset = { temperature = { now = 95 }, ecc = { uncorrected = 3 } }\n");
    let hot = live.nvml();
    assert_eq!((&hot[4]["temperature"], &hot[4]["ecc_uncorrected_volatile"]), (&is(95), &is(3)));
    assert_eq!(hot[3]["temperature"], is(34));
    // one that fell off the bus takes none of the others with it
    live.control("[[gpus]]\nindex = 4\nlost = true\n");
    let all = live.nvml();
    assert_eq!(all.len(), 8);
    assert!(all[4]["name"].to_string().contains("fallen off the bus"), "{}", all[4]);
    assert_eq!(all[5]["temperature"], is(34));
    let text = stdout(&live.thruway(&["gpus"]));
    assert!(text.contains("fallen off the bus"), "{text}");
}

#[test]
fn a_driver_that_cannot_be_asked_is_said_and_not_waited_for() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-good", "gt1030");
    let doctor = || stdout(&live.thruway(&["doctor", "--layer", "guest"]));
    live.control("kernel = '580.95.05'");
    assert!(live.nvml().is_empty());
    let text = doctor();
    assert!(text.contains("the library and the loaded kernel module have different versions"), "{text}");
    live.control("hang = { milliseconds = 60000 }");
    let start = std::time::Instant::now();
    let text = doctor();
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "a hung driver hangs us");
    assert!(text.contains("? NVML") && text.contains("guest/nvml-answers"), "{text}");
}

/// Starts a watch, does something to its machine while it runs, and gives what it printed and how it ended.
fn watched(live: &Live, args: &[&str], meanwhile: impl FnOnce(&Live, u32)) -> (String, String, Option<i32>) {
    let mut command = live.command(&[&["gpus", "--watch", "--every", "200ms"], args].concat());
    command.env("THRUWAY_SIM_TRACE", "1").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("unshare, of util-linux");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    meanwhile(live, child.id());
    let output = child.wait_with_output().expect("it ends");
    (stdout(&output), stderr(&output), output.status.code())
}

#[test]
fn a_watch_keeps_one_conversation_and_tells_of_xids_and_lost_cards() {
    if !namespaces() {
        return;
    }
    let live = Live::new("eight-gpu", "h100x8");
    let (text, trace, status) = watched(&live, &["--for", "4s"], |live, _| {
        live.control("[[gpus]]\nindex = 3\nlost = true\nxids = [79, 777]\n");
    });
    assert_eq!(status, Some(0), "{text}");
    assert_eq!(trace.matches("nvmlInit").count(), 1, "one conversation for all ticks");
    assert!(text.matches("driver 580.159.04").count() > 5, "one block a tick:\n{text}");
    assert!(text.contains("Xid 79") && text.contains("fallen off the bus; reboot"), "{text}");
    assert!(text.contains("Xid 777") && text.contains("not in thruway's table"), "{text}");
    let last = text.rsplit("driver 580.159.04").next().unwrap_or_default();
    assert!(last.contains("GPU 3   the GPU has fallen off the bus") && last.contains("GPU 4   NVIDIA H100"), "{last}");
    // one JSON object a line
    live.control("");
    let (text, _, status) = watched(&live, &["--for", "3s", "--json", "0000:1b:00.0"], |live, _| {
        live.control("[[gpus]]\nindex = 0\nxids = [13]\n");
    });
    assert_eq!(status, Some(0));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let reports: Vec<&Value> = lines.iter().filter(|line| !line["gpus"].is_null()).collect();
    assert!(
        reports.len() > 3 && reports.iter().all(|line| line["gpus"]["is"].as_array().map(Vec::len) == Some(1)),
        "{text}"
    );
    let xid = lines.iter().find(|line| !line["xid"].is_null()).expect("an Xid");
    assert_eq!((&xid["xid"]["number"], &xid["xid"]["gpu"]), (&13.into(), &0.into()));
    assert_eq!(xid["xid"]["meaning"]["class"], "program");
}

#[test]
fn a_watch_ends_by_ctrl_c_and_outlives_a_driver_that_hangs() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-good", "gt1030");
    let start = std::time::Instant::now();
    let (text, _, status) = watched(&live, &[], |_, pid| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
    });
    assert!(status == Some(0) && start.elapsed() < std::time::Duration::from_secs(10), "{status:?} {text}");
    let (text, _, status) = watched(&live, &["--for", "9s"], |live, _| {
        live.control("hang = { milliseconds = 60000, calls = ['nvmlDeviceGetName'] }");
    });
    assert_eq!(status, Some(0));
    assert!(text.contains("the driver hangs at this GPU"), "{text}");
}
