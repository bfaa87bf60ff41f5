//! `thruway up` and `down` over simulated hosts: the whole way of the seed, cut off anywhere, and a fleet.
//!
//! `ssh` is simulated (`examples/simssh.rs`), and so are the machines; plans, journals and the controller are the program's own.
//! `real_ssh.rs` goes over a real sshd.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs the program")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{stderr, stdout};

const THRUWAY: &str = env!("CARGO_BIN_EXE_thruway");

struct Hosts {
    dir: tempfile::TempDir,
}

type Tree = BTreeMap<String, (u32, u32, u32, i64, String)>;

impl Hosts {
    fn new() -> Hosts {
        let hosts = Hosts { dir: tempfile::tempdir().expect("a directory") };
        let shim = Path::new(THRUWAY).parent().expect("its directory").join("examples/simssh");
        assert!(shim.exists(), "{} is built with the tests", shim.display());
        for (dir, names) in [("bin", &["ssh"][..]), ("hosts/bin", &["systemctl", "qm", "id", "sudo"])] {
            std::fs::create_dir_all(hosts.path(dir)).expect(dir);
            for name in names {
                std::os::unix::fs::symlink(&shim, hosts.path(dir).join(name)).expect(name);
            }
        }
        hosts
    }

    /// The seed's host and its VM's guest.
    fn seed() -> Hosts {
        let hosts = Hosts::new();
        hosts.add("pve", "seed-host");
        hosts.add("mufti-4", "seed-guest");
        std::fs::write(hosts.path("hosts/pve/guest"), "mufti-4").expect("guest");
        std::fs::write(hosts.path("hosts/mufti-4/down"), "").expect("down");
        std::fs::write(hosts.way(), hosts.seed_way()).expect("way.toml");
        hosts
    }

