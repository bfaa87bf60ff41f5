//! `thruway-node cordon` and `uncordon`: by the Node's annotation, or by the node's own file.

use journal::cache::Cache;
use machine::MachineExt as _;
use model::Seen;
use serde_json::{Value, json};

use super::cluster::{Way, runtime, says};
use super::{DONE, Ground, say};
use crate::api::{Api, Error, How, Object, Part};
use crate::cordon::{ANNOTATION, Cordoned, FILE, changed, named, parse};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// GPUs by UUID (GPU-…, as `nvidia-smi -L` prints it) or address (01:00.0)
    #[arg(value_name = "GPU", required = true)]
    pub gpus: Vec<String>,
    /// By this node's own file, not by the cluster's API: for a node whose API is not reached
    #[arg(long, conflicts_with_all = ["kubeconfig", "context", "node_name"])]
    pub local: bool,
    #[command(flatten)]
    pub way: Way,
}

pub fn run(args: &Args, ground: &Ground) -> Result<u8, String> {
    change(args, ground, true)
}

pub fn change(args: &Args, ground: &Ground, cordon: bool) -> Result<u8, String> {
    let mut gpus = Vec::new();
    for word in &args.gpus {
        let name = named(word).ok_or_else(|| {
            format!(
                "{word} is neither a GPU's UUID (GPU-…) nor its address (01:00.0); `nvidia-smi -L` prints the UUIDs"
            )
        })?;
        gpus.push(name);
    }
    let machine = ground.machine()?;
    let (at, now) = if args.local {
        let cache = Cache::open(machine.path()).map_err(|error| error.to_string())?;
        let text = match machine.text(FILE) {
            Seen::Is(text) => text,
            Seen::Absent => String::new(),
            Seen::Unreadable(why) => return Err(format!("{FILE} cannot be read: {why}")),
        };
        let all = changed(&text, &gpus, cordon);
        if all != parse(&text).0 {
            let lines: String = all.iter().map(|gpu| format!("{gpu}\n")).collect();
            match all.is_empty() {
                true => drop(cache.remove(FILE).map_err(|error| error.to_string())?),
                false => drop(cache.put(FILE, lines.as_bytes()).map_err(|error| error.to_string())?),
            }
        }
        (FILE.to_owned(), all)
    } else {
        let node = args.way.node(ground, &machine)?;
        let all = runtime()?.block_on(async {
            let api = args.way.access().connect().await.map_err(|error| says(&error))?;
            annotate(&api, &node, &gpus, cordon).await.map_err(|error| says(&error))
        })?;
        (format!("node {node}"), all)
    };
    let back = if cordon { "uncordon" } else { "cordon" };
    match ground.global.json {
        true => say(&format!("{:#}\n", json!({"schema": 1, "at": at, "cordoned": now}))),
        false => {
            let all: Vec<&str> = now.iter().map(String::as_str).collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            let local = if args.local { " --local" } else { "" };
            say(&format!("{at}: cordoned GPUs: {all}\n  back: thruway node {back}{local} {}\n", gpus.join(" ")));
        }
    }
    Ok(DONE)
}

/// Changes the annotation; another who changed the Node between reading and writing has it read again.
///
/// # Errors
/// [`Error`].
pub async fn annotate(api: &Api, node: &str, gpus: &[String], cordon: bool) -> Result<Cordoned, Error> {
    let object = Object::node(node);
    let mut tries = 0;
    loop {
        let missing = || Error::NotFound(format!("no Node {node}; kubectl get nodes shows the names"));
        let there = api.get(&object, Part::Metadata).await?.ok_or_else(missing)?;
        let annotations = there.pointer("/metadata/annotations");
        let text = annotations.and_then(|all| all.get(ANNOTATION)).and_then(Value::as_str).unwrap_or_default();
        let all = changed(text, gpus, cordon);
        if all == parse(text).0 {
            return Ok(all);
        }
        let value = match all.is_empty() {
            true => Value::Null,
            false => Value::from(all.iter().map(String::as_str).collect::<Vec<_>>().join(",")),
        };
        let version = there.pointer("/metadata/resourceVersion").cloned().unwrap_or(Value::Null);
        let patch = json!({"metadata": {"resourceVersion": version, "annotations": {ANNOTATION: value}}});
        let how = How { answer: Part::Metadata, ..How::by("thruway-cordon") };
        match api.merge(&object, &patch, how).await {
            Ok(_) => return Ok(all),
            Err(Error::Conflict(_)) if tries < 5 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
