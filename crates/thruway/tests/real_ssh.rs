//! `thruway up` over a real sshd on 127.0.0.1, with a real ssh and its known_hosts: this program is copied over, checked by
//! its SHA-256, run there, and gone after `down`. The machine it changes is a simulated one below a directory.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "runs sshd and the program"
)]

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{stderr, stdout};

const THRUWAY: &str = env!("CARGO_BIN_EXE_thruway");
const SSHD: &str = "/usr/sbin/sshd";

struct Sshd {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Sshd {
    fn start() -> Option<Sshd> {
        let root = rustix::process::getuid().is_root();
        if !Path::new(SSHD).exists() || Command::new("ssh").arg("-V").output().is_err() {
            println!("SKIP: no sshd or no ssh is installed (./test.sh installs both)");
            return None;
        }
        if !root {
            println!("SKIP: sshd is started as root");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        for key in ["host", "user", "other"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]).status();
            assert!(made.expect("ssh-keygen").success());
        }
        std::fs::copy(at("user.pub"), at("authorized")).expect("authorized");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port();
        // what sshd drops its rights into; a fresh machine without systemd has none
        std::fs::create_dir_all("/run/sshd").expect("/run/sshd");
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n",
            at("host"),
            at("authorized")
        );
        std::fs::write(at("sshd_config"), config).expect("sshd_config");
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f", &at("sshd_config")])
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd");
        let sshd = Sshd { dir, child, port };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "sshd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        sshd.known("host");
        let config = format!(
            "Host box\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  StrictHostKeyChecking yes\n",
            sshd.at("user"),
            sshd.at("known_hosts")
        );
        std::fs::write(sshd.at("ssh_config"), config).expect("ssh_config");
        Some(sshd)
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// This key is what is known of the host.
    fn known(&self, key: &str) {
        let public = std::fs::read_to_string(self.at(&format!("{key}.pub"))).expect("a public key");
        let line = format!("[127.0.0.1]:{} {public}", self.port);
        std::fs::write(self.at("known_hosts"), line).expect("known_hosts");
    }

    fn run(&self, verb: &str, way: &Path) -> Output {
        let way = way.display().to_string();
        let state = self.at("state");
        let mut command = Command::new(THRUWAY);
        command.args([verb, &way, "--yes", "--state", &state]).env("NO_COLOR", "1").env("TMPDIR", self.dir.path());
        command.env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null()).output().expect("thruway starts")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // connections of controllers that were killed would wait for their time
        let _ = Command::new("pkill").arg("-f").arg(self.dir.path()).status();
    }
}

fn way(sshd: &Sshd) -> PathBuf {
    let tree = sshd.at("tree");
    let built = common::thruway(&["demo", "--build", "guest-good", &tree]);
    assert!(built.status.success(), "{}", stderr(&built));
    let path = sshd.dir.path().join("way.toml");
    let text = format!(
        "name = \"real\"\n[ssh]\nconfig = \"{}\"\n[host]\nat = \"box\"\nroot = \"{tree}\"\n[container]\n",
        sshd.at("ssh_config")
    );
    std::fs::write(&path, text).expect("way.toml");
    path
}

#[test]
fn copied_over_checked_run_and_gone_again() {
    let Some(sshd) = Sshd::start() else { return };
    let way = way(&sshd);
    let up = PathBuf::from("/var/lib/thruway/up");
    let before = up.exists();
    let output = sshd.run("up", &way);
    let said = stdout(&output);
    assert!(output.status.success(), "{said}{}", stderr(&output));
    for words in [
        " MB copied to /var/lib/thruway/up/",
        "/thruway, sha256 ",
        "x86_64, as root",
        "GPU 0: NVIDIA GeForce GT 1030",
        "the way is open",
    ] {
        let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(words.trim()), "{words}: {said}");
    }
    let state = std::fs::read_to_string(sshd.at("state/real/state.json")).expect("the state");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    let dir = up.join(state["id"].as_str().expect("an id"));
    let there = dir.join("thruway");
    assert_eq!(std::fs::read(&there).expect("copied"), std::fs::read(THRUWAY).expect("this program"));
    // half a copy is not taken for the program: it is made anew, and runs
    std::fs::write(&there, b"\x7fELF").expect("cut short");
    let again = sshd.run("up", &way);
    assert!(again.status.success() && stdout(&again).contains(" MB copied to"), "{}{}", stdout(&again), stderr(&again));
    assert_eq!(std::fs::read(&there).expect("copied"), std::fs::read(THRUWAY).expect("this program"));
    let again = sshd.run("up", &way);
    assert!(
        stdout(&again).contains("is this very build") && !stdout(&again).contains("MB copied"),
        "{}",
        stdout(&again)
    );
    let down = sshd.run("down", &way);
    assert!(down.status.success(), "{}{}", stdout(&down), stderr(&down));
    assert!(!dir.exists(), "what was copied is gone");
    assert!(before || !up.exists(), "and where it lay");
    let log = std::fs::read_to_string(sshd.at("state/real/log")).expect("the log");
    assert!(!log.contains("PRIVATE KEY"), "no secret is kept");
    // the connection that was shared is closed: no socket, no process
    let left: Vec<_> = std::fs::read_dir(sshd.dir.path())
        .expect("its directory")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("thruway-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_host_whose_key_is_another_is_not_spoken_to() {
    let Some(sshd) = Sshd::start() else { return };
    let way = way(&sshd);
    sshd.known("other");
    let output = sshd.run("up", &way);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("box cannot be reached") && said.contains("Host key verification failed"), "{said}");
    std::fs::write(sshd.at("known_hosts"), "").expect("known_hosts");
    let output = sshd.run("up", &way);
    assert!(stdout(&output).contains("Host key verification failed"), "{}", stdout(&output));
}

#[test]
fn a_controller_that_is_killed_leaves_a_way_that_goes_on() {
    let Some(sshd) = Sshd::start() else { return };
    let way = way(&sshd);
    let mut killed = 0;
    for pause in [150, 400, 900] {
        let (path, state) = (way.display().to_string(), sshd.at("state"));
        let mut child = Command::new(THRUWAY)
            .args(["up", &path, "--yes", "--state", &state])
            .env("TMPDIR", sshd.dir.path())
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("thruway starts");
        std::thread::sleep(Duration::from_millis(pause));
        killed += usize::from(child.try_wait().expect("its state").is_none());
        let _ = child.kill();
        let _ = child.wait();
    }
    println!("killed {killed} of 3 times");
    for verb in ["up", "down"] {
        let output = sshd.run(verb, &way);
        assert!(output.status.success(), "{verb}: {}{}", stdout(&output), stderr(&output));
    }
}
