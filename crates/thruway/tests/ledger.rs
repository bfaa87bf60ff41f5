//! To whom a card is promised: one owner each, different owners side by side, kept by every floor, undone alone.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "lays machines out and runs the program")]

mod common;

use std::process::Output;

use common::{on, stderr, stdout};
use machine::scratch::Scratch;

fn lay(name: &str) -> Scratch {
    let scratch = Scratch::temporary().expect("a directory");
    sim::build_named(name, &scratch).expect("the box");
    scratch
}

fn all(output: &Output) -> String {
    let text = format!("{}{}", stdout(output), stderr(output));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn well(scratch: &Scratch, args: &[&str]) -> String {
    let output = on(scratch.path(), args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", all(&output));
    all(&output)
}

#[track_caller]
fn refused(scratch: &Scratch, args: &[&str], says: &str) {
    let output = on(scratch.path(), args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", all(&output));
    assert!(all(&output).contains(says), "{args:?}: no \"{says}\" in {}", all(&output));
}

fn promised(scratch: &Scratch) -> Vec<(String, String)> {
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&on(scratch.path(), &["gpus", "--json"]))).expect("JSON");
    let cards = json["cards"].as_array().expect("cards");
    let one = |card: &serde_json::Value| {
        let to = card["promised"]["to"].as_str().unwrap_or("").to_owned();
        (
            card["identity"]["bdf"].as_str().expect("a BDF").to_owned(),
            format!("{} {to}", card["promised"]["state"].as_str().expect("a state")),
        )
    };
    cards.iter().map(one).collect()
}

#[test]
fn two_cards_have_two_owners_and_no_card_has_two() {
    let scratch = lay("twin-cards");
    well(&scratch, &["assign", "26:00.0", "vm:100", "--dry-run"]);
    assert!(!scratch.path().join("var/lib/thruway").exists(), "a dry run left a ledger");
    well(&scratch, &["assign", "26:00.1", "vm:100", "--yes"]);
    well(&scratch, &["assign", "1", "containers", "--yes"]);
    let both = [("0000:26:00.0", "to vm:100"), ("0000:2d:00.0", "to containers")];
    assert_eq!(promised(&scratch), both.map(|(bdf, to)| (bdf.to_owned(), to.to_owned())));
    assert!(well(&scratch, &["gpus"]).contains("promised to vm:100"));
    for other in ["vm:101", "host", "containers", "pods"] {
        refused(&scratch, &["assign", "26:00.0", other, "--yes"], "is promised to vm:100");
    }
    assert!(well(&scratch, &["assign", "26:00.0", "vm:100", "--yes"]).contains("Nothing to change"));
    let log = well(&scratch, &["log"]);
    assert!(log.contains("promise 26:00.0 (GeForce GT 1030) to vm:100") && log.contains("ledger"), "{log}");
    // The older of the two alone.
    well(&scratch, &["undo", "1", "--yes"]);
    assert_eq!(promised(&scratch)[0].1, "nobody ");
    assert_eq!(promised(&scratch)[1].1, "to containers");
    well(&scratch, &["assign", "2d:00.0", "nobody", "--yes"]);
    assert_eq!(promised(&scratch)[1].1, "nobody ");
    well(&scratch, &["undo", "--yes"]);
    assert_eq!(promised(&scratch)[1].1, "to containers");
}

/// Whoever gives a card to a VM by name has promised it: the next plan for another VM is refused, and undo forgets.
#[test]
fn a_plan_for_a_named_vm_is_a_promise() {
    let scratch = lay("seed-host");
    let give = |vm: &'static str| ["--give", "26:00.0", "--to", vm, "--allow", "host/console-lost"];
    let host = |verb: &'static str, vm: &'static str| [["host", verb].as_slice(), &give(vm)].concat();
    let plan = well(&scratch, &host("plan", "vm:100"));
    assert!(plan.contains("26:00.0 (GeForce GT 1030) is promised to vm:100"), "{plan}");
    assert_eq!(promised(&scratch)[0].1, "nobody ", "a plan promises nothing yet");
    well(&scratch, &[host("apply", "vm:100"), vec!["--yes"]].concat());
    assert_eq!(promised(&scratch)[0].1, "to vm:100");
    assert!(well(&scratch, &["host", "status"]).contains("promised to vm:100"));
    assert!(well(&scratch, &host("plan", "vm:100")).contains("Nothing to change"));
    refused(&scratch, &["assign", "26:00.0", "vm:101", "--yes"], "is promised to vm:100");
    well(&scratch, &["undo", "--yes"]);
    assert_eq!(promised(&scratch)[0].1, "nobody ");
}

#[test]
fn a_card_is_meant_by_address_number_uuid_or_a_name_of_its_own() {
    let scratch = lay("twin-cards");
    for (bad, says) in [
        ("GT 1030", "say which by its address"),
        ("RTX", "no GPU is \"RTX\""),
        ("7", "no NVIDIA GPU number 7"),
        ("99:00.0", "no GPU at 0000:99:00.0"),
        ("GPU-00000000", "no GPU is"),
    ] {
        let output = on(scratch.path(), &["assign", bad, "host", "--yes"]);
        assert!(output.status.code() == Some(2) && stderr(&output).contains(says), "{bad}: {}", all(&output));
    }
    let owner = on(scratch.path(), &["assign", "0", "everybody", "--yes"]);
    assert!(owner.status.code() == Some(2) && stderr(&owner).contains("vm:ID"), "{}", all(&owner));
    let single = lay("seed-host");
    well(&single, &["assign", "gt 1030", "pods", "--yes"]);
}

#[test]
fn every_floor_that_hands_a_card_out_keeps_the_promise() {
    let host = lay("twin-cards");
    well(&host, &["assign", "26:00.0", "containers", "--yes"]);
    let give = ["--give", "26:00.0", "--to", "vm:100"];
    refused(&host, &[&["host", "plan"], give.as_slice()].concat(), "is promised to containers");
    refused(&host, &["host", "bind", "26:00.0", "--yes"], "is promised to containers");
    well(&host, &[&["host", "plan", "--allow", "ledger/promised"], give.as_slice()].concat());
    well(&host, &["host", "plan", "--give", "2d:00.0", "--allow", "host/console-lost"]);
    let vm = lay("vm-not-given");
    well(&vm, &["assign", "26:00.0", "vm:101", "--yes"]);
    refused(&vm, &[&["vm", "plan"], give.as_slice()].concat(), "is promised to vm:101");
    let engine = lay("eight-gpu");
    let plan = on(engine.path(), &["container", "plan"]);
    assert!(plan.status.code() == Some(0) && !all(&plan).contains("Nothing to change"), "{}", all(&plan));
    well(&engine, &["assign", "3", "pods", "--yes"]);
    refused(&engine, &["container", "plan"], "is promised to pods");
}

#[test]
fn another_card_in_the_slot_and_the_card_in_another_slot_are_told() {
    let scratch = lay("twin-cards");
    well(&scratch, &["assign", "26:00.0", "vm:100", "--yes"]);
    let path = scratch.path().join("var/lib/thruway/ledger/0000:26:00.0.json");
    let text = std::fs::read_to_string(&path).expect("the promise");
    // As if another card had sat there.
    std::fs::write(&path, text.replace("10de:1d01", "10de:2204")).expect("written");
    let to_vm = ["host", "plan", "--give", "26:00.0", "--to", "vm:100"];
    refused(&scratch, &to_vm, "another card (10de:2204) was promised to vm:100 at 26:00.0");
    refused(&scratch, &["assign", "26:00.0", "vm:100", "--yes"], "another card (10de:2204)");
    // As if this card had sat elsewhere.
    std::fs::remove_file(&path).expect("removed");
    let old = path.with_file_name("0000:0b:00.0.json");
    std::fs::write(&old, text.replace("0000:26:00.0", "0000:0b:00.0")).expect("written");
    refused(&scratch, &to_vm, "was promised to vm:100 when it sat at 0b:00.0");
    assert!(well(&scratch, &["gpus"]).contains("is promised to vm:100 and not there"));
    std::fs::write(&old, "{").expect("written");
    std::fs::rename(&old, &path).expect("moved");
    refused(&scratch, &to_vm, "0000:26:00.0.json:1:");
}

#[test]
fn who_runs_with_a_card_is_not_overruled() {
    let scratch = lay("host-in-use");
    refused(&scratch, &["assign", "26:00.0", "vm:100", "--yes"], "processes of this machine use it now: 900 Xorg");
    well(&scratch, &["assign", "26:00.0", "host", "--yes"]);
}
