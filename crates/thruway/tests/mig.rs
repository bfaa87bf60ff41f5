//! `thruway mig` over the simulated NVML: cut by name, kept for the boots, taken back; whoever uses the card is named.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs the program")]

mod common;
#[path = "common/live.rs"]
mod live;

use common::{stderr, stdout};
use live::{Live, namespaces};
use serde_json::Value;

/// (profile, first memory slice) of each instance, as the driver tells it.
fn now(live: &Live) -> Vec<(String, u64)> {
    let output = live.thruway(&["mig", "list", "--json"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let instances = report["cards"][0]["now"]["instances"].as_array().unwrap_or_else(|| panic!("{report:#}")).clone();
    let one = |it: &Value| (it["profile"].as_str().unwrap_or_default().to_owned(), it["start"].as_u64().unwrap_or(99));
    instances.iter().map(one).collect()
}

fn done(live: &Live, args: &[&str]) -> String {
    let output = live.thruway(args);
    let text = stdout(&output) + &stderr(&output);
    assert!(output.status.success(), "{args:?}: {text}");
    text
}

fn parts(all: &[(&str, u64)]) -> Vec<(String, u64)> {
    all.iter().map(|(name, start)| ((*name).to_owned(), *start)).collect()
}

#[test]
fn a_card_is_cut_kept_changed_and_made_whole_again() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-mig", "a100");
    let list = done(&live, &["mig", "list"]);
    for wanted in ["now       MIG off", "3g.20gb × 2 (19968 MiB)", "all-balanced", "all-1g.5gb.me"] {
        assert!(list.contains(wanted), "no {wanted:?} in\n{list}");
    }
    let plan = done(&live, &["mig", "plan", "all-balanced"]);
    assert!(plan.contains("MIG off → 1g.5gb × 2, 2g.10gb, 3g.20gb"), "{plan}");
    assert_eq!(now(&live), [], "a plan changes nothing");

    done(&live, &["mig", "apply", "all-balanced", "--yes", "--program", "/usr/local/bin/thruway"]);
    let balanced = parts(&[("2g.10gb", 0), ("1g.5gb", 2), ("1g.5gb", 3), ("3g.20gb", 4)]);
    assert_eq!(now(&live), balanced);
    let kept = live.left("/etc/thruway/mig.json").expect("is kept");
    assert!(kept.contains("GPU-51a51a51-20b0-4000-8000-000000000000") && kept.contains("3g.20gb"), "{kept}");
    let unit = live.left("/etc/systemd/system/thruway-mig.service").expect("has a unit");
    assert!(unit.contains("ExecStart=/usr/local/bin/thruway mig restore"), "{unit}");
    let again = done(&live, &["mig", "plan", "all-balanced", "--program", "/usr/local/bin/thruway"]);
    assert!(again.contains("Nothing to change"), "{again}");
    done(&live, &["mig", "verify"]);

    // the boot: the driver has forgotten, the unit cuts again
    std::fs::remove_file(live.state()).expect("the driver had a state");
    assert_eq!(now(&live), []);
    assert_eq!(live.thruway(&["mig", "verify"]).status.code(), Some(1));
    done(&live, &["mig", "restore"]);
    assert_eq!(now(&live), balanced);

    // what stays is not touched: the 3g instance keeps its number
    done(&live, &["mig", "apply", "3g.20gb,1c.3g.20gb", "--yes", "--program", "/usr/local/bin/thruway"]);
    assert_eq!(now(&live).len(), 2);
    done(&live, &["mig", "undo", "--yes"]);
    assert_eq!(now(&live), balanced, "as it was before, place by place");
    done(&live, &["mig", "undo", "--yes"]);
    assert_eq!(now(&live), []);
    assert_eq!(live.left("/etc/thruway/mig.json"), None);
    let off = done(&live, &["mig", "list"]);
    assert!(off.contains("now       MIG off"), "{off}");
}

#[test]
fn what_does_not_fit_and_what_cannot_be_cut_is_said() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-mig", "a100");
    let refused = live.thruway(&["mig", "apply", "3g.20gb*2,2g.10gb", "--yes"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stdout(&refused).contains("8 compute slices are"), "{}", stdout(&refused));
    let unknown = live.thruway(&["mig", "plan", "all-9g.80gb"]);
    assert!(stderr(&unknown).contains("all-balanced"), "{}", stderr(&unknown));
    let small = Live::new("guest-good", "gt1030");
    let told = small.thruway(&["mig", "apply", "all-balanced", "--yes"]);
    assert_eq!(told.status.code(), Some(2));
    assert!(stderr(&told).contains("this card cannot be cut into MIG instances"), "{}", stderr(&told));
}

#[test]
fn a_failure_halfway_is_taken_back() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-mig", "a100");
    done(&live, &["mig", "apply", "all-3g.20gb", "--yes", "--once"]);
    let before = now(&live);
    assert_eq!(before.len(), 2);
    // a compute instance is refused: by then the old instances are gone and a new one is begun; nor can they come back
    live.control("[fail]\nnvmlGpuInstanceCreateComputeInstance = 23\n");
    let failed = live.thruway(&["mig", "apply", "all-1g.5gb", "--yes", "--once"]);
    assert!(!failed.status.success());
    let text = stderr(&failed);
    assert!(text.contains("there is no room for it"), "{text}");
    live.control("");
    done(&live, &["undo", "--yes"]);
    assert_eq!(now(&live), before, "{text}");
}

