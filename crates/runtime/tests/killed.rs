//! Many containers at once, with shim and hook killed at random: nothing is left half done.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "runs runtimes and kills them"
)]

mod common;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Bundle, Machine, SHIM};
use serde_json::{Value, json};

/// Numbers that differ from run to run; printed, so that a run can be told from another.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        Dice((time ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Hooks of this test that run now.
fn hooks(machine: &Machine) -> Vec<u32> {
    let own = machine.text("config.toml");
    let running =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    running
        .filter(|pid: &u32| {
            let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(SHIM))
                && read("cmdline").windows(8).any(|word| word == b"prestart")
                && read("environ").windows(own.len()).any(|word| word == own.as_bytes())
        })
        .collect()
}

struct Outcome {
    bundle: Bundle,
    by_hook: bool,
    before: Value,
    status: Option<i32>,
    said: String,
}

fn one(machine: &Machine, number: usize, dice: &mut Dice) -> Outcome {
    let by_hook = number.is_multiple_of(2);
    let script = "head -c1 /dev/nvidia0 2>&1; cat /usr/lib/x86_64-linux-gnu/libcuda.so.1";
    let bundle = machine.bundle(&format!("n{number}"), &["NVIDIA_VISIBLE_DEVICES=0"], script);
    if by_hook {
        bundle.edit(|config| config["hooks"] = json!({"prestart": [machine.hook()]}));
    }
    let before = bundle.config();
    let said = machine.path(&format!("said{number}"));
    let mut command = if by_hook { machine.program("runc") } else { machine.shim() };
    command.args(["--root", &machine.text("state"), "run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id);
    let file = std::fs::File::create(&said).unwrap();
    command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // the shim lives for a millisecond or two, then it is runc, which is killed as well now and then
    if !by_hook && dice.below(2) == 0 {
        std::thread::sleep(Duration::from_micros(dice.below(4000)));
        kill(child.id());
    }
    let status = child.wait().unwrap().code();
    Outcome { bundle, by_hook, before, status, said: std::fs::read_to_string(&said).unwrap() }
}

/// Sets it however this ends: a worker that panics must not leave the killer at work for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn run(count: usize) {
    need!("runc");
    let machine = Machine::new();
    machine.bundle("first", &[], "true");
    let (next, done, killed) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice::new(77);
            while !done.load(Ordering::Relaxed) {
                for pid in hooks(&machine) {
                    if dice.below(2) == 0 {
                        kill(pid);
                        killed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::thread::sleep(Duration::from_micros(dice.below(1500)));
            }
        });
        let workers: Vec<_> = (0..12)
            .map(|seed| {
                let (machine, next) = (&machine, &next);
                scope.spawn(move || {
                    let mut dice = Dice::new(seed);
                    let mut outcomes = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return outcomes;
                        }
                        outcomes.push(one(machine, number, &mut dice));
                    }
                })
            })
            .collect();
        let _over = Over(&done);
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let mut started = 0;
    for outcome in &outcomes {
        let name = &outcome.bundle.id;
        // config.json is what it was, or what it was to become, and always whole
        let config: Value =
            serde_json::from_str(&outcome.bundle.config_text()).unwrap_or_else(|_| panic!("{name}: half written"));
        if config != outcome.before {
            let text = config.to_string();
            assert!(
                !outcome.by_hook && text.contains("/dev/nvidia0") && text.contains("libcuda") && text.contains("=void"),
                "{name}"
            );
        }
        // a container that ran had everything; with a killed hook none ran
        if outcome.status.is_some() && !outcome.said.is_empty() {
            started += 1;
            assert!(
                outcome.said.contains("No such device or address") && outcome.said.contains("simulated libcuda"),
                "{name}: {}",
                outcome.said
            );
        }
        let mut delete = Command::new("runc");
        delete.args(["--root", &machine.text("state"), "delete", "--force", name]);
        let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
    // beside each bundle's own two, only a file under our name may be left where a shim was killed while it wrote
    for outcome in &outcomes {
        for entry in std::fs::read_dir(&outcome.bundle.folder).unwrap() {
            let entry = entry.unwrap().file_name();
            let fine = ["config.json", "rootfs"].iter().any(|name| entry == *name);
            assert!(fine || entry.as_bytes().starts_with(b".config.json.thruway-"), "{entry:?}");
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(machine.tree.path().to_str().unwrap()), "mounts were left behind");
    // a cgroup that runc left because it was killed itself holds nobody, and is removed here
    let left = cgroups(&machine);
    for path in &left {
        let procs = std::fs::read_to_string(Path::new(path).join("cgroup.procs")).unwrap_or_default();
        assert!(procs.trim().is_empty(), "{path}: somebody is left in it: {procs}");
        let _ = std::fs::remove_dir(path);
    }
    let killed = killed.load(Ordering::Relaxed);
    println!(
        "{count} containers: {started} ran, {} shims and {killed} hooks killed, {} cgroups left by killed runcs",
        outcomes.iter().filter(|outcome| !outcome.by_hook && outcome.status.is_none()).count(),
        left.len()
    );
    assert!(started > 0 && killed > 0, "some have to run and some have to be killed");
}

/// Device cgroups of this test's containers.
fn cgroups(machine: &Machine) -> BTreeSet<String> {
    let folders = std::fs::read_dir("/sys/fs/cgroup/devices/thruway-test").into_iter().flatten();
    let own = machine.tag();
    folders
        .filter_map(|entry| Some(entry.ok()?.path().to_str()?.to_owned()))
        .filter(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with(&own)))
        .collect()
}

#[test]
fn sixty_containers_with_shim_and_hook_killed_at_random_leave_nothing() {
    run(60);
}

#[test]
#[ignore = "the long form: 500 containers"]
fn five_hundred_containers_with_shim_and_hook_killed_at_random_leave_nothing() {
    run(500);
}
