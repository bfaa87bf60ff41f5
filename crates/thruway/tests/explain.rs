//! `thruway explain` over logs.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program")]

mod common;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use common::{stdout, thruway};

fn piped(log: &[u8], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
    command.arg("explain").args(args).env("NO_COLOR", "1");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("a pipe").write_all(log).expect("written");
    child.wait_with_output().expect("ends")
}

const LOG: &[u8] = b"2026-03-01T10:00:00 starting\n\
    kvm: -device vfio-pci,host=0000:26:00.0: vfio 0000:26:00.0: group 14 is not viable\n\
    TASK ERROR: start failed: QEMU exited with code 1\n";

#[test]
fn a_log_on_standard_input_is_explained() {
    let output = piped(LOG, &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for word in ["qemu/group-not-viable", "standard input:2", "thruway host plan", "host/group-shared"] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&stdout(&piped(LOG, &["--json"]))).expect("JSON");
    assert_eq!(json["schema"], 1);
    assert_eq!(json["lines"], 3);
    assert_eq!(json["found"][0]["line"], 2);
    assert_eq!(json["found"][1]["weak"], true);
}

#[test]
fn an_unknown_log_is_said_to_be_unknown() {
    let output = piped(b"all is quiet\n", &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("no error that thruway knows") && text.contains("does not mean that all is well"), "{text}");
}

#[test]
fn a_log_file_is_read_and_a_missing_one_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("start.log");
    std::fs::write(&path, LOG).expect("written");
    let output = thruway(&["explain", "--log", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("start.log:2"));
    let missing = thruway(&["explain", "--log", "/no/such.log"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(common::stderr(&missing).contains("/no/such.log"));
}

#[test]
fn a_hostile_log_moves_no_cursor() {
    let output = piped(b"\x1b[2J\xff\x00vfio 0000:01:00.0: group \x1b[31m3 is not viable\r\n", &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!stdout(&output).contains('\x1b'), "{:?}", stdout(&output));
}

#[test]
fn every_known_error_names_checks_that_exist() {
    let list = stdout(&thruway(&["explain", "--json"]));
    let checks: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let ids: Vec<&str> = checks.as_array().expect("checks").iter().filter_map(|check| check["id"].as_str()).collect();
    for row in decode::table().expect("the table") {
        for check in &row.checks {
            assert!(ids.contains(&check.as_str()), "{}: there is no check {check}", row.id);
        }
    }
}
