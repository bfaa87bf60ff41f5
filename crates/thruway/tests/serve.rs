//! `thruway serve` as a program: over simulated machines, and over the simulated driver's own library by NVML's C interface.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "runs the program")]

mod common;
#[path = "common/live.rs"]
mod live;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{stderr, thruway};
use live::{Live, namespaces};

/// A server that runs; ended with this value.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(mut command: Command) -> Serving {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("thruway starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
        let address = line.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        if address.is_empty() {
            let mut said = String::new();
            let _ = child.stderr.take().expect("stderr").read_to_string(&mut said);
            panic!("it did not start: {said}");
        }
        Serving { child, address }
    }

    /// Over a box of sim.
    fn over(sim: &str, more: &[&str]) -> Serving {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
        command.args(["serve", "--sim", sim, "--listen", "127.0.0.1:0"]).args(more).stdin(Stdio::null());
        Serving::start(command)
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// The metrics, as soon as they hold this.
    fn until(&self, what: &str) -> String {
        let begun = Instant::now();
        loop {
            let (_, text) = self.get("/metrics");
            if text.contains(what) {
                return text;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no {what} in\n{text}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill");
        assert!(done.success());
    }

    /// Its status after SIGTERM.
    fn end(mut self) -> Option<i32> {
        self.signal("-TERM");
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_the_doctor_finds_is_a_metric_and_on_the_page() {
    let serving = Serving::over("guest-good", &[]);
    let text = serving.until("thruway_finding{");
    for series in [
        "thruway_finding{id=\"container/gpu-way\",layer=\"container\",state=\"fail\"} 1\n",
        "thruway_floor_state{layer=\"guest\",state=\"well\"} 1\n",
        "thruway_up 1\n",
    ] {
        assert!(text.contains(series), "no {series} in\n{text}");
    }
    assert!(text.contains("simulated=\"true\""), "{text}");
    let (status, page) = serving.get("/");
    assert!(status == 200 && page.contains("container/gpu-way") && page.contains(">simulated<"), "{page}");
    // the same words as the doctor's own report
    let report = thruway(&["--sim", "guest-good", "--json", "doctor"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("a report");
    let findings: serde_json::Value = serde_json::from_str(&serving.get("/api/v1/findings").1).expect("JSON");
    for (ours, its) in
        findings["chain"]["floors"].as_array().expect("floors").iter().zip(report["floors"].as_array().expect("floors"))
    {
        assert_eq!(ours, its);
    }
    assert_eq!(serving.end(), Some(0));
}

#[test]
fn a_hosts_vm_has_its_card_here() {
    let serving = Serving::over("vm-good", &[]);
    let text = serving.until("thruway_floor_state{");
    let line = text.lines().find(|line| line.starts_with("thruway_gpu_holder_info{")).expect("a card");
    assert!(line.contains("driver=\"vfio-pci\""), "{line}");
    assert!(text.contains("thruway_up 1\n"), "no driver at all is no failure: {text}");
}

#[test]
fn others_names_stand_alone_or_beside() {
    let alone = Serving::over("guest-good", &["--names", "dcgm", "--dcgm-hostname", "lower"]);
    let text = alone.until("DCGM_FI_DEV_FB_USED{");
    assert!(text.contains(",hostname=\"") && !text.contains("thruway_"), "{text}");
    let both = Serving::over("guest-good", &["--names", "nvidia_gpu_exporter", "--names", "thruway"]);
    let text = both.until("thruway_finding{");
    assert!(
        text.contains("nvidia_smi_memory_total_bytes{uuid=\"00000000-aaaa-4bbb-8ccc-dddddddddddd\"} 2147483648\n"),
        "{text}"
    );
}

#[test]
fn a_wrong_wish_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (short, plain) = (file("short", "secret\n"), file("plain", "no socket"));
    for (args, says) in [
        (vec!["--listen", "0.0.0.0:0"], "--behind-proxy"),
        (vec!["--listen", "nowhere"], "no address"),
        (vec!["--tls-cert", "x"], "--tls-key"),
        (vec!["--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key"], "cannot read /nowhere.pem"),
        (vec!["--tls-cert", &short, "--tls-key", &short], "certificate"),
        (vec!["--token-file", &short], "openssl rand"),
        (vec!["--max-series", "1"], "between 10"),
        (vec!["--listen", &format!("unix:{plain}")], "is no socket"),
    ] {
        let output = thruway(&[&["serve", "--sim", "guest-good"][..], &args].concat());
        assert!(output.status.code() == Some(2) && stderr(&output).contains(says), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_socket_that_nobody_listens_on_makes_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("serve.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("an old socket"));
    let wanted = format!("unix:{}", path.display());
    let serving = Serving::over("guest-good", &["--listen", &wanted]);
    let output = thruway(&["serve", "--sim", "guest-good", "--listen", &wanted]);
    assert!(stderr(&output).contains("somebody listens"), "{}", stderr(&output));
    assert_eq!(serving.end(), Some(0));
    assert!(!path.exists(), "it takes its socket with it");
}

#[test]
fn nvml_is_held_open_and_told_of_truly() {
    if !namespaces() {
        return;
    }
    let live = Live::new("eight-gpu", "h100x8");
    let serving =
        Serving::start(live.command(&["serve", "--listen", "127.0.0.1:0", "--fresh", "100ms", "--patience", "1s"]));
    let text = serving.until("thruway_gpu_info{gpu=\"7\"");
    // each value as `thruway gpus` has it, which is held to nvidia-smi
    let all = live.nvml();
    assert_eq!(all.len(), 8);
    for (index, nvml) in all.iter().enumerate() {
        let uuid = nvml["uuid"]["is"].as_str().expect("a UUID");
        for (metric, field, unit) in [
            ("thruway_gpu_temperature_celsius", "temperature", 1.0),
            ("thruway_gpu_power_watts", "power_draw", 1e-3),
            ("thruway_gpu_memory_used_bytes", "memory_used", 1.0),
            ("thruway_gpu_memory_size_bytes", "memory_total", 1.0),
            ("thruway_gpu_sm_ratio", "utilization_gpu", 1e-2),
            ("thruway_gpu_pcie_lanes", "pcie_width_current", 1.0),
        ] {
            let begins = format!("{metric}{{gpu=\"{index}\",uuid=\"{uuid}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&begins));
            let (got, want) =
                (line.and_then(|value| value.parse::<f64>().ok()), nvml[field]["is"].as_f64().map(|n| n * unit));
            assert!(
                want.is_some() && (got.unwrap_or(-1.0) - want.unwrap_or_default()).abs() < 1e-6,
                "{begins}: {got:?}, {want:?}"
            );
        }
    }
    live.control("[[gpus]]\nindex = 4\nset = { temperature = { now = 95 } }\nxids = [79]\n");
    serving.until("thruway_gpu_temperature_celsius{gpu=\"4\",uuid=\"GPU-51a51a51-2330-4000-8000-000000000004\"} 95\n");
    let text = serving.until("thruway_gpu_xid_errors_total{gpu=\"4\"");
    assert!(text.contains("xid=\"79\",class=\"hardware\"} "), "{text}");
    // a driver that hangs: the last values, their age, and everything else goes on
    live.control("hang = { milliseconds = 4000, calls = [\"nvmlDeviceGetTemperature\"] }\n");
    let text = serving.until("thruway_up 0\n");
    assert!(text.contains("thruway_gpu_memory_size_bytes{") && text.contains("thruway_sample_age_seconds "), "{text}");
    let begun = Instant::now();
    assert_eq!(serving.get("/healthz").0, 200);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    live.control("");
    serving.until("thruway_up 1\n");
    assert_eq!(serving.end(), Some(0));
}
