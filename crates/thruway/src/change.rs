//! plan, apply, verify, undo, log: shown first, asked for, reported.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use journal::{Journal, Progress, Recovered, Undone};
use machine::Kind;
use model::{GpuRuntime, Handover, Intent, Layer, Op, PLAN_SCHEMA, Plan, Tell};

use crate::cli::{ApplyArgs, Global, HintWish, PlanArgs, RuntimeWish, WishArgs};
use crate::paint::{Page, Tone, paint};
use crate::plans;
use crate::pve_api;
use crate::target::Target;
use crate::{DONE, FOUND, say, warn};

/// The wish as the floors take it.
pub fn intent(wish: &WishArgs) -> anyhow::Result<Intent> {
    let vm = match wish.to.as_deref() {
        None => None,
        Some(to) => match to.split_once(':') {
            Some(("vm", name)) if !name.is_empty() => Some(name.to_owned()),
            _ => bail!("--to {to}: say vm:100 or vm:NAME"),
        },
    };
    Ok(Intent {
        give: wish.give.clone(),
        handover: if wish.now { Handover::Now } else { Handover::AtBoot },
        stop_holders: wish.stop_holders,
        vm,
        allow: wish.allow.clone(),
        by_ids: wish.by_ids,
        clean: wish.clean,
        engine: wish.engine.clone(),
        default_runtime: wish.default_runtime,
        runtime: wish.runtime.map(|whose| match whose {
            RuntimeWish::Thruway => GpuRuntime::Thruway,
            RuntimeWish::Nvidia => GpuRuntime::Nvidia,
            RuntimeWish::None => GpuRuntime::Nobody,
        }),
        cdi: wish.cdi,
        replace_toolkit: wish.replace_toolkit,
        deployment: wish.deployment.clone(),
        gpus: None,
        gpu_container: None,
        drop_affinity: false,
        hint: wish.hint.map(|wish| match wish {
            HintWish::Card => Tell::Places,
            HintWish::Host => Tell::Named,
            HintWish::None => Tell::Nothing,
        }),
        driver_file: wish.driver_file.as_deref().map(driver_file).transpose()?,
        jellyfin: None,
        guard: wish.guard.map(|guard| crate::guard::wish(guard, wish.guard_program.as_deref())).transpose()?,
        by: wish.by.clone(),
    })
}

/// NVIDIA's installer, read once and held against its own sums.
fn driver_file(path: &Path) -> anyhow::Result<model::DriverFile> {
    let path = std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    let Some(text) = path.to_str() else { bail!("{}: a path that is no UTF-8", path.display()) };
    let (run, sha256) = journal::inspect_run_file(&path).map_err(anyhow::Error::msg)?;
    if run.os != "Linux" || run.arch != std::env::consts::ARCH {
        let here = std::env::consts::ARCH;
        bail!("{text} is a driver for {} on {}, and this machine is {here}", run.os, run.arch);
    }
    Ok(model::DriverFile { path: text.to_owned(), sha256, version: run.version, arch: run.arch })
}

pub fn plan(global: &Global, args: &PlanArgs, layers: &[Layer]) -> anyhow::Result<u8> {
    let intent = intent(&args.wish)?;
    let target = Target::of(global, layers, intent.vm.as_deref())?;
    planned(global, &target, layers, &intent, args.out.as_deref())
}

/// Makes a plan, shows it and writes it down where that is asked for.
pub fn planned(
    global: &Global,
    target: &Target,
    layers: &[Layer],
    intent: &Intent,
    out: Option<&Path>,
) -> anyhow::Result<u8> {
    let plan = target.plan(layers, intent);
    if let Some(path) = out {
        write_plan(path, &plan)?;
    }
    show(&plan, target, global)?;
    if let (Some(path), false) = (out, global.json) {
        say(&format!("\nWritten to {}. Carry it out with: thruway apply {0}\n", path.display()))?;
    }
    Ok(if plan.refusals.is_empty() { DONE } else { FOUND })
}

