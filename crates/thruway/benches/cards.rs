//! What `gpus --json`, `smi -L`, `smi`, `topo` and `cdi generate` take against the number of cards: 1, 2 and 8 simulated H100, each
//! call of NVML with a delay like a real driver's. Prints the ratio to one card; wanted: linear or better. Never a timed test. Run it
//! with `cargo bench -p thruway --bench cards`. It needs root and mount namespaces, or says SKIP.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "a bench runs programs")]

#[path = "../tests/common/live.rs"]
mod live;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use live::{Live, namespaces};
use simcards::view::View;
use simdriver::{Built, Layout, lay};

/// Microseconds a call: what an H100's getters took, by their mean.
const DELAY: u64 = 100;
const ROUNDS: usize = 15;
/// How many, the box, and the driver's box of `cdi generate`.
const MACHINES: [(usize, &str); 3] = [(1, "h100"), (2, "h100x2"), (8, "h100x8")];
const COMMANDS: [&[&str]; 4] = [&["gpus", "--json"], &["smi", "-L"], &["smi"], &["topo"]];
/// Of sim's eight-gpu box, in its order.
const AT: [&str; 8] = ["1b", "43", "52", "61", "9d", "c3", "d1", "df"];

fn median(mut command: impl FnMut() -> Command) -> Duration {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut command = command();
        let start = Instant::now();
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runs");
        times.push(start.elapsed());
        assert!(status.success(), "{command:?}");
    }
    times.sort_unstable();
    times[ROUNDS / 2]
}

/// The server with so many of its cards.
fn machine(count: usize, name: &str) -> Live {
    let mut text = View::named(name).expect("a box").to_owned();
    if count == 1 {
        text.push_str("\n[gpus.set]\nat = [0, 0x1b, 0]\n");
    }
    let live = Live::of("eight-gpu", &text);
    for bus in &AT[count..] {
        let link = live.tree.path().join(format!("sys/bus/pci/devices/0000:{bus}:00.0"));
        std::fs::remove_file(link).expect("the tree has a card there");
    }
    live.control(&format!("delay_us = {DELAY}\n"));
    live
}

fn main() {
    if !namespaces() {
        return;
    }
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("medians of {ROUNDS} runs, {build}, {DELAY} µs each call of NVML; in brackets the ratio to one card");
    let deps = std::env::current_exe().expect("this bench").parent().expect("its folder").to_owned();
    let mut rows: Vec<(String, Vec<Duration>)> = COMMANDS.iter().map(|words| (words.join(" "), Vec::new())).collect();
    rows.push(("cdi generate".into(), Vec::new()));
    rows.push(("nothing (--version)".into(), Vec::new()));
    for (count, name) in MACHINES {
        let live = machine(count, name);
        let shown = String::from_utf8(live.thruway(&["smi", "-L"]).stdout).expect("UTF-8");
        assert_eq!(shown.lines().count(), count, "{shown}");
        let folder = tempfile::tempdir().expect("a directory");
        let text = View::named(name).expect("a box");
        let laid = lay(folder.path(), text, Layout::Ubuntu, &Built(deps.clone())).expect("lays out");
        let generate = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
            command.args(["cdi", "generate", "--hook", "/usr/bin/thruway-hook", "--root"]).arg(&laid.root);
            command
        };
        let mut times: Vec<Duration> = COMMANDS.iter().map(|words| median(|| live.command(words))).collect();
        times.push(median(generate));
        times.push(median(|| live.command(&["--version"])));
        rows.iter_mut().zip(times).for_each(|(row, time)| row.1.push(time));
    }
    let heads: Vec<String> = MACHINES.iter().map(|(count, _)| format!("{count:>11} card(s)")).collect();
    println!("{:22}{}", "", heads.join(" "));
    for (name, times) in &rows {
        let one = times.first().map_or(1e-9, Duration::as_secs_f64);
        let cell = |time: &Duration| format!("{:9.1} ms ({:4.2})", time.as_secs_f64() * 1e3, time.as_secs_f64() / one);
        println!("{name:22}{}", times.iter().map(cell).collect::<Vec<_>>().join("  "));
    }
}
