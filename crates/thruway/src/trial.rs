//! `thruway container test`: a container started by the engine's own client, as the user would, and the way of the card into it
//! proved step by step.

pub mod bundle;
mod client;
pub mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use bundle::Bundle;
use client::{Ask, Client, Kind, Said};
use machine::{Engine, Machine, MachineExt as _, Question};
use model::{Layer, Seen, Verdict};
use probe::Probe;
use serde::Serialize;

use crate::cli::{AskWish, Global, TrialArgs};
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::way::Way;
use crate::{DONE, FOUND, say};

const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Report {
    schema: u32,
    engine: String,
    image: String,
    /// The command line that asked.
    command: String,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    step: &'static str,
    state: State,
    says: String,
    /// Lines to paste.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fix: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Held,
    Failed,
    /// A step before it failed.
    NotReached,
}

/// 0 the card is inside, 1 a step failed, 2 no engine to try it with.
pub fn trial(global: &Global, args: &TrialArgs) -> anyhow::Result<u8> {
    if global.root.is_some() || global.from.is_some() || global.sim.is_some() {
        bail!("container test starts containers on this machine: --root, --from and --sim choose none");
    }
    let target = Target::open(global)?;
    let machine = target.machine();
    let (client, ask) = chosen(machine, args)?;
    // The container goes with ctrl-C too: the client passes it on, and we clean up.
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stopped)).context("cannot watch for ctrl-C")?;
    }
    let bundle = Bundle::of_this_process()?;
    let own = format!("thruway-test:{}", std::process::id());
    let names =
        [format!("thruway-test-{}-card", std::process::id()), format!("thruway-test-{}-bare", std::process::id())];
    let mut left = Left { client: &client, names: names.to_vec(), image: None, dir: None };
    let image = match &args.image {
        Some(image) => {
            let dir = std::env::temp_dir().join(own.replace(':', "-"));
            std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            left.dir = Some(dir.clone());
            bundle.copy_to(&dir)?;
            image.clone()
        }
        None => {
            left.image = Some(own.clone());
            client.load(&bundle.image(&own)?)?;
            own
        }
    };
    let seconds = args.time.to_string();
    let probe = ["container", "probe", "--for", &seconds];
    let argv = |name: &str, ask: Ask| client.argv(name, &image, left.dir.as_deref(), ask, &probe);
    let [card, bare] = &names;
    let command = argv(card, ask);
    let mut steps = asked(machine, &client.start(&command)?);
    if !stopped.load(Ordering::Relaxed) {
        steps.push(unasked(&client.start(&argv(bare, Ask::Nothing))?));
    }
    drop(left);
    let report = Report {
        schema: SCHEMA,
        engine: client.program().to_owned(),
        image,
        command: format!("{} {}", client.program(), command.join(" ")),
        steps,
    };
    let failed = report.steps.iter().any(|step| step.state != State::Held);
    if global.json {
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        say(&page(&report, failed, machine))?;
    }
    Ok(if failed { FOUND } else { DONE })
}

