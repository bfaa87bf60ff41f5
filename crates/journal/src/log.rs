//! The log as transactions: what `thruway log` shows and what recovery and undo work on.

use model::{Digest, Op, Plan, ServiceVerb};
use serde::Serialize;

use crate::guard::Judged;
use crate::wal::{Entry, Output, Parsed};
use crate::{Error, Image, STATE_DIR};

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
    /// Every step was done once. Where not, taking back puts generated files back as they were before.
    #[serde(skip)]
    pub(crate) ended: bool,
    #[serde(skip)]
    pub(crate) steps: Vec<StepRecord>,
}

impl Transaction {
    /// True where something of it is still on the machine, beyond this directory of ours: what would be left where thruway
    /// is taken away. What a boot ends (a value of sysfs, a binding) is gone where `boot`, the running one, is another than
    /// the change's; what is over once done (a reload, a process that was ended) leaves nothing.
    pub fn stands(&self, boot: Option<&str>) -> bool {
        let same_boot = match (&self.boot, boot) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        };
        let leaves = |op: &Op| match op {
            Op::WriteFile { path, .. } | Op::RemoveFile { path } | Op::Link { path, .. } => !own(path),
            Op::Sysfs { .. } | Op::Bind(_) => same_boot,
            Op::Service { verb, .. } => match verb {
                ServiceVerb::Enable | ServiceVerb::Disable => true,
                ServiceVerb::Start | ServiceVerb::Stop => same_boot,
                ServiceVerb::Restart | ServiceVerb::Reload | ServiceVerb::DaemonReload => false,
            },
            Op::EndProcess { .. } => false,
            _ => true,
        };
        match self.state {
            State::Undone => false,
            State::Unfinished | State::HalfUndone => true,
            State::Applied => self.plan.changes.iter().any(|change| leaves(&change.op)),
        }
    }
}

/// A file of our own state: promises, say.
fn own(path: &str) -> bool {
    path.strip_prefix(STATE_DIR).is_some_and(|rest| rest.starts_with('/'))
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
    pub outputs: Vec<Output>,
    pub held: Option<bool>,
    /// The blob of what was installed before a step that installs packages.
    pub stock: Option<Digest>,
    pub failed: bool,
    pub done: bool,
    pub after: Option<Image>,
    /// What a generator may overwrite, as it was before undo ran it again.
    pub undo_outputs: Option<Vec<Output>>,
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
    pub fn replay(path: &str, parsed: Parsed) -> Result<Self, Error> {
        let mut log = Log::default();
        for (line, entry) in parsed.entries {
            log.take(entry).map_err(|what| Error::Damaged { path: path.into(), line, what })?;
        }
        Ok(log)
    }

    /// Folds one entry in, or says what no journal would have written.
    pub fn take(&mut self, entry: Entry) -> Result<(), String> {
        match entry {
            Entry::Begin { tx, at, boot, plan } => {
                if Some(tx) != self.next_number() {
                    return Err(format!("change {tx} does not follow the one before it"));
                }
                let steps = vec![StepRecord::default(); plan.changes.len()];
                let (plan, state) = (*plan, State::Unfinished);
                let (judged, ended) = (None, false);
                self.transactions.push(Transaction { number: tx, at, boot, plan, state, judged, ended, steps });
            }
            Entry::Intent { tx, step, before, dirs, outputs, held, stock } => {
                if stock.as_ref().is_some_and(|digest| !is_name(digest)) {
                    return Err("a blob's name is no SHA-256".into());
                }
                before.iter().chain(outputs.iter().filter_map(|o| o.image.as_ref())).try_for_each(named)?;
                let record = self.step(tx, step)?;
                *record = StepRecord { intent: true, before, dirs, outputs, held, stock, ..StepRecord::default() };
            }
            Entry::Failed { tx, step } => self.step(tx, step)?.failed = true,
            Entry::Done { tx, step, after } => {
                after.iter().try_for_each(named)?;
                let record = self.step(tx, step)?;
                record.done = true;
                record.after = after;
            }
            Entry::End { tx } => {
                let transaction = self.find(tx)?;
                transaction.ended = true;
                transaction.state = State::Applied;
            }
            Entry::UndoBegin { tx, .. } => self.find(tx)?.state = State::HalfUndone,
            Entry::UndoIntent { tx, step, outputs } => {
                outputs.iter().filter_map(|o| o.image.as_ref()).try_for_each(named)?;
                self.step(tx, step)?.undo_outputs = Some(outputs);
            }
            Entry::UndoStep { tx, step } => self.step(tx, step)?.undone = true,
            Entry::UndoEnd { tx } => self.find(tx)?.state = State::Undone,
            Entry::Judged { tx, judged } => self.find(tx)?.judged = Some(judged),
        }
        Ok(())
    }

    pub fn get(&self, tx: u64) -> Option<&Transaction> {
        self.transactions.iter().find(|t| t.number == tx)
    }

    /// Changes are numbered from 1 on without a gap; `None` when the numbers are used up.
    pub fn next_number(&self) -> Option<u64> {
        self.transactions.last().map_or(0, |t| t.number).checked_add(1)
    }

    fn find(&mut self, tx: u64) -> Result<&mut Transaction, String> {
        self.transactions.iter_mut().rev().find(|t| t.number == tx).ok_or_else(|| format!("change {tx} never began"))
    }

    fn step(&mut self, tx: u64, step: usize) -> Result<&mut StepRecord, String> {
        self.find(tx)?.steps.get_mut(step).ok_or_else(|| format!("the plan of change {tx} has no step {step}"))
    }

    /// Blobs that only a generator's rerun could have wanted, and that no longer can.
    pub fn spent_outputs(&self) -> Vec<Digest> {
        let mut spent = std::collections::BTreeSet::new();
        let mut wanted = std::collections::BTreeSet::new();
        for transaction in &self.transactions {
            let over = matches!(transaction.state, State::Applied | State::Undone);
            for record in &transaction.steps {
                wanted.extend(record.before.iter().filter_map(Image::digest));
                let outputs = record.outputs.iter().chain(record.undo_outputs.iter().flatten());
                let digests = outputs.filter_map(|output| output.image.as_ref()?.digest());
                if over { spent.extend(digests) } else { wanted.extend(digests) }
            }
        }
        spent.difference(&wanted).map(|digest| (*digest).clone()).collect()
    }
}

