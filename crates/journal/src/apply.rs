//! Carrying a plan out.

use machine::MachineExt as _;
use model::{Before, Change, Digest, Op, PLAN_SCHEMA, Plan, Undo};
use serde::Serialize;

use crate::files::Like;
use crate::log::{Drift, State};
use crate::wal::Entry;
use crate::{Error, Files, Image, Journal, Transaction};

/// What happened, for the caller's progress lines.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'p> {
    /// Step `index` (0-based) of `of` begins.
    Step { index: usize, of: usize, change: &'p Change },
    /// The step is done.
    Done { index: usize },
}

/// A plan that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// The number that `thruway undo` takes.
    pub number: u64,
    pub steps: usize,
}

impl Journal<'_> {
    /// Applies the plan, or leaves everything as it was: every expectation is checked under the lock before the first
    /// step and again before its own, and a failing step takes back those before it.
    pub fn apply(&mut self, plan: &Plan, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Applied, Error> {
        if plan.schema > PLAN_SCHEMA {
            return Err(Error::PlanSchema(plan.schema));
        }
        if let Some(refusal) = plan.refusals.first() {
            return Err(Error::Refused(refusal.says.clone()));
        }
        if let Some(open) = self.store.log.transactions.iter().find(|t| t.state == State::Unfinished) {
            return Err(Error::Unfinished(open.number));
        }
        // A later step may expect what an earlier one writes (two edits of one file): only the first is judged now.
        let mut written = std::collections::BTreeSet::new();
        for change in &plan.changes {
            let path = path_of(&change.op);
            if path.is_none_or(|path| written.insert(path)) {
                self.expect(change)?;
            }
            if let Op::WriteFile { content, path, .. } = &change.op
                && content.to_bytes().is_none()
            {
                return Err(Error::BadPlan(path.clone()));
            }
        }
        let tx = self.store.next_number();
        let boot = self.boot();
        self.point()?;
        self.store.append(Entry::Begin { tx, at: now(), boot, plan: Box::new(plan.clone()) })?;
        self.store.sync()?;
        for (step, change) in plan.changes.iter().enumerate() {
            progress(Progress::Step { index: step, of: plan.changes.len(), change });
            match self.step(tx, step, change) {
                Ok(()) => progress(Progress::Done { index: step }),
                Err(Error::Stopped(n)) => return Err(Error::Stopped(n)),
                Err(error) => {
                    let title = change.title.clone();
                    let source = Box::new(error);
                    return Err(match self.take_back(tx) {
                        Ok(_) => Error::Step { step: step + 1, title, source },
                        Err(Error::Stopped(n)) => Error::Stopped(n),
                        Err(undo) => Error::HalfUndone { step: step + 1, title, undo: undo.to_string(), source },
                    });
                }
            }
        }
        self.point()?;
        self.store.append(Entry::End { tx })?;
        Ok(Applied { number: tx, steps: plan.changes.len() })
    }

    fn step(&mut self, tx: u64, step: usize, change: &Change) -> Result<(), Error> {
        self.expect(change)?;
        match &change.op {
            Op::WriteFile { path, content, mode } => {
                let bytes = content.to_bytes().ok_or_else(|| Error::BadPlan(path.clone()))?;
                let (before, old) = self.files.image(path)?;
                if matches!(before, Image::File { .. }) {
                    self.point()?;
                    self.store.keep(&old)?;
                }
                let dirs = self.files.missing_dirs(path)?;
                self.point()?;
                self.store.append(Entry::Intent { tx, step, before: Some(before.clone()), dirs: dirs.clone() })?;
                self.point()?;
                self.files.make_dirs(&dirs)?;
                self.point()?;
                let mode = match &before {
                    Image::File { mode, .. } => *mode,
                    Image::Absent => *mode,
                };
                self.files.write(path, &bytes, &Like { mode, image: Some(&before), time: false })?;
                self.finish(tx, step, path)
            }
            Op::RemoveFile { path } => {
                let (before, old) = self.files.image(path)?;
                self.point()?;
                self.store.keep(&old)?;
                self.point()?;
                self.store.append(Entry::Intent { tx, step, before: Some(before), dirs: Vec::new() })?;
                self.point()?;
                self.files.remove(path)?;
                self.finish(tx, step, path)
            }
            op => {
                self.point()?;
                self.store.append(Entry::Intent { tx, step, before: None, dirs: Vec::new() })?;
                self.point()?;
                self.hands.act(op)?;
                self.point()?;
                self.store.append(Entry::Done { tx, step, after: None })
            }
        }
    }

    fn finish(&mut self, tx: u64, step: usize, path: &str) -> Result<(), Error> {
        let (after, _) = self.files.image(path)?;
        self.point()?;
        self.store.append(Entry::Done { tx, step, after: Some(after) })
    }

    /// Does what the change expects still hold?
    fn expect(&self, change: &Change) -> Result<(), Error> {
        let broken = match (&change.expects, &change.op) {
            (Before::File(wanted), Op::WriteFile { path, .. } | Op::RemoveFile { path }) => {
                (self.files.image(path)?.0.digest() != Some(wanted)).then_some(path)
            }
            (Before::NoFile, Op::WriteFile { path, .. }) => {
                (self.files.image(path)?.0 != Image::Absent).then_some(path)
            }
            (Before::Value(wanted), Op::Sysfs { path, .. }) => {
                (self.files.machine.value(path).get() != Some(wanted)).then_some(path)
            }
            (Before::Value(wanted), Op::Bind(op)) => {
                let now = crate::bind::seen(&self.files.machine, op.bdf).driver.to_string();
                if now != *wanted {
                    let path = format!("{}/driver", crate::bind::device(op.bdf));
                    return Err(Error::Changed { path });
                }
                None
            }
            _ => None,
        };
        match broken {
            Some(path) => Err(Error::Changed { path: path.clone() }),
            None => Ok(()),
        }
    }

    /// The steps of a plan that undo cannot take back.
    pub(crate) fn irreversible(plan: &Plan) -> Option<&Change> {
        plan.changes.iter().find(|change| change.undo == Undo::Irreversible)
    }
}

