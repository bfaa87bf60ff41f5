//! The table of boxes: on every simulated machine every floor's checks say what the box promises, and every check of
//! every floor fails on one machine and passes on another.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::lay_out;
use machine::Machine;
use model::{Check, Verdict, run_all};
use sim::Box;

type Findings = BTreeMap<&'static str, Verdict>;

/// Each floor: its crate's table over its own observation of the machine.
macro_rules! floors {
    ($($floor:ident),*) => {
        /// Every floor's verdicts on one machine.
        fn findings(machine: &dyn Machine) -> Findings {
            let gpus = gpu::observe(machine);
            let mut all = Findings::new();
            $(run(&mut all, $floor::CHECKS, &$floor::observe(machine, &gpus));)*
            all
        }

        fn ids() -> BTreeSet<&'static str> {
            let mut ids = BTreeSet::new();
            $(ids.extend($floor::CHECKS.iter().map(|check| check.about.id.0));)*
            ids
        }
    };
}

fn run<F>(findings: &mut Findings, checks: &'static [Check<F>], facts: &F) {
    findings.extend(run_all(checks, facts).into_iter().map(|finding| (finding.about.id.0, finding.verdict)));
}

floors!(host, vm, guest, container, kube, app);

#[test]
fn every_box_keeps_its_promises() {
    let known = ids();
    let mut broken = Vec::new();
    for name in Box::names() {
        let this = Box::load(name).expect("the box");
        let laid = lay_out(name);
        let found = findings(&laid.root);
        if findings(&laid.again()) != found {
            broken.push(format!("{name}: looking twice sees two things"));
        }
        for id in this.fails.iter().chain(&this.passes).filter(|id| !known.contains(id.as_str())) {
            broken.push(format!("{name}: there is no check {id}"));
        }
        for id in &this.fails {
            match found.get(id.as_str()) {
                Some(Verdict::Warn(_) | Verdict::Fail(_)) | None => {}
                Some(other) => broken.push(format!("{name}: {id} should complain, and says {other:?}")),
            }
        }
        for id in &this.passes {
            match found.get(id.as_str()) {
                Some(Verdict::Pass) | None => {}
                Some(other) => broken.push(format!("{name}: {id} should pass, and says {other:?}")),
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_check_fails_somewhere_and_passes_somewhere() {
    let (mut fails, mut passes) = (BTreeSet::new(), BTreeSet::new());
    for name in Box::names() {
        let this = Box::own(name).expect("the box");
        fails.extend(this.fails);
        passes.extend(this.passes);
    }
    let mut missing = Vec::new();
    for id in ids() {
        if !fails.contains(id) {
            missing.push(format!("{id} fails on no box"));
        }
        if !passes.contains(id) {
            missing.push(format!("{id} passes on no box"));
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

/// What each box's checks say, for whoever writes a box: `cargo nextest run -p thruway-sim --run-ignored only -E
/// 'test(what_the_boxes_say)' --no-capture`.
#[test]
#[ignore = "prints, and holds nothing"]
fn what_the_boxes_say() {
    for name in Box::names() {
        for (id, verdict) in findings(&lay_out(name).root) {
            match verdict {
                Verdict::Pass => println!("{name} {id} pass"),
                Verdict::Warn(trouble) => println!("{name} {id} WARN {}", trouble.says),
                Verdict::Fail(trouble) => println!("{name} {id} FAIL {}", trouble.says),
                Verdict::Unknown { reason, what } => println!("{name} {id} unknown: {what}: {reason}"),
                Verdict::NotApplicable => {}
            }
        }
    }
}
