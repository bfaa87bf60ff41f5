//! `thruway gpus` beside a bare C program that starts NVML and makes the calls that the plain report needs, both on the
//! simulated library with a delay per call like a real driver's. Prints the ratio; wanted: below 1.3. Run it with
//! `cargo bench -p thruway --bench nvml`. It needs root, mount namespaces and a C compiler, or says SKIP.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "a bench runs programs")]

#[path = "../tests/common/live.rs"]
mod live;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use live::{Live, namespaces};

/// Microseconds a call: what an H100's getters took, by their mean.
const DELAY: u64 = 100;
const ROUNDS: usize = 15;

/// Asks each of these functions of each GPU, whatever its arguments are: a page of zeroes stands behind every pointer.
const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef unsigned (*fn)(void *, void *, void *, void *, void *, void *);
static char page[6][1 << 16];
int main(int n, char **names) {
  void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (!library) return 1;
  unsigned count = 0;
  void *device = 0;
  ((unsigned (*)(void))dlsym(library, "nvmlInit_v2"))();
  ((unsigned (*)(unsigned *))dlsym(library, "nvmlDeviceGetCount_v2"))(&count);
  for (unsigned i = 0; i < count; i++) {
    ((unsigned (*)(unsigned, void **))dlsym(library, "nvmlDeviceGetHandleByIndex_v2"))(i, &device);
    for (int at = 1; at < n; at++) {
      char *times = strchr(names[at], '=');
      *times = 0;
      fn call = (fn)dlsym(library, names[at]);
      for (int round = atoi(times + 1); call && round > 0; round--)
        call(device, page[1], page[2], page[3], page[4], page[5]);
      *times = '=';
    }
  }
  ((unsigned (*)(void))dlsym(library, "nvmlShutdown"))();
  return 0;
}
"#;

/// How often the plain report calls each function of a device, by the library's own trace; (what, cards).
fn calls(live: &Live, cards: usize) -> BTreeMap<String, usize> {
    let output = live.command(&["gpus"]).env("THRUWAY_SIM_TRACE", "1").output().expect("runs");
    let trace = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    for name in trace.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with("nvmlDevice")) {
        *all.entry(name.to_owned()).or_default() += 1;
    }
    all.remove("nvmlDeviceGetCount_v2");
    all.remove("nvmlDeviceGetHandleByIndex_v2");
    all.values_mut().for_each(|count| *count /= cards);
    all.retain(|_, count| *count > 0);
    all
}

fn time(mut command: Command) -> Duration {
    let start = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runs");
    assert!(status.success());
    start.elapsed()
}

/// Of two programs run in turn, so that a busy machine slows both: the least and the median of each.
fn pair(mut a: impl FnMut() -> Command, mut b: impl FnMut() -> Command) -> [[Duration; 2]; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(time(a()));
        times[1].push(time(b()));
    }
    times.map(|mut times| {
        times.sort_unstable();
        [times[0], times[ROUNDS / 2]]
    })
}

fn compiled(folder: &Path) -> Option<std::path::PathBuf> {
    let (source, program) = (folder.join("bare.c"), folder.join("bare"));
    std::fs::write(&source, PROGRAM).ok()?;
    let done = Command::new("cc").arg("-O1").arg("-w").arg(&source).arg("-o").arg(&program).arg("-ldl").status();
    done.is_ok_and(|status| status.success()).then_some(program)
}

fn main() {
    if !namespaces() {
        return;
    }
    for (tree, nvml, cards) in [("guest-good", "gt1030", 1), ("eight-gpu", "h100x8", 8)] {
        let live = Live::new(tree, nvml);
        let Some(bare) = compiled(live.folder.path()) else {
            println!("SKIP: no C compiler");
            return;
        };
        let calls = calls(&live, cards);
        let number: usize = calls.values().sum();
        live.control(&format!("delay_us = {DELAY}\n"));
        let arguments: Vec<String> = calls.iter().map(|(name, count)| format!("{name}={count}")).collect();
        // in a namespace of its own too, so that both pay for it
        let bare = || {
            let mut command = live.command(&[]);
            let script = live::SCRIPT;
            let mut fresh = Command::new("unshare");
            fresh.args(["-m", "sh", "-c", script, "sh"]).arg(&bare).args(&arguments);
            for (key, value) in command.get_envs() {
                if let Some(value) = value {
                    fresh.env(key, value);
                }
            }
            command = fresh;
            command
        };
        // what is not NVML's: the namespace and the program's start; and in our case sysfs, holders, engines
        let without = || {
            let mut command = live.command(&["gpus"]);
            command.env("LD_LIBRARY_PATH", "/nowhere");
            command
        };
        let [ours, theirs] = pair(|| live.command(&["gpus"]), bare);
        let [rest, nothing] = pair(without, || live.command(&["--version"]));
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let [part, bare] = [(ours, rest), (theirs, nothing)].map(|(of, less)| ms(of[1].saturating_sub(less[1])));
        println!(
            "{nvml}: {cards} card(s), {number} calls a card, {DELAY} µs each: thruway gpus {:.1} ms, of which NVML {part:.1} ms; \
             bare C {bare:.1} ms; ratio {:.2} (wanted < 1.3), whole {:.2}",
            ms(ours[1]),
            part / bare.max(0.001),
            ms(ours[1].saturating_sub(nothing[1])) / bare.max(0.001),
        );
    }
}
