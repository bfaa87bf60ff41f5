//! The boot that a change waited for: which change that is, and what was found there. One verdict a change, for good.

use machine::MachineExt as _;
use serde::{Deserialize, Serialize};

use crate::apply::now;
use crate::log::State;
use crate::wal::Entry;
use crate::{Error, Journal, Transaction};

/// What the boot guard found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything that the plan promised is so.
    Held,
    /// Something is not, or could not be seen.
    Failed,
    /// The default gateway did not answer: the change was to be taken back, and the machine booted again.
    NetworkLost,
}

/// A verdict as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Seconds since the epoch.
    pub at: i64,
    /// The boot that was judged.
    pub boot: Option<String>,
    pub verdict: Verdict,
    /// What was found, a line each.
    pub says: Vec<String>,
}

/// Where this boot stands to the newest guarded change.
#[derive(Clone, Debug, PartialEq)]
pub enum Boot {
    /// No guarded change stands unjudged.
    Nothing,
    /// It was applied during this very boot.
    StillBefore(u64),
    /// This is a later boot: look now.
    After(Box<Transaction>),
}

impl Journal<'_> {
    /// The newest change that stands, asked for a guard and has no verdict. A machine that does not tell its boot's id
    /// is taken to have booted since: the guard runs at boot alone.
    pub fn guarded(&self) -> Boot {
        let waits = |t: &&Transaction| t.state == State::Applied && t.plan.asked.guard.is_some() && t.judged.is_none();
        let Some(transaction) = self.log().iter().rev().find(waits) else { return Boot::Nothing };
        let boot = self.boot();
        if boot.is_some() && boot == transaction.boot {
            return Boot::StillBefore(transaction.number);
        }
        Boot::After(Box::new(transaction.clone()))
    }

    /// Writes the verdict down, durably, before anything is done about it: a guard that takes a change back and boots
    /// again must not do so twice.
    pub fn judge_boot(&mut self, tx: u64, verdict: Verdict, says: Vec<String>) -> Result<(), Error> {
        let judged = Judged { at: now(), boot: self.boot(), verdict, says };
        self.store.append(Entry::Judged { tx, judged })
    }

    pub(crate) fn boot(&self) -> Option<String> {
        self.files.machine.value("/proc/sys/kernel/random/boot_id").is()
    }

    /// Boots the machine again.
    pub fn reboot(&self) -> Result<(), Error> {
        self.hands.reboot().map_err(Error::from)
    }
}