pub fn write_plan(path: &Path, plan: &Plan) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(plan)? + "\n";
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

pub fn show(plan: &Plan, target: &Target, global: &Global) -> anyhow::Result<()> {
    if global.json {
        return say(&(serde_json::to_string_pretty(plan)? + "\n"));
    }
    let machine = target.machine();
    let simulated = machine.kind() == Kind::Simulated;
    say(&plans::page(plan, machine, &target.name(global), simulated, global.verbose))
}

pub fn apply(global: &Global, args: &ApplyArgs, layers: &[Layer]) -> anyhow::Result<u8> {
    let wish = intent(&args.wish)?;
    let read = args.plan.as_deref().map(read_plan).transpose()?;
    let vm = read.as_ref().map_or(&wish, |plan| &plan.asked).vm.clone();
    let target = Target::of(global, layers, vm.as_deref())?;
    let name = args.plan.as_ref().map_or_else(this_plan, |path| path.display().to_string());
    let go = Go { name, yes: args.yes, dry_run: args.dry_run, limit: journal::bind::LIMIT };
    applied(global, &target, layers, &wish, read, &go)
}

/// Carries the plan that was read out, where it still holds; else one of this wish.
pub fn applied(
    global: &Global,
    target: &Target,
    layers: &[Layer],
    wish: &Intent,
    read: Option<Plan>,
    go: &Go,
) -> anyhow::Result<u8> {
    let (plan, layers) = match read {
        Some(plan) => {
            fresh(&plan, target, &go.name)?;
            let layers = plan.layers.clone();
            (plan, layers)
        }
        None => (target.plan(layers, wish), layers.to_vec()),
    };
    carry_out(global, target, &plan, &layers, go)
}

/// How far a change goes.
pub struct Go {
    /// What an error calls the plan: its file, or [`this_plan`].
    pub name: String,
    pub yes: bool,
    pub dry_run: bool,
    /// For each driver that is to let go of a card or to come to it.
    pub limit: Duration,
}

pub fn this_plan() -> String {
    "This plan".to_owned()
}

/// Shows a plan, asks, applies it and looks whether its effect came.
pub fn carry_out(global: &Global, target: &Target, plan: &Plan, layers: &[Layer], go: &Go) -> anyhow::Result<u8> {
    show(plan, target, global)?;
    if !plan.refusals.is_empty() {
        return Ok(FOUND);
    }
    if plan.changes.is_empty() || go.dry_run {
        return Ok(DONE);
    }
    let path = target.path()?;
    live_only(plan, target)?;
    let hands = pve_api::hands(global, target, target.hands_within(go.limit)?, Some(plan))?;
    if !agreed(go.yes, "Carry this out?")? {
        warn("Nothing was changed.")?;
        return Ok(DONE);
    }
    let mut journal = Journal::open(&path, hands.as_ref()).map_err(rootly)?.telling(&progress_line);
    recover(&mut journal)?;
    // Again, now that nobody else can change anything: while the question stood, or by the recovery just now, the
    // machine may have become another than the one that was looked at. A promise is one file, which the journal judges.
    if !plan.layers.is_empty() {
        fresh(plan, target, &go.name)?;
    }
    let applied = journal.apply(plan, &mut |progress| progress_line(progress)).map_err(rootly)?;
    drop(journal);
    if global.json {
        return say(&(serde_json::to_string(&applied)? + "\n")).map(|()| DONE);
    }
    let mut page = Page::new();
    page.gap();
    page.line(format!("{} Applied as change {}.", paint(Tone::Good, "●"), applied.number));
    let again = target.again(global)?;
    let again = again.as_ref().unwrap_or(target);
    let mut way = again.way();
    way.ask_cards(again.machine(), layers, &plan.asked);
    let outcomes = again.verify(&way, layers, &plan.asked);
    plans::outcome_lines(&mut page, &outcomes);
    page.line(format!("  Take it back with: {}", paint(Tone::Code, &target.undo_command(applied.number))));
    say(&page.text())?;
    Ok(DONE)
}

