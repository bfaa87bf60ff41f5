//! Walking a way: up floor by floor, and down again. Each step looks first; what is so already is left alone.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::event::{Event, SCHEMA, What};
use crate::reach::Lost;
use crate::remote::Answer;
use crate::state::{State, StateError};
use crate::visit::{Place, Visit};
use crate::way::Way;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// How a walk is gone, and by whom.
pub struct Go<'g> {
    /// Do not ask.
    pub yes: bool,
    /// Look and plan alone.
    pub dry_run: bool,
    /// Take a machine over that another up holds.
    pub take_over: bool,
    /// On the way back: machines that are left as they are (`guest`).
    pub leave: Vec<String>,
    /// This program, which is copied over.
    pub program: PathBuf,
    /// Where states are kept.
    pub base: PathBuf,
    /// A private directory for ssh's sockets.
    pub control: PathBuf,
    /// user@host, as a refusal names it.
    pub who: String,
    /// This user of this machine, as no other has it.
    pub controller: String,
    /// There is a terminal: ssh may ask on it.
    pub terminal: bool,
    /// Stop after what runs now.
    pub stop: Arc<AtomicBool>,
    pub ask: &'g (dyn Fn(&str) -> bool + Sync),
    pub password: &'g (dyn Fn(&str) -> Option<String> + Sync),
    pub tell: &'g (dyn Fn(&Event) + Sync),
}

/// Why a walk ended before its end. What was done before stands, and another walk goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Something is wrong: at this step, in one sentence.
    #[error("{step}: {says}")]
    Failed { step: String, says: String },
    /// It is the user's turn.
    #[error("{step}: {says}")]
    Yours { step: String, says: String },
    #[error("{step}: you said no")]
    Declined { step: String },
    #[error("{step}: stopped; `thruway up` goes on from there, `thruway down` takes all back")]
    Interrupted { step: String },
    #[error(transparent)]
    State(#[from] StateError),
}

/// The same within a step.
#[derive(Debug)]
pub enum Trouble {
    Failed { says: String, words: String },
    Yours(String),
    Declined,
    Interrupted,
    State(StateError),
}

impl Trouble {
    pub fn says(says: impl Into<String>) -> Self {
        Trouble::Failed { says: says.into(), words: String::new() }
    }
}

impl From<Lost> for Trouble {
    fn from(lost: Lost) -> Self {
        Trouble::says(lost.to_string())
    }
}

impl From<Answer> for Trouble {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Lost(lost) => lost.into(),
            Answer::Said { says } => {
                let (first, rest) = says.split_once('\n').unwrap_or((&says, ""));
                Trouble::Failed { says: first.to_owned(), words: rest.to_owned() }
            }
        }
    }
}

impl From<StateError> for Trouble {
    fn from(error: StateError) -> Self {
        Trouble::State(error)
    }
}

/// What a step came to: what the next ones need, what is said of it, and whether something was changed.
pub type Came<T> = Result<(T, String, bool), Trouble>;

/// One walk of one way.
pub struct Walker<'w> {
    pub way: &'w Way,
    pub go: &'w Go<'w>,
    pub state: State,
    /// This run of this program.
    pub session: String,
    machine: &'static str,
    step: String,
    waited: u64,
    /// Machines that were come to, to be let go at the end.
    pub visits: Vec<Rc<Visit>>,
}

/// Walks the way to its end, or to where it stops. What is given back says what stands.
pub fn walk(way: &Way, direction: Direction, go: &Go<'_>) -> Result<String, Stop> {
    let begun = Instant::now();
    let state = State::open(&go.base, &way.name)?;
    let session = crate::state::random().map_err(|source| StateError::Io { path: "/dev/urandom".into(), source })?;
    let mut walker =
        Walker { way, go, state, session, machine: "host", step: String::new(), waited: 0, visits: Vec::new() };
    let done = match direction {
        Direction::Up => walker.up(),
        Direction::Down => walker.down(),
    };
    let visits = std::mem::take(&mut walker.visits);
    for visit in &visits {
        // not worth another failure: a hold lapses, and what a dry run left below /tmp is found by the next
        let _ = match visit.place.role {
            _ if go.dry_run => visit.clean(),
            "here" => Ok(()),
            _ => walker.release(visit),
        };
        visit.reach.close();
    }
    let (well, says) = match &done {
        Ok(says) => (true, says.clone()),
        Err(stop) => (false, stop.to_string()),
    };
    walker.emit(What::End { well, says, seconds: begun.elapsed().as_secs_f64() });
    done
}

