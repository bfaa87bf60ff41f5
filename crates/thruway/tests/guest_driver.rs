//! `thruway guest driver`: what a card needs, said before anything is installed.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program")]

mod common;

use std::process::{Command, Output};

use common::{stderr, stdout};
use serde_json::Value;

fn thruway(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
    command.args(["guest", "driver"]).args(args).env("NO_COLOR", "1").output().expect("it runs")
}

fn cards(args: &[&str]) -> Value {
    let output = thruway(&[args, &["--json"]].concat());
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    report["cards"].clone()
}

#[test]
fn an_id_is_enough_and_an_unknown_one_is_said_to_be() {
    let told = cards(&["10de:1d01", "10de:2b85", "10de:2b86"]);
    assert_eq!((&told[0]["chip"]["name"], &told[0]["needs"]["newest"]), (&"GP108".into(), &580.into()));
    assert_eq!((&told[0]["needs"]["open"], &told[0]["needs"]["proprietary"]), (&false.into(), &true.into()));
    assert_eq!((&told[1]["needs"]["open"], &told[1]["needs"]["proprietary"]), (&true.into(), &false.into()));
    assert_eq!((&told[2]["chip"], &told[2]["needs"]), (&Value::Null, &Value::Null));
    assert_eq!(thruway(&["10de:1d01"]).status.code(), Some(0));
    let unknown = thruway(&["10de:2b86"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stdout(&unknown).contains("the list of chips does not have this id"));
}

#[test]
fn a_machines_driver_is_held_against_its_cards() {
    assert_eq!(cards(&["--sim", "guest-good"])[0]["running"]["fit"], "fits");
    let open = thruway(&["--sim", "guest-open-modules"]);
    assert_eq!(open.status.code(), Some(1));
    assert!(stdout(&open).contains("the proprietary modules are needed"), "{}", stdout(&open));
    assert!(stdout(&thruway(&["--sim", "guest-branch-590"])).contains("too new: 580 is the last branch"));
    assert!(stderr(&thruway(&["--sim", "guest-good", "7"])).contains("there is no NVIDIA GPU number 7"));
}
