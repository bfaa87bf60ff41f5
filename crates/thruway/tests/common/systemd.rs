//! A real systemd, over this machine's own files, in namespaces of its own: units, scopes and their device lists as on a
//! booted machine. Its /dev has nodes with the driver's numbers and nothing behind them.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, dead_code, reason = "tests; each uses a part of it")]
#![allow(clippy::print_stdout, reason = "says what it skips")]

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub struct Systemd {
    folder: tempfile::TempDir,
    /// unshare, which takes systemd with it.
    outer: Child,
    init: String,
    cgroup: String,
}

impl Systemd {
    /// Starts one; None, with the reason printed, where this machine cannot.
    pub fn start() -> Option<Systemd> {
        for needed in ["/lib/systemd/systemd", "/usr/bin/dbus-daemon", "/usr/bin/nsenter", "/usr/sbin/runc"] {
            if !std::path::Path::new(needed).exists() {
                println!("SKIP: {needed} is not there");
                return None;
            }
        }
        if !std::path::Path::new("/sys/fs/cgroup/devices").exists() {
            println!("SKIP: the device lists of cgroup v1 are not mounted here");
            return None;
        }
        // not below /tmp, which it has anew
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let cgroup = format!("thruway-test-{}", std::process::id());
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut outer = Command::new("bash")
            .args([
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/systemd.sh"),
                &folder.path().to_string_lossy(),
                &cgroup,
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .spawn()
            .expect("bash");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            let children =
                std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.id())).unwrap_or_default();
            if let Some(init) = children.split_whitespace().next() {
                let machine = Systemd { init: init.to_owned(), folder, outer, cgroup };
                // its own word for "up" is running; degraded is up too
                loop {
                    let state = machine.run("systemctl is-system-running 2>&1");
                    if state.starts_with("running") || state.starts_with("degraded") {
                        return Some(machine);
                    }
                    if begun.elapsed() > Duration::from_secs(30) {
                        println!("SKIP: systemd does not come up here: {state} {}", machine.log());
                        return None;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            if outer.try_wait().expect("its state").is_some() {
                println!("SKIP: no namespaces for a systemd here: {}", log_of(&folder));
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = outer.kill();
        println!("SKIP: systemd does not start here: {}", log_of(&folder));
        None
    }

    fn log(&self) -> String {
        log_of(&self.folder)
    }

    /// A shell script on that machine.
    pub fn output(&self, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-p", "-u", "-i", "-n", "-C", "-r", "-w", "-t", &self.init, "sh", "-c", script]);
        command.stdin(Stdio::null()).output().expect("nsenter, of util-linux")
    }

    /// As [`Systemd::output`]: what it printed.
    pub fn run(&self, script: &str) -> String {
        let output = self.output(script);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// A path of its root, from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }
}

fn log_of(folder: &tempfile::TempDir) -> String {
    std::fs::read_to_string(folder.path().join("log")).unwrap_or_default()
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.init]).status();
        let _ = self.outer.wait();
        // its units' groups are empty now, deepest first
        let find = format!("find /sys/fs/cgroup/*/{} -depth -type d -exec rmdir {{}} + 2>/dev/null", self.cgroup);
        for _ in 0..20 {
            let _ = Command::new("sh").args(["-c", &find]).status();
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
