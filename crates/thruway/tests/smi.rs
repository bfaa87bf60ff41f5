//! `thruway smi` beside Debian's nvidia-smi of branches 470, 535 and 550, both on the same simulated library: the same bytes,
//! but for what is named here. Root, mount namespaces and Debian's archive, or SKIP.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs programs")]

mod common;
#[path = "../../simnvml/tests/common/debian.rs"]
mod debian;
#[path = "common/live.rs"]
mod live;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{stderr, stdout};
use live::{Live, namespaces};
use simnvml::view::View;

/// What the tool asks NVIDIA's own, unnamed functions for, which the simulated library does not answer; and the time.
const LEFT_OUT: [&str; 5] = ["JPEG", "OFA   ", "jpeg_util", "ofa_util", "imestamp"];

/// (branch, CUDA, suite, package, program).
const TOOLS: [(&str, i32, &str, &str); 3] = [
    ("470.256.02", 11040, "bullseye", "nvidia-smi"),
    ("535.261.03", 12020, "bookworm", "nvidia-smi"),
    ("550.163.01", 12040, "trixie", "nvidia-smi"),
];

/// nvidia-smi of a suite's package, unpacked below the target directory.
fn tool(suite: &str, package: &str) -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("smi-{suite}"));
    debian::unpacked(&dir, suite, package, "usr/lib/nvidia/current/nvidia-smi")
}

/// The box with another driver, and nobody at work: the tool's list of processes needs NVIDIA's own functions.
fn machine(name: &str, version: &str, cuda: i32) -> Live {
    let text = View::named(name).expect("a box");
    let driver = |line: &str| match line.split(' ').next() {
        Some("version") => format!("version = \"{version}\""),
        Some("cuda") => format!("cuda = {cuda}"),
        _ => line.to_owned(),
    };
    let text: Vec<String> = text.lines().map(driver).collect();
    let live = Live::of("guest-good", &text.join("\n"));
    if name == "h100x8" {
        live.control("[[gpus]]\nindex = 7\nset = { processes = [] }\n");
    }
    live
}

/// What the tool prints on this machine's library.
fn theirs(tool: &Path, live: &Live, args: &[&str]) -> String {
    let output = Command::new(tool)
        .args(args)
        .env("LD_LIBRARY_PATH", live.folder.path())
        .env("THRUWAY_SIM_QUIET", "1")
        .output()
        .expect("nvidia-smi runs");
    stdout(&output)
}

fn ours(live: &Live, args: &[&str]) -> String {
    let output = live.command(&[&["smi"], args].concat()).env("THRUWAY_SIM_QUIET", "1").output().expect("runs");
    assert!(output.status.success(), "{args:?}: {}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

/// Lines that differ, without those that are left out by name. The first line of a table is the time.
fn differing(ours: &str, theirs: &str) -> Vec<(String, String)> {
    let left = |line: &&str| !LEFT_OUT.iter().any(|name| line.contains(name)) && !line.contains(" 20");
    let (ours, theirs): (Vec<&str>, Vec<&str>) =
        (ours.lines().filter(left).collect(), theirs.lines().filter(left).collect());
    let mut all: Vec<(String, String)> =
        ours.iter().zip(&theirs).filter(|(a, b)| a != b).map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    if ours.len() != theirs.len() {
        all.push((format!("{} lines", ours.len()), format!("{} lines", theirs.len())));
    }
    all
}

#[test]
fn the_same_bytes_as_nvidia_smi() {
    if !namespaces() {
        return;
    }
    let mut compared = 0;
    for (version, cuda, suite, package) in TOOLS {
        let tool = match tool(suite, package) {
            Ok(tool) => tool,
            Err(why) => {
                println!("SKIP: {why}");
                continue;
            }
        };
        for name in ["gt1030", "a100-mig", "h100x8"] {
            let live = machine(name, version, cuda);
            for args in [&[][..], &["-L"], &["-q"], &["-q", "-x"], &["-i", "0"]] {
                // The tools of 470 and 535 find MIG devices for -q by a function without a name.
                if name == "a100-mig" && args.first() == Some(&"-q") && suite != "trixie" {
                    continue;
                }
                let (ours, theirs) = (ours(&live, args), theirs(&tool, &live, args));
                let wrong = differing(&ours, &theirs);
                assert!(wrong.is_empty(), "{name}, {version}, {args:?}: {wrong:#?}\n{ours}");
                compared += ours.lines().count();
            }
        }
    }
    println!("{compared} lines are the same");
}

/// Names of `--help-query-gpu`, all spellings.
fn fields(help: &str) -> Vec<String> {
    let lines =
        help.lines().filter(|line| line.starts_with('"') && !line.contains("means") && !line.contains("deprecated,"));
    let quoted = |line: &str| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    lines.flat_map(quoted).filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c))).collect()
}

