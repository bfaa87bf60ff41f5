//! Facts and intent → plan. Pure.

mod containerd;
mod docker;
mod drop_ins;
mod rancher;
mod refresh;
mod runtime;
mod toolkit;

use std::collections::BTreeMap;

use cdi::NoSpec;
use formats::cdispec;
use model::{
    Before, Change, Content, Digest, Effective, Intent, Layer, Op, Plan, Refusal, Risk, Seen, ServiceVerb, Undo,
};
use runtime::Runtime;

use crate::Facts;
use crate::facts::{SpecState, Written};

/// The spec that thruway writes. /etc/cdi is read by rootless engines too, which do not see the host's /var/run.
pub const SPEC_PATH: &str = "/etc/cdi/thruway-nvidia.json";

/// Plans a spec for the driver that runs, and an engine that reads it (or, in an old Docker, NVIDIA's runtime).
/// Empty where that is so already, where nothing is here, and where the driver does not run yet (a note says so).
pub fn plan(facts: &Facts, intent: &Intent) -> Plan {
    let mut plan = Plan::new(Layer::Container, intent, basis(facts));
    if facts.nothing_here() || facts.cards.is_empty() {
        return plan;
    }
    let runtime = match Runtime::wanted(facts, intent) {
        Ok(runtime) => runtime,
        Err(refusal) => {
            plan.refusals.push(refusal);
            return plan;
        }
    };
    if intent.replace_toolkit {
        toolkit::out_of_the_way(facts, &mut plan);
    }
    spec(facts, &mut plan);
    let wants = |name: &str| intent.engine.as_deref().is_none_or(|engine| engine == name);
    if let Some(docker) = facts.docker.as_ref().filter(|_| wants("docker")) {
        docker::plan(facts, docker, intent, &runtime, &mut plan);
        for rootless in &facts.rootless {
            docker::plan_rootless(docker, rootless, intent, &runtime, &mut plan);
        }
    }
    let containerd = match intent.engine.as_deref() {
        Some("containerd") => facts.containerd.as_ref(),
        Some(_) => None,
        None => facts.containerd_counts(),
    };
    if let Some(containerd) = containerd {
        containerd::plan(containerd, intent, &runtime, &mut plan);
    }
    if facts.crio.is_some() && wants("crio") {
        drop_ins::crio(facts, intent, &runtime, &mut plan);
    }
    if facts.podman.is_some() && wants("podman") {
        drop_ins::podman(facts, intent, &runtime, &mut plan);
    }
    for one in facts.rancher.iter().filter(|one| wants(one.name)) {
        rancher::plan(one, intent, &runtime, &mut plan);
    }
    if let Some(engine) = &intent.engine {
        let here = match engine.as_str() {
            "docker" => facts.docker.is_some(),
            "podman" => facts.podman.is_some(),
            "containerd" => facts.containerd.is_some(),
            "crio" => facts.crio.is_some(),
            name => facts.rancher.iter().any(|one| one.name == name),
        };
        if !here {
            plan.refusals.push(Refusal {
                because: "container/gpu-way".to_owned(),
                says: format!("the engine {engine} is not on this machine"),
                instead: "name one that is: docker, podman, containerd, crio, k3s or rke2".to_owned(),
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
        file(&docker.config.path, &docker.config.digest);
    }
    for rootless in &facts.rootless {
        file(&rootless.config.path, &rootless.config.digest);
    }
    for (path, digest) in facts.containerd.iter().flat_map(|containerd| &containerd.files) {
        file(path, digest);
    }
    for one in &facts.rancher {
        file(&one.generated.path, &one.generated.digest);
        file(&one.template.path, &one.template.digest);
    }
    for (path, digest) in &facts.toolkit.hook_files {
        file(path, &Some(digest.clone()));
    }
    for spec in &facts.specs {
        file(&spec.path, &spec.digest);
    }
    for one in facts.drop_ins.iter().filter(|one| one.text.is_there()) {
        file(one.path, &one.text.get().map(|text| Digest::of(text.as_bytes())));
    }
    for path in [&facts.own.runtime, &facts.toolkit.runtime, &facts.toolkit.hook].into_iter().flatten() {
        basis.insert(path.clone(), "is there".to_owned());
    }
    if let Ok(wanted) = &facts.wanted {
        basis
            .insert("the spec that fits".to_owned(), Digest::of(cdispec::to_json(&wanted.spec).as_bytes()).to_string());
    }
    basis
}

/// The files that a plan takes away.
fn removed(plan: &Plan) -> Vec<String> {
    let path = |change: &Change| match &change.op {
        Op::RemoveFile { path } => Some(path.clone()),
        _ => None,
    };
    plan.changes.iter().filter_map(path).collect()
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
    let gone = removed(plan);
    let specs = || facts.specs.iter().filter(|file| !gone.contains(&file.path));
    if facts.sound_spec().is_some_and(|file| !gone.contains(&file.path)) {
        return;
    }
    if let Some((dir, reason)) = facts.specs_unseen.first() {
        plan.notes.push(format!("no CDI spec: {dir} could not be read: {reason}"));
        return;
    }
    // One healthy spec is enough: then only what hides or cancels it goes.
    let healthy = specs().any(|file| file.ours() && file.healthy() && file.path != SPEC_PATH);
    let mut conflicts = facts.conflicts();
    conflicts.retain(|(_, one, two)| !gone.iter().any(|path| path == one || path == two));
    let mut before = Before::NoFile;
    let mut own_is_good = false;
    for file in specs() {
        if facts.own.program && facts.is_refreshed(&file.path) {
            continue;
        }
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
    if refresh::plan(facts, &removed(plan), plan) {
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

/// A file written whole; what stood there is kept by the journal.
fn write<T>(title: String, file: &Written<T>, text: String, because: &[String]) -> Change {
    Change {
        layer: Layer::Container,
        title,
        op: Op::WriteFile { path: file.path.clone(), content: Content::Text(text), mode: 0o644 },
        expects: file.digest.clone().map_or(Before::NoFile, Before::File),
        because: because.to_vec(),
        risk: Vec::new(),
        effective: Effective::NextContainer,
        undo: Undo::Exact,
    }
}

fn restart(unit: &str, outage: &str, because: &[String]) -> Change {
    service(
        format!("restart {unit}, which reads its configuration only then"),
        unit,
        ServiceVerb::Restart,
        vec![Risk::Outage(outage.to_owned())],
        because,
    )
}

fn service(title: String, unit: &str, verb: ServiceVerb, risk: Vec<Risk>, because: &[String]) -> Change {
    Change {
        layer: Layer::Container,
        title,
        op: Op::Service { unit: unit.to_owned(), verb },
        expects: Before::Nothing,
        because: because.to_vec(),
        risk,
        effective: Effective::NextContainer,
        undo: Undo::Inverse,
    }
}

/// How pods come to a runtime of that name.
fn runtime_class(plan: &mut Plan) {
    let hint = "pods ask for this runtime by a RuntimeClass: printf 'apiVersion: node.k8s.io/v1\\nkind: RuntimeClass\\n\
                metadata: {name: nvidia}\\nhandler: nvidia\\n' | kubectl apply -f -; then runtimeClassName: nvidia in the \
                pod's spec";
    if !plan.notes.iter().any(|note| note == hint) {
        plan.notes.push(hint.to_owned());
    }
}
