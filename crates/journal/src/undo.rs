//! Taking back: a whole transaction, the rest of a failed one, and what a crash left.

use machine::MachineExt as _;
use model::{Change, Op, PackagesOp, Undo};
use serde::Serialize;

use crate::apply::{blocks, now, path_of};
use crate::log::{State, StepRecord, Transaction};
use crate::outputs::unkept;
use crate::threeway::three_way;
use crate::wal::Entry;
use crate::write::{Like, torn_between};
use crate::{Error, Image, Journal, Progress, Stock};

/// A transaction that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Undone {
    pub number: u64,
    /// The titles of the steps taken back, in the order it was done.
    pub steps: Vec<String>,
    /// The titles of steps that cannot be taken back: what they did stands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stands: Vec<String>,
    /// What was done otherwise than by the book, in sentences: a generator that failed again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
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
        if let Some(change) = Self::irreversible(&transaction.plan)
            && transaction.state == State::Applied
        {
            return Err(Error::Irreversible { tx: number, title: change.title.clone() });
        }
        self.on_top(transaction)?;
        if transaction.state == State::Applied {
            self.store.reserve(self.room_before(transaction)?)?;
        }
        self.take_back(number)
    }

    /// The space in bytes that putting the files back takes: as much as apply set aside, so that what could be applied
    /// can be taken back on the same full disk.
    fn room_before(&self, transaction: &Transaction) -> Result<u64, Error> {
        let mut room = 0;
        let mut seen = std::collections::BTreeSet::new();
        for (record, change) in transaction.steps.iter().zip(&transaction.plan.changes) {
            if let (Some(path), Some(before)) = (path_of(&change.op), &record.before)
                && seen.insert(path)
            {
                room += blocks(self.store.bytes_of(before)?.len());
            }
        }
        Ok(room)
    }

    /// Does no later change stand on what this one touched? Taking the older one back under it would take away what
    /// the newer one was built on, even where the bytes happen to be the same.
    fn on_top(&self, transaction: &Transaction) -> Result<(), Error> {
        let mine = self.touched(transaction)?;
        let standing = |t: &&Transaction| t.number > transaction.number && t.state != State::Undone;
        for newer in self.store.log.transactions.iter().rev().filter(standing) {
            if let Some(path) = self.touched(newer)?.intersection(&mine).next() {
                return Err(Error::Under { tx: transaction.number, newer: newer.number, path: path.clone() });
            }
        }
        Ok(())
    }

    /// What a change's steps that happened are about, by whatever name: files with their links resolved, sysfs
    /// attributes, VMs.
    fn touched(&self, transaction: &Transaction) -> Result<std::collections::BTreeSet<String>, Error> {
        let mut touched = std::collections::BTreeSet::new();
        let happened = transaction.steps.iter().zip(&transaction.plan.changes).filter(|(r, _)| r.intent && !r.undone);
        for (_, change) in happened {
            match &change.op {
                Op::WriteFile { path, .. } | Op::Sysfs { path, .. } => touched.insert(self.files.real(path)?),
                Op::RemoveFile { path } | Op::Link { path, .. } => touched.insert(self.files.unfollowed(path)?),
                Op::Proxmox { vmid, .. } => touched.insert(format!("VM {vmid}")),
                Op::ProxmoxMapping { id, .. } => touched.insert(format!("mapping {id}")),
                Op::Jellyfin(op) => {
                    touched.extend(op.set.keys().map(|key| format!("{key} of Jellyfin at {}", op.url)));
                    false
                }
                Op::Bind(op) => touched.insert(format!("function {}", op.bdf)),
                Op::Mig(op) => touched.insert(format!("MIG of {}", op.bdf)),
                Op::KernelArgs { add, remove, .. } => {
                    touched.extend(add.iter().chain(remove).map(|token| format!("kernel argument {token}")));
                    false
                }
                Op::Packages(op) => {
                    touched.extend(op.install.iter().map(|name| format!("package {name}")));
                    false
                }
                Op::RunFile(_) => touched.insert("NVIDIA's driver by its own installer".into()),
                Op::Service { .. } | Op::Regenerate(_) | Op::Kube(_) | Op::EndProcess { .. } => false,
            };
        }
        Ok(touched)
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
            // What a crash left is dealt with on the disk as it is, with the space that was set aside for it.
            self.store.back.set(true);
            self.settle(number)?;
            let whole = self.store.log.get(number).is_some_and(|t| t.steps.iter().all(|s| s.done));
            if state == State::Unfinished && whole {
                self.point()?;
                self.store.append(Entry::End { tx: number })?;
                self.clean_up();
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
            let Some(path) = path_of(&change.op) else { continue };
            if !record.intent || record.undone {
                continue;
            }
            self.files.sweep(path)?;
            let Some(before) = record.before.as_ref().filter(|_| !record.done) else { continue };
            let (now, bytes) = self.found(&change.op, path)?;
            if now.same(before) {
                continue;
            }
            let wanted = match &change.op {
                Op::WriteFile { content, .. } => content.to_bytes(),
                _ => None,
            };
            let is_wanted = match (&wanted, &change.op) {
                (_, Op::Link { target, .. }) => matches!(&now, Image::Link { target: found, .. } if found == target),
                (Some(wanted), _) => matches!(now, Image::File { .. }) && bytes == *wanted,
                (None, _) => now == Image::Absent,
            };
            if is_wanted {
                // Seen is not durable: the name, or in a file written in place all of it, may still be in memory only.
                let mode = match (before, &change.op) {
                    (Image::File { mode, .. }, _) | (_, Op::WriteFile { mode, .. }) => *mode,
                    _ => 0,
                };
                self.files.finish_write(path, &Like { mode, image: Some(before), time: false })?;
                let (after, _) = self.found(&change.op, path)?;
                self.point()?;
                self.store.append(Entry::Done { tx: number, step, after: Some(after) })?;
            } else if !self.torn(&bytes, before, wanted.as_deref())? {
                let (title, path) = (change.title.clone(), path.to_owned());
                return Err(Error::Unclear { tx: number, step: step + 1, title, path });
            }
        }
        Ok(())
    }

    /// Are these the bytes of a write in place that was cut off? Then they are ours to replace.
    fn torn(&self, now: &[u8], before: &Image, wanted: Option<&[u8]>) -> Result<bool, Error> {
        let (Image::File { digest, .. }, Some(wanted)) = (before, wanted) else { return Ok(false) };
        Ok(torn_between(now, &self.store.blob(digest)?, wanted))
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
        let (todo, stands): (Vec<_>, Vec<_>) =
            todo.into_iter().partition(|(_, _, change)| change.undo != Undo::Irreversible);
        // What each file should be now is what the last step that touched it left.
        let mut judged = std::collections::BTreeSet::new();
        for (_, record, change) in &todo {
            if let Some(path) = path_of(&change.op)
                && judged.insert(path)
            {
                self.judge(&transaction, record, change, path)?;
            }
        }
        self.store.back.set(true);
        if transaction.state != State::HalfUndone {
            self.point()?;
            self.store.append(Entry::UndoBegin { tx: number, at: now() })?;
        }
        let late = |op: &Op| matches!(op, Op::Regenerate(_) | Op::KernelArgs { .. } | Op::Service { .. });
        let (generators, others): (Vec<_>, Vec<_>) = todo.into_iter().partition(|(_, _, change)| late(&change.op));
        let mut undone = Undone { number, steps: Vec::new(), stands: Vec::new(), notes: Vec::new() };
        undone.stands = stands.into_iter().rev().map(|(_, _, change)| change.title.clone()).collect();
        // In the plan's own order: a restart after the file it reads was generated.
        let of = others.len() + generators.len();
        for (index, (step, record, change)) in others.into_iter().chain(generators.into_iter().rev()).enumerate() {
            (self.tell)(Progress::Back { index, of, change });
            self.point()?;
            match (&change.op, path_of(&change.op)) {
                (_, Some(path)) => self.with_room(|| self.restore(record, &change.op, path))?,
                (Op::Regenerate(_) | Op::KernelArgs { .. }, _) => {
                    undone.notes.extend(self.regenerate(&transaction, step, record, change)?)
                }
                (Op::Packages(op), _) => undone.notes.extend(self.remove(record, op)?),
                (op, _) if self.took(record, op) => self.hands.take_back(op)?,
                _ => {}
            }
            self.point()?;
            self.store.append(Entry::UndoStep { tx: number, step })?;
            undone.steps.push(change.title.clone());
        }
        self.point()?;
        self.store.append(Entry::UndoEnd { tx: number })?;
        self.clean_up();
        Ok(undone)
    }

    /// Nothing is open any more: the space set aside and the copies of generated files are given back.
    fn clean_up(&self) {
        self.store.back.set(false);
        self.store.spend();
        self.store.release();
    }

    /// Did the step take effect, so that its opposite is due? What is only known to have been begun is looked at.
    fn took(&self, record: &StepRecord, op: &Op) -> bool {
        match op {
            // A service that was so before the step is not ours to change.
            Op::Service { .. } | Op::ProxmoxMapping { .. } | Op::RunFile(_) | Op::Mig(_)
                if record.held == Some(true) =>
            {
                false
            }
            _ if record.done => true,
            // A restart leaves a service down where it fails; over the restored files it is due again.
            Op::Service { verb, .. } if crate::real::opposite(*verb) == *verb => true,
            Op::Service { .. } | Op::ProxmoxMapping { .. } => self.hands.holds(op).unwrap_or(!record.failed),
            // A change that was refused whole left everything as it was, and that may be another's by now.
            Op::Proxmox { .. } | Op::Jellyfin(_) | Op::RunFile(_) | Op::Mig(_) => self.hands.holds(op).unwrap_or(true),
            Op::Sysfs { path, value, .. } => {
                self.files.machine.value(path).get().map_or(!record.failed, |now| now == value)
            }
            // A bind that failed has given the function back itself.
            Op::Bind(op) => !op.from.met_by(&crate::bind::seen(&self.files.machine, op.bdf)),
            // The API said no. A later writer's object is not to be replaced by what we read before.
            Op::Kube(_) => !record.failed,
            _ => true,
        }
    }

    /// Removes what a step's packages brought. The log says what was there before it.
    fn remove(&self, record: &StepRecord, op: &PackagesOp) -> Result<Vec<String>, Error> {
        let Some(digest) = &record.stock else { return Ok(Vec::new()) };
        let stock = Stock::from_bytes(&self.store.blob(digest)?).map_err(|what| Error::Damaged {
            path: format!("{}/blobs/{digest}", crate::STATE_DIR),
            line: 1,
            what,
        })?;
        let notes = self.hands.unstock(op, &stock)?;
        self.files.sync_everything()?;
        Ok(notes)
    }

    /// Runs a generator again over the restored inputs. What it writes was kept: before the step, where the step's
    /// change is being given up, and then it is put back first; else now. Where the rerun fails, the kept files are
    /// put back. Those from before the step are as the restored inputs make them, and that is that. Those from now
    /// boot, but are not yet of the restored inputs: the rerun stays owed.
    fn regenerate(
        &mut self,
        transaction: &Transaction,
        step: usize,
        record: &StepRecord,
        change: &Change,
    ) -> Result<Option<String>, Error> {
        let (tx, given_up) = (transaction.number, !transaction.ended);
        let outputs = match (&change.op, &record.undo_outputs) {
            (_, Some(outputs)) => outputs.clone(),
            _ if given_up => record.outputs.clone(),
            (op, None) => {
                let outputs = self.picture(op)?;
                self.point()?;
                self.store.append(Entry::UndoIntent { tx, step, outputs: outputs.clone() })?;
                self.point()?;
                outputs
            }
        };
        let cut_off = record.undo_outputs.is_some() || (given_up && !record.done);
        if cut_off {
            self.put_back(&outputs)?;
        }
        let Err(error) = self.hands.take_back(&change.op) else {
            self.files.sync_everything()?;
            return Ok(None);
        };
        let back = self.put_back(&outputs)?;
        self.files.sync_everything()?;
        let lost = unkept(&outputs);
        let kept = match (back.is_empty(), lost.is_empty()) {
            (_, false) => format!("look at {}: of those no copy was kept", lost.join(", ")),
            (true, true) => "What it writes is as it was".to_owned(),
            (false, true) => format!("{} was put back as it was before", back.join(", ")),
        };
        // Form 1 kept no copies.
        if given_up && lost.is_empty() && !outputs.is_empty() {
            return Ok(Some(format!("{} failed again while taking back ({error}). {kept}", change.title)));
        }
        let (title, source) = (change.title.clone(), Box::new(Error::from(error)));
        let kept = format!("{kept}. Put the cause right, then run thruway undo {tx}: it goes on from here");
        Err(Error::Generator { tx, title, source, kept })
    }

    /// Is the file as the step left it (or already as it was before)? Else someone edited it, and that is not ours
    /// to throw away.
    fn judge(&self, transaction: &Transaction, record: &StepRecord, change: &Change, path: &str) -> Result<(), Error> {
        let (now, mine) = self.found(&change.op, path)?;
        let ours = match &change.op {
            Op::WriteFile { content, .. } => content.to_bytes().unwrap_or_default(),
            Op::Link { target, .. } => target.clone().into_bytes(),
            _ => Vec::new(),
        };
        let left = match &record.after {
            Some(after) => now.same(after),
            None if matches!(change.op, Op::WriteFile { .. }) => matches!(now, Image::File { .. }) && mine == ours,
            None if matches!(change.op, Op::Link { .. }) => matches!(now, Image::Link { .. }) && mine == ours,
            None => now == Image::Absent,
        };
        let Some(before) = record.before.as_ref().filter(|before| !left && !now.same(before)) else { return Ok(()) };
        let interrupted = transaction.state != State::Applied;
        if interrupted && self.torn(&mine, before, Some(&ours))? {
            return Ok(());
        }
        let was = self.store.bytes_of(before)?;
        let diff = three_way(path, &was, &ours, &mine);
        Err(Error::Conflict { tx: transaction.number, path: path.to_owned(), diff })
    }

    fn restore(&self, record: &StepRecord, op: &Op, path: &str) -> Result<(), Error> {
        match &record.before {
            Some(image @ Image::File { digest, mode, .. }) => {
                let bytes = self.store.blob(digest)?;
                self.files.make_dirs(&self.files.missing_dirs(&self.files.real(path)?)?)?;
                self.files.write(path, &bytes, &Like { mode: *mode, image: Some(image), time: true })?;
            }
            Some(Image::Link { target, uid, gid }) => self.files.link(path, target, (*uid, *gid))?,
            Some(Image::Absent) if matches!(op, Op::Link { .. }) => {
                // A run that was cut off may have made neither the link nor the directories above it.
                if self.files.here(path)?.0 != Image::Absent {
                    self.files.remove(path)?;
                }
                self.files.remove_dirs(&record.dirs)?;
            }
            Some(Image::Absent) => {
                let real = self.files.real(path)?;
                if self.files.image(&real)?.0 != Image::Absent {
                    self.files.remove(&real)?;
                }
                self.files.remove_dirs(&record.dirs)?;
            }
            None => {}
        }
        Ok(())
    }
}
