//! The lab's whole way by `thruway up` over SSH, and back. It takes minutes and, the first time, root: run it by the command
//! below.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks for the program that cargo built")]
#![allow(clippy::print_stdout, reason = "says what it skips, and the times")]

mod lab_common;

use sim::lab::{Event, Form};

fn goes_up_and_down(form: Form) {
    let Some(options) = lab_common::options(form) else { return };
    let mut said = Vec::new();
    let mut tell = |event: Event| match event {
        Event::Said(line) => said.push(line),
        Event::Doing { boot, seconds, what } => println!("boot {boot}, {seconds:.0} s: {what}"),
        Event::Step(step) => println!("{} {}: {}", if step.ok { "ok" } else { "FAIL" }, step.id, step.evidence),
        Event::Preparing(_) | Event::Booting { .. } => {}
    };
    let Some(report) = lab_common::report(&options, &mut tell) else { return };
    println!("{:.1} s from QEMU's start to its end, {} boots", report.seconds, report.boots);
    lab_common::well(&report, &said);
    assert!(said.iter().any(|line| line.contains("GeForce GT 1030")), "{said:#?}");
}

#[test]
#[ignore = "minutes: cargo build -p thruway -p thruway-runtime -p thruway-hook -p thruway-simnvml -p thruway-simcuda -p \
            thruway-simcuvid -p thruway-simnvenc && cargo test -p thruway-sim --test lab_up -- --ignored --nocapture"]
fn up_brings_the_card_into_a_container_and_down_takes_it_back() {
    goes_up_and_down(Form::Up);
}

#[test]
#[ignore = "minutes: as the other"]
fn up_completes_after_a_power_cut_of_the_host() {
    goes_up_and_down(Form::UpCut);
}
