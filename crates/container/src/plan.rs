//! Facts and intent → plan. Pure.

use std::collections::BTreeMap;

use cdi::NoSpec;
use formats::cdispec;
use formats::daemonjson::JsonError;
use model::{
    Before, Change, Content, Digest, Effective, Intent, Layer, Op, Plan, Refusal, Risk, Seen, ServiceVerb, Undo,
};
use serde_json::json;

use crate::Facts;
use crate::facts::{Containerd, Docker, Reads, SpecState};

/// The spec that thruway writes. /etc/cdi is read by rootless engines too, which do not see the host's /var/run.
pub const SPEC_PATH: &str = "/etc/cdi/thruway-nvidia.json";

/// Plans a spec for the driver that runs, and an engine that reads it (or, in an old Docker, NVIDIA's runtime).
/// Empty where that is so already, where nothing is here, and where the driver does not run yet (a note says so).
pub fn plan(facts: &Facts, intent: &Intent) -> Plan {
    let mut plan = Plan::new(Layer::Container, intent, basis(facts));
    if facts.nothing_here() || facts.cards.is_empty() {
        return plan;
    }
    spec(facts, &mut plan);
    let wants = |name: &str| intent.engine.as_deref().is_none_or(|engine| engine == name);
    if let Some(docker) = facts.docker.as_ref().filter(|_| wants("docker")) {
        plan_docker(facts, docker, intent, &mut plan);
    }
    let containerd = match intent.engine.as_deref() {
        Some("containerd") => facts.containerd.as_ref(),
        Some(_) => None,
        None => facts.containerd_counts(),
    };
    if let Some(containerd) = containerd {
        plan_containerd(containerd, intent, &mut plan);
    }
    if let Some(engine) = &intent.engine {
        let here = match engine.as_str() {
            "docker" => facts.docker.is_some(),
            "podman" => facts.podman.is_some(),
            "containerd" => facts.containerd.is_some(),
            "crio" => facts.crio.is_some(),
            _ => false,
        };
        if !here {
            plan.refusals.push(Refusal {
                because: "container/gpu-way".to_owned(),
                says: format!("the engine {engine} is not on this machine"),
                instead: "name one that is: docker, podman, containerd or crio".to_owned(),
            });
        }
    }
    if !plan.is_empty() && plan.intent.is_empty() {
        let engines = facts.engine_names().join(", ");
        plan.intent.push(format!("inferred: containers of {engines} can be given {}", facts.cards_named()));
    }
    plan
}

fn basis(facts: &Facts) -> BTreeMap<String, String> {
    let mut basis = BTreeMap::new();
    for (card, identity) in &facts.cards {
        basis.insert(format!("card {card}"), identity.clone());
    }
    if let Seen::Is(version) = &facts.driver {
        basis.insert("driver".to_owned(), version.clone());
    }
    for engine in facts.engine_names() {
        let (name, version) = engine.split_once(' ').unwrap_or((&engine, ""));
        basis.insert(format!("engine {name}"), version.to_owned());
    }
    let mut file = |path: &str, digest: &Option<Digest>| {
        basis.insert(path.to_owned(), digest.as_ref().map_or_else(|| "not there".to_owned(), ToString::to_string));
    };
    if let Some(docker) = &facts.docker {
        file(docker.config.path, &docker.config.digest);
    }
    if let Some(containerd) = facts.containerd_counts() {
        file(containerd.config.path, &containerd.config.digest);
    }
    for spec in &facts.specs {
        file(&spec.path, &spec.digest);
    }
    if let Ok(wanted) = &facts.wanted {
        basis
            .insert("the spec that fits".to_owned(), Digest::of(cdispec::to_json(&wanted.spec).as_bytes()).to_string());
    }
    basis
}

