//! Facts in, labels out.
//!
//! Keys and values are gpu-feature-discovery's, so that selectors that were written for it go on working. Three things are
//! better: a node with several models has the labels of the one that it has most of, always the same, and beside them
//! `thruway.dev/gpu-model.NAME` with a count for each; no value is longer than the API takes; and cards that are not for pods
//! (a VM's, an excluded one) are not counted. `nvidia.com/gpu.present` is set with the others: after NVML answered.

use std::collections::BTreeMap;

use super::{Card, Facts, PREFIX, Part};
use crate::plugin::offer::GPU;
use crate::plugin::{Config, MigStrategy};
use crate::topology;

/// The longest value, and the longest name of a key behind its prefix. Source: kubernetes.io, Labels and Selectors.
const LONGEST: usize = 63;

/// How many there are of each model, where there is more than one.
const MODEL: &str = "gpu-model.";

type Labels = BTreeMap<String, String>;

/// All labels of a node. Empty where no driver works or no card is for pods.
pub fn labels(facts: &Facts, config: &Config) -> Labels {
    let (Some(driver), false) = (&facts.driver, facts.cards.is_empty()) else { return Labels::new() };
    let mut all = Labels::new();
    let mut set = |key: &str, value: String| drop(all.insert(format!("{PREFIX}{key}"), value));
    set("gpu.present", "true".into());
    if let Some(seconds) = facts.timestamp.filter(|_| !config.labels.no_timestamp) {
        set("gfd.timestamp", seconds.to_string());
    }
    versions(driver, facts.cuda, &mut set);
    let machine = facts.machine.as_deref().map(|name| fit(&plain(name), "")).filter(|name| !name.is_empty());
    set("gpu.machine", machine.unwrap_or_else(|| "unknown".into()));
    set("mig.capable", facts.cards.iter().any(|card| card.mig_capable).to_string());
    // MPS is not offered
    set("mps.capable", "false".into());
    set("gpu.mode", mode(&facts.cards).into());
    if let Some((cluster, clique)) = fabric(&facts.cards) {
        set("gpu.clique", fit(&plain(&format!("{cluster}.{clique}")), ""));
    }
    if let Some(vgpu) = &facts.vgpu {
        set("vgpu.present", "true".into());
        set("vgpu.host-driver-version", fit(&plain(&vgpu.driver), ""));
        set("vgpu.host-driver-branch", fit(&plain(&vgpu.branch), ""));
    }
    whole(facts, config, &mut all);
    match config.mig {
        MigStrategy::None => {}
        MigStrategy::Single => {
            all.insert(format!("{PREFIX}mig.strategy"), "single".into());
            single(facts, config, &mut all);
        }
        MigStrategy::Mixed => {
            all.insert(format!("{PREFIX}mig.strategy"), "mixed".into());
            mixed(facts, config, &mut all);
        }
    }
    // a resource with a long name would make a key that no API takes
    all.retain(|key, _| key.split_once('/').is_some_and(|(_, name)| name.len() <= LONGEST));
    all
}

fn versions(driver: &str, cuda: Option<(u32, u32)>, set: &mut dyn FnMut(&str, String)) {
    let parts: Vec<&str> = driver.split('.').collect();
    // of another form nothing is taken apart
    if let [major, minor] | [major, minor, _] = parts.as_slice() {
        let revision = parts.get(2).copied().unwrap_or_default();
        let values = [("major", *major), ("minor", *minor), ("rev", revision)];
        for (key, value) in values {
            set(&format!("cuda.driver.{key}"), value.to_owned());
            let key = if key == "rev" { "revision" } else { key };
            set(&format!("cuda.driver-version.{key}"), value.to_owned());
        }
        set("cuda.driver-version.full", fit(&plain(driver), ""));
    }
    if let Some((major, minor)) = cuda {
        for name in ["cuda.runtime", "cuda.runtime-version"] {
            set(&format!("{name}.major"), major.to_string());
            set(&format!("{name}.minor"), minor.to_string());
        }
        set("cuda.runtime-version.full", format!("{major}.{minor}"));
    }
}

/// "compute" or "graphics", where all cards are the same.
fn mode(cards: &[Card]) -> &'static str {
    let first = cards.first().and_then(|card| card.class);
    match first.filter(|_| cards.iter().all(|card| card.class == first)) {
        Some(0x0300) => "graphics",
        Some(0x0302) => "compute",
        _ => "unknown",
    }
}

/// The fabric of all cards that are in one, where it is the same.
fn fabric(cards: &[Card]) -> Option<&(String, u32)> {
    let mut attached = cards.iter().filter_map(|card| card.fabric.as_ref());
    let first = attached.next()?;
    attached.all(|other| other == first).then_some(first)
}