/// Drivers change hands on a running machine; a tree's sysfs is files.
fn live_only(plan: &Plan, target: &Target) -> anyhow::Result<()> {
    let hands_over = plan.changes.iter().any(|change| matches!(change.op, Op::Bind(_) | Op::EndProcess { .. }));
    if hands_over && target.machine().kind() == Kind::Tree {
        bail!("{} does not run: no driver can be bound there; leave --now away", target.machine().name());
    }
    Ok(())
}

pub fn read_plan(path: &Path) -> anyhow::Result<Plan> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path.display();
    let plan: Plan = serde_json::from_slice(&bytes)
        .with_context(|| format!("{name} is no plan; make one with `thruway plan --out {name}`"))?;
    if plan.schema > PLAN_SCHEMA {
        bail!("{name} is a plan of form {}, this thruway reads up to form {PLAN_SCHEMA}: update thruway", plan.schema);
    }
    Ok(plan)
}

/// A plan holds for the machine it was made on, as it was then.
fn fresh(plan: &Plan, target: &Target, name: &str) -> anyhow::Result<()> {
    let now = target.plan(&plan.layers, &plan.asked);
    let changed = plan.based_on.changed_since(&now.based_on);
    if changed.is_empty() {
        return Ok(());
    }
    let mut says = format!("{name} no longer fits this machine; plan again. Changed since:");
    for (name, then, now) in changed {
        let word = |value: String| if value.is_empty() { "nothing".to_owned() } else { value };
        says.push_str(&format!("\n  {name}: {} → {}", word(then), word(now)));
    }
    bail!(says)
}

/// Deals with what an interrupted run left, and says so.
/// The numbers of the changes that it took back.
pub fn recover(journal: &mut Journal<'_>) -> anyhow::Result<Vec<u64>> {
    let mut back = Vec::new();
    for recovered in journal.recover().map_err(rootly)? {
        match recovered {
            Recovered::Completed(number) => {
                warn(&format!("Change {number} had been interrupted after its last step: it stands."))?
            }
            Recovered::TakenBack(undone) => {
                warn(&format!("Change {} had been interrupted: it was taken back.", undone.number))?;
                loose_ends(&undone)?;
                back.push(undone.number);
            }
        }
    }
    Ok(back)
}

/// What of a change taken back is not as it was.
pub fn loose_ends(undone: &Undone) -> anyhow::Result<()> {
    for title in &undone.stands {
        warn(&crate::paint::tame(&format!("It cannot be taken back and stands: {title}")))?;
    }
    undone.notes.iter().try_for_each(|note| warn(&crate::paint::tame(note)))
}

pub fn progress_line(progress: Progress<'_>) {
    // Progress goes to stderr and is not worth failing for.
    let _ = match progress {
        Progress::Step { index, of, change } => {
            let line = format!("[{}/{of}] {}", index + 1, crate::paint::tame(&change.title));
            writeln!(anstream::stderr(), "{}", paint(Tone::Faint, &line))
        }
        Progress::Back { index, of, change } => {
            let line = format!("[{}/{of}] back: {}", index + 1, crate::paint::tame(&change.title));
            writeln!(anstream::stderr(), "{}", paint(Tone::Faint, &line))
        }
        Progress::Done { .. } => Ok(()),
    };
}

/// What a step that takes minutes is at.
pub fn work_line(says: &str) {
    let line = format!("      {}", crate::paint::tame(says));
    let _ = writeln!(anstream::stderr(), "{}", paint(Tone::Faint, &line));
}

pub fn agreed(yes: bool, question: &str) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask on: say --yes to go ahead, or --dry-run to only look");
    }
    write!(anstream::stderr(), "\n{question} [y/N] ")?;
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Most refusals to write have one cause; name it.
pub fn rootly(error: journal::Error) -> anyhow::Error {
    let denied =
        matches!(&error, journal::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
    let error = anyhow::Error::from(error);
    if denied { error.context("changing this machine needs root: try again with sudo") } else { error }
}
