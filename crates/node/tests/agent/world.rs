//! A node: a driver's root with simulated cards, a kubelet, and the agent as a process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use simcards::view::View;
use simdriver::{Built, Laid, Layout, lay};
use simkube::kubelet::Kubelet;

pub const GPU: &str = "nvidia.com/gpu";
/// Longer than anything here takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(20);
/// Recovery in a moment, so that a test can wait for it.
pub const QUICK: &str = "version: v1\nthruway:\n  health: {hold: 200ms, holdReset: 400ms, looks: 2, retest: 100ms}\n";

pub struct World {
    _folder: tempfile::TempDir,
    pub laid: Laid,
    pub kubelet: Kubelet,
    pub agent: Option<Child>,
    pub port: u16,
    arguments: Vec<String>,
}

/// A folder in memory where there is one: CDI specs of eight cards are written and synced.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// None, with the reason said: the driver's nodes need root.
pub fn laid(folder: &Path, name: &str) -> Option<Laid> {
    let profile = std::env::current_exe().expect("this program");
    let deps = profile.parent().expect("target/PROFILE/deps").to_owned();
    let text = View::named(name).expect("a box");
    let laid = lay(&folder.join("root"), text, Layout::Ubuntu, &Built(deps)).expect("a driver's root");
    if !laid.missing_nodes.is_empty() {
        println!("SKIP: only root can make {}", laid.missing_nodes.join(", "));
        return None;
    }
    Some(laid)
}

impl World {
    /// The kubelet runs, the agent does not yet.
    pub async fn new(name: &str, config: &str, arguments: &[&str]) -> Option<World> {
        let folder = folder();
        let laid = laid(folder.path(), name)?;
        let kubelet = Kubelet::start(&laid.root).await.expect("a kubelet");
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, config).expect("writes");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port").port();
        let mut all = vec!["run".into(), "--root".into(), laid.root.display().to_string()];
        all.extend(["--config-file".into(), file.display().to_string()]);
        all.extend(["--listen".into(), format!("127.0.0.1:{port}")]);
        // what this machine has of a kubeconfig is no test's
        if !arguments.contains(&"--kubeconfig") {
            all.push("--no-api".into());
        }
        all.extend(arguments.iter().map(|it| (*it).to_owned()));
        Some(World { _folder: folder, laid, kubelet, agent: None, port, arguments: all })
    }

    /// As [`World::new`], registered.
    pub async fn ready(name: &str, config: &str) -> Option<World> {
        let mut world = World::new(name, config, &[]).await?;
        world.start();
        world.well().await;
        Some(world)
    }

    pub fn start(&mut self) -> Instant {
        self.start_with(&[])
    }

    /// As [`World::start`], with these variables.
    pub fn start_with(&mut self, variables: &[(&str, &str)]) -> Instant {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).expect("a log");
        let begun = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_thruway-node"));
        command.args(&self.arguments).envs(variables.iter().copied());
        command.env("THRUWAY_SIM_QUIET", "1").stderr(log).stdin(Stdio::null());
        self.agent = Some(command.spawn().expect("the agent"));
        begun
    }

    /// All eight, or as many as there are, are healthy and the agent has looked.
    pub async fn well(&self) {
        let well =
            self.kubelet.until(GPU, LONG, |it| it.connected && it.counts().0 > 0 && it.counts().0 == it.counts().1);
        assert!(well.await, "not registered: {}", self.said());
        let until = Instant::now() + LONG;
        while !self.get("/readyz").await.starts_with("HTTP/1.1 200") {
            assert!(Instant::now() < until, "not ready: {}\n{}", self.get("/readyz").await, self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> PathBuf {
        self._folder.path().join("log")
    }

    pub fn config(&self) -> PathBuf {
        self._folder.path().join("config.yaml")
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.laid.root.join(path.trim_start_matches('/'))
    }

    /// Faults of the driver; empty: none.
    pub fn control(&self, text: &str) {
        let new = self.laid.control.with_extension("new");
        std::fs::write(&new, text).expect("writes");
        std::fs::rename(new, &self.laid.control).expect("renames");
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let agent = self.agent.as_ref().expect("runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(agent), signal).expect("a signal");
    }

    /// Ends it and gives its exit status.
    pub async fn end(&mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        self.signal(signal);
        self.ended().await
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let mut agent = self.agent.take().expect("runs");
        let until = Instant::now() + LONG;
        loop {
            if let Some(status) = agent.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await else {
            return String::new();
        };
        let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// What is timed is the program, and not the neighbours on a busy machine: where it may, this thread and what it starts go
/// before all others.
pub fn ahead_of_others() {
    let me = std::fs::read_link("/proc/thread-self").ok();
    let me = me.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())).unwrap_or_default();
    let first = Command::new("chrt").args(["-f", "-p", "5", &me]).stderr(Stdio::null()).status();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let so = if first.is_ok_and(|status| status.success()) { "ahead of them" } else { "among them" };
    println!("load average {} of others; this runs {so}", load.split(' ').next().unwrap_or_default());
}

pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a loop").block_on(test);
}

/// Numbers without a pattern, the same in each run: xorshift.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// The value below which so many per cent lie.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