#[test]
fn every_field_that_both_know_is_the_same() {
    if !namespaces() {
        return;
    }
    // the tool asks for these by functions without a name, or looks at the clock
    let apart = ["timestamp", "enforced.power.limit", "utilization.jpeg", "utilization.ofa"];
    for (version, cuda, suite, package) in TOOLS {
        let Ok(tool) = tool(suite, package).map_err(|why| println!("SKIP: {why}")) else { continue };
        for name in ["gt1030", "a100-mig", "h100x8"] {
            let live = machine(name, version, cuda);
            let mine = fields(&ours(&live, &["--help-query-gpu"]));
            let names = fields(&theirs(&tool, &live, &["--help-query-gpu"]));
            assert!(names.len() > 100, "{names:?}");
            let unknown: Vec<_> = names.iter().filter(|name| !mine.contains(name)).collect();
            assert!(unknown.is_empty(), "{version}: {unknown:?}");
            let wanted: Vec<String> = names.into_iter().filter(|name| !apart.contains(&name.as_str())).collect();
            let mut compared = 0;
            for part in wanted.chunks(60) {
                for format in ["--format=csv", "--format=csv,noheader,nounits"] {
                    let query = format!("--query-gpu={}", part.join(","));
                    let (ours, theirs) = (ours(&live, &[&query, format]), theirs(&tool, &live, &[&query, format]));
                    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
                        let both = part.iter().zip(ours.split(", ").zip(theirs.split(", ")));
                        let wrong: Vec<_> = both.filter(|(_, (a, b))| a != b).collect();
                        assert!(wrong.is_empty(), "{name}, {version}: {wrong:#?}");
                        compared += part.len();
                    }
                    assert_eq!(ours.lines().count(), theirs.lines().count());
                }
            }
            println!("{name}, {version}: {compared} values");
        }
    }
}

#[test]
fn refusals_and_faults_are_the_tools() {
    if !namespaces() {
        return;
    }
    let live = machine("h100x8", "580.159.04", 13000);
    let said = |args: &[&str]| {
        let output = live.thruway(&[&["smi"], args].concat());
        (stdout(&output), output.status.code())
    };
    assert_eq!(
        said(&["--query-gpu=foo", "--format=csv"]),
        ("Field \"foo\" is not a valid field to query.\n\n".into(), Some(2))
    );
    assert_eq!(said(&["--query-gpu=name"]).1, Some(2));
    assert_eq!(said(&["-i", "9"]), ("No devices were found\n".into(), Some(6)));
    assert_eq!(
        said(&["-i", "00000000:52:00.0", "--query-gpu=index", "--format=csv,noheader"]),
        ("2\n".into(), Some(0))
    );
    assert!(said(&["-q"]).0.contains("(simulated)"), "a simulation says so");
    assert_eq!(
        said(&["--query-compute-apps=pid,name,used_memory", "--format=csv"]).0,
        "pid, process_name, used_gpu_memory [MiB]\n"
    );
    live.control("");
    let apps = said(&["--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader,nounits"]).0;
    assert_eq!(apps, "GPU-51a51a51-2330-4000-8000-000000000007, 11327, 2566\n");
    live.control("[[gpus]]\nindex = 1\nlost = true\n");
    let (list, status) = said(&["-L"]);
    assert_eq!(status, Some(15));
    assert!(list.contains("handle for gpu 1: GPU is lost.  Reboot the system to recover this GPU"), "{list}");
    assert_eq!(list.lines().filter(|line| line.contains("UUID")).count(), 7, "{list}");
    let (table, status) = said(&[]);
    assert!(status == Some(15) && table.contains("ERR!") && table.contains("00000000:52:00.0"), "{table}");
    live.control("kernel = '580.95.05'");
    let (words, status) = said(&[]);
    assert!(
        status == Some(18) && words.starts_with("Failed to initialize NVML: Driver/library version mismatch"),
        "{words}"
    );
    live.control("hang = { milliseconds = 60000, calls = ['nvmlDeviceGetUUID'] }");
    let start = std::time::Instant::now();
    let (table, status) = said(&[]);
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "a hung driver hangs us");
    assert!(status == Some(15) && table.contains("ERR!"), "{table}");
}

/// What takes long on a real card, the link's throughput before all, is asked where it is shown.
#[test]
fn the_table_asks_no_more_than_it_shows() {
    if !namespaces() {
        return;
    }
    let live = Live::new("guest-good", "h100-mig");
    let calls = |args: &[&str]| {
        let output = live.command(args).env("THRUWAY_SIM_TRACE", "1").output().expect("runs");
        let trace = stderr(&output);
        let names = trace.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with("nvml"));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let (all, table, list) = (calls(&["smi", "-q"]), calls(&["smi"]), calls(&["smi", "-L"]));
    for name in ["nvmlDeviceGetPcieThroughput", "nvmlDeviceGetNvLinkState", "nvmlDeviceGetGpuInstanceProfileInfoV"] {
        let asked = |calls: &[String]| calls.iter().any(|call| call == name);
        assert_eq!((asked(&all), asked(&table), asked(&list)), (true, false, false), "{name}");
    }
    assert!(table.iter().any(|call| call == "nvmlDeviceGetFieldValues"), "the power's average: {table:?}");
    assert!(table.len() * 2 < all.len(), "{} of {}", table.len(), all.len());
    assert!(ours(&live, &[]).contains("MIG devices:") && ours(&live, &["-L"]).contains("  MIG 1g."));
}
