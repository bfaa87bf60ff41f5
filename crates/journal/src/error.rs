//! Why the journal did not do as it was told.

use std::io;

use crate::HandError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another thruway is changing this machine ({0}): wait for it to end")]
    Busy(String),
    #[error("cannot write {path}")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path}:{line}: the journal is damaged ({what}); nothing was changed. Move {path} away to start a new one")]
    Damaged { path: String, line: usize, what: String },
    #[error("{path} was written by a newer thruway (form {form}); update thruway")]
    Newer { path: String, form: String },
    #[error("{path} has changed since the plan was made; plan again")]
    Changed { path: String },
    #[error("the plan's bytes for {0} are broken")]
    BadPlan(String),
    #[error("this plan is refused: {0}")]
    Refused(String),
    #[error("the plan was written in form {0}, this thruway reads up to form {max}", max = model::PLAN_SCHEMA)]
    PlanSchema(u32),
    #[error("step {step} ({title}) failed, and {}", back(stands, notes))]
    Step {
        step: usize,
        title: String,
        /// Titles of earlier steps that cannot be taken back and so stand.
        stands: Vec<String>,
        /// What taking back did otherwise than by the book.
        notes: Vec<String>,
        #[source]
        source: Box<Error>,
    },
    #[error(
        "step {step} ({title}) failed, and taking the steps before it back failed too: {undo}. Put that right, then run thruway undo: it goes on where this stopped"
    )]
    HalfUndone {
        step: usize,
        title: String,
        undo: String,
        #[source]
        source: Box<Error>,
    },
    #[error(transparent)]
    Hand(#[from] HandError),
    #[error("someone edited {path} after change {tx}; nothing was taken back.\n{diff}")]
    Conflict { tx: u64, path: String, diff: String },
    #[error("change {tx} cannot be taken back yet: the later change {newer} touches {path} too; undo {newer} first")]
    Under { tx: u64, newer: u64, path: String },
    #[error("{title} failed while change {tx} was taken back: {source}. {kept}")]
    Generator {
        tx: u64,
        title: String,
        #[source]
        source: Box<Error>,
        /// What became of the files that it writes, and what to do.
        kept: String,
    },
    #[error("there is no change {0} in the journal")]
    NoSuch(u64),
    #[error("change {0} is already taken back")]
    AlreadyUndone(u64),
    #[error(
        "change {tx} was interrupted in step {step} ({title}) and {path} is neither as before nor as wanted; look at it, then run thruway undo {tx}"
    )]
    Unclear { tx: u64, step: usize, title: String, path: String },
    #[error("change {tx} has a step that cannot be taken back: {title}")]
    Irreversible { tx: u64, title: String },
    #[error(
        "an earlier change (number {0}) was interrupted, or only half taken back, and must be recovered first: thruway undo {0}"
    )]
    Unfinished(u64),
    /// A crash test's stop.
    #[error("stopped at point {0}")]
    Stopped(u32),
}

/// How taking back went, as the end of a sentence.
fn back(stands: &[String], notes: &[String]) -> String {
    let mut says = if stands.is_empty() {
        "everything before it was taken back".to_owned()
    } else {
        format!("what can be was taken back; what cannot be stands: {}", stands.join("; "))
    };
    for note in notes {
        says.push_str(". ");
        says.push_str(note);
    }
    says
}

impl Error {
    /// The disk, or someone's share of it, is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Error::Io { source, .. } if crate::store::is_full(source))
    }

    pub(crate) fn io(path: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error::Io { path: path.into(), source: source.into() }
    }
}