/// Files that are no longer as the applied changes left them: edited, replaced or removed since.
pub(crate) fn drift(files: &Files, log: &[Transaction]) -> Result<Vec<Drift>, Error> {
    let mut latest = std::collections::BTreeMap::new();
    for transaction in log.iter().filter(|t| t.state == State::Applied) {
        for (record, change) in transaction.steps.iter().zip(&transaction.plan.changes) {
            if let (Some(after), Some(path)) = (&record.after, path_of(&change.op)) {
                latest.insert(path.to_owned(), (transaction.number, after.clone()));
            }
        }
    }
    let mut drift = Vec::new();
    for (path, (tx, after)) in latest {
        let (now, _) = files.image(&path)?;
        let says = match (&after, &now) {
            (a, n) if a.digest() == n.digest() => continue,
            (_, Image::Absent) => "was removed since",
            (Image::Absent, _) => "is there again",
            _ => "was edited since",
        };
        drift.push(Drift { tx, path, says: says.to_owned() });
    }
    Ok(drift)
}

/// The file an operation writes, if it is a plain file's.
pub(crate) fn path_of(op: &Op) -> Option<&str> {
    match op {
        Op::WriteFile { path, .. } | Op::RemoveFile { path } => Some(path),
        _ => None,
    }
}

/// What a file step leaves: the digest of the plan's bytes, or nothing.
pub(crate) fn wanted(op: &Op) -> Option<Option<Digest>> {
    match op {
        Op::WriteFile { content, .. } => Some(content.to_bytes().map(|bytes| Digest::of(&bytes))),
        Op::RemoveFile { .. } => Some(None),
        _ => None,
    }
}

pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|d| d.as_secs() as i64).unwrap_or_default()
}