#[test]
fn a_card_in_use_is_cut_at_the_next_boot() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-mig", "a100");
    let busy = "[[gpus]]\nindex = 0\nset = { processes = [{ pid = 4711, kind = 'C', memory_mib = 10 }] }\n";
    live.control(busy);
    let refused = live.thruway(&["mig", "apply", "all-3g.20gb", "--yes", "--once"]);
    assert!(!refused.status.success());
    let text = stderr(&refused).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("something uses the card. Stop what has the card open, or plan with --at-boot"), "{text}");
    let program = ["--at-boot", "--yes", "--program", "/usr/local/bin/thruway"];
    done(&live, &[&["mig", "apply", "all-3g.20gb"], &program[..]].concat());
    assert_eq!(now(&live), []);
    live.control("");
    done(&live, &["mig", "restore"]);
    assert_eq!(now(&live), parts(&[("3g.20gb", 0), ("3g.20gb", 4)]));
    // and whole again at the next one, which an Ampere card is not by itself
    done(&live, &[&["mig", "apply", "all-disabled"], &program[..]].concat());
    assert_eq!(now(&live).len(), 2);
    done(&live, &["mig", "restore"]);
    assert!(done(&live, &["mig", "list"]).contains("now       MIG off"));
}

#[test]
fn what_others_have_cut_since_the_plan_is_left_alone() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-mig", "a100");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("is text");
    done(&live, &["mig", "apply", "1g.5gb", "--yes", "--once"]);
    done(&live, &["mig", "plan", "2g.10gb", "--once", "--out", path]);
    done(&live, &["mig", "apply", "1g.5gb,3g.20gb", "--yes", "--once"]);
    let before = now(&live);
    let refused = live.thruway(&["apply", path, "--yes"]);
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("the ones that the plan saw"), "{}", stderr(&refused));
    assert_eq!(now(&live), before);
}

#[test]
fn a_mig_parted_file_is_read() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-mig", "a100");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = "version: v1\nmig-configs:\n  mine:\n    - device-filter: [\"0x233110DE\"]\n      devices: all\n\
        \x20     mig-enabled: true\n      mig-devices:\n        \"2g.10gb\": 3\n";
    std::fs::write(file.path(), text).expect("writes");
    let path = file.path().to_str().expect("is text");
    done(&live, &["mig", "apply", "mine", "--config", path, "--yes", "--once"]);
    assert_eq!(now(&live), parts(&[("2g.10gb", 0), ("2g.10gb", 2), ("2g.10gb", 4)]));
    assert_eq!(live.left("/etc/thruway/mig.json"), None, "--once keeps nothing");
    let other = live.thruway(&["mig", "plan", "theirs", "--config", path]);
    assert!(stderr(&other).contains("it has mine"), "{}", stderr(&other));
    std::fs::write(file.path(), text.replace("0x2331", "0x20B0")).expect("writes");
    let nothing = live.thruway(&["mig", "plan", "mine", "--config", path]);
    assert!(stderr(&nothing).contains("says nothing of the cards here"), "{}", stderr(&nothing));
}
