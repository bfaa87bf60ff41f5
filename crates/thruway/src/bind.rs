//! `thruway host bind` and `host unbind`: a card changes hands now.

use std::collections::BTreeMap;
use std::time::Duration;

use journal::{Journal, State, Transaction};
use model::{Bdf, BindOp, Handover, Hold, Intent, Layer, Op, Plan};

use crate::change::{self, Go};
use crate::cli::{BindArgs, Global, HandoverArgs, UnbindArgs};
use crate::paint::{Page, Tone, paint};
use crate::plans;
use crate::target::Target;
use crate::way::Way;
use crate::{DONE, FOUND, say, warn};

const FLOOR: [Layer; 1] = [Layer::Host];

pub fn bind(global: &Global, args: &BindArgs) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let intent = Intent {
        give: vec![args.card],
        handover: Handover::Bind(args.to.clone()),
        stop_holders: args.how.stop_holders,
        allow: args.allow.clone(),
        ..Intent::default()
    };
    let plan = Way::observe(target.machine()).plan(&FLOOR, &intent);
    change::carry_out(global, &target, &plan, &FLOOR, &go(&args.how))
}

/// Takes the bind's own change back where that is all it did, so that the services it stopped start again; else makes
/// a change of its own, to the driver that the journal remembers.
pub fn unbind(global: &Global, args: &UnbindArgs) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let intent = Intent {
        give: vec![args.card],
        handover: Handover::Back,
        stop_holders: args.how.stop_holders,
        ..Intent::default()
    };
    let log = target.log()?;
    let mut way = Way::observe(target.machine());
    way.remember(remembered(&log));
    let mut plan = way.plan(&FLOOR, &intent);
    let whole = plan.refusals.is_empty() && !plan.changes.is_empty();
    let Some(made) = newest(&log, args.card).filter(|made| whole && covers(made, &plan)) else {
        return change::carry_out(global, &target, &plan, &FLOOR, &go(&args.how));
    };
    let number = made.number;
    plan.notes.push(format!("change {number}, which took it, is taken back by this"));
    for change in &made.plan.changes {
        if let Op::Service { unit, .. } = &change.op {
            plan.notes.push(format!("{unit}, which that change stopped, is started again"));
        }
    }
    change::show(&plan, &target, global)?;
    if args.how.dry_run {
        return Ok(DONE);
    }
    let path = target.path()?;
    if !change::agreed(args.how.yes, "Carry this out?")? {
        warn("Nothing was changed.")?;
        return Ok(DONE);
    }
    let hands = target.hands_within(Duration::from_secs(args.how.limit))?;
    let mut journal = Journal::open(&path, hands.as_ref()).map_err(change::rootly)?.telling(&change::progress_line);
    change::recover(&mut journal)?;
    let undone = journal.undo(number).map_err(change::rootly)?;
    drop(journal);
    if global.json {
        return say(&(serde_json::to_string(&undone)? + "\n")).map(|()| DONE);
    }
    let outcomes = Way::observe(target.machine()).verify(&FLOOR, &intent);
    let mut page = Page::new();
    page.gap();
    page.line(format!("{} Change {number} is taken back.", paint(Tone::Good, "●")));
    plans::outcome_lines(&mut page, &outcomes);
    say(&page.text())?;
    let failed = outcomes.iter().any(|outcome| matches!(outcome.state, model::OutcomeState::Failed(_)));
    Ok(if failed { FOUND } else { DONE })
}

fn go(how: &HandoverArgs) -> Go {
    Go { name: change::this_plan(), yes: how.yes, dry_run: how.dry_run, limit: Duration::from_secs(how.limit) }
}

/// The functions that a plan hands over.
pub fn cards(plan: &Plan) -> Vec<Bdf> {
    let moved = plan.changes.iter().filter_map(|change| match &change.op {
        Op::Bind(op) => Some(op.bdf),
        _ => None,
    });
    moved.collect()
}

/// The binds that stand: from whom each function was first taken, and to whom it was last given.
fn remembered(log: &[Transaction]) -> BTreeMap<Bdf, BindOp> {
    let mut binds: BTreeMap<Bdf, BindOp> = BTreeMap::new();
    for change in log.iter().filter(|t| t.state == State::Applied).flat_map(|t| &t.plan.changes) {
        let Op::Bind(op) = &change.op else { continue };
        let first = binds.remove(&op.bdf).filter(|first| first.id == op.id).map(|first| first.from);
        let from = first.unwrap_or_else(|| op.from.clone());
        // What was given back is remembered no more.
        if !op.to.met_by(&from) {
            binds.insert(op.bdf, BindOp { from, ..op.clone() });
        }
    }
    binds
}

/// The newest change that stands and handed this card over, if it did nothing that outlives the handover.
fn newest(log: &[Transaction], card: Bdf) -> Option<&Transaction> {
    let standing = log.iter().rev().filter(|t| t.state == State::Applied);
    let made = standing.into_iter().find(|t| cards(&t.plan).iter().any(|bdf| bdf.same_slot(&card)))?;
    let only = |op: &Op| matches!(op, Op::Bind(_) | Op::Service { .. } | Op::EndProcess { .. });
    made.plan.changes.iter().all(|change| only(&change.op)).then_some(made)
}

/// True where taking `made` back does exactly what `plan` asks for.
fn covers(made: &Transaction, plan: &Plan) -> bool {
    let wanted: BTreeMap<Bdf, &Hold> = plan
        .changes
        .iter()
        .filter_map(|change| match &change.op {
            Op::Bind(op) => Some((op.bdf, &op.to)),
            _ => None,
        })
        .collect();
    let back: BTreeMap<Bdf, &Hold> = made
        .plan
        .changes
        .iter()
        .filter_map(|change| match &change.op {
            Op::Bind(op) => Some((op.bdf, &op.from)),
            _ => None,
        })
        .collect();
    let stops = plan.changes.iter().any(|change| !matches!(change.op, Op::Bind(_)));
    !stops && wanted.iter().all(|(bdf, to)| back.get(bdf) == Some(to)) && back.len() == wanted.len()
}
