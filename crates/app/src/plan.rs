//! Jellyfin's settings from what the card can do, and the restart that makes them count.

use std::collections::BTreeMap;

use model::{Before, Change, Content, Effective, Intent, Layer, Op, Plan, Risk, Seen, ServiceVerb, Undo};

use gpu::codecs::Codecs;

use crate::observe::{AppCard, Config, Owner};
use crate::{Facts, Settings, forms, server, settings};

pub fn plan(facts: &Facts, intent: &Intent) -> Plan {
    let mut plan = settings_plan(facts, intent);
    forms::plan(&facts.named, &mut plan);
    plan
}

fn settings_plan(facts: &Facts, intent: &Intent) -> Plan {
    if let Some(server) = &facts.server {
        return server::plan(facts, server, intent);
    }
    let wish = intent.jellyfin.as_ref();
    let mut plan = Plan::new(Layer::App, intent, based_on(facts));
    let codecs = match facts.codecs_of(wish) {
        Seen::Is(codecs) if !facts.configs.is_empty() => codecs,
        Seen::Unreadable(reason) if !facts.configs.is_empty() => {
            plan.notes.push(format!("Jellyfin's settings are left as they are: {reason}"));
            return plan;
        }
        // No card, or no settings: nothing to fit to each other.
        _ => return plan,
    };
    let wanted = settings::fitting(&codecs);
    let names = facts.names_of(wish);
    plan.intent.push(format!("inferred: Jellyfin {}", uses(&names, &wanted)));
    let mut edited = false;
    for config in &facts.configs {
        match (&config.xml, &config.digest) {
            (Seen::Is(xml), Some(digest)) => {
                let mut xml = xml.clone();
                let said = wanted.write(&mut xml);
                if said.is_empty() {
                    continue;
                }
                edited = true;
                plan.changes.push(edit(config, Before::File(digest.clone()), xml.to_bytes(), &said));
                restart(config, &mut plan);
            }
            (Seen::Unreadable(reason), _) => plan.notes.push(format!("{} is left as it is: {reason}", config.path)),
            _ => {}
        }
    }
    if edited {
        plan.notes.push(said_by(&names, &codecs));
        if facts.cards.len() > 1 && wish.is_none_or(|wish| wish.card.is_none() && wish.chip.is_none()) {
            plan.notes.push("Jellyfin uses CUDA's first device: the settings are what all cards here can do".into());
        }
    }
    plan
}

/// "uses the GeForce GT 1030 and decodes with it and encodes on the CPU"
pub(crate) fn uses(names: &str, wanted: &Settings) -> String {
    let encoder =
        if wanted.hardware_encoding { "decodes and encodes with it" } else { "decodes with it and encodes on the CPU" };
    format!("uses the {names} and {encoder}")
}

/// Who said what the card can do.
pub(crate) fn said_by(names: &str, codecs: &Codecs) -> String {
    let source = &codecs.source;
    match codecs.guessed() {
        true => format!("what the {names} can do is from a {source}; a cut card of the same chip may do less"),
        false => format!("what the {names} can do is {source}"),
    }
}

/// The checks that ask for these changes.
pub(crate) fn because(said: &[String]) -> Vec<String> {
    let mut because = vec![];
    let mut ask = |id: &str, keys: &[&str]| {
        if said.iter().any(|line| keys.iter().any(|key| line.starts_with(key))) {
            because.push(id.to_owned());
        }
    };
    ask("app/hardware-off", &["HardwareAccelerationType"]);
    ask("app/encodes-without-nvenc", &["EnableHardwareEncoding", "AllowHevcEncoding", "AllowAv1Encoding"]);
    ask("app/decoder-missing", &["HardwareDecodingCodecs", "EnableDecoding"]);
    ask("app/decoder-unsupported", &["HardwareDecodingCodecs", "EnableDecoding"]);
    ask("app/tone-mapping-off", &["EnableTonemapping"]);
    ask("app/old-decoder-path", &["EnableEnhanced"]);
    because
}

fn edit(config: &Config, expects: Before, bytes: Vec<u8>, said: &[String]) -> Change {
    Change {
        layer: Layer::App,
        title: format!("fit Jellyfin's settings to the card: {}", said.join("; ")),
        op: Op::WriteFile { path: config.path.clone(), content: Content::from_bytes(&bytes), mode: 0o644 },
        expects,
        because: because(said),
        risk: Vec::new(),
        effective: match config.owner {
            Owner::Unit(_) => Effective::Now,
            Owner::Container(..) | Owner::Deployment(_) => Effective::NextContainer,
        },
        undo: Undo::Exact,
    }
}

/// Jellyfin reads the file once, at its start.
fn restart(config: &Config, plan: &mut Plan) {
    let note = match &config.owner {
        Owner::Unit(Some(unit)) => {
            let change = Change {
                layer: Layer::App,
                title: format!("restart {unit}, which reads its settings at its start"),
                op: Op::Service { unit: unit.clone(), verb: ServiceVerb::Restart },
                expects: Before::Nothing,
                because: vec!["app/hardware-off".into()],
                risk: vec![Risk::Outage("films that play now stop for some seconds".into())],
                effective: Effective::Now,
                undo: Undo::Inverse,
            };
            plan.changes.push(change);
            return;
        }
        Owner::Unit(None) => format!("restart Jellyfin: it reads {} at its start", config.path),
        Owner::Container(engine, name) => {
            format!("restart Jellyfin's container to read the settings: {engine} restart {name}")
        }
        Owner::Deployment(name) => {
            let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
            format!(
                "restart Jellyfin's pod to read the settings: kubectl -n {namespace} rollout restart deployment/{name}"
            )
        }
    };
    plan.notes.push(format!("{note}; films that play then stop for some seconds"));
}

/// The cards, and who says what they can do.
pub(crate) fn card_facts(facts: &Facts) -> BTreeMap<String, String> {
    let one = |card: &AppCard| {
        let chip = card.codecs.as_ref().map_or("unknown chip".to_owned(), |codecs| match codecs.guessed() {
            true => codecs.chip.clone(),
            false => format!("{}, asked", codecs.chip),
        });
        (format!("app card {}", card.bdf), format!("{} ({chip})", card.name))
    };
    facts.cards.iter().map(one).collect()
}

fn based_on(facts: &Facts) -> BTreeMap<String, String> {
    let mut named = card_facts(facts);
    for config in &facts.configs {
        let digest = config.digest.as_ref().map(|digest| digest.0.clone()).unwrap_or_default();
        named.insert(format!("app {}", config.path), digest);
    }
    named
}
