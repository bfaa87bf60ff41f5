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
    let text = stdout(&live.thruway(&["doctor", "--layer", "guest"]));
    assert!(
        text.contains("does not answer: the GPU has fallen off the bus") && text.contains("guest/gpu-recovery"),
        "{text}"
    );
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
    assert!(!text.contains("NVML: NVML"), "{text}");
    let text = stdout(&live.thruway(&["gpus"]));
    assert!(text.contains("could not be asked: the library and the loaded kernel"), "{text}");
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

#[test]
fn every_topic_is_asked_where_it_is_shown() {
    if !namespaces() {
        return;
    }
    let live = Live::new("eight-gpu", "h100x8");
    // an AV1 session, which nvml-wrapper's own list fails on; a process at work; faults that a check reads
    live.control(
        "[[gpus]]\nindex = 0\nset = { sessions = [{ pid = 9, codec = 2, width = 3840, height = 2160, fps = 60, latency = 900 }, \
         { pid = 9, codec = 7, width = 64, height = 64, fps = 1, latency = 1 }], processes = [{ pid = 9, kind = 'C', \
         memory_mib = 100, sm = 40, mem = 3, enc = 25, dec = 5 }], remapped = { uncorrected = 2, pending = true }, \
         reasons = 0x48, retired = { double = [4096, 8192], pending = true } }\n",
    );
    let all = live.nvml();
    let gpu = &all[0];
    let topic = |name: &str| Value::clone(&gpu[name]["is"]);
    let sessions = Value::clone(&topic("engines")["sessions"]["is"]);
    assert_eq!((&sessions[0]["codec"], &sessions[1]["codec"]), (&"AV1".into(), &"codec 7".into()));
    assert_eq!(sessions[0]["width"], 3840);
    let process = &gpu["processes"]["is"][0];
    assert_eq!((&process["sm"], &process["encoder"], &process["decoder"]), (&is(40), &is(25), &is(5)));
    let health = topic("health");
    assert_eq!((&health["remapped_pending"], &health["remapped_failed"]), (&is(true), &is(false)));
    assert_eq!((&health["retired_double"], &health["retired_pending"]), (&is(2), &is(true)));
    assert_eq!((&health["event_reasons"], &health["recovery"]), (&is(0x48), &is("None")));
    assert_eq!(topic("errors")["retired_double_pages"], is(vec![4096, 8192]));
    assert_eq!(topic("errors")["histogram"], is(vec![2560, 0, 0, 0, 0]));
    let links = Value::clone(&topic("nvlink")["links"]);
    assert_eq!(links.as_array().map(Vec::len), Some(18));
    assert_eq!((&links[0]["remote"], &links[0]["remote_kind"]), (&is("00000000:C0:00.0"), &is("switch")));
    let power = topic("power");
    assert_eq!((&power["instant"], &power["min"], &power["max"]), (&is(74_430), &is(200_000), &is(700_000)));
    assert_eq!((&topic("heat")["margin"], &topic("heat")["margin_shutdown"]), (&is(53), &is(-8)));
    assert_eq!(topic("clocks")["supported"]["is"][0][0], 2619);
    assert_eq!(topic("mig")["profiles"]["is"][0]["name"], is("1g.10gb"));
    assert_eq!(topic("board")["gsp_version"], is("580.159.04"));
    // without --json or -v what takes time is not asked, and -v shows it
    let asked = |args: &[&str]| {
        let output = live.command(args).env("THRUWAY_SIM_TRACE", "1").output().expect("runs");
        (stdout(&output), stderr(&output).matches("nvmlDeviceGetPcieThroughput").count())
    };
    assert_eq!(asked(&["gpus"]).1, 0);
    let (text, times) = asked(&["gpus", "-v", "1b:00.0"]);
    assert_eq!(times, 16, "twice a card");
    for line in ["encodes   of process 9: AV1 3840x2160", "NVLink    18 of 18 links up", "rows remapped 2, pending yes"]
    {
        let whole = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(whole.contains(&line), "no {line:?} in\n{text}");
    }
}

#[test]
fn a_cut_card_shows_its_parts_and_an_old_driver_only_lacks() {
    if !namespaces() {
        return;
    }
    let [cut] = Live::new("guest-mig", "a100-mig").nvml().try_into().expect("one card");
    let mig = &cut["mig"]["is"];
    let devices = mig["devices"]["is"].as_array().expect("devices");
    assert_eq!(devices.len(), 4);
    assert_eq!((&devices[1]["profile"], &devices[1]["gpu_instance"]), (&is("2g.10gb"), &is(3)));
    assert_eq!(devices[1]["uuid"], is("MIG-51a51a51-20b0-5000-8000-000000000003"));
    let instances = mig["instances"]["is"].as_array().expect("instances");
    let ids: Vec<&Value> = instances.iter().map(|instance| &instance["id"]).collect();
    assert_eq!(ids, [1, 3, 9, 10]);
    assert_eq!(
        (&instances[0]["profile_name"], &instances[0]["compute"]),
        (&is("3g.20gb"), &is(serde_json::json!([[0, 3]])))
    );
    // 470 has none of what came later, and not one of it is an error
    let [old] = Live::new("guest-good", "gt1030-470").nvml().try_into().expect("one card");
    let text = old.to_string();
    assert!(!text.contains("unreadable"), "{text}");
    assert_eq!(
        (&old["heat"]["is"]["margin"], &old["board"]["is"]["gsp_version"]),
        (&"absent".into(), &"absent".into())
    );
    assert_eq!(old["heat"]["is"]["slowdown"], is(99));
    // who may not ask is told so, and it is not taken for "has none"
    let live = Live::new("guest-good", "gt1030");
    live.control("fail = { nvmlDeviceGetEncoderSessions = 4 }");
    let [refused] = live.nvml().try_into().expect("one card");
    assert_eq!(refused["engines"]["is"]["sessions"]["unreadable"], "permission_denied");
}
