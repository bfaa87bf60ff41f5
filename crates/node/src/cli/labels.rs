//! `thruway-node labels`: what this node should be labelled with.

use std::time::Duration;

use kube::plugin::Config;
use machine::MachineExt as _;
use model::Seen;
use serde_json::json;

use super::cluster::{Way, runtime, settled};
use super::{DONE, FOUND, Ground, say, warn};
use crate::cluster::{Pace, Task, begin};
use crate::labels::{Labels, MANAGER, Writer, wanted};
use crate::nfd;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub way: Way,
    /// NVIDIA's configuration file of the device plugin (YAML, version v1): MIG strategy, sharing, excluded cards
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<String>,
    /// Set them on this node, once, and take off those of ours that are not among them
    #[arg(long)]
    pub apply: bool,
    /// Write them into node feature discovery's feature file, once
    #[arg(long, conflicts_with = "apply")]
    pub nfd: bool,
    /// With --apply: take labels that another field manager holds with another value
    #[arg(long, requires = "apply")]
    pub take: bool,
}

pub fn run(args: &Args, ground: &Ground) -> Result<u8, String> {
    let file = args.config_file.as_deref().or_else(|| ground.var("CONFIG_FILE"));
    let config = match file {
        None => Config::default(),
        Some(path) => {
            let own = machine::Root::live().map_err(|error| format!("cannot open /: {error}"))?;
            match own.text(path) {
                Seen::Is(text) => Config::parse(&text).map_err(|bad| format!("{path}: {bad}"))?,
                Seen::Absent => return Err(format!("{path} is not there; --config-file takes a file of this machine")),
                Seen::Unreadable(why) => return Err(format!("cannot read {path}: {why}")),
            }
        }
    };
    let config = config.with(&[], &|name| ground.var(name).map(str::to_owned)).map_err(|bad| bad.to_string())?;
    let machine = ground.machine_with(&config.driver_root)?;
    let inventory = gpu::observe_all(&machine);
    let found = kube::plugin::found::look(&machine, &inventory);
    let labels = wanted(&machine, &inventory, &found, &config);
    let why = labels.is_empty().then(|| match inventory.nvidia().next() {
        None => "no NVIDIA card is in this node".to_owned(),
        Some(_) if !found.nvml => match &inventory.nvml {
            Seen::Unreadable(why) => format!("the driver does not answer: {why}"),
            _ => "the driver's library is not there, so no driver is proved to work".to_owned(),
        },
        Some(_) => "no card of this node is for pods".to_owned(),
    });
    if args.nfd {
        let cache = journal::cache::Cache::open(machine.path()).map_err(|error| error.to_string())?;
        let path = config.labels.output_file.as_deref().unwrap_or(nfd::FILE);
        let changed = nfd::write(&cache, path, &labels)?;
        warn(&format!("{path}: {}", if changed { "written" } else { "as it was" }));
    } else if args.apply {
        let node = args.way.node(ground, &machine)?;
        let state = runtime()?.block_on(async {
            let writer = Writer { node, manager: MANAGER, take: args.take };
            let mut link = begin(Task { access: args.way.access(), writer, sweeps: None, pace: Pace::default() });
            link.labels.send_replace(Some(labels.clone()));
            settled(&mut link, Duration::from_secs(30)).await
        })?;
        for held in &state.left {
            warn(&format!("{} is left as it is: {} holds it with another value; --take takes it", held.field, held.by));
        }
        warn(if state.writes > 0 { "set" } else { "all is as it should be; nothing was sent" });
    }
    show(&labels, why.as_deref(), ground.global.json);
    // a card without a label is a finding, a node without a card is none
    Ok(if labels.is_empty() && inventory.nvidia().next().is_some() { FOUND } else { DONE })
}

fn show(labels: &Labels, why: Option<&str>, as_json: bool) {
    if as_json {
        say(&format!("{:#}\n", json!({"schema": 1, "labels": labels, "none_because": why})));
        return;
    }
    match why {
        Some(why) => say(&format!("no labels: {why}\n")),
        None => say(&nfd::text(labels)),
    }
}
