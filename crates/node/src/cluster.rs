//! The agent's side towards the API: its own Node watched, its labels held, the cordon annotation heard, Events told.
//!
//! One task, one connection. Nothing is sent while nothing changes: the watch of the one Node (its metadata alone) tells of every
//! change, so nothing is asked again by the clock. Failures are waited out, longer each time, each node by its own dice, so that a
//! cluster of thousands does not come back at once. The agent goes on without the API: labels and Events wait.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::api::{Access, Api, Changed, Error, Held, How, Kind, Object, Part, Select, Watch};
use crate::cordon::{self, Cordoned};
use crate::events::{Gate, Notice, event};
use crate::labels::{Labels, Standing, Writer};

/// How long things are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A watch lasts this long, and up to twice that.
    pub watch: Duration,
    /// Waited after the first failure, and at most.
    pub first: Duration,
    pub most: Duration,
    /// Another's labels of ours are swept off after this long without a wish, and no more often.
    pub sweep: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Pace { watch: seconds(300), first: seconds(1), most: seconds(300), sweep: seconds(60) }
    }
}

/// What the task is to do.
#[derive(Clone, Debug)]
pub struct Task {
    pub access: Access,
    pub writer: Writer,
    /// Another manager of ours whose labels are swept off where nothing is wanted for long: its process may be gone.
    pub sweeps: Option<&'static str>,
    pub pace: Pace,
}

/// How it goes, for metrics and the health endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The Node was read and holds what is wanted, at this moment.
    pub settled: bool,
    /// There is no way to an API here: no kubeconfig, no service account.
    pub absent: bool,
    /// Why not, with what to do.
    pub trouble: Option<String>,
    /// Labels that another holds with another value.
    pub left: Vec<Held>,
    /// Writes so far.
    pub writes: u64,
}

/// The ends of a running task. It ends when `labels` is dropped.
pub struct Link {
    /// What the Node is to hold; none: not known yet, and nothing is touched.
    pub labels: watch::Sender<Option<Labels>>,
    /// GPUs cordoned by the annotation.
    pub cordoned: watch::Receiver<Cordoned>,
    pub state: watch::Receiver<State>,
    /// Events; what does not fit is let fall.
    pub notices: mpsc::Sender<Notice>,
}

/// Begins the task on the current runtime.
pub fn begin(task: Task) -> Link {
    let (labels, wanted) = watch::channel(None);
    let (cordon, cordoned) = watch::channel(Cordoned::new());
    let (tell, state) = watch::channel(State::default());
    let (notices, heard) = mpsc::channel(64);
    let side = Side { task, wanted, cordon, tell, heard, waiting: VecDeque::new(), gate: Gate::new(Instant::now()) };
    tokio::spawn(side.run());
    Link { labels, cordoned, state, notices }
}

/// Why one conversation with the API ended.
enum End {
    /// Nobody wants it any more.
    Over,
    /// Begin again: at once, or after this failure.
    Again,
    Failed(Error),
}

struct Side {
    task: Task,
    wanted: watch::Receiver<Option<Labels>>,
    cordon: watch::Sender<Cordoned>,
    tell: watch::Sender<State>,
    heard: mpsc::Receiver<Notice>,
    waiting: VecDeque<Notice>,
    gate: Gate,
}

impl Side {
    async fn run(mut self) {
        let mut wait = self.task.pace.first;
        loop {
            let begun = Instant::now();
            match self.converse().await {
                End::Over => return,
                End::Again => tokio::time::sleep(dice(self.task.pace.first)).await,
                End::Failed(error) => {
                    // one that held for a while is a new one
                    if begun.elapsed() > self.task.pace.most {
                        wait = self.task.pace.first;
                    }
                    let least = match &error {
                        Error::Busy { wait, .. } => *wait,
                        Error::NoAccess(_) => self.task.pace.most,
                        _ => Duration::ZERO,
                    };
                    self.trouble(&error);
                    tokio::select! {
                        () = tokio::time::sleep(dice(wait).max(least)) => {}
                        () = over(&mut self.wanted) => return,
                    }
                    wait = (wait * 2).min(self.task.pace.most);
                }
            }
        }
    }

    /// From the first reading to the end of a watch.
    async fn converse(&mut self) -> End {
        let api = match self.task.access.connect().await {
            Ok(api) => api,
            Err(error) => return End::Failed(error),
        };
        let own = Object::node(&self.task.writer.node);
        let mut node = match api.get(&own, Part::Metadata).await {
            Ok(Some(node)) => node,
            Ok(None) => {
                let name = &self.task.writer.node;
                return End::Failed(Error::NotFound(format!(
                    "no Node {name}: kubectl get nodes shows the names; --node-name says which this is"
                )));
            }
            Err(error) => return End::Failed(error),
        };
        let only = Select { fields: Some(format!("metadata.name={}", self.task.writer.node)), labels: None };
        loop {
            if let Err(error) = self.settle(&api, &mut node).await {
                return End::Failed(error);
            }
            let version = node.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or("0").to_owned();
            let last = self.task.pace.watch + dice(self.task.pace.watch);
            let mut watch = match api.watch(Kind::NODE, None, &only, &version, last, Part::Metadata).await {
                Ok(watch) => watch,
                // what is forgotten is read again, without a failure
                Err(Error::Gone(_)) => return End::Again,
                Err(error) => return End::Failed(error),
            };
            match self.listen(&api, &mut node, &mut watch).await {
                Ok(true) => {}
                Ok(false) => return End::Over,
                Err(Error::Gone(_)) => return End::Again,
                Err(error) => return End::Failed(error),
            }
        }
    }

