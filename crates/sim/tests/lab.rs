//! The lab itself: QEMU boots, the real thruway runs in it, the card goes to vfio-pci and comes back.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks for the program that cargo built")]

use std::sync::atomic::Ordering;

use sim::lab::{Event, Form, LabError, run};

mod lab_common;

#[test]
fn a_card_goes_to_vfio_and_comes_back() {
    let Some(options) = lab_common::options(Form::Short) else { return };
    let mut said = Vec::new();
    let mut tell = |event: Event| {
        if let Event::Said(line) = event {
            said.push(line);
        }
    };
    let Some(report) = lab_common::report(&options, &mut tell) else { return };
    println!("{:.1} s from QEMU's start to its end", report.seconds);
    lab_common::well(&report, &said);
    assert!(report.simulated);
    assert!(said.iter().any(|line| line.contains("10de:1d01")), "{said:#?}");
}

#[test]
fn an_interrupted_lab_ends_before_it_boots() {
    let Some(options) = lab_common::options(Form::Short) else { return };
    options.interrupted.store(true, Ordering::Relaxed);
    let mut booted = false;
    match run(&options, &mut |event| booted |= matches!(event, Event::Booting { .. })) {
        Err(LabError::Interrupted) => assert!(!booted),
        Err(error) if lab_common::lacking(&error) => println!("SKIP: {error}"),
        other => panic!("{other:?}"),
    }
}
