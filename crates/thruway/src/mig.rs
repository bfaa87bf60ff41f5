//! `thruway mig`: cards cut into MIG instances, by layouts.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use gpu::mig::{self, Cut, Wish};
use gpu::{Card, Inventory, Users, promises};
use guest::mig::{Files, How, KEPT, Kept, Subject, UNIT, WANTED};
use journal::State;
use machine::Machine;
use model::{Bdf, MigOp, Op, Plan, Seen};
use serde_json::json;

use crate::change::{self, Go};
use crate::cli::{Global, MigCards, MigVerb, MigWish, UndoArgs};
use crate::paint::{Page, Tone, paint};
use crate::stands;
use crate::target::Target;
use crate::{DONE, FOUND, say};

pub fn mig(global: &Global, verb: &MigVerb) -> anyhow::Result<u8> {
    match verb {
        MigVerb::List { which } => list(global, which),
        MigVerb::Plan { wish, out } => {
            let target = Target::open(global)?;
            let plan = plan(&target, wish)?;
            if let Some(path) = out {
                change::write_plan(path, &plan)?;
            }
            change::show(&plan, &target, global)?;
            Ok(if plan.refusals.is_empty() { DONE } else { FOUND })
        }
        MigVerb::Apply { wish, yes, dry_run } => {
            let target = Target::open(global)?;
            let plan = plan(&target, wish)?;
            let go = Go { name: change::this_plan(), yes: *yes, dry_run: *dry_run, limit: journal::bind::LIMIT };
            change::carry_out(global, &target, &plan, &[], &go)
        }
        MigVerb::Verify => verify(global),
        MigVerb::Undo { yes, dry_run } => undo(global, *yes, *dry_run),
        MigVerb::Restore => restore(global),
    }
}

/// The cards that are meant and can be cut, with why the others cannot.
fn cards<'a>(inventory: &'a Inventory, which: &MigCards) -> anyhow::Result<Vec<(&'a Card, Result<Cut, String>)>> {
    if let Some(reason) = inventory.looked.unreadable() {
        bail!("could not look at the PCI bus: {reason}");
    }
    let named = which.gpus.iter().map(|text| promises::find(inventory, text).map_err(anyhow::Error::msg));
    let mut meant = named.collect::<anyhow::Result<Vec<&Card>>>()?;
    if meant.is_empty() {
        meant = inventory.nvidia().collect();
    }
    Ok(meant.into_iter().map(|card| (card, mig::cut(card))).collect())
}

fn plan(target: &Target, wish: &MigWish) -> anyhow::Result<Plan> {
    let machine = target.machine();
    let inventory = gpu::observe_all(machine);
    let users = gpu::users(machine, &inventory);
    let meant = cards(&inventory, &wish.which)?;
    let wishes = wishes(wish, &meant)?;
    let mut subjects = Vec::new();
    for ((card, cut), wanted) in meant.iter().zip(wishes) {
        let Some(wanted) = wanted else { continue };
        match (cut, wanted) {
            (Ok(cut), wanted) => subjects.push(subject(card, cut, wanted?, &users)),
            // whoever names the card wants to know; "all" means those that can
            (Err(why), _) if !wish.which.gpus.is_empty() => bail!("{}: {why}", name(card)),
            (Err(_), _) => {}
        }
    }
    if subjects.is_empty() && wish.config.is_some() {
        bail!("the layout {} says nothing of the cards here that can be cut", wish.layout);
    }
    if subjects.is_empty() {
        let why: Vec<String> = meant
            .iter()
            .filter_map(|(card, cut)| cut.as_ref().err().map(|why| format!("{}: {why}", name(card))))
            .collect();
        bail!(
            "no card here can be cut. {}",
            if why.is_empty() { "There is no NVIDIA card".into() } else { why.join("; ") }
        );
    }
    let program = match &wish.program {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    let how = How { at_boot: wish.at_boot, once: wish.once, program: program.display().to_string() };
    Ok(guest::mig::plan(&subjects, &files(machine), &how))
}

fn subject<'a>(card: &'a Card, cut: &Cut, wish: Wish, users: &'a BTreeMap<Bdf, Users>) -> Subject<'a> {
    Subject { card, cut: cut.clone(), users: users.get(&card.identity.bdf), wish }
}

/// Of each meant card; `None`: a file says nothing of it. An error counts only where the card can be cut.
type Wanted = Option<anyhow::Result<Wish>>;

fn wishes(wish: &MigWish, meant: &[(&Card, Result<Cut, String>)]) -> anyhow::Result<Vec<Wanted>> {
    if let Some(path) = &wish.config {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let ids: Vec<_> = meant.iter().map(|(card, _)| card.identity.id).collect();
        let wishes = mig::read_file(&text, &wish.layout, &ids).with_context(|| path.display().to_string())?;
        return Ok(wishes.into_iter().map(|wish| wish.map(Ok)).collect());
    }
    let of = |cut: &Result<Cut, String>| {
        let profiles = cut.as_ref().map_or(&[][..], |cut| &cut.profiles);
        Wish::read(&wish.layout, profiles).map_err(anyhow::Error::from)
    };
    Ok(meant.iter().map(|(_, cut)| Some(of(cut))).collect())
}

fn files(machine: &dyn Machine) -> Files {
    Files { kept: machine.read(KEPT), unit: machine.read(UNIT), wanted: machine.read(WANTED) }
}

fn name(card: &Card) -> String {
    format!("{} ({})", card.identity.bdf.short(), card.short_name())
}

fn list(global: &Global, which: &MigCards) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let inventory = gpu::observe_all(target.machine());
    let meant = cards(&inventory, which)?;
    if global.json {
        let cards: Vec<_> = meant
            .iter()
            .map(|(card, cut)| match cut {
                Ok(cut) => json!({
                    "bdf": card.identity.bdf, "name": card.short_name(), "uuid": cut.uuid, "now": cut.now,
                    "pending": cut.pending, "profiles": cut.profiles,
                    "layouts": mig::named(&cut.profiles).into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
                }),
                Err(why) => json!({ "bdf": card.identity.bdf, "name": card.short_name(), "cannot": why }),
            })
            .collect();
        let report = json!({ "schema": 1, "machine": target.name(global), "cards": cards });
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        let mut page = Page::new();
        for (card, cut) in &meant {
            page.gap();
            page.line(paint(Tone::Strong, &name(card)));
            match cut {
                Ok(cut) => one(&mut page, cut),
                Err(why) => page.hang(2, "", 0, Tone::Plain, &format!("cannot be cut: {why}")),
            }
        }
        if meant.is_empty() {
            page.line("There is no NVIDIA card here.");
        }
        say(&page.text())?;
    }
    Ok(if meant.iter().any(|(_, cut)| cut.is_ok()) { DONE } else { FOUND })
}

