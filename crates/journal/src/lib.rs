//! The only writer. Applies a plan step by step behind a write-ahead log; recovers, verifies, takes back.
//!
//! The order of every step is: blob (what was there), fsync; intent, fsync; the write; done, fsync. After a crash an
//! intent without a done is judged by hash: as before, as wanted, or neither, and then nothing is touched and the
//! user is asked. State lives in [`STATE_DIR`] below the machine's root.
//!
//! What it promises. A process killed, or the power cut, at any moment: every file is as before or as wanted, and the
//! next run completes the change or takes it back. A full disk: the change is refused before its first step, or taken
//! back, from space set aside beforehand. A generator that fails: what it may have cut short is put back.
//!
//! What it does not. A file that cannot be replaced by name (a bind mount, a hard link) is written in place, and is a
//! mix until the next run puts it back. What a generator itself renames without an fsync is as safe as its file system
//! makes that (ext4 and btrfs flush before such a rename). Space set aside serves the file system of [`STATE_DIR`].
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the only writer: the bans point here")]

mod apply;
pub mod bind;
pub mod cache;
mod disk;
mod error;
mod files;
mod guard;
mod hands;
pub mod hold;
pub mod ledger;
mod lock;
mod log;
mod mig;
mod outputs;
mod packages;
mod process;
mod real;
mod run;
mod runfile;
mod stock;
mod store;
mod threeway;
mod undo;
mod wal;
mod write;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use machine::Root;

pub use apply::{Applied, Progress};
pub use disk::{Barrier, Watch};
pub use error::Error;
pub use files::{Files, Image};
pub use guard::{Boot, Judged, Verdict};
pub use hands::{HandError, Hands};
pub use log::{Drift, State, Transaction};
pub use mig::restore as restore_mig;
pub use real::RealHands;
pub use runfile::inspect as inspect_run_file;
pub use stock::{Installed, Stock};
pub use undo::{Recovered, Undone};

use store::Store;

/// Where the log and the blobs are kept, below the machine's root.
pub const STATE_DIR: &str = "/var/lib/thruway";

/// The journal of one machine, locked for as long as this value lives.
pub struct Journal<'a> {
    files: Files,
    store: Store,
    hands: &'a dyn Hands,
    /// Stop dead before the n-th step point, as SIGKILL would: the crash tests count through all of them.
    stop_at: Option<u32>,
    points: Cell<u32>,
    /// Hears of each step that is taken back, in undo, in recovery and where an apply fails.
    tell: &'a dyn Fn(Progress<'_>),
}

impl<'a> Journal<'a> {
    /// Opens (and makes, on first use) the journal of the machine at `root` and takes its lock.
    pub fn open(root: &Path, hands: &'a dyn Hands) -> Result<Self, Error> {
        Self::with(Files::open(root)?, hands)
    }

    /// For power-cut tests: as [`Journal::open`], and `watch` sees everything that is made durable.
    pub fn open_watched(root: &Path, hands: &'a dyn Hands, watch: Arc<dyn Watch>) -> Result<Self, Error> {
        let mut files = Files::open(root)?;
        files.disk = disk::Disk::watched(watch);
        Self::with(files, hands)
    }

    fn with(files: Files, hands: &'a dyn Hands) -> Result<Self, Error> {
        let store = Store::open(&files)?;
        Ok(Journal { files, store, hands, stop_at: None, points: Cell::new(0), tell: &|_| {} })
    }

    /// Taking back runs generators too, for minutes: `tell` hears of each step before it is taken back.
    pub fn telling(mut self, tell: &'a dyn Fn(Progress<'_>)) -> Self {
        self.tell = tell;
        self
    }

    /// For crash tests: the `n`-th point stops the journal as a kill would, nothing cleaned up.
    pub fn stop_at(mut self, n: u32) -> Self {
        self.stop_at = Some(n);
        self
    }

    /// How many points have been passed.
    pub fn points(&self) -> u32 {
        self.points.get()
    }

    fn point(&self) -> Result<(), Error> {
        let n = self.points.get() + 1;
        self.points.set(n);
        if self.stop_at == Some(n) { Err(Error::Stopped(n)) } else { Ok(()) }
    }

    /// The transactions so far, oldest first.
    pub fn log(&self) -> &[Transaction] {
        &self.store.log.transactions
    }
}

/// Reads the log without the lock and without making anything: for `thruway log` and the doctor.
pub fn read_log(root: &Root) -> Result<Vec<Transaction>, Error> {
    store::read_only(root)
}

/// Who is changing the machine right now, where somebody is: `process 4711`.
pub fn busy(root: &Root) -> Option<String> {
    lock::holding(root.path())
}

/// Files that are no longer as the applied changes in this log left them: edited, replaced or removed since.
pub fn drift(root: &Root, log: &[Transaction]) -> Result<Vec<Drift>, Error> {
    apply::drift(&Files::open(root.path())?, log)
}

/// A time of the log as people read it: `2026-11-24 04:20:21Z`.
pub fn utc(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => seconds.to_string(),
    }
}
