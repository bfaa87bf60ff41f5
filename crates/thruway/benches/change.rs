//! What changing a machine costs: a plan on the largest box, and apply's own work (the generators left out, which do
//! nothing here) beside the same files written and fsynced by `dd`. Never a timed test. Run with:
//! cargo bench --bench change
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "measures whole programs and real writes"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use journal::{HandError, Hands, Journal};
use model::{Intent, Op, Plan};

const RUNS: usize = 15;

struct Idle;

impl Hands for Idle {
    fn act(&self, _: &Op) -> Result<(), HandError> {
        Ok(())
    }

    fn take_back(&self, _: &Op) -> Result<(), HandError> {
        Ok(())
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// A box laid out on the disk that the build directory lies on: fsync on a memory file system costs nothing.
fn tree(name: &str) -> (tempfile::TempDir, machine::scratch::Scratch) {
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let scratch = machine::scratch::Scratch::at(&dir.path().join("root")).expect("a directory");
    sim::build_named(name, &scratch).expect("the box");
    std::fs::create_dir_all(scratch.path().join("var/lib")).expect("/var/lib");
    (dir, scratch)
}

fn plan(root: &Path) -> Plan {
    let machine = machine::Root::tree(root).expect("the tree");
    let inventory = gpu::observe(&machine);
    let facts = host::observe(&machine, &inventory);
    let give = vec!["0000:26:00.0".parse().expect("an address")];
    host::plan(&facts, &Intent { give, allow: vec!["host/console-lost".into()], ..Intent::default() })
}

fn main() {
    let (_dir, eight) = tree("eight-gpu");
    let root = eight.path().display().to_string();
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
        command.args(["--root", &root, "host", "plan", "--json", "--allow", "host/console-lost"]);
        for card in eight_cards(eight.path()) {
            command.args(["--give", &card]);
        }
        let output = command.stdin(Stdio::null()).output().expect("thruway starts");
        times.push(start.elapsed());
        assert!(!output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    println!("plan, all of 8 GPUs       {}   (wanted: under 50 ms)", ms(median(times)));

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut files = 0;
    for _ in 0..RUNS {
        let (_dir, host) = tree("seed-host");
        let plan = plan(host.path());
        assert!(plan.refusals.is_empty() && !plan.changes.is_empty(), "{:?}", plan.refusals);
        let mut journal = Journal::open(host.path(), &Idle).expect("the journal");
        let start = Instant::now();
        journal.apply(&plan, &mut |_| {}).expect("applied");
        ours.push(start.elapsed());

        let (dir, host) = tree("seed-host");
        let writes: Vec<_> = plan.changes.iter().filter_map(write).collect();
        files = writes.len();
        for (number, (path, bytes)) in writes.iter().enumerate() {
            std::fs::write(dir.path().join(number.to_string()), bytes).expect("dd's input");
            let parent = host.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(parent.parent().expect("a parent")).expect("its directory");
        }
        let start = Instant::now();
        for (number, (path, _)) in writes.iter().enumerate() {
            let status = Command::new("dd")
                .arg(format!("if={}", dir.path().join(number.to_string()).display()))
                .arg(format!("of={}", host.path().join(path.trim_start_matches('/')).display()))
                .args(["conv=fsync", "status=none"])
                .status();
            assert!(status.is_ok_and(|status| status.success()), "dd");
        }
        theirs.push(start.elapsed());
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!(
        "apply, {files} files            {}   dd conv=fsync {}   ratio {ratio:.2} (wanted: under 100 ms)",
        ms(ours),
        ms(theirs)
    );
}

fn write(change: &model::Change) -> Option<(String, Vec<u8>)> {
    match &change.op {
        Op::WriteFile { path, content, .. } => Some((path.clone(), content.to_bytes()?)),
        _ => None,
    }
}

fn eight_cards(root: &Path) -> Vec<String> {
    let machine = machine::Root::tree(root).expect("the tree");
    gpu::observe(&machine).nvidia().map(|card| card.identity.bdf.to_string()).collect()
}