/// What must be gone whatever happens.
struct Left<'c> {
    client: &'c Client,
    names: Vec<String>,
    image: Option<String>,
    dir: Option<std::path::PathBuf>,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.client.clean(&self.names, self.image.as_deref());
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// The engine and the way of asking, by what the user said, else by what is there.
fn chosen(machine: &dyn Machine, args: &TrialArgs) -> anyhow::Result<(Client, Ask)> {
    let here = |name: &str| {
        ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/bin"].iter().any(|dir| machine.exists(&format!("{dir}/{name}")))
    };
    let kind = match args.engine.as_deref() {
        Some("docker") => Kind::Docker,
        Some("podman") => Kind::Podman,
        Some("containerd") => Kind::Containerd,
        Some(other) => bail!("container test does not start containers by {other}: say docker, podman or containerd"),
        None if here("docker") && machine.ask(&Question::EngineInfo(Engine::Docker)).is_there() => Kind::Docker,
        None if here("podman") => Kind::Podman,
        None if here("ctr") && machine.exists("/run/containerd/containerd.sock") => Kind::Containerd,
        None => bail!("no engine answers here: start docker or containerd, or install podman"),
    };
    let runtime = ["/usr/bin/thruway-runtime", "/usr/bin/nvidia-container-runtime"];
    let runtime = runtime.into_iter().find(|path| machine.exists(path)).map(str::to_owned);
    let client = Client { kind, runtime };
    if !here(client.program()) {
        bail!("{} is not on this machine", client.program());
    }
    let ask = match args.ask {
        Some(AskWish::Cdi) => Ask::Cdi,
        Some(AskWish::Gpus) => Ask::Gpus,
        Some(AskWish::Runtime) => Ask::Runtime,
        None if kind == Kind::Docker => {
            let info = machine.ask(&Question::EngineInfo(Engine::Docker));
            let dirs = info.get().and_then(|answer| answer.json()?.get("CDISpecDirs")?.as_array().map(Vec::len));
            if dirs.is_some_and(|dirs| dirs > 0) { Ask::Cdi } else { Ask::Gpus }
        }
        // containerd's own client resolves no CDI names, unlike Kubernetes.
        None if kind == Kind::Containerd && client.runtime.is_none() => {
            bail!("ctr, containerd's own client, asks by a runtime, and thruway-runtime is not installed here")
        }
        None if kind == Kind::Containerd => Ask::Runtime,
        None => Ask::Cdi,
    };
    Ok((client, ask))
}

fn step(step: &'static str, state: State, says: impl Into<String>) -> Step {
    Step { step, state, says: says.into(), fix: Vec::new() }
}

