//! The cluster floor's own words: a workload patched, and what thruway-node does.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use kube::patch::Wish;
use model::{Before, Change, Content, Digest, Effective, Intent, KubeVerb as Verb, Layer, Op, Plan, Undo};

use crate::change::{self, Go};
use crate::cli::{Global, KubeVerb, PatchArgs};
use crate::target::Target;
use crate::{DONE, FOUND, say};

pub fn kube(global: &Global, verb: KubeVerb) -> anyhow::Result<u8> {
    let floor = |verb| crate::floor(global, Layer::Cluster, verb);
    match verb {
        // the agent's program looks at running nodes; of recorded and simulated ones the checks speak
        KubeVerb::Doctor(_) if global.from.is_some() || global.sim.is_some() => floor(crate::cli::Verb::Doctor),
        KubeVerb::Doctor(words) => node(global, &["doctor"], &words.words),
        KubeVerb::Plan(args) if args.preflight => node(global, &["preflight"], &[]),
        KubeVerb::Plan(args) => floor(crate::cli::Verb::Plan(Box::new(args.plan))),
        KubeVerb::Apply(args) => floor(crate::cli::Verb::Apply(Box::new(args))),
        KubeVerb::Verify => floor(crate::cli::Verb::Verify),
        KubeVerb::Status => floor(crate::cli::Verb::Status),
        KubeVerb::Undo(args) => floor(crate::cli::Verb::Undo(args)),
        KubeVerb::Patch(args) => match &args.file {
            Some(file) => patch_file(global, &args, file),
            None => patch_object(global, &args),
        },
        KubeVerb::Manifests(words) => node(global, &["manifests"], &words.words),
        KubeVerb::Cordon(words) => node(global, &["cordon"], &words.words),
        KubeVerb::Uncordon(words) => node(global, &["uncordon"], &words.words),
    }
}

/// Becomes thruway-node, the program beside this one, with these words.
#[allow(
    clippy::disallowed_types,
    reason = "this process itself becomes the other half of thruway; nothing runs beside it"
)]
pub fn node(global: &Global, verb: &[&str], words: &[OsString]) -> anyhow::Result<u8> {
    if global.from.is_some() || global.sim.is_some() {
        bail!("thruway-node works on a running machine; --from and --sim name none (--root DIR may)");
    }
    let here = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("thruway-node")));
    let places: Vec<PathBuf> = here.into_iter().chain([PathBuf::from("/usr/bin/thruway-node")]).collect();
    let Some(program) = places.iter().find(|path| path.is_file()) else {
        let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        bail!("thruway-node is not installed: looked for {}; it comes with thruway", places.join(" and "));
    };
    let mut command = std::process::Command::new(program);
    command.args(verb);
    if let Some(root) = &global.root {
        command.arg("--root").arg(root);
    }
    if global.json {
        command.arg("--json");
    }
    let error = command.args(words).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn wish(args: &PatchArgs) -> Wish {
    Wish { gpus: args.gpus, container: args.container.clone(), drop_affinity: args.drop_affinity }
}

/// One file, written by the journal, so that it comes back with the same mode, owner and bytes.
fn patch_file(global: &Global, args: &PatchArgs, file: &Path) -> anyhow::Result<u8> {
    let shown = file.display();
    if global.from.is_some() || global.sim.is_some() {
        bail!("-f edits a file of this machine; --from and --sim name none");
    }
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {shown}"))?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{shown} is no UTF-8"))?;
    let done = match kube::patch::file(text, args.workload.as_deref(), &wish(args)) {
        Ok(done) => done,
        Err(problem) if problem.line > 0 => bail!("{shown}:{}: {}", problem.line, problem.says),
        Err(problem) => bail!("{shown}: {problem}"),
    };
    if args.print {
        return say(&done.text).map(|()| DONE);
    }
    if done.words.is_empty() {
        say(&format!("{} in {shown} asks for {} GPU(s) already.\n", done.workload, args.gpus))?;
        return Ok(DONE);
    }
    let path = std::fs::canonicalize(file).with_context(|| format!("cannot find {shown}"))?;
    let path = match &global.root {
        Some(root) => {
            let root = std::fs::canonicalize(root).with_context(|| format!("cannot find {}", root.display()))?;
            let Ok(below) = path.strip_prefix(&root) else { bail!("{shown} is not below {}", root.display()) };
            Path::new("/").join(below)
        }
        None => path,
    };
    let Some(path) = path.to_str() else { bail!("{shown}: a path that is no UTF-8") };
    let target = Target::of(global, &[], None)?;
    let mut plan =
        Plan::new(Layer::Cluster, &Intent::default(), [("patched file".to_owned(), Digest::of(&bytes).0)].into());
    // its one fact is the file itself, to which the step holds
    plan.layers.clear();
    plan.intent.push(format!("{}: {}", done.workload, done.words.join(", ")));
    plan.changes.push(Change {
        layer: Layer::Cluster,
        title: format!("{}: {}", done.workload, done.words.join(", ")),
        op: Op::WriteFile { path: path.to_owned(), content: Content::Text(done.text), mode: 0o644 },
        expects: Before::File(Digest::of(&bytes)),
        because: vec!["cluster/visible-devices-all".into(), "cluster/no-gpu-request".into()],
        risk: Vec::new(),
        effective: Effective::Now,
        undo: Undo::Exact,
    });
    plan.notes.push(format!("the cluster learns of it by: kubectl apply --server-side --filename={path}"));
    let go = Go { name: change::this_plan(), yes: args.yes, dry_run: args.dry_run, limit: journal::bind::LIMIT };
    change::carry_out(global, &target, &plan, &[], &go)
}

/// A Deployment of the cluster: the floor's own plan, and of that this one change.
fn patch_object(global: &Global, args: &PatchArgs) -> anyhow::Result<u8> {
    let workload = args.workload.as_deref().unwrap_or_default();
    let name = match workload.split_once('/') {
        Some(("deployment" | "deployments" | "deploy" | "Deployment", name)) if !name.is_empty() => name,
        Some((kind, _)) if !kind.contains('.') && ["statefulset", "daemonset", "pod", "job"].contains(&kind) => {
            bail!(
                "{workload}: of the cluster's objects Deployments are patched; others in their file: thruway kube patch -f FILE"
            )
        }
        _ => workload,
    };
    let intent = Intent {
        deployment: Some(name.to_owned()),
        gpus: Some(args.gpus),
        gpu_container: args.container.clone(),
        drop_affinity: args.drop_affinity,
        ..Intent::default()
    };
    let layers = [Layer::Cluster];
    let target = Target::of(global, &layers, None)?;
    let mut plan = target.plan(&layers, &intent);
    plan.changes
        .retain(|change| matches!(&change.op, Op::Kube(op) if op.kind == "Deployment" && op.verb == Verb::Apply));
    plan.intent.retain(|line| line.contains("Deployment"));
    // what is said of labels and of the plugin belongs to changes that are not made here
    let own = name.rsplit('/').next().unwrap_or(name);
    plan.notes.retain(|note| note.contains(own));
    let go = Go { name: change::this_plan(), yes: args.yes, dry_run: args.dry_run, limit: journal::bind::LIMIT };
    let refused = !plan.refusals.is_empty();
    let status = change::carry_out(global, &target, &plan, &layers, &go)?;
    Ok(if refused { FOUND } else { status })
}