    /// Until the watch ends: true. False: nobody wants anything any more.
    async fn listen(&mut self, api: &Api, node: &mut Value, watch: &mut Watch) -> Result<bool, Error> {
        let mut sweep_at = tokio::time::Instant::now() + self.task.pace.sweep;
        loop {
            let sweep = self.task.sweeps.is_some();
            tokio::select! {
                change = watch.next() => match change? {
                    Some(Changed::Is(now)) => {
                        *node = now;
                        self.settle(api, node).await?;
                    }
                    Some(Changed::Mark(version)) => {
                        if let Some(at) = node.pointer_mut("/metadata/resourceVersion") {
                            *at = Value::from(version);
                        }
                    }
                    Some(Changed::Gone(_)) => {
                        return Err(Error::NotFound(format!("the Node {} was deleted", self.task.writer.node)));
                    }
                    None => return Ok(true),
                },
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(false);
                    }
                    sweep_at = tokio::time::Instant::now() + self.task.pace.sweep;
                    self.settle(api, node).await?;
                }
                notice = self.heard.recv(), if !self.heard.is_closed() => {
                    self.waiting.extend(notice);
                    self.post(api, node).await?;
                }
                () = tokio::time::sleep_until(sweep_at), if sweep => {
                    sweep_at = tokio::time::Instant::now() + self.task.pace.sweep;
                    self.sweep(api, node).await?;
                }
            }
        }
    }

    /// Has the Node hold what is wanted, and hears its annotation.
    async fn settle(&mut self, api: &Api, node: &mut Value) -> Result<(), Error> {
        let (cordoned, _) = cordon::of_node(node);
        self.cordon.send_if_modified(|now| {
            let differs = *now != cordoned;
            *now = cordoned;
            differs
        });
        let wanted = self.wanted.borrow_and_update().clone();
        let mut left = Vec::new();
        let mut writes = 0;
        if let Some(wanted) = &wanted {
            let written = self.task.writer.write(api, node, wanted).await?;
            left = written.left;
            if let Some(after) = written.node {
                *node = after;
                writes = 1;
            }
        }
        self.tell.send_if_modified(|state| {
            let writes = state.writes + writes;
            let next = State { settled: wanted.is_some(), absent: false, trouble: None, left, writes };
            let differs = *state != next;
            *state = next;
            differs
        });
        self.post(api, node).await
    }

    async fn post(&mut self, api: &Api, node: &Value) -> Result<(), Error> {
        let uid = node.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        while let Some(notice) = self.waiting.pop_front() {
            let Some(seen) = self.gate.pass(&notice, Instant::now()) else { continue };
            let (namespace, event) = event(&notice, &self.task.writer.node, uid, seen, &now());
            let how = How { answer: Part::Metadata, ..How::by(self.task.writer.manager) };
            match api.create(Kind::EVENT, Some(&namespace), &event, how).await {
                Ok(_) => {}
                // without the right to it, or in a namespace that goes: an Event is no reason to let labels wait
                Err(error) if !error.passes() => self.tell.send_modify(|state| state.trouble = Some(says(&error))),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where no label is wanted, those that the agent has left behind go, too.
    async fn sweep(&mut self, api: &Api, node: &mut Value) -> Result<(), Error> {
        let Some(manager) = self.task.sweeps else { return Ok(()) };
        let empty = self.wanted.borrow().as_ref().is_some_and(Labels::is_empty);
        if !empty || Standing::of(node, manager).ours.is_empty() {
            return Ok(());
        }
        let writer = Writer { manager, ..self.task.writer.clone() };
        match writer.write(api, node, &Labels::new()).await {
            Ok(written) => {
                if let Some(after) = written.node {
                    *node = after;
                    self.tell.send_modify(|state| state.writes += 1);
                }
                Ok(())
            }
            // without the right to it the labels stay, and are told
            Err(error) if !error.passes() => {
                self.tell.send_modify(|state| state.trouble = Some(says(&error)));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn trouble(&self, error: &Error) {
        self.tell.send_modify(|state| {
            state.settled = false;
            state.absent = matches!(error, Error::NoAccess(_));
            state.trouble = Some(says(error));
        });
    }
}

/// What is wrong, and what to do.
fn says(error: &Error) -> String {
    match error.fix() {
        Some(fix) => format!("{error}; {fix}"),
        None => error.to_string(),
    }
}

/// Waits until nobody wants anything any more. New wishes are read when the API is there again.
async fn over(wanted: &mut watch::Receiver<Option<Labels>>) {
    while wanted.changed().await.is_ok() {}
}

/// Between the half and the whole of it, by chance.
fn dice(most: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0u8) % 1000;
    most / 2 + most * u32::try_from(chance).unwrap_or(0) / 2000
}

/// Now, as the API writes a MicroTime.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
