//! `thruway-node preflight`: where the agent would land, before anything is applied.

use kube::preflight::{Agent, FORM, Landing, preflight};
use machine::Machine as _;
use model::Seen;
use serde_json::json;

use super::cluster::{Way, runtime, says};
use super::{DONE, FOUND, Ground, manifests, say};
use crate::look::Asked;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub way: Way,
    #[command(flatten)]
    pub manifests: manifests::Args,
}

/// The machine with the API's lists; where the API cannot be asked by us, kubectl's, and why.
pub(super) fn asked<'a>(way: &Way, machine: &'a machine::Root) -> Result<(Asked<'a>, Option<String>), String> {
    if machine.kind() == machine::Kind::Simulated {
        return Ok((Asked::plain(machine), None));
    }
    let answer = runtime()?.block_on(async {
        let api = way.access().connect().await?;
        Asked::of(machine, &api).await
    });
    match answer {
        Ok(asked) => Ok((asked, None)),
        Err(error) if way.kubeconfig.is_some() => Err(says(&error)),
        Err(error) => Ok((Asked::plain(machine), Some(says(&error)))),
    }
}

pub fn run(args: &Args, ground: &Ground) -> Result<u8, String> {
    let machine = ground.machine()?;
    let (asked, trouble) = asked(&args.way, &machine)?;
    let facts = kube::observe(&asked, &gpu::observe(&asked));
    match (&facts.nodes.value, trouble) {
        (Seen::Is(_), _) => {}
        (_, Some(trouble)) => return Err(trouble),
        (Seen::Unreadable(reason), None) => return Err(format!("the nodes could not be listed: {reason}")),
        (Seen::Absent, None) => return Err("there is no way to a cluster's API here: say --kubeconfig FILE".into()),
    }
    let landings = preflight(&facts, &args.manifests.placement()?);
    if ground.global.json {
        say(&format!("{:#}\n", json!({"form": FORM, "nodes": landings})));
    } else {
        say(&page(&landings));
    }
    let none = !landings.iter().any(|landing| !matches!(landing.agent, Agent::Not { .. }));
    Ok(if none || landings.iter().any(|landing| !landing.notes.is_empty()) { FOUND } else { DONE })
}

fn page(landings: &[Landing]) -> String {
    let lands = landings.iter().filter(|landing| matches!(landing.agent, Agent::Lands { .. })).count();
    let looks = landings.iter().filter(|landing| matches!(landing.agent, Agent::Discovered)).count();
    let mut text = format!(
        "The agent lands on {lands} of {} nodes{}.\n\n",
        landings.len(),
        match looks {
            0 => String::new(),
            n => format!("; on {n} more discovery looks for a card first"),
        }
    );
    let wide = landings.iter().map(|landing| landing.node.chars().count()).max().unwrap_or(0);
    for landing in landings {
        let (mark, says) = match &landing.agent {
            Agent::Lands { label } => ("●", format!("lands, by {label}")),
            Agent::Discovered => ("○", "not marked; the discovery pod looks, and marks it where a card is".to_owned()),
            Agent::Not { why } => ("-", format!("does not land: {why}")),
        };
        text.push_str(&format!("{mark} {:wide$}  {says}\n", landing.node));
        for note in &landing.notes {
            text.push_str(&format!("  {:wide$}  ! {note}\n", ""));
        }
    }
    text
}