fn spec(facts: &Facts, plan: &mut Plan) {
    let wanted = match &facts.wanted {
        Ok(wanted) => wanted,
        Err(NoSpec::NoCard) => return,
        Err(NoSpec::NoDriver) => {
            plan.notes
                .push("no CDI spec yet: NVIDIA's kernel driver does not run here; see thruway guest plan".to_owned());
            return;
        }
        Err(why) => {
            plan.notes.push(format!("no CDI spec: {why}"));
            return;
        }
    };
    if facts.sound_spec().is_some() {
        return;
    }
    if let Some((dir, reason)) = facts.specs_unseen.first() {
        plan.notes.push(format!("no CDI spec: {dir} could not be read: {reason}"));
        return;
    }
    // One healthy spec is enough: then only what hides or cancels it goes.
    let healthy = facts.specs.iter().any(|file| file.ours() && file.healthy() && file.path != SPEC_PATH);
    let conflicts = facts.conflicts();
    let mut before = Before::NoFile;
    let mut own_is_good = false;
    for file in &facts.specs {
        let in_the_way = conflicts.iter().any(|(_, one, two)| *one == file.path || *two == file.path);
        if file.path == SPEC_PATH && !healthy {
            own_is_good = file.healthy();
            match &file.digest {
                Some(digest) => before = Before::File(digest.clone()),
                None => {
                    plan.notes.push(format!("no CDI spec: {SPEC_PATH} could not be read"));
                    return;
                }
            }
            continue;
        }
        let cancelled = file.path == SPEC_PATH && in_the_way;
        match (&file.state, &file.digest) {
            // A stale spec hides a true one in a lower directory and cancels one in its own.
            (SpecState::Parsed { .. }, Some(digest)) if file.ours() && (file.stale() || cancelled) => {
                let (why, because) = match file.stale() {
                    true => ("which is not true of this machine any more", "container/cdi-spec-stale"),
                    false => ("since another spec says the same", "container/cdi-spec-conflict"),
                };
                plan.changes.push(Change {
                    layer: Layer::Container,
                    title: format!("take away {}, {why}", file.path),
                    op: Op::RemoveFile { path: file.path.clone() },
                    expects: Before::File(digest.clone()),
                    because: vec![because.to_owned()],
                    risk: Vec::new(),
                    effective: Effective::NextContainer,
                    undo: Undo::Exact,
                });
            }
            (SpecState::Broken { line, says }, _) => plan.notes.push(format!(
                "{}:{line} is no CDI spec ({says}); engines pass over it, and so does this plan",
                file.path
            )),
            (SpecState::Parsed { .. }, _) if in_the_way => plan.notes.push(format!(
                "{} defines devices that another spec beside it defines too; set one of the two aside",
                file.path
            )),
            _ => {}
        }
    }
    if plan.changes.iter().any(|change| matches!(&change.op, Op::RemoveFile { path } if path.starts_with("/run/"))) {
        plan.notes.push(
            "NVIDIA's nvidia-cdi-refresh.service, where it is installed, writes its spec to /run/cdi again at the next \
             boot; that one then goes before ours"
                .to_owned(),
        );
    }
    if healthy || own_is_good {
        return;
    }
    let stale = facts.specs.iter().any(|file| file.ours());
    let because = if stale { "container/cdi-spec-stale" } else { "container/cdi-spec-missing" };
    let count = wanted.gpus.iter().filter(|gpu| !gpu.mig).count();
    let cards = if count == 1 { "1 card".to_owned() } else { format!("{count} cards") };
    plan.changes.push(Change {
        layer: Layer::Container,
        title: format!("tell engines of {cards} and of driver {} in a CDI spec", wanted.files.version),
        op: Op::WriteFile {
            path: SPEC_PATH.to_owned(),
            content: Content::Text(cdispec::to_json(&wanted.spec)),
            mode: 0o644,
        },
        expects: before,
        because: vec![because.to_owned()],
        risk: Vec::new(),
        effective: Effective::NextContainer,
        undo: Undo::Exact,
    });
    plan.notes.extend(wanted.notes.iter().cloned());
}

