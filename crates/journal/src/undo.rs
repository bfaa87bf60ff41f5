//! Taking back: a whole transaction, the rest of a failed one, and what a crash left.

use model::{Change, Op};
use serde::Serialize;

use crate::apply::{now, path_of, wanted};
use crate::files::Like;
use crate::log::{State, StepRecord};
use crate::threeway::three_way;
use crate::wal::Entry;
use crate::{Error, Image, Journal};

/// A transaction that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Undone {
    pub number: u64,
    /// The titles of the steps taken back, in the order it was done.
    pub steps: Vec<String>,
}

/// What recovery did with an interrupted transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovered {
    /// Every step was done; only the end was missing. It stands.
    Completed(u64),
    /// It was broken off midway; what was done is taken back.
    TakenBack(Undone),
}

impl Journal<'_> {
    /// Takes a transaction back, or changes nothing: if any file is no longer as it was left, the caller gets a
    /// three-way diff instead.
    pub fn undo(&mut self, number: u64) -> Result<Undone, Error> {
        let transaction = self.store.log.get(number).ok_or(Error::NoSuch(number))?;
        match transaction.state {
            State::Undone => return Err(Error::AlreadyUndone(number)),
            State::Unfinished => return Err(Error::Unfinished(number)),
            State::Applied | State::HalfUndone => {}
        }
        if let Some(change) = Self::irreversible(&transaction.plan) {
            return Err(Error::Irreversible { tx: number, title: change.title.clone() });
        }
        self.take_back(number)
    }

    /// The newest transaction that stands: what `thruway undo` without a number takes back.
    pub fn newest(&self) -> Option<u64> {
        let standing = |state| matches!(state, State::Applied | State::HalfUndone);
        self.store.log.transactions.iter().rev().find(|t| standing(t.state)).map(|t| t.number)
    }

    /// Deals with what a crash left: completes what was whole, takes back what was not.
    pub fn recover(&mut self) -> Result<Vec<Recovered>, Error> {
        let open: Vec<(u64, State)> = self
            .store
            .log
            .transactions
            .iter()
            .filter(|t| matches!(t.state, State::Unfinished | State::HalfUndone))
            .map(|t| (t.number, t.state))
            .collect();
        let mut recovered = Vec::new();
        for (number, state) in open {
            self.settle(number)?;
            let whole = self.store.log.get(number).is_some_and(|t| t.steps.iter().all(|s| s.done));
            if state == State::Unfinished && whole {
                self.point()?;
                self.store.append(Entry::End { tx: number })?;
                recovered.push(Recovered::Completed(number));
            } else {
                recovered.push(Recovered::TakenBack(self.take_back(number)?));
            }
        }
        Ok(recovered)
    }

    /// Judges each intent without a done by what is there now, and writes the missing done where the step had
    /// happened.
    fn settle(&mut self, number: u64) -> Result<(), Error> {
        let Some(transaction) = self.store.log.get(number).cloned() else { return Ok(()) };
        for (step, (record, change)) in transaction.steps.iter().zip(&transaction.plan.changes).enumerate() {
            let (Some(path), Some(wanted)) = (path_of(&change.op), wanted(&change.op)) else { continue };
            if !record.intent || record.undone {
                continue;
            }
            self.files.sweep(path)?;
            if record.done {
                continue;
            }
            let (now, _) = self.files.image(path)?;
            let before = record.before.as_ref().and_then(Image::digest).cloned();
            if now.digest() == before.as_ref() {
                continue;
            }
            if now.digest() == wanted.as_ref() {
                self.point()?;
                self.store.append(Entry::Done { tx: number, step, after: Some(now) })?;
                continue;
            }
            let (title, path) = (change.title.clone(), path.to_owned());
            return Err(Error::Unclear { tx: number, step: step + 1, title, path });
        }
        Ok(())
    }

    /// Takes every step back that has an intent and is not yet undone. Files first, newest step first; then what is
    /// no file; regenerations last and once each, over the restored inputs.
    pub(crate) fn take_back(&mut self, number: u64) -> Result<Undone, Error> {
        let transaction = self.store.log.get(number).cloned().ok_or(Error::NoSuch(number))?;
        let todo: Vec<(usize, &StepRecord, &Change)> = transaction
            .steps
            .iter()
            .zip(&transaction.plan.changes)
            .enumerate()
            .filter(|(_, (record, _))| record.intent && !record.undone)
            .map(|(step, (record, change))| (step, record, change))
            .rev()
            .collect();
        // What each file should be now is what the last step that touched it left.
        let mut judged = std::collections::BTreeSet::new();
        for (_, record, change) in &todo {
            if let Some(path) = path_of(&change.op)
                && judged.insert(path)
            {
                self.judge(number, record, change, path)?;
            }
        }
        if transaction.state != State::HalfUndone {
            self.point()?;
            self.store.append(Entry::UndoBegin { tx: number, at: now() })?;
        }
        let late = |op: &Op| matches!(op, Op::Regenerate(_) | Op::Service { .. });
        let (generators, others): (Vec<_>, Vec<_>) = todo.into_iter().partition(|(_, _, change)| late(&change.op));
        let mut steps = Vec::new();
        for (step, record, change) in others {
            self.point()?;
            match path_of(&change.op) {
                Some(path) => self.restore(record, path)?,
                None => self.hands.take_back(&change.op)?,
            }
            self.point()?;
            self.store.append(Entry::UndoStep { tx: number, step })?;
            steps.push(change.title.clone());
        }
        // In the plan's own order: a restart after the file it reads was generated.
        for (step, _, change) in generators.into_iter().rev() {
            self.point()?;
            self.hands.take_back(&change.op)?;
            self.point()?;
            self.store.append(Entry::UndoStep { tx: number, step })?;
            steps.push(change.title.clone());
        }
        self.point()?;
        self.store.append(Entry::UndoEnd { tx: number })?;
        Ok(Undone { number, steps })
    }

    /// Is the file as the step left it (or already as it was before)? Else someone edited it, and that is not ours
    /// to throw away.
    fn judge(&self, tx: u64, record: &StepRecord, change: &Change, path: &str) -> Result<(), Error> {
        let (now, mine) = self.files.image(path)?;
        let before = record.before.as_ref().and_then(Image::digest);
        let left = match &record.after {
            Some(after) => after.digest().cloned(),
            None => wanted(&change.op).flatten(),
        };
        if now.digest() == left.as_ref() || now.digest() == before {
            return Ok(());
        }
        let was = before.map(|digest| self.store.blob(digest)).transpose()?.unwrap_or_default();
        let ours = match &change.op {
            Op::WriteFile { content, .. } => content.to_bytes().unwrap_or_default(),
            _ => Vec::new(),
        };
        Err(Error::Conflict { tx, path: path.to_owned(), diff: three_way(path, &was, &ours, &mine) })
    }

    fn restore(&self, record: &StepRecord, path: &str) -> Result<(), Error> {
        match &record.before {
            Some(image @ Image::File { digest, mode, .. }) => {
                let bytes = self.store.blob(digest)?;
                self.files.write(path, &bytes, &Like { mode: *mode, image: Some(image), time: true })?;
            }
            Some(Image::Absent) => {
                if self.files.image(path)?.0 != Image::Absent {
                    self.files.remove(path)?;
                }
                self.files.remove_dirs(&record.dirs)?;
            }
            None => {}
        }
        Ok(())
    }
}