impl Walker<'_> {
    pub fn host(&self) -> Place {
        let host = &self.way.host;
        Place {
            role: "host",
            at: host.at.clone(),
            sudo: host.sudo,
            root: host.root.clone(),
            thruway: host.thruway.clone(),
            copy: host.copy.clone(),
            reboot: host.reboot,
            wait: host.wait,
        }
    }

    pub fn guest(&self) -> Option<Place> {
        self.way.guest.as_ref().map(|guest| Place {
            role: "guest",
            at: guest.at.clone(),
            sudo: guest.sudo,
            root: guest.root.clone(),
            thruway: guest.thruway.clone(),
            copy: guest.copy.clone(),
            reboot: guest.reboot,
            wait: guest.wait,
        })
    }

    /// This machine, for what is done by an API.
    pub fn here(&self) -> Place {
        let (thruway, copy, root) = (None, None, None);
        Place { role: "here", at: "here".into(), sudo: false, root, thruway, copy, reboot: false, wait: 0 }
    }

    /// One step: told when it begins and how it ended.
    pub fn step<T>(
        &mut self,
        machine: &'static str,
        id: &str,
        says: &str,
        run: impl FnOnce(&mut Self) -> Came<T>,
    ) -> Result<T, Stop> {
        self.machine = machine;
        id.clone_into(&mut self.step);
        self.waited = 0;
        let begun = Instant::now();
        self.emit(What::Begin { says: says.to_owned() });
        let done = self.stopped().and_then(|()| run(self));
        let seconds = begun.elapsed().as_secs_f64();
        let step = id.to_owned();
        let (stop, says, words) = match done {
            Ok((value, says, did)) => {
                self.emit(What::Done { says, seconds, did });
                return Ok(value);
            }
            Err(Trouble::Failed { says, words }) => (Stop::Failed { step, says: says.clone() }, says, words),
            Err(Trouble::Yours(says)) => (Stop::Yours { step, says: says.clone() }, says, String::new()),
            Err(Trouble::Declined) => (Stop::Declined { step }, "you said no".into(), String::new()),
            Err(Trouble::Interrupted) => (Stop::Interrupted { step }, "stopped".into(), String::new()),
            Err(Trouble::State(error)) => {
                let says = error.to_string();
                (Stop::State(error), says, String::new())
            }
        };
        self.emit(What::Failed { says, words, seconds });
        Err(stop)
    }

    pub fn stopped(&self) -> Result<(), Trouble> {
        if self.go.stop.load(Ordering::Relaxed) { Err(Trouble::Interrupted) } else { Ok(()) }
    }

    pub fn emit(&mut self, what: What) {
        let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let event = Event {
            schema: SCHEMA,
            at: i64::try_from(at).unwrap_or(i64::MAX),
            way: self.way.name.clone(),
            machine: self.machine.to_owned(),
            step: self.step.clone(),
            what,
        };
        if !matches!(event.what, What::Progress { .. }) {
            // plain data: serde_json cannot fail on it
            self.state.note(&serde_json::to_string(&event).unwrap_or_default());
        }
        (self.go.tell)(&event);
    }

    pub fn line(&mut self, text: &str) {
        self.emit(What::Line { text: text.to_owned() });
    }

    pub fn shown(&mut self, command: &str) {
        self.emit(What::Command { text: command.to_owned() });
    }

    pub fn progress(&mut self, done: u64, of: u64, unit: &'static str) {
        self.emit(What::Progress { done, of, unit });
    }

    /// Told once a second at most.
    pub fn waiting(&mut self, since: Duration, limit: Duration) {
        if since.as_secs() > self.waited {
            self.waited = since.as_secs();
            self.progress(since.as_secs(), limit.as_secs(), "seconds");
        }
    }

    /// Whether the user agrees.
    pub fn agreed(&self, question: &str) -> Result<(), Trouble> {
        if self.go.yes || (self.go.ask)(question) { Ok(()) } else { Err(Trouble::Declined) }
    }
}
