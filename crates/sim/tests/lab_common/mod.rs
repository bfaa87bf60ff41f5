//! What the tests of every form of the lab share.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::print_stdout, reason = "says what it skips")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sim::lab::{Ended, Event, Form, LabError, Options, Report, run};

/// The form with the built thruway and its own limit; `None`, said, where there is no program.
pub fn options(form: Form) -> Option<Options> {
    let Some(thruway) = thruway() else {
        println!("SKIP: thruway is not built; run cargo build -p thruway");
        return None;
    };
    Some(Options {
        form,
        cache: cache(),
        libraries: None,
        cut_after: None,
        thruway,
        limit: form.limit(),
        interrupted: Arc::new(AtomicBool::new(false)),
    })
}

/// The lab's report; `None`, said, where the lab cannot be made here.
pub fn report(options: &Options, tell: &mut dyn FnMut(Event)) -> Option<Report> {
    match run(options, tell) {
        Ok(report) => Some(report),
        Err(error) if lacking(&error) => {
            println!("SKIP: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Every step of its form was reached, in order, and is well.
#[track_caller]
pub fn well(report: &Report, said: &[String]) {
    assert_eq!(report.ended, Ended::Finished, "{report:#?}\n{said:#?}");
    let failed: Vec<_> = report.steps.iter().filter(|step| !step.ok).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{said:#?}");
    let ids: Vec<&str> = report.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, report.form.steps().iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(report.status(), 0);
}

/// `target/debug/thruway`: two floors above this test, if it was built.
fn thruway() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    Some(test.parent()?.parent()?.join("thruway")).filter(|path| path.is_file())
}

/// Kept between runs.
fn cache() -> PathBuf {
    std::env::temp_dir().join("thruway-lab-cache")
}

/// Whether the lab cannot be made here, which is no failure of ours: a package is lacking, or apt has no network.
pub fn lacking(error: &LabError) -> bool {
    match error {
        LabError::Missing { .. } | LabError::Unfit(_) => true,
        LabError::Tool { command, .. } => command.starts_with("apt-"),
        _ => false,
    }
}
