//! The nested lab: the host gives the card to a guest of its own, and before that every failed start is explained.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks for the program that cargo built")]
#![allow(clippy::print_stdout, reason = "says what it skips, and the times")]

mod lab_common;

use sim::lab::{Event, Form};

#[test]
fn a_guest_of_the_host_gets_the_card() {
    let Some(options) = lab_common::options(Form::Nested) else { return };
    let mut said = Vec::new();
    let mut tell = |event: Event| match event {
        Event::Said(line) => said.push(line),
        Event::Doing { seconds, what, .. } => println!("{seconds:.0} s: {what}"),
        Event::Step(step) => println!("{} {}: {}", if step.ok { "ok" } else { "FAIL" }, step.id, step.evidence),
        Event::Booting { .. } | Event::Preparing(_) => {}
    };
    let Some(report) = lab_common::report(&options, &mut tell) else { return };
    println!("{:.1} s from QEMU's start to its end", report.seconds);
    lab_common::well(&report, &said);
}
