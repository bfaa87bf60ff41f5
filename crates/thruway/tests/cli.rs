//! The program from outside: statuses, forms, and what it does with bad input.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program")]

mod common;

use common::{on, stderr, stdout, thruway};

#[test]
fn this_machine_is_told_truly() {
    // Whatever this machine is, the two views must agree with its PCI bus.
    let devices = std::fs::read_dir("/sys/bus/pci/devices").map(|dir| {
        let class = |e: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(e.ok()?.path().join("class")).ok();
        dir.filter_map(class).filter(|class| class.starts_with("0x03")).count()
    });
    let gpus = thruway(&["gpus", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&gpus)).expect("JSON");
    let cards = report["cards"].as_array().expect("cards").len();
    match devices {
        Ok(count) => {
            assert!(cards <= count, "{cards} cards, but {count} display functions");
            assert_eq!(cards == 0, count == 0, "{cards} cards, but {count} display functions");
            assert_eq!(gpus.status.code(), Some(i32::from(count == 0)), "{}", stdout(&gpus));
        }
        Err(_) => println!("SKIPPED the comparison: this machine has no PCI bus in sysfs"),
    }
    let doctor = thruway(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&doctor)).expect("JSON");
    assert_eq!(report["kind"], "live");
    assert_eq!(report["floors"].as_array().expect("floors").len(), 6);
    assert!(doctor.status.code().is_some_and(|code| code <= 2), "{:?}", doctor.status);
}