fn one(page: &mut Page, cut: &Cut) {
    page.hang(2, "now", 10, Tone::Plain, &mig::says(&cut.now));
    if cut.pending != cut.now.enabled {
        let to = if cut.pending { "on" } else { "off" };
        page.hang(2, "pending", 10, Tone::Warn, &format!("MIG {to} after the card's next reset"));
    }
    for it in &cut.now.instances {
        let start =
            it.start.map_or(String::new(), |start| format!("memory slices {start} to {}", start + it.size.max(1) - 1));
        let compute: Vec<String> = it.compute.iter().map(u32::to_string).collect();
        let text = format!("{:<12}{start}, compute slices {}", it.profile, compute.join(" + "));
        page.hang(12, "", 0, Tone::Faint, &text);
    }
    let profiles: Vec<String> =
        cut.profiles.iter().map(|it| format!("{} × {} ({} MiB)", it.name, it.count, it.memory)).collect();
    page.hang(2, "profiles", 10, Tone::Plain, &profiles.join(", "));
    let layouts: Vec<String> = mig::named(&cut.profiles).into_iter().map(|(name, _)| name).collect();
    page.hang(2, "layouts", 10, Tone::Plain, &layouts.join(", "));
}

/// The kept layouts, against what the cards are now.
fn kept(machine: &dyn Machine) -> anyhow::Result<Vec<guest::mig::KeptCard>> {
    match machine.read(KEPT) {
        Seen::Is(bytes) => Ok(Kept::read(&bytes).map_err(anyhow::Error::msg)?.cards),
        Seen::Absent => Ok(Vec::new()),
        Seen::Unreadable(reason) => bail!("{KEPT} cannot be read: {reason}"),
    }
}

fn verify(global: &Global) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let kept = kept(target.machine())?;
    let inventory = gpu::observe_all(target.machine());
    let mut page = Page::new();
    let mut told = Vec::new();
    for kept in &kept {
        let card = inventory.card(kept.bdf);
        let now = card.map_or(Err("there is no card".to_owned()), mig::cut);
        let (holds, says) = match now {
            Ok(cut) if cut.uuid != kept.uuid => (false, format!("another card sits there now, {}", cut.uuid)),
            Ok(cut) if mig::same(&cut.now, &kept.layout) => (true, mig::says(&cut.now)),
            Ok(cut) => (false, format!("{}, and kept is {}", mig::says(&cut.now), mig::says(&kept.layout))),
            Err(why) => (false, why),
        };
        let mark = if holds { paint(Tone::Good, "●") } else { paint(Tone::Bad, "✗") };
        page.line(format!("{mark} {}: {says}", kept.bdf.short()));
        told.push(json!({ "bdf": kept.bdf, "holds": holds, "says": says }));
    }
    if kept.is_empty() {
        page.line("No cut is kept for the boots of this machine.");
    }
    let good = told.iter().all(|card| card["holds"] == true);
    if global.json {
        say(&(serde_json::to_string_pretty(&json!({ "schema": 1, "cards": told }))? + "\n"))?;
    } else {
        say(&page.text())?;
    }
    Ok(if good { DONE } else { FOUND })
}

/// The newest change that stands and cut a card, or kept a cut.
fn undo(global: &Global, yes: bool, dry_run: bool) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let ours = |op: &Op| match op {
        Op::Mig(_) => true,
        Op::WriteFile { path, .. } | Op::RemoveFile { path } => path == KEPT,
        _ => false,
    };
    let log = target.log()?;
    let standing = log.iter().rev().filter(|made| made.state != State::Undone);
    let newest = standing.into_iter().find(|made| made.plan.changes.iter().any(|change| ours(&change.op)));
    let Some(made) = newest else {
        say("No cut of thruway's stands on this machine.\n")?;
        return Ok(DONE);
    };
    let args = UndoArgs { number: Some(made.number), by: None, yes, dry_run };
    stands::undo(global, &args, &model::Layer::ALL)
}

/// At boot, before anything uses the cards. Each is told; one that fails does not keep the others.
fn restore(global: &Global) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    if target.path()? != Path::new("/") {
        bail!("{} does not run: nothing can be cut there", target.machine().name());
    }
    let mut failed = false;
    for kept in kept(target.machine())? {
        let op = MigOp { bdf: kept.bdf, uuid: kept.uuid, from: kept.layout.clone(), to: kept.layout };
        let line = match journal::restore_mig(&op) {
            Ok(()) => format!("{}: {}\n", op.bdf.short(), mig::says(&op.to)),
            Err(error) => {
                failed = true;
                format!("{}: not cut: {error}\n", op.bdf.short())
            }
        };
        say(&line)?;
    }
    Ok(if failed { FOUND } else { DONE })
}