/// Does the image name its blob as a blob is named? A name from a log is used as a file's name.
fn named(image: &Image) -> Result<(), String> {
    match image.digest() {
        Some(digest) if !is_name(digest) => Err("a blob's name is no SHA-256".into()),
        _ => Ok(()),
    }
}

/// Sixty-four lower-case hex digits.
pub(crate) fn is_name(digest: &Digest) -> bool {
    digest.0.len() == 64 && digest.0.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use model::{Before, Change, Content, Effective, Intent, Layer, Undo};

    use super::*;

    fn transaction(state: State, ops: Vec<Op>) -> Transaction {
        let change = |op| Change {
            layer: Layer::Host,
            title: "a step".into(),
            op,
            expects: Before::Nothing,
            because: Vec::new(),
            risk: Vec::new(),
            effective: Effective::Now,
            undo: Undo::Exact,
        };
        let mut plan = Plan::new(Layer::Host, &Intent::default(), Default::default());
        plan.changes = ops.into_iter().map(change).collect();
        let boot = Some("a boot".to_owned());
        Transaction { number: 1, at: 0, boot, plan, state, judged: None, ended: true, steps: Vec::new() }
    }

    fn file(path: &str) -> Op {
        Op::WriteFile { path: path.into(), content: Content::Text(String::new()), mode: 0o644 }
    }

    #[test]
    fn what_stands_is_what_would_be_left() {
        let service = |verb| Op::Service { unit: "docker.service".into(), verb };
        let value = Op::Sysfs { path: "/sys/x".into(), value: "1".into(), back: "0".into() };
        for (op, now, later) in [
            (file("/etc/modprobe.d/vfio.conf"), true, true),
            (file("/var/lib/thruway/ledger/0000:26:00.0.json"), false, false),
            (file("/var/lib/thruway-other"), true, true),
            (Op::RemoveFile { path: "/etc/x".into() }, true, true),
            (value, true, false),
            (service(ServiceVerb::Enable), true, true),
            (service(ServiceVerb::Stop), true, false),
            (service(ServiceVerb::Restart), false, false),
            (Op::EndProcess { pid: 1, name: "x".into(), started: 1 }, false, false),
        ] {
            let shown = format!("{op:?}");
            let applied = transaction(State::Applied, vec![op]);
            assert_eq!(applied.stands(Some("a boot")), now, "{shown}");
            assert_eq!(applied.stands(Some("another")), later, "{shown}, after a boot");
            assert_eq!(applied.stands(None), now, "{shown}, where the boot is not known");
        }
    }

    #[test]
    fn what_was_interrupted_stands_and_what_was_taken_back_does_not() {
        let ours = || vec![file("/var/lib/thruway/ledger/x")];
        assert!(transaction(State::Unfinished, ours()).stands(None));
        assert!(transaction(State::HalfUndone, ours()).stands(None));
        assert!(!transaction(State::Undone, vec![file("/etc/x")]).stands(None));
        assert!(transaction(State::Applied, vec![ours().remove(0), file("/etc/x")]).stands(None));
    }
}
