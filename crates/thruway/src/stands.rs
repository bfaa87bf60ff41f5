//! What stands: verify, undo, log.

use anyhow::bail;
use journal::{Journal, State, Transaction};
use machine::MachineExt as _;
use model::{Intent, Layer, OutcomeState};

use crate::bind;
use crate::change::{agreed, loose_ends, progress_line, recover, rootly};
use crate::cli::{Global, LogArgs, UndoArgs};
use crate::paint::{Page, Tone, paint};
use crate::plans;
use crate::pve_api;
use crate::target::Target;
use crate::way::Way;
use crate::{BLIND, DONE, FOUND, say, warn};

fn standing<'t>(log: &'t [Transaction], layers: &[Layer]) -> impl DoubleEndedIterator<Item = &'t Transaction> {
    // A change of no floor, the ledger's, is everybody's.
    let (layers, all) = (layers.to_vec(), layers.len() == Layer::ALL.len());
    let meant = move |t: &Transaction| {
        t.plan.layers.iter().any(|layer| layers.contains(layer)) || all && t.plan.layers.is_empty()
    };
    log.iter().filter(move |t| t.state == State::Applied && meant(t))
}

/// The changes that stand, looked at again.
pub struct Stands {
    /// As JSON, one an item: number, outcomes and the boot guard's verdict.
    pub changes: Vec<serde_json::Value>,
    pub drift: Vec<journal::Drift>,
    states: Vec<OutcomeState>,
}

impl Stands {
    /// Looks again at every change of these floors that stands, and writes what is found on the page.
    pub fn look(target: &Target, way: &Way, layers: &[Layer], page: &mut Page, verbose: bool) -> anyhow::Result<Self> {
        let root = match target {
            Target::Root(root) | Target::Simulated { root, .. } => Some(root),
            Target::Api(remote) => remote.journal.as_ref(),
            Target::Jellyfin(remote) => remote.journal.as_ref(),
            Target::Captured(_) => bail!("a capture has no journal to verify"),
        };
        let log = target.log()?;
        let drift = root.map_or(Ok(Vec::new()), |root| journal::drift(root, &log))?;
        let mut stands = Stands { changes: Vec::new(), drift, states: Vec::new() };
        for transaction in standing(&log, layers) {
            let its: Vec<Layer> = transaction.plan.layers.iter().filter(|l| layers.contains(l)).copied().collect();
            let outcomes = target.verify(way, &its, &transaction.plan.asked);
            page.gap();
            page.line(paint(Tone::Strong, &format!("Change {} ({})", transaction.number, plans::layer_names(&its))));
            for intent in &transaction.plan.intent {
                page.hang(2, "", 0, Tone::Faint, intent);
            }
            plans::outcome_lines(page, &outcomes);
            if let Some(judged) = &transaction.judged {
                crate::guard::lines(page, 2, judged, verbose);
            }
            stands.states.extend(outcomes.iter().map(|outcome| outcome.state.clone()));
            let number = transaction.number;
            let judged = &transaction.judged;
            stands.changes.push(serde_json::json!({ "change": number, "outcomes": outcomes, "guard": judged }));
        }
        if !stands.drift.is_empty() {
            page.gap();
            page.line(paint(Tone::Strong, "Edited by someone since"));
        }
        for drift in &stands.drift {
            let path = paint(Tone::Plain, &drift.path);
            page.line(format!("  {} {path} {} (change {})", paint(Tone::Warn, "!"), drift.says, drift.tx));
        }
        if stands.changes.is_empty() {
            page.line("Nothing of thruway's stands on this machine.");
        }
        Ok(stands)
    }

    /// 0 all held or pending, 1 something failed, 2 could not look.
    pub fn status(&self) -> u8 {
        if self.states.iter().any(|state| matches!(state, OutcomeState::Failed(_))) {
            return FOUND;
        }
        if self.states.iter().any(|state| matches!(state, OutcomeState::Unknown(_))) { BLIND } else { DONE }
    }
}

pub fn verify(global: &Global, layers: &[Layer]) -> anyhow::Result<u8> {
    verified(global, &Target::of(global, layers, None)?, layers)
}

/// Looks again at every change of this target that stands.
pub fn verified(global: &Global, target: &Target, layers: &[Layer]) -> anyhow::Result<u8> {
    let mut page = Page::new();
    let mut way = target.way();
    way.ask_cards(target.machine(), layers, &Intent::default());
    let stands = Stands::look(target, &way, layers, &mut page, global.verbose)?;
    if global.json {
        let report = serde_json::json!({ "schema": 1, "changes": stands.changes, "drift": stands.drift });
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        say(&page.text())?;
    }
    Ok(stands.status())
}

pub fn undo(global: &Global, args: &UndoArgs, layers: &[Layer]) -> anyhow::Result<u8> {
    undone(global, &Target::of(global, layers, None)?, args, layers)
}

