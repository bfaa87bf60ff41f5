//! The agent's side towards the API, as the agent's own loop sees it: what it wishes, what it hears. All of it can be missing.

use std::time::{Duration, Instant};

use kube::plugin::health::Told as Change;

use crate::cli::warn;
use crate::cluster::{Link, Task, begin};
use crate::events::{About, Notice};
use crate::labels::Labels;

/// A driver that has stopped answering keeps its node's labels for so long: a hung call is no card that went.
const KEPT: Duration = Duration::from_secs(60);

/// Labels, cordon and Events, where there is an API.
#[derive(Default)]
pub struct Side {
    link: Option<Link>,
    /// Since when the labels cannot be told.
    unknown: Option<Instant>,
    /// GPUs cordoned by the Node's annotation.
    pub cordoned: Vec<String>,
    /// What is in the way to the API now.
    pub trouble: Vec<String>,
    told_absent: bool,
}

impl Side {
    pub fn new(task: Option<Task>) -> Side {
        Side { link: task.map(begin), ..Side::default() }
    }

    /// The labels that a look gave; none: it could not tell.
    pub fn wish(&mut self, labels: Option<Labels>) {
        let Some(link) = &self.link else { return };
        match labels {
            Some(labels) => {
                self.unknown = None;
                link.labels.send_if_modified(|now| {
                    let differs = now.as_ref() != Some(&labels);
                    *now = Some(labels);
                    differs
                });
            }
            None => drop(self.unknown.get_or_insert_with(Instant::now)),
        }
    }

    /// By the clock.
    pub fn tick(&mut self) {
        if self.unknown.is_some_and(|since| since.elapsed() >= KEPT) {
            self.wish(Some(Labels::new()));
        }
    }

    /// Waits for news of the API. Safe to be left at any point.
    pub async fn news(&mut self) {
        let Some(link) = &mut self.link else { return std::future::pending().await };
        tokio::select! {
            Ok(()) = link.cordoned.changed() => {}
            Ok(()) = link.state.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// Takes the news in: what is cordoned, what is in the way.
    pub fn hear(&mut self) {
        let Some(link) = &mut self.link else { return };
        self.cordoned = link.cordoned.borrow_and_update().iter().cloned().collect();
        let state = link.state.borrow_and_update().clone();
        if state.absent {
            // a node without a cluster's API is no trouble
            self.trouble.clear();
            if !self.told_absent {
                self.told_absent = true;
                let why = state.trouble.unwrap_or_default();
                warn(&format!("no labels, no cordon by annotation, no Events: {why}"));
            }
            return;
        }
        let left = state
            .left
            .iter()
            .map(|held| format!("the label {} is left as it is: {} holds it with another value", held.field, held.by));
        self.trouble = state.trouble.into_iter().chain(left).collect();
    }

    /// A GPU that went or came back, as an Event of the Node.
    pub fn tell(&self, change: &Change) {
        let (reason, action) =
            if change.healthy { ("GpuHealthy", "OfferGpu") } else { ("GpuUnhealthy", "WithdrawGpu") };
        let fix = if change.fix.is_empty() { String::new() } else { format!("; {}", change.fix) };
        let note = format!("{}{fix}", change.says);
        let subject = format!("{} {:?}", change.gpu, change.xid);
        self.notice(Notice { about: About::Node, subject, warning: !change.healthy, reason, action, note });
    }

    /// Where Events go, for a thread that has some.
    pub fn notices(&self) -> Option<tokio::sync::mpsc::Sender<Notice>> {
        self.link.as_ref().map(|link| link.notices.clone())
    }

    fn notice(&self, notice: Notice) {
        if let Some(link) = &self.link {
            // more than fit are no news
            let _ = link.notices.try_send(notice);
        }
    }
}
