//! The full lab: a Debian host boots through its own GRUB, thruway mends it over a reboot and takes it back over
//! another. It takes minutes and, the first time, root and some 700 MB: run it by the command below.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks for the program that cargo built")]
#![allow(clippy::print_stdout, reason = "says what it skips, and the times")]

mod lab_common;

use std::time::Instant;

use sim::lab::{Event, Form};

#[test]
#[ignore = "minutes: cargo build -p thruway && cargo test -p thruway-sim --test lab_full -- --ignored --nocapture"]
fn a_host_is_mended_over_a_reboot_and_taken_back_over_another() {
    let Some(options) = lab_common::options(Form::Full) else { return };
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
    let Some(report) = lab_common::report(&options, &mut tell) else { return };
    let prepared = prepared.map_or(0.0, |time| time.as_secs_f64());
    println!("{prepared:.1} s to prepare the disks, {:.1} s from QEMU's start to its end", report.seconds);
    lab_common::well(&report, &said);
    assert_eq!(report.boots, 3);
    assert!(clock.iter().any(|(boot, what)| *boot == 3 && what.contains("GRUB")), "{clock:?}");
}
