//! `thruway-node discover`: the tiny look on every node, by which the agent's DaemonSet finds its nodes.

use std::time::Duration;

use kube::discovery::{self, Found};
use model::Seen;
use serde_json::json;
use tokio::sync::mpsc;

use super::cluster::{Way, runtime, settled};
use super::{DONE, Ground, say, warn};
use crate::cluster::{Link, Pace, Task, begin};
use crate::labels::{Labels, MANAGER, Writer};
use crate::nfd;

/// The field manager of discovery.
pub const DISCOVER: &str = "thruway-discover";
/// Its feature file: beside the agent's.
const FEATURES: &str = "/etc/kubernetes/node-feature-discovery/features.d/thruway-discover";

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub way: Way,
    /// Set the label once and end
    #[arg(long)]
    pub once: bool,
    /// Say what would be set, and change nothing
    #[arg(long, conflicts_with = "once")]
    pub dry_run: bool,
    /// Look again at least so often; the kernel's announcements are heard beside that
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub every: u64,
    /// Write node feature discovery's feature file in place of asking the API
    #[arg(long)]
    pub nfd: bool,
    /// Take the label from another field manager that holds it with another value
    #[arg(long)]
    pub take: bool,
}

pub fn run(args: &Args, ground: &Ground) -> Result<u8, String> {
    let machine = ground.machine()?;
    if args.dry_run {
        let found = look(&machine)?;
        show(&found, ground.global.json);
        return Ok(DONE);
    }
    let (woken, mut wakes) = mpsc::channel::<()>(1);
    if !args.once {
        listen(machine.path().to_owned(), woken.clone());
    }
    let every = Duration::from_secs(args.every);
    let node = if args.nfd { String::new() } else { args.way.node(ground, &machine)? };
    runtime()?.block_on(async {
        let mut link: Option<Link> = (!args.nfd).then(|| {
            let writer = Writer { node: node.clone(), manager: DISCOVER, take: args.take };
            begin(Task { access: args.way.access(), writer, sweeps: Some(MANAGER), pace: Pace::default() })
        });
        let cache = match args.nfd {
            true => Some(journal::cache::Cache::open(machine.path()).map_err(|error| error.to_string())?),
            false => None,
        };
        let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| format!("SIGTERM cannot be heard: {error}"))?;
        let mut before: Option<Labels> = None;
        let mut trouble: Option<String> = None;
        loop {
            // a node that cannot be looked at keeps the label that it has
            match look(&machine) {
                Ok(found) => {
                    let labels = discovery::labels(&found);
                    if before.as_ref() != Some(&labels) {
                        warn(&line(&found));
                        before = Some(labels.clone());
                    }
                    match (&link, &cache) {
                        (Some(link), _) => drop(link.labels.send_if_modified(|now| {
                            let differs = now.as_ref() != Some(&labels);
                            *now = Some(labels);
                            differs
                        })),
                        (None, Some(cache)) => drop(nfd::write(cache, FEATURES, &labels)?),
                        (None, None) => {}
                    }
                }
                Err(why) if args.once => return Err(why),
                Err(why) => warn(&why),
            }
            if args.once {
                if let Some(link) = &mut link {
                    let state = settled(link, Duration::from_secs(30)).await?;
                    left(&state.left);
                }
                return Ok(DONE);
            }
            tokio::select! {
                _ = stop.recv() => return Ok(DONE),
                () = tokio::time::sleep(every) => {}
                _ = wakes.recv() => tokio::time::sleep(Duration::from_millis(300)).await,
                now = troubled(&mut link) => if now != trouble {
                    warn(now.as_deref().unwrap_or("the API takes the label again"));
                    trouble = now;
                },
            }
        }
    })
}

/// What is in the way now, when that changes.
async fn troubled(link: &mut Option<Link>) -> Option<String> {
    let Some(link) = link else { return std::future::pending().await };
    match link.state.changed().await {
        Ok(()) => link.state.borrow_and_update().trouble.clone(),
        Err(_) => std::future::pending().await,
    }
}

fn left(left: &[crate::api::Held]) {
    for held in left {
        warn(&format!("{} is left as it is: {} holds it with another value; --take takes it", held.field, held.by));
    }
}

fn look(machine: &machine::Root) -> Result<Vec<Found>, String> {
    match discovery::look(machine) {
        Seen::Is(found) => Ok(found),
        Seen::Absent => Ok(Vec::new()),
        Seen::Unreadable(why) => Err(format!("this node's PCI functions cannot be looked at: {why}")),
    }
}

/// A thread that hears of PCI functions that come, go or change hands. It ends with the process.
fn listen(root: std::path::PathBuf, woken: mpsc::Sender<()>) {
    let listen = move || {
        let mut watcher = machine::events::Watcher::new(&root);
        watcher.watch(journal::ledger::DIR);
        loop {
            let pci = watcher.wait(Duration::from_secs(3600)).into_iter().any(|happened| match happened {
                machine::events::Happened::Kernel { subsystem, .. } => subsystem == "pci",
                _ => true,
            });
            if pci {
                // one that waits already is enough
                let _ = woken.try_send(());
            }
        }
    };
    if std::thread::Builder::new().name("events".into()).stack_size(256 << 10).spawn(listen).is_err() {
        warn("no thread for the kernel's announcements is to be had; looking by the clock alone");
    }
}

fn line(found: &[Found]) -> String {
    let name = |card: &Found| match &card.kept_from_pods {
        Some(why) => format!("{} [{}]: {why}", card.bdf, card.id),
        None => format!("{} [{}]", card.bdf, card.id),
    };
    let cards: Vec<String> = found.iter().map(name).collect();
    match (cards.is_empty(), discovery::labels(found).is_empty()) {
        (true, _) => format!("no NVIDIA card is in this node: no label {}", discovery::PCI_PRESENT),
        (false, true) => format!("no NVIDIA card of this node is for pods, no label: {}", cards.join("; ")),
        (false, false) => format!("{}=true: {}", discovery::PCI_PRESENT, cards.join("; ")),
    }
}

fn show(found: &[Found], as_json: bool) {
    match as_json {
        true => {
            let report = json!({"schema": 1, "cards": found, "labels": discovery::labels(found)});
            say(&format!("{report:#}\n"));
        }
        false => say(&format!("{}\n", line(found))),
    }
}
