//! The page's data for others: versioned JSON.

use model::Seen;
use serde::Serialize;
use serde_json::{Value, json};

use super::chain::Chain;
use super::keep::{History, PLOTS};
use super::picture::Picture;
use super::whose::{command, holder, owner};

/// The version of every form here.
const SCHEMA: u32 = 1;

fn told<T: Clone + Serialize>(seen: &Seen<T>) -> Value {
    seen.get().map_or(Value::Null, |value| json!(value))
}

/// Cards, owners, processes. `null`: the card or driver does not tell. Units stand in the names.
pub fn now(picture: &Picture<'_>) -> String {
    let sample = picture.sample;
    let cards: Vec<Value> = picture
        .cards
        .iter()
        .map(|card| {
            let g = &card.now.gpu;
            let processes = card.now.processes.get().map(|list| {
                list.iter()
                    .map(|one| {
                        let whose = owner(one);
                        json!({
                            "pid": one.process.pid, "command": command(one), "kind": whose.kind, "owner": whose.owner,
                            "namespace": whose.namespace, "pod": whose.pod, "container": whose.container, "app": whose.app,
                            "memory_bytes": told(&one.process.memory), "sm_percent": told(&one.process.sm),
                            "encoder_percent": told(&one.process.encoder), "decoder_percent": told(&one.process.decoder),
                        })
                    })
                    .collect::<Vec<_>>()
            });
            json!({
                "key": card.key(), "gpu": g.index, "uuid": told(&g.uuid), "bdf": card.bdf, "name": told(&g.name),
                "sm_percent": told(&g.utilization_gpu), "encoder_percent": told(&g.utilization_encoder),
                "decoder_percent": told(&g.utilization_decoder), "memory_used_bytes": told(&g.memory_used),
                "memory_size_bytes": told(&g.memory_total), "power_milliwatts": told(&g.power_draw),
                "power_limit_milliwatts": told(&g.power_limit), "temperature_celsius": told(&g.temperature),
                "promise": card.now.bdf.and_then(|bdf| picture.chain.promised(bdf)),
                "owners": card.shares, "processes": processes,
            })
        })
        .collect();
    let away = sample.away.iter().map(|away| {
        let (kind, names) = holder(&away.holder);
        json!({
            "bdf": away.bdf.to_string(), "name": away.name, "driver": told(&away.driver), "kind": kind, "holder": names,
            "promise": picture.chain.promised(away.bdf),
        })
    });
    let all = json!({
        "schema": SCHEMA, "time": picture.time, "up": picture.up, "machine": picture.chain.machine,
        "simulated": sample.simulated, "blind": sample.blind, "driver": told(&sample.driver),
        "why": sample.driver.unreadable().map(ToString::to_string),
        "cards": cards, "away": away.collect::<Vec<_>>(), "xids": picture.xids,
    });
    all.to_string() + "\n"
}

/// Each card's last points, oldest first, as columns beside the times. `null`: not known then.
pub fn history(history: &History) -> String {
    let cards: serde_json::Map<String, Value> = history
        .cards
        .iter()
        .map(|(key, points)| {
            let column = |n: usize| -> Value {
                points.iter().map(|point| point.get(n).copied().filter(|value| value.is_finite())).collect()
            };
            let columns = PLOTS.iter().enumerate().map(|(n, name)| ((*name).to_owned(), column(n)));
            (key.clone(), Value::Object(columns.collect()))
        })
        .collect();
    json!({ "schema": SCHEMA, "times": history.times, "cards": cards }).to_string() + "\n"
}

/// The way as the doctor saw it.
pub fn findings(chain: &Chain) -> String {
    json!({ "schema": SCHEMA, "chain": chain }).to_string() + "\n"
}
