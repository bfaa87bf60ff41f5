//! The lab itself: QEMU boots, the real thruway runs in it, the card goes to vfio-pci and comes back.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "looks for the program that cargo built")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sim::lab::{Ended, Event, Form, LabError, Options, STEPS, run};

mod lab_common;

fn options(thruway: PathBuf, interrupted: bool) -> Options {
    Options {
        form: Form::Short,
        cache: lab_common::cache(),
        thruway,
        limit: Duration::from_secs(150),
        interrupted: Arc::new(AtomicBool::new(interrupted)),
    }
}

#[test]
fn a_card_goes_to_vfio_and_comes_back() {
    let Some(thruway) = lab_common::thruway() else {
        println!("SKIP: thruway is not built; run cargo build -p thruway");
        return;
    };
    let mut said = Vec::new();
    let mut tell = |event: Event| {
        if let Event::Said(line) = event {
            said.push(line);
        }
    };
    let report = match run(&options(thruway, false), &mut tell) {
        Ok(report) => report,
        Err(error) if lab_common::lacking(&error) => {
            println!("SKIP: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    println!("{:.1} s from QEMU's start to its end", report.seconds);
    assert_eq!(report.ended, Ended::Finished, "{report:#?}");
    assert!(report.steps.iter().all(|step| step.ok), "{:#?}\n{said:#?}", report.steps);
    let ids: Vec<&str> = report.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, STEPS.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(report.status(), 0);
    assert!(report.simulated);
    assert!(said.iter().any(|line| line.contains("10de:1d01")), "{said:#?}");
}

#[test]
fn an_interrupted_lab_ends_before_it_boots() {
    let Some(thruway) = lab_common::thruway() else {
        println!("SKIP: thruway is not built; run cargo build -p thruway");
        return;
    };
    let mut booted = false;
    match run(&options(thruway, true), &mut |event| booted |= matches!(event, Event::Booting { .. })) {
        Err(LabError::Interrupted) => assert!(!booted),
        Err(error) if lab_common::lacking(&error) => println!("SKIP: {error}"),
        other => panic!("{other:?}"),
    }
}
