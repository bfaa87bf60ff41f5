//! What `thruway cdi generate` costs as a whole process, beside /bin/true in the same run, and its parts in this one. Never a timed
//! test. Run with: cargo bench --bench cdi
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "runs programs, prints figures"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use machine::Root;
use simcards::view::View;
use simdriver::{Built, Layout, lay};

const RUNS: usize = 200;

fn figures(mut times: Vec<Duration>) -> (f64, f64, f64) {
    times.sort_unstable();
    let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
    (ms(&times[0]), ms(&times[times.len() / 2]), ms(&times[times.len() * 9 / 10]))
}

fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runs");
    let took = start.elapsed();
    assert!(status.success(), "{command:?}");
    took
}

fn inside(what: &str, mut work: impl FnMut()) {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        work();
        times.push(start.elapsed());
    }
    let (least, median, most) = figures(times);
    println!("  in this process, {what}: {least:.2} / {median:.2} / {most:.2} ms");
}

fn main() {
    let deps = std::env::current_exe().expect("this bench").parent().expect("its folder").to_owned();
    for (name, layout) in [("h100x8", Layout::Ubuntu), ("h100x8", Layout::Guest), ("rtx3090", Layout::Debian)] {
        let folder = tempfile::tempdir().expect("a directory");
        let laid =
            lay(folder.path(), View::named(name).expect("a box"), layout, &Built(deps.clone())).expect("lays out");
        let root = laid.root.as_path();
        let program = env!("CARGO_BIN_EXE_thruway");
        let generate = |root: &Path| {
            let mut command = Command::new(program);
            command.args(["cdi", "generate", "--hook", "/usr/bin/thruway-hook", "--root"]).arg(root);
            command
        };
        let (mut ours, mut bare, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ours.push(timed(&mut generate(root)));
            bare.push(timed(Command::new(program).arg("--version")));
            nothing.push(timed(&mut Command::new("/bin/true")));
        }
        let [ours, bare, nothing] = [ours, bare, nothing].map(figures);
        println!("{name}, {layout:?} (least / median / 90th of {RUNS}; wanted for 8 GPUs: 3 ms):");
        println!("  thruway cdi generate: {:.2} / {:.2} / {:.2} ms", ours.0, ours.1, ours.2);
        println!("  thruway --version:    {:.2} / {:.2} / {:.2} ms", bare.0, bare.1, bare.2);
        println!("  /bin/true:            {:.2} / {:.2} / {:.2} ms", nothing.0, nothing.1, nothing.2);
        println!(
            "  ratio to /bin/true: {:.1} by the least, {:.1} by the median",
            ours.0 / nothing.0,
            ours.1 / nothing.1
        );
        let hook = cdi::HookWish::Path("/usr/bin/thruway-hook".into());
        let options = cdi::Options { hook, ..cdi::Options::default() };
        inside("the whole spec", || {
            let machine = Root::tree(root).expect("a tree");
            cdi::generate_here(&machine, &options).expect("a spec");
        });
        inside("the look by the whole inventory", || {
            let machine = Root::tree(root).expect("a tree");
            gpu::observe_with(&machine, model::Seen::Absent);
        });
        inside("all files of a refresh", || {
            let machine = Root::tree(root).expect("a tree");
            assert!(cdi::wish(&machine, cdi::OUTPUT_DIR, &options).files.len() > 5);
        });
    }
}