    fn seed_way(&self) -> String {
        let hosts = self.path("hosts").display().to_string();
        format!(
            r#"
name = "home"
[host]
at = "pve"
root = "{hosts}/pve/tree"
thruway = "{THRUWAY}"
reboot = true
allow = ["host/console-lost"]
card = "10de:1d01"
wait = 30
[vm]
id = "100"
start = true
[guest]
at = "mufti-4"
root = "{hosts}/mufti-4/tree"
thruway = "{THRUWAY}"
reboot = true
wait = 30
[container]
engine = "docker"
default_runtime = true
[cluster]
name = "home"
[app]
"#
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn way(&self) -> PathBuf {
        self.path("way.toml")
    }

    fn add(&self, name: &str, made_of: &str) {
        std::fs::create_dir_all(self.path(&format!("hosts/{name}/home"))).expect("home");
        let tree = self.path(&format!("hosts/{name}/tree")).display().to_string();
        let built = common::thruway(&["demo", "--build", made_of, &tree]);
        assert!(built.status.success(), "{}", stderr(&built));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(THRUWAY);
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").expect("PATH"));
        command.args(args).env("PATH", path).env("SIMHOSTS", self.path("hosts")).env("NO_COLOR", "1");
        command.env("TMPDIR", self.dir.path()).env_remove("XDG_RUNTIME_DIR").env("USER", "julia").stdin(Stdio::null());
        command
    }

    fn words<'a>(&'a self, verb: &'a str, more: &[&'a str], paths: &'a [String; 2]) -> Vec<&'a str> {
        let mut words = vec![verb, &paths[0], "--state", &paths[1]];
        words.extend(more);
        words
    }

    fn paths(&self) -> [String; 2] {
        [self.way().display().to_string(), self.path("state").display().to_string()]
    }

    fn run(&self, verb: &str, more: &[&str]) -> Output {
        let paths = self.paths();
        self.command(&self.words(verb, more, &paths)).output().expect("thruway starts")
    }

    /// Up or down, to its end.
    fn well(&self, verb: &str) -> String {
        let output = self.run(verb, &["--yes"]);
        assert!(output.status.success(), "{verb}: {}{}", stdout(&output), stderr(&output));
        unwrapped(&output)
    }

    /// Runs it, and kills it dead as the `nth` event of these kinds (0-based) comes; whether there was such an event.
    fn killed_at(&self, verb: &str, nth: usize, kinds: &[&str]) -> bool {
        let paths = self.paths();
        let mut command = self.command(&self.words(verb, &["--yes", "--json"], &paths));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("thruway starts");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        let mut seen = 0;
        let mut failed = String::new();
        for line in out.lines() {
            let line = line.expect("a line");
            let event: serde_json::Value = serde_json::from_str(&line).expect("one event a line");
            if event["event"] == "failed" {
                failed.clone_from(&line);
            }
            if !kinds.contains(&event["event"].as_str().unwrap_or_default()) {
                continue;
            }
            if seen == nth {
                child.kill().expect("killed");
                child.wait().expect("its end");
                self.settled();
                return true;
            }
            seen += 1;
        }
        let status = child.wait().expect("its end");
        assert!(status.success(), "{verb} ended with {status}: {failed}");
        false
    }

    /// Waits until no machine of these is in the midst of a boot or a VM's start that a lost link left behind: a simulated one
    /// answers meanwhile, as a real one does not.
    fn settled(&self) {
        let ours = self.path("hosts").display().to_string();
        let boots = |pid: &str| {
            let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let words = String::from_utf8_lossy(&read("cmdline")).into_owned();
            ["systemctl", "qm start", "qm shutdown", "qm\0"].iter().any(|name| words.contains(name))
                && String::from_utf8_lossy(&read("environ")).contains(&ours)
        };
        let begun = std::time::Instant::now();
        while std::fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .any(|entry| boots(&entry.file_name().to_string_lossy()))
        {
            assert!(begun.elapsed().as_secs() < 60, "a simulated machine boots for ever");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// What people edit and generators write on a host, but for thruway's own state.
    fn tree(&self, host: &str) -> Tree {
        let runtime = |name: &str| {
            ["/proc", "/sys", "/dev", "/run", "/tmp", "/.thruway-sim"].iter().any(|dir| name.starts_with(dir))
        };
        let mut tree = common::snapshot(&self.path(&format!("hosts/{host}/tree")), &runtime);
        // what a generator or a boot writes anew has another time
        tree.values_mut().for_each(|entry| entry.3 = 0);
        tree
    }

    fn trees(&self) -> [Tree; 2] {
        ["pve", "mufti-4"].map(|host| self.tree(host))
    }
}

/// What was printed, with its line breaks and columns as single blanks.
fn unwrapped(output: &Output) -> String {
    stdout(output).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Names of what differs, for a message that can be read.
fn differ(before: &Tree, after: &Tree) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

fn as_before(hosts: &Hosts, before: &[Tree; 2], when: &str) {
    for (before, after) in before.iter().zip(&hosts.trees()) {
        assert_eq!(differ(before, after), Vec::<String>::new(), "{when}");
    }
    for host in ["pve", "mufti-4"] {
        assert!(
            !hosts.path(&format!("hosts/{host}/home/.local/state/thruway/up")).exists(),
            "{when}: what was copied to {host}"
        );
    }
}

fn driver(hosts: &Hosts, bdf: &str) -> String {
    let link = hosts.path("hosts/pve/tree/sys/bus/pci/devices").join(bdf).join("driver");
    std::fs::read_link(link)
        .map_or("none".into(), |path| path.file_name().expect("a name").to_string_lossy().into_owned())
}

#[test]
fn the_seeds_way_up_and_back() {
    let hosts = Hosts::seed();
    let before = hosts.trees();
    let said = hosts.well("up");
    for words in [
        "host/apply",
        "6 changes, effective at the next boot",
        "pve is back",
        "26:00.0 is held by vfio-pci",
        "vm/start",
        "runs with 26:00.0 (GeForce GT 1030)",
        "mufti-4 is back",
        "GPU 0: NVIDIA GeForce GT 1030",
        "media/jellyfin gets 1 GPU a pod",
        "fit the GeForce GT 1030",
        "the way of 0000:26:00.0 is open",
        "$ systemctl reboot",
        "$ qm start 100",
        "Take it back with: thruway down",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(driver(&hosts, "0000:26:00.0"), "vfio-pci");
    // walked again, nothing is done
    let again = hosts.well("up");
    assert_eq!(again.matches("it is so already").count(), 6, "{again}");
    assert!(!again.contains("systemctl reboot") && !again.contains("qm start"), "{again}");
    let log = std::fs::read_to_string(hosts.path("state/home/log")).expect("a log");
    assert!(log.contains("\"event\":\"command\"") && log.contains("qm start 100"), "{log}");
    let said = hosts.well("down");
    assert!(said.contains("6 changes are taken back; all is as it was"), "{said}");
    as_before(&hosts, &before, "after down");
    assert_eq!(driver(&hosts, "0000:26:00.0"), "nouveau");
    assert!(hosts.path("hosts/mufti-4/down").exists(), "the VM was stopped, as it was found");
    let said = hosts.well("down");
    assert!(said.contains("nothing of this way's stood"), "{said}");
}

#[test]
fn a_dry_run_changes_nothing_and_shows_the_plan() {
    let hosts = Hosts::seed();
    let before = hosts.trees();
    let output = hosts.run("up", &["--dry-run"]);
    let said = unwrapped(&output);
    assert!(output.status.success(), "{said}{}", stderr(&output));
    for words in ["6 would be made", "+vfio-pci", "2 would be made", "hostpci0", "mufti-4 does not answer yet"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    as_before(&hosts, &before, "after a dry run");
    assert!(!hosts.path("hosts/pve/tree/var/lib/thruway/up.json").exists());
    // and without a terminal and --yes nothing is begun
    let output = hosts.run("up", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("say --yes"), "{}", stderr(&output));
}

/// The controller is killed dead at each step's beginning and end, one after the other, on one way up and one down.
#[test]
fn killed_at_every_step_boundary() {
    let hosts = Hosts::seed();
    let before = hosts.trees();
    for verb in ["up", "down"] {
        let mut killed = 0;
        // each run goes on from where the last was killed, and is killed one boundary later
        while hosts.killed_at(verb, killed, &["begin", "done"]) {
            killed += 1;
            assert!(killed < 200, "{verb} does not come to its end");
        }
        println!("{verb}: killed at {killed} step boundaries, then gone to its end");
        assert!(killed > 15, "{verb}: {killed} boundaries only");
        if verb == "up" {
            let again = hosts.well("up");
            assert!(
                again.contains("the way of 0000:26:00.0 is open") && !again.contains("systemctl reboot"),
                "{again}"
            );
        }
    }
    as_before(&hosts, &before, "after both");
}

/// Killed within its steps, at the command or the progress line of its machine's journal, and taken back from there.
#[test]
fn killed_anywhere_down_restores() {
    let mut killed = 0;
    // spread over the whole way; each on machines of their own
    for nth in [2, 7, 13, 19, 26, 33] {
        let hosts = Hosts::seed();
        let before = hosts.trees();
        killed += usize::from(hosts.killed_at("up", nth, &["command", "line"]));
        hosts.well("down");
        as_before(&hosts, &before, &format!("killed at command or line {nth}"));
    }
    println!("killed within a step {killed} times; down restored each time");
    assert_eq!(killed, 6);
}

/// The link is lost at each command in turn; what had begun there goes on to its end, and up again completes.
#[test]
fn the_link_is_cut_at_every_command() {
    let hosts = Hosts::seed();
    let before = hosts.trees();
    for verb in ["up", "down"] {
        let (mut cuts, mut after) = (0, 1);
        loop {
            for host in ["pve", "mufti-4"] {
                let _ = std::fs::remove_file(hosts.path(&format!("hosts/{host}/count")));
                std::fs::write(hosts.path(&format!("hosts/{host}/cut")), after.to_string()).expect("cut");
            }
            let output = hosts.run(verb, &["--yes"]);
            if output.status.success() {
                break;
            }
            let said = unwrapped(&output);
            assert!(
                said.contains("cannot be reached: Connection to") && said.contains("goes on from there"),
                "{said}{}",
                stderr(&output)
            );
            hosts.settled();
            cuts += 1;
            after += 2;
            assert!(cuts < 100, "{verb} does not come to its end: {said}");
        }
        for host in ["pve", "mufti-4"] {
            let _ = std::fs::remove_file(hosts.path(&format!("hosts/{host}/cut")));
        }
        println!("{verb}: the link was cut {cuts} times");
        assert!(cuts > 4, "{verb}: {cuts}");
        hosts.well(verb);
    }
    as_before(&hosts, &before, "after both");
}

#[test]
fn two_ups_on_one_host_the_second_is_told_who_holds_it() {
    let hosts = Hosts::seed();
    let tree = hosts.path("hosts/pve/tree").display().to_string();
    let hold = |id: &str| {
        let words =
            ["--root", &tree, "way", "hold", id, "--session", "s", "--who", "rosa@desk", "--controller", "other"];
        common::thruway(&words)
    };
    assert!(hold("fedcba9876543210").status.success());
    let before = hosts.trees();
    let output = hosts.run("up", &["--yes"]);
    let said = unwrapped(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("host/hold") && said.contains("that of rosa@desk, since 2"), "{said}");
    assert_eq!(before, hosts.trees(), "nothing was changed");
    let output = hosts.run("up", &["--yes", "--take-over"]);
    assert!(output.status.success(), "{}", stdout(&output));
    // and on this machine, the state itself is locked
    let state = std::fs::File::open(hosts.path("state/home/lock")).expect("the lock");
    rustix::fs::flock(&state, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let output = hosts.run("up", &["--yes"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("this way is being walked already, by process"), "{}", stderr(&output));
}

#[test]
fn it_stops_at_what_is_wrong_with_the_doctors_words() {
    let hosts = Hosts::seed();
    let way = |edit: &dyn Fn(String) -> String| std::fs::write(hosts.way(), edit(hosts.seed_way())).expect("way.toml");
    // a loss that was not named
    way(&|text| text.replace("allow = [\"host/console-lost\"]\n", ""));
    let output = hosts.run("up", &["--yes"]);
    let said = unwrapped(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("the host floor's plan is refused") && said.contains("--allow host/console-lost"), "{said}");
    // a reboot that was not allowed: the user's turn
    way(&|text| text.replacen("reboot = true\n", "", 1));
    let output = hosts.run("up", &["--yes"]);
    let said = unwrapped(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("pve must be rebooted, and the file does not allow it (host.reboot = true)"), "{said}");
    // systemctl that refuses
    way(&|text| text);
    std::fs::write(hosts.path("hosts/pve/refuse"), "Failed to talk to init daemon.").expect("refuse");
    let output = hosts.run("up", &["--yes"]);
    assert!(unwrapped(&output).contains("Failed to talk to init daemon."), "{}", stdout(&output));
    std::fs::remove_file(hosts.path("hosts/pve/refuse")).expect("refuse");
    // a card that is not there; a host that does not answer; a program of another version
    for (from, to, says) in [
        ("card = \"10de:1d01\"", "card = \"10de:2204\"", "no card 10de:2204 is on pve"),
        ("at = \"pve\"", "at = \"nowhere\"", "nowhere cannot be reached: ssh: Could not resolve hostname"),
        (THRUWAY, "/bin/false", "/bin/false on pve does not run, and this is"),
    ] {
        way(&|text| text.replacen(from, to, 1));
        let output = hosts.run("up", &["--yes"]);
        assert_eq!(output.status.code(), Some(1), "{to}");
        assert!(unwrapped(&output).contains(says), "{says}: {}", stdout(&output));
    }
}

#[test]
fn a_way_that_cannot_be_meant_is_refused_with_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("way.toml");
    let file = path.display().to_string();
    for (text, says) in [
        ("name = \"a\"\n[host]\nat = \"pve\"\nrebot = true\n", ":4: unknown field `rebot`"),
        ("name = \"a\"\n[host\n", ":2: "),
        ("name = \"../x\"\n[host]\nat = \"pve\"\n", "name: \"../x\": letters"),
        ("name = \"a\"\n[host]\nat = \"-oProxyCommand=x\"\n", "is no destination of ssh"),
        ("name = \"a\"\n[host]\nat = \"pve\"\ncard = \"GT 1030\"\n", "say an address"),
        ("name = \"a\"\n[host]\nat = \"pve\"\n[guest]\nat = \"g\"\n", "[guest] is inside a VM"),
        ("name = \"a\"\n[host]\nat = \"pve\"\n[fleet]\nhosts = [\"a\", \"b\"]\n", "are one machine (pve)"),
        ("name = \"a\"\n[host]\nat = \"{host}\"\n[fleet]\nhosts = [\"a\", \"a\"]\n", "names a twice"),
        ("name = \"a\"\n[host]\nat = \"{host}\"\n[fleet]\nhosts = [\"a\"]\nat_once = 0\n", "at least 1"),
        ("name = \"a\"\n[host]\nat = \"h\"\n[container]\nruntime = \"runc\"\n", "thruway, nvidia or none"),
    ] {
        std::fs::write(&path, text).expect("way.toml");
        for verb in [&["up", &file, "--dry-run"][..], &["down", &file], &["way", "plan", &file]] {
            let output = common::thruway(verb);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(stderr(&output).contains(&file) && stderr(&output).contains(says), "{says}: {}", stderr(&output));
        }
    }
}

#[test]
fn it_is_drawn_and_made_by_looking() {
    let hosts = Hosts::seed();
    let file = hosts.way().display().to_string();
    let drawn = |form: &str| stdout(&common::thruway(&["way", "plan", &file, form]));
    insta::assert_snapshot!("up_graph_text", drawn("--graph"));
    let plan = common::thruway(&["plan", "--graph", "--way", &file]);
    assert_eq!(stdout(&plan), drawn("--graph"), "the same by plan");
    let dot = drawn("--graph=dot");
    assert!(dot.contains("\"0:host/apply\" -> \"0:host/boot\";") && dot.contains("label=\"guest: mufti-4\""), "{dot}");
    assert_eq!(dot.matches('{').count(), dot.matches('}').count());
    let mermaid = drawn("--graph=mermaid");
    assert!(mermaid.contains("w0_host_apply --> w0_host_boot"), "{mermaid}");
    // made by looking at the host: its card is found there
    let made = hosts.path("made.toml").display().to_string();
    let hosts_root = hosts.path("hosts/pve/tree").display().to_string();
    let words = [
        "way", "init", &made, "--host", "here", "--vm", "100", "--guest", "mufti-4", "--engine", "docker", "--name",
        "home", "--card", "26:00.0", "--reboot",
    ];
    let output = hosts.command(&words).output().expect("thruway starts");
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    let text = std::fs::read_to_string(&made).expect("made");
    for line in [
        "at = \"here\"",
        "card = \"26:00.0\"",
        "id = \"100\"",
        "at = \"mufti-4\"",
        "engine = \"docker\"",
        "reboot = true",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(common::thruway(&["way", "plan", &made]).status.success());
    let again = hosts.command(&words).output().expect("thruway starts");
    assert!(stderr(&again).contains("is there already: --force"), "{}", stderr(&again));
    drop(hosts_root);
}

/// A fleet in which every tenth host fails, each at another step.
#[test]
fn a_fleet_reports_each_host_as_it_is() {
    let count = std::env::var("THRUWAY_FLEET").ok().and_then(|count| count.parse().ok()).unwrap_or(16);
    fleet(count);
}

/// Two hundred hosts, and how the controller grows with them.
#[test]
#[ignore = "minutes: cargo test -p thruway --test up -- --ignored --nocapture"]
fn a_fleet_of_two_hundred() {
    for count in [50, 100, 200] {
        fleet(count);
    }
}

fn fleet(count: usize) {
    let hosts = Hosts::new();
    hosts.add("pattern", "host-bootfb");
    let names: Vec<String> = (0..count).map(|n| format!("node{n:03}")).collect();
    for name in &names {
        let copied = Command::new("cp")
            .arg("-a")
            .arg(hosts.path("hosts/pattern"))
            .arg(hosts.path(&format!("hosts/{name}")))
            .status();
        assert!(copied.expect("cp").success());
    }
    let before: Vec<Tree> = names.iter().map(|name| hosts.tree(name)).collect();
    // every tenth fails: its link is lost at another command each, or its reboot is refused, or it does not answer
    let fails = |n: usize| n % 10 == 7;
    for (n, name) in names.iter().enumerate().filter(|(n, _)| fails(*n)) {
        match n / 10 % 4 {
            0 => std::fs::write(hosts.path(&format!("hosts/{name}/refuse")), "Access denied"),
            1 => std::fs::write(hosts.path(&format!("hosts/{name}/down")), ""),
            k => std::fs::write(hosts.path(&format!("hosts/{name}/cut")), (2 * k + n / 40).to_string()),
        }
        .expect("a fault");
    }
    let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let root = hosts.path("hosts").display().to_string();
    let way = format!(
        "name = \"rack\"\n[host]\nat = \"{{host}}\"\nroot = \"{root}/{{host}}/tree\"\nthruway = \"{THRUWAY}\"\nreboot = true\nallow = [\"host/console-lost\"]\nwait = 20\n\
         [vm]\nid = \"100\"\nstart = true\n[fleet]\nhosts = [{list}]\nat_once = 4\ncanary = 2\nstop_after = 1000\n"
    );
    std::fs::write(hosts.way(), way).expect("way.toml");
    let paths = hosts.paths();
    let begun = std::time::Instant::now();
    let timed = format!("{}/time", hosts.dir.path().display());
    let mut command = hosts.command(&hosts.words("up", &["--yes", "--json"], &paths));
    command.env("THRUWAY_TEST_PEAK", &timed);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("thruway starts");
    let pid = child.id();
    let (mut report, mut peak) = (serde_json::Value::Null, 0);
    for line in BufReader::new(child.stdout.take().expect("its output")).lines() {
        let event: serde_json::Value = serde_json::from_str(&line.expect("a line")).expect("an event");
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak);
        }
        if event["event"] == "report" {
            report = event;
        }
    }
    assert_eq!(child.wait().expect("its end").code(), Some(1), "some failed");
    println!(
        "{count} hosts, four at once: {:.1} s, controller's peak {:.1} MiB (simulated)",
        begun.elapsed().as_secs_f64(),
        f64::from(peak) / 1024.0
    );
    let told = report["hosts"].as_array().expect("the report");
    assert_eq!(told.len(), count);
    for (n, (host, name)) in told.iter().zip(&names).enumerate() {
        assert_eq!(host[0], name.as_str());
        let ended = host[1]["ended"].as_str().expect("how it ended");
        assert_eq!(ended, if fails(n) { "failed" } else { "well" }, "{name}: {host}");
    }
    // no host between two states: each change of each journal is whole, or taken back whole
    for name in &names {
        let tree = format!("{root}/{name}/tree");
        let log = common::thruway(&["--root", &tree, "log", "--json"]);
        let log: serde_json::Value = serde_json::from_str(&stdout(&log)).expect("a log");
        for change in log["changes"].as_array().expect("changes") {
            assert!(["applied", "undone"].contains(&change["state"].as_str().expect("a state")), "{name}: {change}");
        }
    }
    // what was wrong is put right, and the same file brings the others up; then all of it back
    for name in &names {
        for fault in ["refuse", "down", "cut"] {
            let _ = std::fs::remove_file(hosts.path(&format!("hosts/{name}/{fault}")));
        }
    }
    let said = hosts.well("up");
    assert!(said.contains(&format!("{count} of {count} hosts well")), "{said}");
    hosts.well("down");
    for (name, before) in names.iter().zip(&before) {
        assert_eq!(differ(before, &hosts.tree(name)), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_canary_that_fails_stops_the_fleet() {
    let hosts = Hosts::new();
    for name in ["a", "b", "c"] {
        hosts.add(name, "guest-good");
    }
    std::fs::write(hosts.path("hosts/a/down"), "").expect("down");
    let root = hosts.path("hosts").display().to_string();
    let way = format!(
        "name = \"rack\"\n[host]\nat = \"{{host}}\"\nroot = \"{root}/{{host}}/tree\"\nthruway = \"{THRUWAY}\"\n[fleet]\nhosts = [\"a\", \"b\", \"c\"]\nat_once = 3\n"
    );
    std::fs::write(hosts.way(), way).expect("way.toml");
    let output = hosts.run("up", &["--yes"]);
    let said = unwrapped(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("0 of 3 hosts well, 1 failed, 2 not begun"), "{said}");
    assert!(
        !hosts.path("hosts/b/count").exists() && !hosts.path("hosts/c/count").exists(),
        "nobody else was spoken to"
    );
    let output = hosts.run("up", &["--yes", "--host", "b"]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert!(unwrapped(&output).contains("1 of 1 host well"), "{}", stdout(&output));
}

/// sudo's password is asked for once a machine, on the terminal, and is nowhere afterwards.
#[test]
fn sudo_is_asked_once_and_keeps_no_password() {
    const SECRET: &str = "open sesame 'quoted'";
    if !rustix::process::getuid().is_root() {
        println!("SKIP: what sudo runs writes below /var/lib, and the simulated one makes nobody root");
        return;
    }
    let hosts = Hosts::new();
    hosts.add("box", "guest-good");
    let root = hosts.path("hosts/box/tree").display().to_string();
    let way = format!(
        "name = \"one\"\n[host]\nat = \"box\"\nsudo = true\nroot = \"{root}\"\nthruway = \"{THRUWAY}\"\n[container]\n"
    );
    std::fs::write(hosts.way(), way).expect("way.toml");
    // where sudo asks for nothing
    hosts.well("up");
    assert!(hosts.path("hosts/box/count").exists());
    std::fs::write(hosts.path("hosts/box/password"), SECRET).expect("password");
    let output = hosts.run("up", &["--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        unwrapped(&output).contains("sudo on box wants a password, and there is no terminal"),
        "{}",
        stdout(&output)
    );
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIP: no script(1), which makes a terminal");
        return;
    }
    for (word, well) in [("not this", false), (SECRET, true)] {
        let [way, state] = hosts.paths();
        let line = format!("{THRUWAY} up {way} --state {state} --yes; echo status $?");
        let mut child = Command::new("script");
        let shape = hosts.command(&[]);
        child.envs(shape.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = child
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script");
        let mut keys = child.stdin.take().expect("its keys");
        let mut out = child.stdout.take().expect("its screen");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = std::io::Read::read_to_string(&mut out, &mut text);
            text
        });
        // the question empties what was typed before it: it is answered when it stands there
        std::thread::sleep(std::time::Duration::from_millis(1500));
        std::io::Write::write_all(&mut keys, format!("{word}\n").as_bytes()).expect("typed");
        child.wait().expect("its end");
        let said = reader.join().expect("its screen");
        assert!(said.contains("sudo's password on box (kept in memory alone)"), "{said}");
        assert_eq!(said.contains("status 0"), well, "{said}");
        assert_eq!(said.contains("sudo on box refuses: sudo: 1 incorrect password attempt"), !well, "{said}");
        assert!(!said.contains(SECRET) && said.matches("sudo's password").count() == 1, "{said}");
    }
    let log = std::fs::read_to_string(hosts.path("state/one/log")).expect("the log");
    assert!(log.contains("sudo -k -S -p '' -- ") && !log.contains("sesame"), "{log}");
    let _ = std::fs::remove_file(hosts.path("hosts/box/password"));
    hosts.well("down");
}

/// The VM floor by Proxmox VE's API (simulated), from here: a mapping is made and given, as a token may, and goes again.
#[test]
fn the_vm_floor_by_the_api() {
    let hosts = Hosts::seed();
    let all = |rights: &[&str]| rights.iter().map(|right| (*right).to_owned()).collect::<Vec<_>>();
    let vms =
        ["VM.Audit", "VM.Config.CPU", "VM.Config.HWType", "VM.Config.Memory", "VM.Config.Disk", "VM.Config.Options"];
    let may = BTreeMap::from([
        ("/".to_owned(), all(&["Sys.Audit"])),
        ("/vms".to_owned(), all(&vms)),
        ("/mapping/pci".to_owned(), all(&["Mapping.Modify", "Mapping.Use"])),
        ("/storage".to_owned(), all(&["Datastore.Audit", "Datastore.AllocateSpace"])),
    ]);
    let account =
        sim::pve::Account { name: "thruway@pve!t1".into(), secret: "11111111-2222-4333-8444-555555555555".into(), may };
    let server = sim::pve::Server::start(&hosts.path("hosts/pve/tree"), vec![account]).expect("the server");
    let token = hosts.path("token");
    std::fs::write(&token, "thruway@pve!t1=11111111-2222-4333-8444-555555555555\n").expect("token");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("0600");
    let api = format!(
        "id = \"100\"\npve = \"{}\"\npve_token_file = \"{}\"\npve_fingerprint = \"{}\"\n",
        server.url(),
        token.display(),
        sim::pve::FINGERPRINT
    );
    let way = hosts
        .seed_way()
        .replace("id = \"100\"\nstart = true\n", &api)
        .split("[guest]")
        .next()
        .expect("host and VM")
        .to_owned();
    std::fs::write(hosts.way(), way).expect("way.toml");
    let conf = || {
        std::fs::read_to_string(hosts.path("hosts/pve/tree/etc/pve/nodes/pve/qemu-server/100.conf")).expect("VM 100")
    };
    let before = conf();
    let home = hosts.path("home");
    let run = |verb: &str, status: i32| {
        let paths = hosts.paths();
        let mut command = hosts.command(&hosts.words(verb, &["--yes"], &paths));
        let output = command.env("HOME", &home).env_remove("XDG_STATE_HOME").output().expect("thruway starts");
        assert_eq!(output.status.code(), Some(status), "{verb}: {}{}", stdout(&output), stderr(&output));
        unwrapped(&output)
    };
    // the simulated host's qm starts no VM with a mapping: its start is left to the user
    let said = run("up", 1);
    assert!(said.contains("VM 100: start it, then `thruway up` again; or say vm.start = true"), "{said}");
    assert!(conf().contains("hostpci0: mapping="), "{said}{}", conf());
    let posts = |calls: Vec<String>| calls.into_iter().filter(|call| call.starts_with("POST")).collect::<Vec<_>>();
    assert!(posts(server.calls()).iter().any(|call| call == "POST /nodes/pve/qemu/100/config"), "{:?}", server.calls());
    let again = run("up", 1);
    assert_eq!(again.matches("it is so already").count(), 2, "{again}");
    let said = run("down", 0);
    assert_eq!(conf(), before, "{said}");
    let log = std::fs::read_to_string(hosts.path("state/home/log")).expect("the log");
    assert!(!log.contains("11111111"), "no secret is kept");
}