/// Labels of whole cards: of the model there is most of, and of each resource with a name of its own.
fn whole(facts: &Facts, config: &Config, all: &mut Labels) {
    let mut models: Vec<(&str, Vec<&Card>)> = Vec::new();
    for card in &facts.cards {
        match models.iter_mut().find(|(product, _)| *product == card.product) {
            Some((_, cards)) => cards.push(card),
            None => models.push((&card.product, vec![card])),
        }
    }
    if models.len() > 1 {
        for (product, cards) in &models {
            let key = format!("{}{MODEL}{}", topology::PREFIX, cut(&plain(product), LONGEST - MODEL.len()));
            // two models whose names begin alike for so long are counted together
            let count = all.get(&key).and_then(|count| count.parse::<usize>().ok()).unwrap_or(0) + cards.len();
            all.insert(key, count.to_string());
        }
    }
    // cards that can be given whole before cut ones: theirs are the devices of the resource
    let rank = |cards: &[&Card]| (cards.len(), cards.iter().any(|card| !card.mig));
    let mut most: Option<&(&str, Vec<&Card>)> = None;
    for model in &models {
        if most.is_none_or(|most| rank(&model.1) > rank(&most.1)) {
            most = Some(model);
        }
    }
    if let Some((product, cards)) = most {
        of_model(GPU, product, cards, config, all);
    }
    for (product, cards) in &models {
        let resource = config.card_resource(product);
        // the first model of a resource that several share
        if resource != GPU && !all.contains_key(&format!("{resource}.product")) {
            let uncut: Vec<&Card> = cards.iter().copied().filter(|card| !card.mig).collect();
            if !uncut.is_empty() {
                of_model(resource, product, &uncut, config, all);
            }
        }
    }
}

fn of_model(resource: &str, product: &str, cards: &[&Card], config: &Config, all: &mut Labels) {
    // cut cards count, and are not shared whole
    let shared = cards.iter().any(|card| !card.mig).then_some(config);
    base(resource, &[product], cards.len(), shared, all);
    let mut set = |key: &str, value: String| drop(all.insert(format!("{resource}.{key}"), value));
    if let Some(memory) = cards.iter().filter_map(|card| card.memory).min() {
        set("memory", memory.to_string());
    }
    if let Some((major, minor)) = cards.first().and_then(|card| card.compute).filter(|(major, _)| *major > 0) {
        set("family", family(major, minor).into());
        set("compute.major", major.to_string());
        set("compute.minor", minor.to_string());
    }
}

/// Product, count, replicas and how it is shared; without a configuration sharing is not for it.
fn base(resource: &str, product: &[&str], count: usize, config: Option<&Config>, all: &mut Labels) {
    let shared = config.and_then(|config| config.replicas(resource));
    let replicas = match (config, shared) {
        (None, _) => 0,
        (_, Some((replicas, _))) => replicas,
        (_, None) => 1,
    };
    let suffix = if shared.is_some_and(|(_, keeps)| keeps) { "-SHARED" } else { "" };
    let strategy = if shared.is_some() { "time-slicing" } else { "none" };
    let (model, parts) = product.split_first().map_or(("", [].as_slice()), |(model, parts)| (*model, parts));
    let tail: String = parts.iter().map(|part| format!("-{}", plain(part))).chain([suffix.to_owned()]).collect();
    let name = fit(&plain(model), &tail);
    let mut set = |key: &str, value: String| drop(all.insert(format!("{resource}.{key}"), value));
    if !name.is_empty() {
        set("product", name);
    }
    set("count", count.to_string());
    set("replicas", replicas.to_string());
    set("sharing-strategy", strategy.into());
}

/// The strategy `single`: instances in place of cards, or what is invalid about it.
fn single(facts: &Facts, config: &Config, all: &mut Labels) {
    let Some(cut) = facts.cards.iter().find(|card| card.mig) else { return };
    let first = facts.cards.iter().flat_map(|card| &card.parts).next();
    let alike = facts.cards.iter().all(|card| {
        card.mig
            && !card.parts.is_empty()
            && card.parts.iter().all(|part| first.is_some_and(|one| one.profile == part.profile))
    });
    match first.filter(|_| alike) {
        Some(part) => {
            let count = facts.cards.iter().map(|card| card.parts.len()).sum();
            instances(GPU, cut, part, count, config, all);
        }
        None => {
            let invalid = [
                ("product", fit(&plain(&cut.product), "-MIG-INVALID")),
                ("count", "0".into()),
                ("replicas", "0".into()),
                ("sharing-strategy", String::new()),
                ("memory", "0".into()),
            ];
            all.extend(invalid.map(|(key, value)| (format!("{GPU}.{key}"), value)));
        }
    }
}