#[test]
fn everything_simulated_says_so() {
    for args in [["doctor"].as_slice(), &["gpus"], &["plan"]] {
        let text = stdout(&thruway(&[&["--sim", "seed-host"], args].concat()));
        assert!(text.contains("simulated"), "{args:?}:\n{text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&thruway(&["--sim", "seed-host", "doctor", "--json"]))).expect("JSON");
    assert_eq!(json["simulated"], true);
}

#[test]
fn the_seed_host_is_broken_first_on_the_host_floor() {
    let doctor = thruway(&["--sim", "seed-host", "doctor", "--json"]);
    assert_eq!(doctor.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&stdout(&doctor)).expect("JSON");
    assert_eq!(json["verdict"], "broken");
    let first = json["first_broken"].as_str().expect("a broken link");
    assert!(first.starts_with("host/"), "{first}");
    let text = stdout(&thruway(&["--sim", "seed-host", "doctor"]));
    let place = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("no {needle} in\n{text}"));
    assert!(place(first) < place("undo"), "{text}");
    assert!(text.contains("26:00.0"), "{text}");
}

#[test]
fn without_a_terminal_a_change_needs_yes() {
    let scratch = machine::scratch::Scratch::temporary().expect("a directory");
    sim::build_named("seed-host", &scratch).expect("the box");
    let refused = on(scratch.path(), &["host", "apply", "--give", "26:00.0", "--allow", "host/console-lost"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--yes"), "{}", stderr(&refused));
    assert!(!scratch.path().join("var/lib/thruway").exists(), "a refused apply left a journal");
    let dry = on(scratch.path(), &["host", "apply", "--give", "26:00.0", "--allow", "host/console-lost", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(0), "{}", stderr(&dry));
    assert!(!scratch.path().join("var/lib/thruway").exists(), "a dry run left a journal");
}

#[test]
fn a_stale_plan_is_refused_with_what_changed() {
    let scratch = machine::scratch::Scratch::temporary().expect("a directory");
    sim::build_named("seed-host", &scratch).expect("the box");
    let plan = scratch.path().join("plan.json");
    let out = plan.to_str().expect("a path");
    let made = on(scratch.path(), &["host", "plan", "--give", "26:00.0", "--allow", "host/console-lost", "--out", out]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let release = scratch.path().join("proc/sys/kernel/osrelease");
    std::fs::write(&release, "6.8.12-1-pve\n").expect("another kernel");
    let applied = on(scratch.path(), &["apply", out, "--yes"]);
    assert_eq!(applied.status.code(), Some(2), "{}", stdout(&applied));
    assert!(stderr(&applied).contains("6.8.12-1-pve"), "{}", stderr(&applied));
}

#[test]
fn a_plan_made_over_an_interrupted_change_is_stale_once_that_is_taken_back() {
    let scratch = machine::scratch::Scratch::temporary().expect("a directory");
    sim::build_named("seed-host", &scratch).expect("the box");
    let root = scratch.path();
    let blacklist = root.join("etc/modprobe.d/pve-blacklist.conf");
    let before = std::fs::read(&blacklist).expect("the box's file");
    let mut first = model::Plan::new(model::Layer::Host, &model::Intent::default(), Default::default());
    let content = model::Content::Text("blacklist nouveau\n".into());
    let change = |title: &str, op, undo| model::Change {
        layer: model::Layer::Host,
        title: title.into(),
        op,
        expects: model::Before::Nothing,
        because: Vec::new(),
        risk: Vec::new(),
        effective: model::Effective::Now,
        undo,
    };
    let path = "/etc/modprobe.d/pve-blacklist.conf".to_owned();
    first.changes = vec![
        change("write", model::Op::WriteFile { path, content, mode: 0o644 }, model::Undo::Exact),
        change("generate", model::Op::Regenerate(model::Tool::UpdateInitramfs), model::Undo::Inverse),
    ];
    let hands = sim::SimHands::new(root);
    for n in 1.. {
        let mut journal = journal::Journal::open(root, &hands).expect("a journal").stop_at(n);
        let stopped = journal.apply(&first, &mut |_| {});
        assert!(matches!(stopped, Err(journal::Error::Stopped(_))), "{stopped:?}");
        if std::fs::read(&blacklist).expect("the file") != before {
            break;
        }
        drop(journal);
        journal::Journal::open(root, &hands).expect("a journal").recover().expect("recovered");
    }
    let plan = root.join("plan.json");
    let out = plan.to_str().expect("a path");
    let made = on(root, &["host", "plan", "--give", "26:00.0", "--allow", "host/console-lost", "--out", out]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    // At the first look it fits; under the lock the interrupted change goes back, and with it what the plan stood on.
    let applied = on(root, &["apply", out, "--yes"]);
    assert_eq!(applied.status.code(), Some(2), "{}", stdout(&applied));
    assert!(stderr(&applied).contains("was taken back"), "{}", stderr(&applied));
    assert!(stderr(&applied).contains("no longer fits this machine"), "{}", stderr(&applied));
    assert_eq!(std::fs::read(&blacklist).expect("the file"), before);
    assert!(!stdout(&applied).contains("Applied"), "{}", stdout(&applied));
}

#[test]
fn explain_knows_every_check_and_the_page_is_current() {
    let list = stdout(&thruway(&["explain", "--json"]));
    let checks: Vec<serde_json::Value> = serde_json::from_str(&list).expect("JSON");
    assert!(checks.len() >= 40, "{} checks", checks.len());
    let mut ids: Vec<&str> = checks.iter().map(|check| check["id"].as_str().expect("an id")).collect();
    for id in &ids {
        assert_eq!(thruway(&["explain", id]).status.code(), Some(0), "{id}");
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), checks.len(), "two checks of one name");
    assert_eq!(thruway(&["explain", "host/no-such-check"]).status.code(), Some(2));
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/checks.md")).expect("docs/checks.md");
    let now = stdout(&thruway(&["explain", "--markdown"]));
    assert_eq!(page, now, "docs/checks.md is old: thruway explain --markdown > docs/checks.md");
}

#[test]
fn a_capture_says_the_same_as_the_machine() {
    let scratch = machine::scratch::Scratch::temporary().expect("a directory");
    sim::build_named("seed-guest", &scratch).expect("the box");
    let file = scratch.path().join("box.tar.zst");
    let out = file.to_str().expect("a path");
    let made = on(scratch.path(), &["capture", "-o", out]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let verdicts = |text: String| -> Vec<(String, String)> {
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let floors = json["floors"].as_array().expect("floors").clone();
        let findings = floors.iter().flat_map(|floor| floor["findings"].as_array().expect("findings").clone());
        findings.map(|f| (f["id"].to_string(), f["verdict"].to_string())).collect()
    };
    let live = verdicts(stdout(&on(scratch.path(), &["doctor", "--json"])));
    let replayed = verdicts(stdout(&thruway(&["--from", out, "doctor", "--json"])));
    assert_eq!(live, replayed);
    let apply = thruway(&["--from", out, "apply", "--yes"]);
    assert_ne!(apply.status.code(), Some(0), "a capture was changed");
}

#[test]
fn bad_input_is_named_and_never_a_panic() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("bad.tar.zst");
    std::fs::write(&file, b"not a capture at all").expect("a file");
    let file = file.to_str().expect("a path").to_owned();
    let missing = dir.path().join("missing").display().to_string();
    for args in [
        vec!["--from", file.as_str(), "doctor"],
        vec!["--from", missing.as_str(), "doctor"],
        vec!["--root", missing.as_str(), "doctor"],
        vec!["--sim", "no-such-box", "doctor"],
        vec!["apply", file.as_str(), "--yes"],
        vec!["gpus", "not-an-address"],
        vec!["plan", "--give", "zz:00.0"],
        vec!["plan", "--to", "100"],
    ] {
        let output = thruway(&args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{args:?}: {text}");
        assert!(!text.trim().is_empty(), "{args:?} said nothing");
    }
    let text = stderr(&thruway(&["--from", &file, "doctor"]));
    assert!(text.contains("bad.tar.zst"), "{text}");
}

#[test]
fn topo_says_how_the_cards_of_a_server_lie() {
    let output = thruway(&["--sim", "eight-gpu", "topo"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let row = |label: &str| {
        let line = text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("{label}: {text}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("GPU1")[..9], ["GPU1", "NODE", "X", "NODE", "NODE", "SYS", "SYS", "SYS", "SYS"]);
    assert_eq!(row("GPU4").last().map(String::as_str), Some("1"), "the other NUMA node");
    assert!(text.contains("the link between NUMA nodes") && !text.contains("PIX"), "a legend of what is shown: {text}");
    let output = thruway(&["--sim", "host-good", "topo"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
}

#[test]
fn completions_and_man_page_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let text = stdout(&thruway(&["completions", shell]));
        assert!(text.contains("thruway") && text.contains("doctor"), "{shell}");
    }
    assert!(stdout(&thruway(&["man"])).contains(".TH thruway"));
}

#[test]
fn the_demo_plays_and_its_output_is_the_recorded_one() {
    let start = std::time::Instant::now();
    let output = thruway(&["demo"]);
    println!("the demo took {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(output.status.code(), Some(0), "{}\n{}", stdout(&output), stderr(&output));
    let text = stdout(&output);
    // The log's times are of today, and the container is shown where it can be.
    let (before, rest) =
        text.split_once("» a container, for real").or(text.split_once("» not shown: a container")).expect("it");
    let (inside, after) = rest.split_once("\n» ").expect("what comes after it");
    let text: String = format!("{before}» A CONTAINER, OR WHY NOT\n» {after}");
    let text: String = text.lines().map(|line| format!("{}\n", untimed(line))).collect();
    insta::assert_snapshot!("demo", text);
    let mut needs = ["thruway-runtime", "thruway-hook", "deps/libsimnvml.so"].map(built).to_vec();
    needs.push(
        ["/usr/sbin/runc", "/usr/bin/runc"]
            .map(std::path::PathBuf::from)
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_default(),
    );
    if !rustix::process::geteuid().is_root() || needs.iter().any(|path| !path.exists()) {
        assert!(inside.starts_with(' ') || inside.starts_with('.'), "{inside}");
        println!("SKIP: a container in the demo needs root and {needs:?}; it said: {inside}");
        return;
    }
    let (asked, unasked) =
        inside.split_once("container$ thruway smi").unwrap_or_else(|| panic!("it was not shown:{inside}"));
    assert!(asked.contains("NVIDIA GeForce GT 1030") && asked.contains("535.183.01"), "{inside}");
    assert!(unasked.contains("[exit status 9]") && !unasked.contains("GT 1030"), "{inside}");
}

/// What cargo puts beside the program.
fn built(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_BIN_EXE_thruway")).with_file_name("").join(name)
}

/// `2026-11-24 04:20:21Z` → `TIME`.
fn untimed(line: &str) -> String {
    match line.find("Z  ").filter(|end| *end >= 19 && line.is_char_boundary(end - 19)) {
        Some(end) => format!("{}TIME{}", &line[..end - 19], &line[end + 1..]),
        None => line.to_owned(),
    }
}

#[test]
fn a_partial_tree_of_a_guest_says_why_it_has_no_iommu() {
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/../gpu/tests/fixtures/h100-guest");
    let text = stdout(&thruway(&["--from", tree, "doctor"]));
    assert!(text.contains("itself a guest: its IOMMU belongs to its host"), "{text}");
    let text = stdout(&thruway(&["--from", tree, "gpus"]));
    for wanted in
        ["580.159.04 (open modules)", "/usr/local/nvidia/lib64", "found by ld.so.cache", "NVIDIA H100 80GB HBM3"]
    {
        assert!(text.contains(wanted), "no {wanted} in\n{text}");
    }
}

/// The recording of a real H100 guest, as `thruway capture` wrote it there.
#[test]
fn a_capture_of_a_live_guest_is_well() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../gpu/tests/fixtures/h100-live/capture.tar.zst");
    let output = thruway(&["--from", file, "doctor"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = stdout(&output).replace(file, "FILE");
    insta::assert_snapshot!("live_h100_doctor", text);
    assert!(stdout(&thruway(&["--from", file, "container", "plan"])).contains("Nothing to change."));
}
