//! The nested lab: the host gives the card to a guest of its own, QEMU in QEMU. A minute where nothing else runs, and
//! many on a busy machine: run it by the command below.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks for the program that cargo built")]
#![allow(clippy::print_stdout, reason = "says what it skips, and the times")]

mod lab_common;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sim::lab::{Ended, Event, Form, Options, run};

#[test]
#[ignore = "QEMU in QEMU: cargo build -p thruway && cargo test -p thruway-sim --test lab_nested -- --ignored --nocapture"]
fn a_guest_of_the_host_gets_the_card() {
    let Some(thruway) = lab_common::thruway() else {
        println!("SKIP: thruway is not built; run cargo build -p thruway");
        return;
    };
    let options = Options {
        form: Form::Nested,
        cache: lab_common::cache(),
        thruway,
        limit: Form::Nested.limit(),
        interrupted: Arc::new(AtomicBool::new(false)),
    };
    let mut said = Vec::new();
    let mut tell = |event: Event| match event {
        Event::Said(line) => said.push(line),
        Event::Doing { seconds, what, .. } => println!("{seconds:.0} s: {what}"),
        Event::Step(step) => println!("{} {}: {}", if step.ok { "ok" } else { "FAIL" }, step.id, step.evidence),
        Event::Booting { .. } | Event::Preparing(_) => {}
    };
    let report = match run(&options, &mut tell) {
        Ok(report) => report,
        Err(error) if lab_common::lacking(&error) => {
            println!("SKIP: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    println!("{:.1} s from QEMU's start to its end", report.seconds);
    assert_eq!(report.ended, Ended::Finished, "{report:#?}\n{said:#?}");
    let failed: Vec<_> = report.steps.iter().filter(|step| !step.ok).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{said:#?}");
    let ids: Vec<&str> = report.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, Form::Nested.steps().iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(report.status(), 0);
}
