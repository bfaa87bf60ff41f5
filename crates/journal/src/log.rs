//! The log as transactions: what `thruway log` shows and what recovery and undo work on.

use model::Plan;
use serde::Serialize;

use crate::Image;
use crate::guard::Judged;
use crate::wal::Entry;

/// One applied (or interrupted, or taken-back) plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Transaction {
    pub number: u64,
    /// Seconds since the epoch.
    pub at: i64,
    /// The boot during which it was applied.
    pub boot: Option<String>,
    pub plan: Plan,
    pub state: State,
    /// What the boot guard found, where one was asked for.
    pub judged: Option<Judged>,
    #[serde(skip)]
    pub(crate) steps: Vec<StepRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Begun, and not ended: a crash, or it is running now.
    Unfinished,
    Applied,
    /// Its undo was begun and not ended.
    HalfUndone,
    Undone,
}

/// What is known of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StepRecord {
    pub intent: bool,
    pub before: Option<Image>,
    pub dirs: Vec<String>,
    pub done: bool,
    pub after: Option<Image>,
    pub undone: bool,
}

/// A file that is no longer as an applied change left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    pub tx: u64,
    pub path: String,
    pub says: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub transactions: Vec<Transaction>,
}

impl Log {
    pub fn replay(entries: Vec<Entry>) -> Self {
        let mut log = Log::default();
        for entry in entries {
            log.take(entry);
        }
        log
    }

    /// Folds one entry in. Entries of transactions that never began are passed over: they cannot be acted on.
    pub fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Begin { tx, at, boot, plan } => {
                let steps = vec![StepRecord::default(); plan.changes.len()];
                let (plan, state) = (*plan, State::Unfinished);
                self.transactions.push(Transaction { number: tx, at, boot, plan, state, judged: None, steps });
            }
            Entry::Intent { tx, step, before, dirs } => {
                if let Some(record) = self.step(tx, step) {
                    *record = StepRecord { intent: true, before, dirs, ..StepRecord::default() };
                }
            }
            Entry::Done { tx, step, after } => {
                if let Some(record) = self.step(tx, step) {
                    record.done = true;
                    record.after = after;
                }
            }
            Entry::End { tx } => self.set(tx, State::Applied),
            Entry::UndoBegin { tx, .. } => self.set(tx, State::HalfUndone),
            Entry::UndoStep { tx, step } => {
                if let Some(record) = self.step(tx, step) {
                    record.undone = true;
                }
            }
            Entry::UndoEnd { tx } => self.set(tx, State::Undone),
            Entry::Judged { tx, judged } => {
                if let Some(found) = self.transactions.iter_mut().find(|t| t.number == tx) {
                    found.judged = Some(judged);
                }
            }
        }
    }

    pub fn get(&self, tx: u64) -> Option<&Transaction> {
        self.transactions.iter().find(|t| t.number == tx)
    }

    fn step(&mut self, tx: u64, step: usize) -> Option<&mut StepRecord> {
        self.transactions.iter_mut().find(|t| t.number == tx)?.steps.get_mut(step)
    }

    fn set(&mut self, tx: u64, state: State) {
        if let Some(found) = self.transactions.iter_mut().find(|t| t.number == tx) {
            found.state = state;
        }
    }
}
