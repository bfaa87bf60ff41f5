//! Debian's prometheus and promtool, and the strict reader of Python's prometheus_client.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use watch::Sample;
use watch::serve::{Form, Names, Options, render, simulated};

use super::client::{ask, get, here, options, run, start};

const ALL: [Names; 3] = [Names::Thruway, Names::Dcgm, Names::NvidiaGpuExporter];

fn boxes() -> [(&'static str, Sample); 4] {
    [
        ("gt1030", simulated::gt1030()),
        ("h100x8", simulated::h100x8()),
        ("mig", simulated::mig()),
        ("hostile", simulated::hostile()),
    ]
}

/// promtool's status and words about a text.
fn checked(text: &str) -> (i32, String) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    child.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("a text");
    let output = child.wait_with_output().expect("promtool's end");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), said)
}

#[test]
fn promtool_takes_every_flavour() {
    if !here("promtool") {
        return;
    }
    for (machine, sample) in boxes() {
        let text = |names| {
            let options = Options { names, host: "pve1".into(), ..Options::default() };
            render(&sample, &simulated::chain(), &options, Form::Prometheus)
        };
        assert_eq!(checked(&text(vec![Names::Thruway])), (0, String::new()), "thruway's own on {machine}");
        // the others' names break some of Prometheus's conventions, and we keep them as they are; 1 would be: cannot be read
        for names in [vec![Names::Dcgm], vec![Names::NvidiaGpuExporter], ALL.to_vec()] {
            let (code, said) = checked(&text(names.clone()));
            assert!(code == 0 || code == 3, "{names:?} on {machine}: {said}");
            let foreign = |line: &str| line.starts_with("DCGM_") || line.starts_with("nvidia_smi_");
            assert!(said.lines().all(foreign), "{said}");
        }
    }
    let (code, said) = checked("# TYPE a gauge\na{b=\"c} 1\n");
    assert_eq!(code, 1, "what cannot be read is seen: {said}");
}

/// Ended with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn query(address: SocketAddr, expression: &str) -> serde_json::Value {
    let coded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let request = format!("GET /api/v1/query?query={coded} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let (_, _, body) = ask(address, &request);
    serde_json::from_str::<serde_json::Value>(&body).unwrap_or_default()["data"]["result"].clone()
}

#[test]
fn prometheus_scrapes_it_and_answers() {
    if !here("prometheus") {
        return;
    }
    let (server, ours) = start(Options { names: ALL.to_vec(), ..options() }, simulated::gt1030);
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: thruway, static_configs: [{{targets: ['{ours}']}}]}}]\n"
    );
    std::fs::write(&config, text).expect("a configuration");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
    command.arg(format!("--web.listen-address={port}"));
    let log = std::fs::File::create(dir.path().join("log")).expect("a log");
    let _running = Running(command.stdout(Stdio::null()).stderr(log).spawn().expect("prometheus"));
    let begun = Instant::now();
    let result = loop {
        let ready = std::net::TcpStream::connect(port).is_ok();
        let result = if ready { query(port, "thruway_container_decoder_ratio") } else { serde_json::Value::Null };
        if result[0].is_object() {
            break result;
        }
        let log = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        assert!(begun.elapsed() < Duration::from_secs(60), "never scraped: {}", log());
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!((&result[0]["metric"]["pod"], &result[0]["value"][1]), (&"jellyfin-0".into(), &"0.41".into()));
    // what dashboards made for the others ask
    for (expression, want) in [
        ("DCGM_FI_DEV_DEC_UTIL{Hostname=\"pve1\"}", "41"),
        ("DCGM_FI_DEV_FB_USED{pod=\"jellyfin-0\"}", "951"),
        ("nvidia_smi_temperature_gpu * on(uuid) group_left(name) nvidia_smi_gpu_info", "48"),
        ("thruway_finding{state=\"fail\"}", "1"),
        ("up", "1"),
    ] {
        let result = query(port, expression);
        assert_eq!(result[0]["value"][1], want, "{expression}: {result}");
    }
    // it asks for OpenMetrics by itself
    let target = get(port, "/api/v1/targets").2;
    assert!(target.contains("\"lastError\":\"\""), "{target}");
    server.stop();
}

fn venv() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("serve-venv");
    let pip = dir.join("bin/pip");
    if dir.join("done").exists() {
        return Some(dir);
    }
    if !here("python3") {
        return None;
    }
    let (code, said) = run(Command::new("python3").args(["-m", "venv"]).arg(&dir));
    let quiet = ["install", "-q", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"];
    let got = code == 0 && run(Command::new(pip).args(quiet).arg("prometheus_client==0.21.1")).0 == 0;
    if !got {
        println!("SKIP: prometheus_client could not be had: {said}");
        return None;
    }
    std::fs::write(dir.join("done"), "").expect("a mark");
    Some(dir)
}

#[test]
fn the_strict_reader_of_openmetrics_takes_every_flavour() {
    let Some(venv) = venv() else { return };
    let script = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
                  print(sum(len(f.samples) for f in read(sys.stdin.read())))";
    let read = |text: &str| {
        let mut child = Command::new(venv.join("bin/python"))
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python");
        child.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("a text");
        let output = child.wait_with_output().expect("its end");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned(), output.stderr)
    };
    for (machine, make) in [
        ("gt1030", simulated::gt1030 as fn() -> Sample),
        ("h100x8", simulated::h100x8),
        ("mig", simulated::mig),
        ("hostile", simulated::hostile),
    ] {
        let (server, address) = start(Options { names: ALL.to_vec(), ..options() }, make);
        let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text\r\nConnection: close\r\n\r\n";
        let (_, _, body) = ask(address, head);
        let (good, count, said) = read(&body);
        assert!(good, "{machine}: {}", String::from_utf8_lossy(&said));
        let series = body.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(count.trim(), series.to_string(), "{machine}");
        server.stop();
    }
    assert!(!read("# TYPE a counter\na 1\n# EOF\n").0, "what breaks the rules is seen");
}