fn plan_docker(facts: &Facts, docker: &Docker, intent: &Intent, plan: &mut Plan) {
    let reads = docker.reads();
    let file = match &docker.config.says {
        Seen::Is(file) => file.clone(),
        Seen::Absent => match formats::daemonjson::DaemonJson::parse(b"") {
            Ok(empty) => empty,
            Err(_) => return,
        },
        Seen::Unreadable(reason) => {
            let says = format!("{} cannot be edited: {reason}", docker.config.path);
            // Only who asks for Docker by name is refused for it: the other floors' plans must not hang on it.
            if intent.engine.is_some() {
                plan.refusals.push(Refusal {
                    because: "container/daemon-json-broken".to_owned(),
                    says,
                    instead: "mend the file first; thruway doctor shows the line".to_owned(),
                });
            } else {
                plan.notes.push(says);
            }
            return;
        }
    };
    let mut because = Vec::new();
    let mut risk = Vec::new();
    let mut did = Vec::new();
    let mut now = file.clone();
    let mut edit = |path: &[&str], value: serde_json::Value| -> Result<(), JsonError> {
        now = now.set(path, &value)?;
        Ok(())
    };
    let edits = (|| -> Result<(), JsonError> {
        let runtime = facts.toolkit.runtime.as_deref();
        let told = |keys: &[&str]| file.get(keys);
        if reads == Reads::Off {
            edit(&["features", "cdi"], json!(true))?;
            because.push("container/cdi-not-enabled".to_owned());
            did.push("let Docker read CDI specs");
        }
        // Named by its path, or not named at all where nothing but this runtime would serve.
        let named = docker.nvidia_path();
        let wrong = named.as_deref().is_some_and(|path| path.contains('/') && Some(path) != runtime);
        let needed = named.is_none() && (reads == Reads::TooOld || intent.default_runtime);
        match runtime {
            Some(runtime) if wrong => {
                edit(&["runtimes", "nvidia", "path"], json!(runtime))?;
                because.push("container/runtime-path-missing".to_owned());
                did.push("name NVIDIA's runtime where it is");
            }
            Some(runtime) if needed => {
                edit(&["runtimes", "nvidia"], json!({"path": runtime, "runtimeArgs": []}))?;
                because.push("container/gpu-way".to_owned());
                did.push("name NVIDIA's runtime");
            }
            None if needed || wrong => plan.notes.push(no_runtime(docker)),
            _ => {}
        }
        if intent.default_runtime && runtime.is_some() && told(&["default-runtime"]) != Some(json!("nvidia")) {
            edit(&["default-runtime"], json!("nvidia"))?;
            because.push("container/gpu-way".to_owned());
            did.push("make it the default");
            risk.push(Risk::Security(
                "any image that sets NVIDIA_VISIBLE_DEVICES then gets every GPU, asked for or not".to_owned(),
            ));
        }
        Ok(())
    })();
    if let Err(bad) = edits {
        plan.notes.push(format!("{}:{} cannot be edited: {}", docker.config.path, bad.line, bad.says));
        return;
    }
    if did.is_empty() || now.text() == file.text() {
        return;
    }
    because.dedup();
    plan.changes.push(Change {
        layer: Layer::Container,
        title: did.join(", "),
        op: Op::WriteFile {
            path: docker.config.path.to_owned(),
            content: Content::Text(now.text().to_owned()),
            mode: 0o644,
        },
        expects: docker.config.digest.clone().map_or(Before::NoFile, Before::File),
        because: because.clone(),
        risk,
        effective: Effective::NextContainer,
        undo: Undo::Exact,
    });
    let live = docker.info.get().is_some_and(|info| info.live_restore);
    let outage = if live {
        "Docker takes no orders for some seconds; its containers run on (live-restore is on)"
    } else {
        "every container of this Docker stops, and only those with a restart policy start again (live-restore is off)"
    };
    plan.changes.push(restart("docker.service", outage, because));
}

fn no_runtime(docker: &Docker) -> String {
    let version = docker.version.get().map_or_else(|| "this Docker".to_owned(), |version| format!("Docker {version}"));
    match (docker.reads(), docker.nvidia_path()) {
        (Reads::TooOld, _) => format!(
            "{version} reads no CDI specs and NVIDIA's runtime is not installed: update Docker to 25 or later, or \
             install nvidia-container-toolkit, then plan again"
        ),
        (_, Some(path)) => format!("daemon.json names {path}, which is not there: install nvidia-container-toolkit"),
        (_, None) => "NVIDIA's runtime cannot be the default: nvidia-container-toolkit is not installed".to_owned(),
    }
}

fn plan_containerd(containerd: &Containerd, intent: &Intent, plan: &mut Plan) {
    if containerd.reads() != Reads::Off {
        if containerd.reads() == Reads::TooOld && intent.engine.is_some() {
            plan.refusals.push(Refusal {
                because: "container/gpu-way".to_owned(),
                says: "this containerd is too old to read CDI specs".to_owned(),
                instead: "update containerd to 1.7 or later".to_owned(),
            });
        }
        return;
    }
    let path = containerd.config.path;
    let text = match &containerd.config.says {
        Seen::Is(file) => file.with_cdi(),
        // Settings that a file does not name keep their defaults.
        Seen::Absent => Ok("version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  enable_cdi = true\n".to_owned()),
        Seen::Unreadable(reason) => {
            plan.notes.push(format!("{path} cannot be edited: {reason}"));
            return;
        }
    };
    let text = match text {
        Ok(text) => text,
        Err(bad) => {
            plan.notes.push(format!("{path} cannot be edited: {bad}"));
            return;
        }
    };
    let because = vec!["container/cdi-not-enabled".to_owned()];
    plan.changes.push(Change {
        layer: Layer::Container,
        title: "let containerd read CDI specs".to_owned(),
        op: Op::WriteFile { path: path.to_owned(), content: Content::Text(text), mode: 0o644 },
        expects: containerd.config.digest.clone().map_or(Before::NoFile, Before::File),
        because: because.clone(),
        risk: Vec::new(),
        effective: Effective::NextContainer,
        undo: Undo::Exact,
    });
    let outage = "containerd takes no orders for some seconds; its containers and pods run on";
    plan.changes.push(restart("containerd.service", outage, because));
}

fn restart(unit: &str, outage: &str, because: Vec<String>) -> Change {
    Change {
        layer: Layer::Container,
        title: format!("restart {unit}, which reads its configuration only then"),
        op: Op::Service { unit: unit.to_owned(), verb: ServiceVerb::Restart },
        expects: Before::Nothing,
        because,
        risk: vec![Risk::Outage(outage.to_owned())],
        effective: Effective::NextContainer,
        undo: Undo::Inverse,
    }
}