/// The steps of the container that asked, each after the one before it.
fn asked(machine: &dyn Machine, said: &Said) -> Vec<Step> {
    let names = [
        "the nodes are there and open",
        "the loader finds the driver's libraries",
        "NVML answers",
        "the card computes",
    ];
    let probe = serde_json::from_str::<Probe>(said.out.trim()).ok();
    let mut steps = Vec::new();
    let first = "the engine accepts the request";
    match (&probe, said.ok) {
        (Some(_), true) => steps.push(step(first, State::Held, "the container started")),
        _ => {
            let line = words(&said.err);
            let known = decode::explain(&said.err).ok().and_then(|found| found.into_iter().next());
            let says = known.as_ref().map_or_else(|| line.clone(), |known| format!("{}: {line}", known.says));
            let mut failed = step(first, State::Failed, says);
            failed.fix = known.map(|known| known.paste).unwrap_or_default();
            steps.push(failed);
        }
    }
    let Some(probe) = probe else {
        steps.extend(names.map(|name| step(name, State::NotReached, "")));
        return steps;
    };
    let shut: Vec<String> =
        probe.nodes.iter().filter_map(|node| Some(format!("{}: {}", node.path, node.error.as_ref()?))).collect();
    let count = |name: &str| probe.nodes.iter().any(|node| node.path == name);
    let cards = probe.nodes.iter().filter(|node| {
        node.path.strip_prefix("/dev/nvidia").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let cards = cards.count();
    let [nodes, libraries, nvml, computes] = names;
    steps.push(if probe.nodes.is_empty() {
        step(
            nodes,
            State::Failed,
            "no /dev/nvidia* is in the container: the engine accepted the request and gave nothing",
        )
    } else if !shut.is_empty() {
        step(
            nodes,
            State::Failed,
            format!("{} (the device cgroup refuses it, or the node is another's)", shut.join("; ")),
        )
    } else if cards == 0 || !count("/dev/nvidiactl") {
        step(nodes, State::Failed, "only a part of the nodes is in the container")
    } else {
        step(nodes, State::Held, probe.nodes.iter().map(|node| node.path.as_str()).collect::<Vec<_>>().join(" "))
    });
    let found = |name: &str| {
        probe.libraries.iter().find(|path| path.rsplit('/').next().is_some_and(|file| file.starts_with(name)))
    };
    steps.push(match (found("libnvidia-ml.so"), found("libcuda.so")) {
        (Some(ml), Some(cuda)) => step(libraries, State::Held, format!("{ml} {cuda}")),
        (None, None) => step(libraries, State::Failed, "neither libnvidia-ml.so.1 nor libcuda.so.1 is found"),
        (Some(_), None) => {
            step(libraries, State::Failed, "libcuda.so.1 is not found: what was given is for utility alone")
        }
        (None, Some(_)) => {
            step(libraries, State::Failed, "libnvidia-ml.so.1 is not found: what was given is for compute alone")
        }
    });
    let driver = probe.driver.as_deref().unwrap_or("of no known version");
    steps.push(match &probe.nvml_error {
        None if !probe.gpus.is_empty() => {
            step(nvml, State::Held, format!("driver {driver}: {}", probe.gpus.join(", ")))
        }
        None => step(nvml, State::Failed, "NVML shows no GPU"),
        Some(error) => step(nvml, State::Failed, error.clone()),
    });
    steps.push(match (&probe.stress, &probe.stress_error) {
        (Some(says), _) => step(computes, State::Held, says.clone()),
        (None, error) => step(computes, State::Failed, error.clone().unwrap_or_default()),
    });
    // The first that failed explains those after it.
    if let Some(at) = steps.iter().position(|step| step.state == State::Failed) {
        let missing = Seen::Is(()) == machine.stat("/dev/nvidiactl").map(|_| ());
        if let Some(failed) = steps.get_mut(at).filter(|_| missing) {
            failed.fix.push("thruway container plan".to_owned());
        }
    }
    steps
}

/// The line of a client's many that says why: what is called an error, else the last.
fn words(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let error =
        lines().find(|line| line.contains("Error:") || line.contains("Error response") || line.starts_with("ctr:"));
    error.or_else(|| lines().next_back()).unwrap_or("it said nothing").to_owned()
}

/// A container that asked for nothing has nothing.
fn unasked(said: &Said) -> Step {
    let name = "a container that did not ask has no card";
    match serde_json::from_str::<Probe>(said.out.trim()) {
        Ok(probe) if probe.nodes.is_empty() && probe.gpus.is_empty() => {
            step(name, State::Held, "no node, no library, no answer")
        }
        Ok(probe) => {
            let nodes: Vec<&str> = probe.nodes.iter().map(|node| node.path.as_str()).collect();
            let mut failed = step(name, State::Failed, format!("it has {} without having asked", nodes.join(" ")));
            failed.fix.push("thruway explain container/default-runtime".to_owned());
            failed
        }
        Err(_) => step(name, State::Failed, format!("it does not start: {}", words(&said.err))),
    }
}

fn page(report: &Report, failed: bool, machine: &dyn Machine) -> String {
    let mut page = Page::new();
    page.hang(0, "", 0, Tone::Code, &report.command);
    page.gap();
    for step in &report.steps {
        let (mark, tone) = match step.state {
            State::Held => ("✓", Tone::Good),
            State::Failed => ("✗", Tone::Bad),
            State::NotReached => ("·", Tone::Faint),
        };
        page.line(format!("{} {}", paint(tone, mark), step.step));
        if !step.says.is_empty() {
            page.hang(4, "", 0, Tone::Faint, &step.says);
        }
        for line in &step.fix {
            page.whole(4, "fix", 5, Tone::Code, line);
        }
    }
    if !failed {
        page.gap();
        page.line("The card is inside, and only where it was asked for. Nothing was left behind.");
        return page.text();
    }
    // The same words as the doctor's: what is wrong around the container explains what failed in it.
    let way = Way::observe(machine);
    let layers = [Layer::Guest, Layer::Container];
    let findings = layers.into_iter().flat_map(|layer| way.findings(layer));
    let mut heard = false;
    for finding in findings {
        let (Verdict::Fail(trouble) | Verdict::Warn(trouble)) = &finding.verdict else { continue };
        if !heard {
            page.gap();
            page.line("What the doctor says of this machine:");
            heard = true;
        }
        page.hang(2, "", 0, Tone::Plain, &format!("{} ({})", trouble.says, finding.about.id));
        for line in trouble.fixes.first().map(|fix| fix.paste.as_slice()).unwrap_or_default() {
            page.whole(4, "fix", 5, Tone::Code, line);
        }
    }
    page.text()
}
