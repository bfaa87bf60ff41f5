//! A Jellyfin server by its API: the same settings, another way to them.

use std::collections::BTreeMap;

use gpu::Inventory;
use machine::Machine;
use model::{
    Before, Change, Digest, Effective, Evidence, Intent, JellyfinOp, Layer, Op, Outcome, OutcomeState, Plan, Seen,
    Source, Undo,
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::observe::cards;
use crate::plan::{because, card_facts, said_by, uses};
use crate::{Facts, settings};

/// One server as it was when it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// "http://192.0.2.7:8096".
    pub url: String,
    /// "10.10.3".
    pub version: String,
    /// /System/Configuration/encoding, in the server's order.
    pub options: Map<String, Value>,
    /// Of the same.
    pub digest: Digest,
}

impl Server {
    pub fn title(&self) -> String {
        format!("Jellyfin {} at {}", self.version, self.url)
    }
}

/// The facts of a server by its API, and of this machine nothing but its cards. `ask`: the cards themselves.
pub fn observe(machine: &dyn Machine, gpus: &Inventory, server: Server, ask: bool) -> Facts {
    let cards = cards(machine, gpus, ask);
    let looked = gpus.looked.clone();
    Facts {
        looked,
        configs: Vec::new(),
        runs: Vec::new(),
        cards,
        nodes: Vec::new(),
        traces: Vec::new(),
        server: Some(server),
        named: Vec::new(),
    }
}

pub(crate) fn plan(facts: &Facts, server: &Server, intent: &Intent) -> Plan {
    let wish = intent.jellyfin.as_ref();
    let mut based_on: BTreeMap<String, String> = card_facts(facts);
    based_on.insert(format!("app Jellyfin at {}", server.url), format!("{} {}", server.version, server.digest.0));
    let mut plan = Plan::new(Layer::App, intent, based_on);
    let codecs = match facts.codecs_of(wish) {
        Seen::Is(codecs) => codecs,
        Seen::Unreadable(reason) => {
            plan.notes.push(format!("{} is left as it is: {reason}", server.title()));
            return plan;
        }
        Seen::Absent => {
            plan.notes.push(format!(
                "{} is left as it is: there is no NVIDIA card here that it could use. Is its card in another machine, \
                 name the chip (--codecs-from GP108), or a capture of that machine (--from FILE)",
                server.title()
            ));
            return plan;
        }
    };
    let wanted = settings::fitting(&codecs);
    let names = facts.names_of(wish);
    plan.intent.push(format!("{}: {}", server.title(), uses(&names, &wanted)));
    let mut options = server.options.clone();
    let said = wanted.write(&mut options);
    if said.is_empty() {
        return plan;
    }
    let differ = |(key, value): &(&String, &Value)| server.options.get(*key) != Some(*value);
    let set: Map<String, Value> =
        options.iter().filter(differ).map(|(key, value)| (key.clone(), value.clone())).collect();
    let before = server.options.iter().filter(|(key, _)| set.contains_key(*key));
    let before = before.map(|(key, value)| (key.clone(), value.clone())).collect();
    plan.changes.push(Change {
        layer: Layer::App,
        title: format!("fit the settings of {} to the card: {}", server.title(), said.join("; ")),
        op: Op::Jellyfin(JellyfinOp { url: server.url.clone(), set, before, digest: server.digest.clone() }),
        expects: Before::Nothing,
        because: because(&said),
        risk: Vec::new(),
        effective: Effective::Now,
        undo: Undo::Inverse,
    });
    plan.notes.push(said_by(&names, &codecs));
    plan.notes.push("it counts from the next transcode on; films that play now go on as they are".into());
    plan
}

pub(crate) fn verify(facts: &Facts, server: &Server, intent: &Intent) -> Vec<Outcome> {
    let wish = intent.jellyfin.as_ref();
    let Seen::Is(codecs) = facts.codecs_of(wish) else { return Vec::new() };
    let differ = settings::fitting(&codecs).write(&mut server.options.clone());
    let state = match differ.is_empty() {
        true => OutcomeState::Held,
        false => OutcomeState::Failed("some settings are not what the card can do".into()),
    };
    let source = Source::Answer(format!("GET {}/System/Configuration/encoding", server.url));
    let values = if differ.is_empty() { vec!["nothing to change".to_owned()] } else { differ };
    let evidence = values.into_iter().map(|value| Evidence { source: source.clone(), value }).collect();
    vec![Outcome {
        says: format!("the settings of {} fit the {}", server.title(), facts.names_of(wish)),
        state,
        evidence,
    }]
}