/// The strategy `mixed`: a set of labels for each profile.
fn mixed(facts: &Facts, config: &Config, all: &mut Labels) {
    let mut found: Vec<(String, &Card, &Part, usize)> = Vec::new();
    for card in &facts.cards {
        for part in &card.parts {
            let Ok(resource) = config.instance_resource(&part.profile) else { continue };
            match found.iter_mut().find(|(name, ..)| *name == resource) {
                Some((.., count)) => *count += 1,
                None => found.push((resource, card, part, 1)),
            }
        }
    }
    for (resource, card, part, count) in found {
        instances(&resource, card, part, count, config, all);
    }
}

fn instances(resource: &str, card: &Card, part: &Part, count: usize, config: &Config, all: &mut Labels) {
    base(resource, &[&card.product, "MIG", &part.profile], count, Some(config), all);
    let numbers = [
        ("memory", part.memory),
        ("multiprocessors", part.multiprocessors.map(u64::from)),
        ("slices.gi", part.slices_gi.map(u64::from)),
        ("slices.ci", part.slices_ci.map(u64::from)),
        ("engines.copy", part.copy.map(u64::from)),
        ("engines.decoder", part.decoder.map(u64::from)),
        ("engines.encoder", part.encoder.map(u64::from)),
        ("engines.jpeg", part.jpeg.map(u64::from)),
        ("engines.ofa", part.ofa.map(u64::from)),
    ];
    for (key, number) in numbers {
        match number {
            Some(number) => drop(all.insert(format!("{resource}.{key}"), number.to_string())),
            // that of the whole card would be untrue
            None => drop(all.remove(&format!("{resource}.{key}"))),
        }
    }
}

fn family(major: u32, minor: u32) -> &'static str {
    match (major, minor) {
        (1, _) => "tesla",
        (2, _) => "fermi",
        (3, _) => "kepler",
        (5, _) => "maxwell",
        (6, _) => "pascal",
        (7, ..5) => "volta",
        (7, _) => "turing",
        (8, ..9) => "ampere",
        (8, _) => "ada-lovelace",
        (9, _) => "hopper",
        (10 | 12, _) => "blackwell",
        (13, _) => "rubin",
        _ => "undefined",
    }
}

/// What a value may have of a name: its letters, digits, `-`, `_` and `.`, blanks written as one `-`.
fn plain(text: &str) -> String {
    let kept: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || c.is_whitespace())
        .collect();
    kept.split_whitespace().collect::<Vec<_>>().join("-")
}

/// At most so long, with a letter or digit at both ends.
fn cut(text: &str, most: usize) -> &str {
    let edge = |c: char| !c.is_ascii_alphanumeric();
    let text = text.trim_start_matches(edge);
    text.get(..most.min(text.len())).unwrap_or_default().trim_end_matches(edge)
}

/// A value that the API takes: what says more (the end) is kept whole, the name before it is cut.
fn fit(name: &str, end: &str) -> String {
    let name = cut(name, LONGEST.saturating_sub(end.len()));
    cut(&format!("{name}{end}"), LONGEST).to_owned()
}

/// Keys that stand alone behind the prefix.
const ALONE: &[&str] = &[
    "gfd.timestamp",
    "cuda.driver.major",
    "cuda.driver.minor",
    "cuda.driver.rev",
    "cuda.driver-version.major",
    "cuda.driver-version.minor",
    "cuda.driver-version.revision",
    "cuda.driver-version.full",
    "cuda.runtime.major",
    "cuda.runtime.minor",
    "cuda.runtime-version.major",
    "cuda.runtime-version.minor",
    "cuda.runtime-version.full",
    "gpu.present",
    "gpu.machine",
    "gpu.mode",
    "gpu.clique",
    "mig.capable",
    "mig.strategy",
    "mps.capable",
    "vgpu.present",
    "vgpu.host-driver-version",
    "vgpu.host-driver-branch",
];

/// What stands behind a resource's name.
const OF_A_RESOURCE: &[&str] = &[
    "product",
    "count",
    "replicas",
    "sharing-strategy",
    "memory",
    "family",
    "compute.major",
    "compute.minor",
    "multiprocessors",
    "slices.gi",
    "slices.ci",
    "engines.copy",
    "engines.decoder",
    "engines.encoder",
    "engines.jpeg",
    "engines.ofa",
];

/// True for a label that [`labels`] can have written, by this configuration or another.
pub fn is_ours(key: &str) -> bool {
    if let Some(name) = key.strip_prefix(topology::PREFIX) {
        return name.starts_with(MODEL);
    }
    let Some(name) = key.strip_prefix(PREFIX) else { return false };
    let of = |end: &&str| {
        name.strip_suffix(*end).and_then(|resource| resource.strip_suffix('.')).is_some_and(|it| !it.is_empty())
    };
    ALONE.contains(&name) || OF_A_RESOURCE.iter().any(|end| of(&end))
}
