//! The full lab: a Debian host boots through its own GRUB, thruway mends it over a reboot and takes it back over
//! another. It takes minutes and, the first time, root and some 700 MB: run it by the command below.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks for the program that cargo built")]
#![allow(clippy::print_stdout, reason = "says what it skips, and the times")]

mod lab_common;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use sim::lab::{Ended, Event, Form, Options, run};

#[test]
#[ignore = "minutes: cargo build -p thruway && cargo test -p thruway-sim --test lab_full -- --ignored --nocapture"]
fn a_host_is_mended_over_a_reboot_and_taken_back_over_another() {
    let Some(thruway) = lab_common::thruway() else {
        println!("SKIP: thruway is not built; run cargo build -p thruway");
        return;
    };
    let options = Options {
        form: Form::Full,
        cache: lab_common::cache(),
        thruway,
        limit: Form::Full.limit(),
        interrupted: Arc::new(AtomicBool::new(false)),
    };
    let began = Instant::now();
    let mut prepared = None;
    let mut said = Vec::new();
    let mut clock = Vec::new();
    let mut tell = |event: Event| match event {
        Event::Booting { .. } => prepared = Some(began.elapsed()),
        Event::Said(line) => said.push(line),
        Event::Doing { boot, seconds, what } => {
            println!("boot {boot}, {seconds:.0} s: {what}");
            clock.push((boot, what));
        }
        Event::Step(step) => println!("{} {}: {}", if step.ok { "ok" } else { "FAIL" }, step.id, step.evidence),
        Event::Preparing(_) => {}
    };
    let report = match run(&options, &mut tell) {
        Ok(report) => report,
        Err(error) if lab_common::lacking(&error) => {
            println!("SKIP: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let prepared = prepared.map_or(0.0, |time| time.as_secs_f64());
    println!("{prepared:.1} s to prepare the disks, {:.1} s from QEMU's start to its end", report.seconds);
    assert_eq!(report.ended, Ended::Finished, "{report:#?}\n{said:#?}");
    let failed: Vec<_> = report.steps.iter().filter(|step| !step.ok).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{said:#?}");
    let ids: Vec<&str> = report.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, Form::Full.steps().iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!((report.status(), report.boots), (0, 3));
    assert!(clock.iter().any(|(boot, what)| *boot == 3 && what.contains("GRUB")), "{clock:?}");
}
