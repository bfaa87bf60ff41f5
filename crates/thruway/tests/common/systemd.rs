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
        let name = folder.path().file_name().expect("a name").to_string_lossy().into_owned();
        let cgroup = format!("thruway-test{name}");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let outer = Command::new("bash")
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
        let mut machine = Systemd { init: String::new(), folder, outer, cgroup };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(50));
            if machine.outer.try_wait().expect("its state").is_some() {
                println!("SKIP: no namespaces for a systemd here: {}", machine.log());
                return None;
            }
            let path = format!("/proc/{0}/task/{0}/children", machine.outer.id());
            let children = std::fs::read_to_string(path).unwrap_or_default();
            // before it, the script's own programs come and go
            let is_init =
                |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "systemd\n");
            let Some(init) = children.split_whitespace().find(is_init) else { continue };
            machine.init = init.to_owned();
            // degraded is up too
            let state = machine.run("systemctl is-system-running 2>&1");
            if state.starts_with("running") || state.starts_with("degraded") {
                return Some(machine);
            }
        }
        println!("SKIP: systemd does not come up here: {}", machine.log());
        None
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
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

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        // its units' groups are empty now, deepest first
        let find = format!("find /sys/fs/cgroup/*/{} -depth -type d -exec rmdir {{}} + 2>/dev/null", self.cgroup);
        for _ in 0..20 {
            let _ = Command::new("sh").args(["-c", &find]).status();
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
