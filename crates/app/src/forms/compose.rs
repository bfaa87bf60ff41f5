//! A compose file: the one service that runs Jellyfin is given the card and its video libraries. Edits are splices by the
//! places of a fresh reading, so that comments and order stay, and at last it is proved that nothing else has changed.
//!
//! Source: the Compose Specification (deploy.resources.reservations.devices, environment).

use std::ops::Range;

use formats::yamlin::tree::{self, Kind, Node};
use formats::yamlin::{self, Error};
use serde_json::Value;

use super::{CAPABILITIES, Edited, Problem, VARIABLE, enough};
use crate::observe::{is_jellyfin, official};

/// Edits after which a file would be called endless.
const EDITS: usize = 8;
const WAY: [&str; 4] = ["deploy", "resources", "reservations", "devices"];

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem { line: error.line, says: error.message }
    }
}

fn whole(says: impl Into<String>) -> Problem {
    Problem { line: 0, says: says.into() }
}

/// # Errors
/// No YAML, no service of Jellyfin's or several, a form that is not edited (flow style, aliases).
pub fn edit(text: &str) -> Result<Edited, Problem> {
    let old = value(text)?;
    let name = service(&old)?;
    let (mut new, mut words) = (text.to_owned(), Vec::new());
    for _ in 0..EDITS {
        let documents = tree::documents(&new)?;
        let root = documents.first().ok_or_else(|| whole("it is empty"))?;
        let services = child(root, "services")?.ok_or_else(|| whole("there are no services in it"))?;
        let node = child(services, &name)?.ok_or_else(|| whole(format!("there is no service {name} in it")))?;
        let now = yamlin::value(root)?;
        let Some((range, with, word)) = next(&new, node, now.pointer(&pointer(&name)).unwrap_or(&Value::Null))? else {
            break;
        };
        new.replace_range(range, &with);
        words.push(word);
    }
    let proved = value(&new).is_ok_and(|mut now| {
        let mut old = old.clone();
        let met = now.pointer(&pointer(&name)).is_some_and(|service| has_libraries(service) && has_card(service));
        strip(&mut now, &name);
        strip(&mut old, &name);
        met && now == old
    });
    if !proved {
        return Err(whole(format!(
            "the service {name} is written in a form that is not edited surely; change it by hand"
        )));
    }
    Ok(Edited { text: new, words })
}

fn value(text: &str) -> Result<Value, Problem> {
    let documents = tree::documents(text)?;
    Ok(documents.first().map(yamlin::value).transpose()?.unwrap_or_default())
}

fn pointer(name: &str) -> String {
    format!("/services/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn image(service: &Value) -> &str {
    service.get("image").and_then(Value::as_str).unwrap_or_default()
}

fn service(file: &Value) -> Result<String, Problem> {
    let all = file.get("services").and_then(Value::as_object).ok_or_else(|| whole("there are no services in it"))?;
    let ours: Vec<&String> =
        all.iter().filter(|(_, service)| is_jellyfin(image(service))).map(|(name, _)| name).collect();
    match ours.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(whole("none of its services has an image of Jellyfin")),
        several => {
            let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
            Err(whole(format!("more than one of its services is Jellyfin: {}", names.join(", "))))
        }
    }
}

/// The variable's value, however the environment is written.
fn capabilities(service: &Value) -> Option<&str> {
    match service.get("environment")? {
        Value::Object(all) => all.get(VARIABLE)?.as_str(),
        Value::Array(all) => {
            let mut lines = all.iter().filter_map(Value::as_str).filter_map(|line| line.split_once('='));
            lines.find(|(name, _)| *name == VARIABLE).map(|(_, value)| value)
        }
        _ => None,
    }
}

/// Jellyfin's own image sets the variable itself.
fn has_libraries(service: &Value) -> bool {
    capabilities(service).map_or_else(|| official(image(service)), enough)
}

fn is_card(device: &Value) -> bool {
    let capabilities = device.get("capabilities").and_then(Value::as_array).into_iter().flatten();
    device.get("driver").and_then(Value::as_str) == Some("nvidia")
        || capabilities.filter_map(Value::as_str).any(|capability| capability == "gpu")
}

fn has_card(service: &Value) -> bool {
    let list = |pointer: &str| service.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let named = |text: &str| text.starts_with("nvidia.com/") || text.starts_with("/dev/nvidia");
    service.get("gpus").is_some_and(|gpus| !gpus.is_null())
        || service.get("runtime").and_then(Value::as_str) == Some("nvidia")
        || list("/devices").filter_map(Value::as_str).any(named)
        || list("/deploy/resources/reservations/devices").any(is_card)
}

/// Takes out what an edit may have put in.
fn strip(file: &mut Value, name: &str) {
    let Some(service) = file.pointer_mut(&pointer(name)) else { return };
    match service.get_mut("environment") {
        Some(Value::Object(all)) => drop(all.shift_remove(VARIABLE)),
        Some(Value::Array(all)) => {
            all.retain(|line| line.as_str().and_then(|line| line.split('=').next()) != Some(VARIABLE));
        }
        _ => {}
    }
    if let Some(Value::Array(all)) = service.pointer_mut(&format!("/{}", WAY.join("/"))) {
        all.retain(|device| !is_card(device));
    }
    // what is left empty is as good as not there
    for depth in (0..=WAY.len()).rev() {
        let keys = if depth == 0 { ["environment"].as_slice() } else { WAY.get(..depth).unwrap_or_default() };
        let Some((last, above)) = keys.split_last() else { continue };
        let parent = above.iter().try_fold(&mut *service, |node, key| node.get_mut(*key));
        let Some(Value::Object(parent)) = parent else { continue };
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::Array(all) => all.is_empty(),
            Value::Object(all) => all.is_empty(),
            _ => false,
        };
        if parent.get(*last).is_some_and(empty) {
            parent.shift_remove(*last);
        }
    }
}

