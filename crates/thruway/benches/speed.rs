//! What a user waits for, beside what they use today, measured in the same run. Prints figures and ratios; never a
//! timed test. Run with: cargo bench --bench speed
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "measures whole programs"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 41;

/// Wall time of one whole process.
fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).status();
    let took = start.elapsed();
    assert!(status.is_ok(), "{command:?} did not start");
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Medians of two commands run in turn, so that a drifting machine slows both.
fn pair(mut a: impl FnMut() -> Command, mut b: impl FnMut() -> Command) -> (Duration, Duration) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    time(&mut a());
    time(&mut b());
    for _ in 0..RUNS {
        left.push(time(&mut a()));
        right.push(time(&mut b()));
    }
    (median(left), median(right))
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn thruway(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
    command.args(args);
    command
}

fn main() {
    let floor = || Command::new("/bin/true");
    if Command::new("lspci").arg("--version").stdout(Stdio::null()).status().is_ok() {
        let lspci = || {
            let mut command = Command::new("lspci");
            command.arg("-nnk");
            command
        };
        let (ours, theirs) = pair(|| thruway(&["gpus"]), lspci);
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        println!(
            "gpus, this machine        {}   lspci -nnk {}   ratio {ratio:.2} (wanted: at most 1)",
            ms(ours),
            ms(theirs)
        );
    } else {
        println!("gpus beside lspci         not run: no lspci here (package pciutils)");
    }

    let eight = tree("eight-gpu");
    let root = eight.path().display().to_string();
    let (doctor, nothing) = pair(|| thruway(&["--root", &root, "doctor"]), floor);
    println!("doctor, 8 GPUs            {}   /bin/true {}   (wanted: under 30 ms)", ms(doctor), ms(nothing));
    let (gpus, _) = pair(|| thruway(&["--root", &root, "gpus"]), floor);
    println!("gpus, 8 GPUs              {}", ms(gpus));
    for verb in ["doctor", "gpus"] {
        println!("peak memory, {verb:<12} {}   (wanted: under 20 MiB)", peak(&["--root", &root, verb]));
    }

    let mut first = None;
    for count in [10usize, 100, 1000] {
        let many = many(count);
        let root = many.path().display().to_string();
        let (took, nothing) = pair(|| thruway(&["--root", &root, "gpus"]), floor);
        let own = took.saturating_sub(nothing).as_secs_f64() * 1e6 / count as f64;
        let first = *first.get_or_insert(own);
        println!(
            "gpus, {count:>4} functions      {}   {own:.1} µs a function, {:.2} of that at 10",
            ms(took),
            own / first
        );
        if count == 1000 {
            println!("peak memory, 1000         {}", peak(&["--root", &root, "gpus"]));
        }
    }
}

/// Peak resident memory of the whole process, by GNU time.
fn peak(args: &[&str]) -> String {
    let output = Command::new("/usr/bin/time").args(["-f", "%M", env!("CARGO_BIN_EXE_thruway")]).args(args).output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            match text.lines().last().and_then(|line| line.parse::<f64>().ok()) {
                Some(kib) => format!("{:.1} MiB", kib / 1024.0),
                None => format!("not measured: {text}"),
            }
        }
        Err(_) => "not measured: no /usr/bin/time here (package time)".into(),
    }
}

fn tree(name: &str) -> machine::scratch::Scratch {
    let scratch = machine::scratch::Scratch::temporary().expect("a temporary directory");
    sim::build_named(name, &scratch).expect("the box");
    scratch
}

/// A machine with this many PCI functions, one card in ten.
fn many(count: usize) -> machine::scratch::Scratch {
    let scratch = machine::scratch::Scratch::temporary().expect("a temporary directory");
    let mut text = String::from("title = \"many functions\"\n");
    for n in 0..count {
        let bdf = format!("{:04x}:{:02x}:{:02x}.{}", n / 2048, n / 8 % 256, 0, n % 8);
        let (id, class) = if n % 10 == 0 { ("10de:2330", "030200") } else { ("8086:1533", "020000") };
        text.push_str(&format!(
            "[[pci]]\nbdf = \"{bdf}\"\nid = \"{id}\"\nclass = \"{class}\"\ngroup = {n}\nbars = [\"16M\"]\n"
        ));
    }
    let made = sim::Box::parse("many", &text).expect("the box");
    sim::build(&made, &scratch).expect("the tree");
    assert!(Path::new(scratch.path()).join("sys/bus/pci/devices").is_dir());
    scratch
}
