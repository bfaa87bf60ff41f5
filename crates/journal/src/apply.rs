//! Carrying a plan out.

use machine::MachineExt as _;
use model::{Before, Change, Op, PLAN_SCHEMA, Plan, Undo};
use serde::Serialize;

use crate::log::{Drift, State};
use crate::wal::Entry;
use crate::write::Like;
use crate::{Error, Files, Image, Journal, Transaction};

/// What happened, for the caller's progress lines.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'p> {
    /// Step `index` (0-based) of `of` begins.
    Step { index: usize, of: usize, change: &'p Change },
    /// The step is done.
    Done { index: usize },
    /// A step is taken back, as `index` (0-based) of `of`.
    Back { index: usize, of: usize, change: &'p Change },
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
        let open = |t: &&Transaction| matches!(t.state, State::Unfinished | State::HalfUndone);
        if let Some(open) = self.store.log.transactions.iter().find(open) {
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
        let tx = self.store.next_number()?;
        let boot = self.boot();
        self.point()?;
        self.store.reserve(self.room(&plan.changes)?)?;
        let done = self.steps(tx, boot, plan, progress);
        if !matches!(done, Err(Error::Stopped(_))) {
            self.store.spend();
            self.store.release();
        }
        done.map(|()| Applied { number: tx, steps: plan.changes.len() })
    }

    fn steps(
        &mut self,
        tx: u64,
        boot: Option<String>,
        plan: &Plan,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), Error> {
        self.point()?;
        self.store.append(Entry::Begin { tx, at: now(), boot, plan: Box::new(plan.clone()) })?;
        for (step, change) in plan.changes.iter().enumerate() {
            progress(Progress::Step { index: step, of: plan.changes.len(), change });
            match self.step(tx, step, change) {
                Ok(()) => progress(Progress::Done { index: step }),
                Err(error) => return Err(self.give_up(tx, step, &change.title, error)),
            }
        }
        self.point()?;
        let ended = self.store.append(Entry::End { tx });
        ended.map_err(|error| self.give_up(tx, plan.changes.len(), "the end", error))
    }

    /// Takes back what the steps before this one did, and says how that went.
    fn give_up(&mut self, tx: u64, step: usize, title: &str, error: Error) -> Error {
        if let Error::Stopped(n) = error {
            return Error::Stopped(n);
        }
        let (step, title, source) = (step + 1, title.to_owned(), Box::new(error));
        match self.take_back(tx) {
            Ok(undone) => Error::Step { step, title, stands: undone.stands, notes: undone.notes, source },
            Err(Error::Stopped(n)) => Error::Stopped(n),
            Err(undo) => Error::HalfUndone { step, title, undo: undo.to_string(), source },
        }
    }

    /// The space in bytes that putting these changes' files back may need: each is written beside its present self.
    fn room(&self, changes: &[Change]) -> Result<u64, Error> {
        let mut room = 0;
        let mut seen = std::collections::BTreeSet::new();
        for path in changes.iter().filter_map(|change| path_of(&change.op)).filter(|path| seen.insert(*path)) {
            room += blocks(self.files.image(path)?.1.len());
        }
        Ok(room)
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
                let dirs = self.files.missing_dirs(&self.files.real(path)?)?;
                self.point()?;
                self.store.append(intent(tx, step, Some(before.clone()), dirs.clone()))?;
                self.point()?;
                self.files.make_dirs(&dirs)?;
                self.point()?;
                let mode = match &before {
                    Image::File { mode, .. } => *mode,
                    Image::Absent | Image::Link { .. } => *mode,
                };
                self.files.write(path, &bytes, &Like { mode, image: Some(&before), time: false })?;
                self.finish(tx, step, &change.op, path)
            }
            Op::RemoveFile { path } => {
                let (before, old) = self.files.here(path)?;
                self.point()?;
                if matches!(before, Image::File { .. }) {
                    self.store.keep(&old)?;
                }
                self.point()?;
                self.store.append(intent(tx, step, Some(before), Vec::new()))?;
                self.point()?;
                self.files.remove(path)?;
                self.finish(tx, step, &change.op, path)
            }
            Op::Link { path, target } => {
                let (before, _) = self.files.here(path)?;
                if before != Image::Absent {
                    return Err(Error::Changed { path: path.clone() });
                }
                let dirs = self.files.missing_dirs(&self.files.unfollowed(path)?)?;
                self.point()?;
                self.store.append(intent(tx, step, Some(before), dirs.clone()))?;
                self.point()?;
                self.files.make_dirs(&dirs)?;
                self.point()?;
                let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                self.files.link(path, target, owner)?;
                self.finish(tx, step, &change.op, path)
            }
            op => {
                self.point()?;
                let outputs = self.picture(op)?;
                let held = self.hands.holds(op);
                let stock = match op {
                    Op::Packages(op) => Some(self.store.keep(&self.hands.stock(op)?.to_bytes())?),
                    _ => None,
                };
                self.store.append(Entry::Intent { tx, step, before: None, dirs: Vec::new(), outputs, held, stock })?;
                self.point()?;
                if let Err(error) = self.hands.act(op) {
                    self.store.back.set(true);
                    // Where this cannot be said, the step counts as cut off.
                    let _ = self.store.append(Entry::Failed { tx, step });
                    return Err(error.into());
                }
                if matches!(op, Op::Regenerate(_) | Op::KernelArgs { .. } | Op::Packages(_) | Op::RunFile(_)) {
                    // Generators rename without an fsync; "done" must not be durable before what was done.
                    self.files.sync_everything()?;
                }
                self.point()?;
                self.store.append(Entry::Done { tx, step, after: None })
            }
        }
    }

    fn finish(&mut self, tx: u64, step: usize, op: &Op, path: &str) -> Result<(), Error> {
        let (after, _) = self.found(op, path)?;
        self.point()?;
        self.store.append(Entry::Done { tx, step, after: Some(after) })
    }

    /// Does what the change expects still hold?
    fn expect(&self, change: &Change) -> Result<(), Error> {
        let broken = match (&change.expects, &change.op) {
            (Before::File(wanted), Op::WriteFile { path, .. } | Op::RemoveFile { path }) => {
                (self.files.image(path)?.0.digest() != Some(wanted)).then_some(path)
            }
            // The name itself: a link that leads nowhere is somebody's link.
            (Before::NoFile, Op::WriteFile { path, .. } | Op::Link { path, .. }) => {
                (self.files.here(path)?.0 != Image::Absent).then_some(path)
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

    /// What the operation is about: a removed name itself, a written file through its links.
    pub(crate) fn found(&self, op: &Op, path: &str) -> Result<(Image, Vec<u8>), Error> {
        found(&self.files, op, path)
    }

    /// The steps of a plan that undo cannot take back.
    pub(crate) fn irreversible(plan: &Plan) -> Option<&Change> {
        plan.changes.iter().find(|change| change.undo == Undo::Irreversible)
    }
}

/// A file's bytes in whole blocks, and one for a directory that grows.
pub(crate) fn blocks(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(4096) + 4096
}

fn intent(tx: u64, step: usize, before: Option<Image>, dirs: Vec<String>) -> Entry {
    Entry::Intent { tx, step, before, dirs, outputs: Vec::new(), held: None, stock: None }
}

fn found(files: &Files, op: &Op, path: &str) -> Result<(Image, Vec<u8>), Error> {
    if matches!(op, Op::RemoveFile { .. } | Op::Link { .. }) { files.here(path) } else { files.image(path) }
}

/// Files that are no longer as the applied changes left them: edited, replaced or removed since.
pub(crate) fn drift(files: &Files, log: &[Transaction]) -> Result<Vec<Drift>, Error> {
    let mut latest = std::collections::BTreeMap::new();
    for transaction in log.iter().filter(|t| t.state == State::Applied) {
        for (record, change) in transaction.steps.iter().zip(&transaction.plan.changes) {
            if let (Some(after), Some(path)) = (&record.after, path_of(&change.op)) {
                latest.insert(path.to_owned(), (transaction.number, after.clone(), change.op.clone()));
            }
        }
    }
    let mut drift = Vec::new();
    for (path, (tx, after, op)) in latest {
        let (now, _) = found(files, &op, &path)?;
        let says = match (&after, &now) {
            (a, n) if a.same(n) => continue,
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
        Op::WriteFile { path, .. } | Op::RemoveFile { path } | Op::Link { path, .. } => Some(path),
        _ => None,
    }
}

pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|d| d.as_secs() as i64).unwrap_or_default()
}