type Edit = (Range<usize>, String, String);

fn next(text: &str, service: &Node, now: &Value) -> Result<Option<Edit>, Problem> {
    if !has_libraries(now) {
        let word = format!("{VARIABLE}={CAPABILITIES}");
        let Some(environment) = child(service, "environment")? else {
            let block = vec!["environment:".into(), format!("  {VARIABLE}: {CAPABILITIES}")];
            return append(text, service, &block).map(|(at, with)| Some((at, with, word)));
        };
        let (range, with) = match &environment.kind {
            Kind::Map(_) => match child(environment, VARIABLE)? {
                Some(value) if !value.is_empty() => (value.span.clone(), CAPABILITIES.to_owned()),
                Some(value) => return Err(by_hand(value)),
                None => append(text, environment, &[format!("{VARIABLE}: {CAPABILITIES}")])?,
            },
            Kind::List(items) => {
                let ours = |item: &&Node| item.text().and_then(|line| line.split('=').next()) == Some(VARIABLE);
                match items.iter().find(ours) {
                    Some(item) => (item.span.clone(), word.clone()),
                    None => append(text, environment, std::slice::from_ref(&word))?,
                }
            }
            Kind::Scalar { .. } | Kind::Alias(_) => return Err(by_hand(environment)),
        };
        return Ok(Some((range, with, word)));
    }
    if has_card(now) {
        return Ok(None);
    }
    let (mut here, mut rest) = (service, WAY.as_slice());
    while let Some((first, deeper)) = rest.split_first() {
        let Some(next) = child(here, first)? else { break };
        (here, rest) = (next, deeper);
    }
    let indent = |depth: usize| "  ".repeat(depth);
    let mut block: Vec<String> =
        rest.iter().enumerate().map(|(depth, key)| format!("{}{key}:", indent(depth))).collect();
    let under = indent(rest.len());
    // in a list that is there the dash is set by it
    let dash = if rest.is_empty() { "" } else { "- " };
    let lead = if rest.is_empty() { String::new() } else { format!("{under}  ") };
    block.push(format!("{under}{dash}driver: nvidia"));
    block.extend(["count: all", "capabilities: [gpu]"].map(|line| format!("{lead}{line}")));
    let (range, with) = append(text, here, &block)?;
    Ok(Some((range, with, "a reservation of NVIDIA's GPUs".into())))
}

fn by_hand(node: &Node) -> Problem {
    Problem { line: node.line, says: "this is written in a form that is not edited; change it by hand".into() }
}

/// The value of a key; none where the mapping has not the key.
fn child<'a>(node: &'a Node, key: &str) -> Result<Option<&'a Node>, Problem> {
    let elsewhere = |node: &Node| Problem {
        line: node.line,
        says: "what is to be changed stands elsewhere, by an alias or a merge; write it out here first".into(),
    };
    match node.get(key) {
        Some(value) if matches!(value.kind, Kind::Alias(_)) => Err(elsewhere(value)),
        None if node.get("<<").is_some() => Err(elsewhere(node)),
        other => Ok(other),
    }
}

/// Lines behind the last entry of a mapping or list, at its depth. A list's first line gets its dash.
fn append(text: &str, node: &Node, lines: &[String]) -> Result<(Range<usize>, String), Problem> {
    let first = match &node.kind {
        Kind::Map(entries) => entries.first().map(|(key, _)| key.span.start),
        Kind::List(items) => items.first().map(|item| item.span.start),
        Kind::Scalar { .. } | Kind::Alias(_) => None,
    };
    let first = first.filter(|_| !node.flow).ok_or_else(|| by_hand(node))?;
    let line = text.get(..first).unwrap_or_default().rfind('\n').map_or(0, |feed| feed + 1);
    let front = text.get(line..first).unwrap_or_default();
    let list = matches!(node.kind, Kind::List(_));
    // an item's text stands behind its dash, and a mapping's keys may, too
    let column = if list { front.rfind('-').ok_or_else(|| by_hand(node))? } else { front.chars().count() };
    if front.chars().any(|c| c != ' ' && c != '-') {
        return Err(by_hand(node));
    }
    let feed = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let end = end_of(node);
    let at = text.get(end..).and_then(|rest| rest.find('\n')).map_or(text.len(), |next| end + next + 1);
    let mut with = String::new();
    if !text.get(..at).is_some_and(|before| before.ends_with('\n')) {
        with.push_str(feed);
    }
    for (number, line) in lines.iter().enumerate() {
        let dash = match (list, number) {
            (true, 0) => "- ",
            (true, _) => "  ",
            (false, _) => "",
        };
        with.push_str(&format!("{}{dash}{line}{feed}", " ".repeat(column)));
    }
    Ok((at..at, with))
}

/// Behind the last thing that is written in a node: what follows it, a comment or a blank line, is not the node's.
fn end_of(node: &Node) -> usize {
    match &node.kind {
        Kind::Map(entries) if !node.flow => entries
            .last()
            .map_or(node.span.end, |(key, value)| if value.is_empty() { key.span.end } else { end_of(value) }),
        Kind::List(items) if !node.flow => items.last().map_or(node.span.end, end_of),
        _ => node.span.end,
    }
}