/// Takes the newest change of this target that stands back, or the one that is named.
pub fn undone(global: &Global, target: &Target, args: &UndoArgs, layers: &[Layer]) -> anyhow::Result<u8> {
    let path = target.path()?;
    let hands = pve_api::hands(global, target, target.hands()?, None)?;
    let mut journal = Journal::open(&path, hands.as_ref()).map_err(rootly)?.telling(&progress_line);
    if !args.dry_run {
        let back = recover(&mut journal)?;
        // What was asked for is done; the change before it was not meant.
        if args.by.is_none() && !back.is_empty() && args.number.is_none_or(|number| back.contains(&number)) {
            if global.json {
                say(&(serde_json::json!({ "recovered": back }).to_string() + "\n"))?;
            }
            return Ok(DONE);
        }
    }
    if let Some(id) = &args.by {
        return taken_back(global, &mut journal, target, id, args);
    }
    let number = args.number.or_else(|| standing(journal.log(), layers).next_back().map(|t| t.number));
    let Some(number) = number else {
        say("Nothing of thruway's stands on this machine.\n")?;
        return Ok(DONE);
    };
    let Some(transaction) = journal.log().iter().find(|t| t.number == number) else {
        bail!("there is no change {number}; `thruway log` lists them");
    };
    let mut page = Page::new();
    page.line(paint(Tone::Strong, &format!("Taking back change {number}")));
    for change in transaction.plan.changes.iter().rev() {
        page.hang(2, "-", 2, Tone::Plain, &change.title);
    }
    if !global.json {
        say(&page.text())?;
    }
    if args.dry_run {
        return Ok(DONE);
    }
    let cards = bind::cards(&transaction.plan);
    if !cards.is_empty()
        && let Some(refusal) = Way::observe(target.machine()).busy(&cards).first()
    {
        bail!("{}; change {number} cannot be taken back so. Way out: {}", refusal.says, refusal.instead);
    }
    if !agreed(args.yes, "Take it back?")? {
        warn("Nothing was changed.")?;
        return Ok(DONE);
    }
    let undone = journal.undo(number).map_err(rootly)?;
    loose_ends(&undone)?;
    if global.json {
        say(&(serde_json::to_string(&undone)? + "\n"))?;
    } else {
        say(&format!("{} Change {number} is taken back.\n", paint(Tone::Good, "●")))?;
    }
    Ok(DONE)
}

/// Takes back every change that bears this id, newest first.
fn taken_back(
    global: &Global,
    journal: &mut Journal<'_>,
    target: &Target,
    id: &str,
    args: &UndoArgs,
) -> anyhow::Result<u8> {
    let theirs = |t: &&Transaction| {
        t.plan.asked.by.as_deref() == Some(id) && matches!(t.state, State::Applied | State::HalfUndone)
    };
    let numbers: Vec<u64> = journal.log().iter().filter(theirs).map(|t| t.number).rev().collect();
    if !args.dry_run && !numbers.is_empty() {
        let cards: Vec<_> = journal.log().iter().filter(theirs).flat_map(|t| bind::cards(&t.plan)).collect();
        if !cards.is_empty()
            && let Some(refusal) = Way::observe(target.machine()).busy(&cards).first()
        {
            bail!("{}; it cannot be taken back so. Way out: {}", refusal.says, refusal.instead);
        }
        if !agreed(args.yes, &format!("Take {} back?", crate::paint::plural(numbers.len(), "change", "changes")))? {
            warn("Nothing was changed.")?;
            return Ok(DONE);
        }
        for number in &numbers {
            let undone = journal.undo(*number).map_err(rootly)?;
            loose_ends(&undone)?;
        }
    }
    if global.json {
        return say(&(serde_json::json!({ "schema": 1, "undone": numbers }).to_string() + "\n")).map(|()| DONE);
    }
    let list: Vec<String> = numbers.iter().map(u64::to_string).collect();
    let words = if args.dry_run { "would be taken back" } else { "taken back" };
    let says = if list.is_empty() {
        format!("No change of {id} stands.")
    } else {
        format!("Change {}: {words}.", list.join(", "))
    };
    say(&(says + "\n")).map(|()| DONE)
}

pub fn log(global: &Global, args: &LogArgs) -> anyhow::Result<u8> {
    // what was done to a node by its API is written down here: it need not be asked
    let (mut log, boot) = match pve_api::log(global)? {
        Some(log) => (log, None),
        None => match Target::open(global)? {
            Target::Captured(_) => bail!("a capture has no journal"),
            target => (target.log()?, target.machine().value("/proc/sys/kernel/random/boot_id").is()),
        },
    };
    if args.standing {
        log.retain(|transaction| transaction.stands(boot.as_deref()));
    }
    let found = args.standing && !log.is_empty();
    log_page(global, &log, args.standing)?;
    Ok(if found { FOUND } else { DONE })
}

/// The changes that were made, on paper.
pub fn log_page(global: &Global, log: &[Transaction], standing: bool) -> anyhow::Result<u8> {
    if global.json {
        let report = serde_json::json!({ "schema": 1, "changes": log });
        say(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        return Ok(DONE);
    }
    let mut page = Page::new();
    if log.is_empty() {
        page.line(match standing {
            true => "Nothing of thruway's changes stands here.",
            false => "Nothing was ever changed here by thruway.",
        });
    }
    for transaction in log {
        let (state, tone) = match transaction.state {
            State::Applied => ("stands", Tone::Good),
            State::Undone => ("taken back", Tone::Faint),
            State::Unfinished => ("interrupted", Tone::Bad),
            State::HalfUndone => ("half taken back", Tone::Bad),
        };
        page.line(format!(
            "{}  {}  {}  {}",
            paint(Tone::Strong, &format!("{:>3}", transaction.number)),
            time(transaction.at),
            paint(tone, &format!("{state:<12}")),
            paint(Tone::Plain, &plans::layer_names(&transaction.plan.layers)),
        ));
        for intent in &transaction.plan.intent {
            page.hang(5, "", 0, Tone::Plain, intent);
        }
        if let Some(judged) = &transaction.judged {
            crate::guard::lines(&mut page, 5, judged, global.verbose);
        }
        if global.verbose {
            for change in &transaction.plan.changes {
                page.hang(5, "-", 2, Tone::Faint, &change.title);
            }
        }
    }
    say(&page.text())?;
    Ok(DONE)
}

/// UTC, to the second.
fn time(seconds: i64) -> String {
    journal::utc(seconds)
}
