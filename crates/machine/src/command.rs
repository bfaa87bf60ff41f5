//! Live answers that a program gives. The argument lists are closed and stand here; each has a time limit.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use model::{Reason, Seen};

use crate::{Answer, ContainerdSays, Engine, Machine, MachineExt as _, Question};

/// A dead API server or a hung engine must not hang the doctor.
const LIMIT: Duration = Duration::from_secs(4);
const OUTPUT_LIMIT: u64 = 64 << 20;

pub(crate) fn ask(machine: &dyn Machine, question: Question) -> Seen<Answer> {
    match question {
        Question::Nvml | Question::NvmlAll | Question::Codecs => Seen::Absent,
        Question::Containers(engine) => {
            let Some(program) = engine_program(machine, engine) else { return Seen::Absent };
            let ids = match run(&program, &["ps", "--quiet", "--no-trunc"]) {
                Ok(ids) => ids,
                Err(reason) => return Seen::Unreadable(reason),
            };
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if ids.is_empty() {
                return Seen::Is(Answer::Json(serde_json::Value::Array(Vec::new())));
            }
            let mut argv = vec!["inspect"];
            argv.extend(ids);
            json(run(&program, &argv))
        }
        Question::EngineInfo(engine) => {
            let Some(program) = engine_program(machine, engine) else { return Seen::Absent };
            let format = match engine {
                Engine::Docker => "{{json .}}",
                Engine::Podman => "json",
            };
            json(run(&program, &["info", "--format", format]))
        }
        Question::ContainerdConfig => containerd(machine),
        Question::Kube(list) => {
            let Some(program) = find(machine, "kubectl") else { return Seen::Absent };
            let configured = ["/root/.kube/config", "/etc/kubernetes/admin.conf", "/etc/rancher/k3s/k3s.yaml"];
            let Some(config) = configured.into_iter().find(|path| machine.exists(path)) else { return Seen::Absent };
            let config = format!("--kubeconfig={config}");
            let mut argv = vec![config.as_str(), "--request-timeout=3s", "get", list.resource(), "--output=json"];
            if list != crate::KubeList::Nodes {
                argv.push("--all-namespaces");
            }
            json(run(&program, &argv))
        }
    }
}

fn containerd(machine: &dyn Machine) -> Seen<Answer> {
    if !machine.exists("/run/containerd/containerd.sock") {
        return Seen::Absent;
    }
    let Some(program) = find(machine, "containerd") else { return Seen::Absent };
    let version = match run(&program, &["--version"]) {
        Ok(version) => version,
        Err(reason) => return Seen::Unreadable(reason),
    };
    // "containerd github.com/containerd/containerd v1.7.24 88bf19b2…"
    let version = version.split_whitespace().nth(2).map(|word| word.trim_start_matches('v').to_owned());
    let mut says = ContainerdSays { version, ..ContainerdSays::default() };
    match run(&program, &["config", "dump"]) {
        Err(Reason::Other(error)) => says.error = Some(error),
        Err(reason) => return Seen::Unreadable(reason),
        Ok(text) => match formats::containerdtoml::ContainerdToml::parse(text.as_bytes()) {
            Ok(file) => {
                says.enable_cdi = file.enable_cdi.map(|(on, _)| on);
                let runtimes = file.runtimes.into_iter();
                says.runtimes = runtimes.map(|(name, binary)| (name, binary.unwrap_or_default())).collect();
                says.default_runtime = file.default_runtime;
            }
            Err(bad) => return Seen::Unreadable(Reason::Malformed(format!("containerd config dump: {bad}"))),
        },
    }
    match serde_json::to_value(says) {
        Ok(value) => Seen::Is(Answer::Json(value)),
        Err(error) => Seen::Unreadable(Reason::Malformed(error.to_string())),
    }
}

/// The engine's client, where its daemon's socket (docker) or the program itself (podman has no daemon) is there.
fn engine_program(machine: &dyn Machine, engine: Engine) -> Option<String> {
    match engine {
        Engine::Docker => machine.exists("/run/docker.sock").then(|| find(machine, "docker")).flatten(),
        Engine::Podman => find(machine, "podman"),
    }
}

fn find(machine: &dyn Machine, name: &str) -> Option<String> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/snap/bin"]
        .into_iter()
        .map(|dir| format!("{dir}/{name}"))
        .find(|path| machine.exists(path))
}

fn json(output: Result<String, Reason>) -> Seen<Answer> {
    match output.map(|text| serde_json::from_str(&text)) {
        Ok(Ok(value)) => Seen::Is(Answer::Json(value)),
        Ok(Err(error)) => Seen::Unreadable(Reason::Malformed(error.to_string())),
        Err(reason) => Seen::Unreadable(reason),
    }
}

/// Runs a program to its end or to the time limit; its output, or why there is none.
fn run(program: &str, argv: &[&str]) -> Result<String, Reason> {
    let other = |error: std::io::Error| Reason::Other(format!("{program}: {error}"));
    let mut child = Command::new(program)
        .args(argv)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(other)?;
    // Each pipe is drained by a thread of its own, or a full one would stop the program for ever.
    let drain = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let out = drain(child.stdout.take().map(|p| Box::new(p) as _));
    let err = drain(child.stderr.take().map(|p| Box::new(p) as _));
    let start = Instant::now();
    let status = loop {
        match child.try_wait().map_err(other)? {
            Some(status) => break status,
            None if start.elapsed() > LIMIT => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Reason::TimedOut);
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let out = out.join().unwrap_or_default();
    let err = err.join().unwrap_or_default();
    if status.success() {
        return Ok(String::from_utf8_lossy(&out).into_owned());
    }
    let err = String::from_utf8_lossy(&err);
    let line = err.lines().find(|line| !line.trim().is_empty()).unwrap_or("no message");
    if line.contains("permission denied") || line.contains("Permission denied") {
        return Err(Reason::PermissionDenied);
    }
    Err(Reason::Other(line.chars().take(300).collect()))
}
