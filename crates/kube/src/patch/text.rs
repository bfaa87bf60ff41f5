//! The same to a file: one small edit at a time, each by the places of a fresh reading, and at last the proof.

use std::ops::Range;

use formats::yamlin::tree::{self, Kind, Node};
use formats::yamlin::{self, Error};
use serde_json::Value;

use super::{RESOURCE, TERMS, Wish, pod, sends, takes, target};
use crate::objects::is_gpu_label;

/// A file's new text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patched {
    pub text: String,
    /// `Deployment media/jellyfin`.
    pub workload: String,
    /// What was done; empty where nothing was to do.
    pub words: Vec<String>,
    /// The unified diff.
    pub diff: String,
}

/// Why a file is not edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 where the file as a whole is meant.
    pub line: usize,
    pub says: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => f.write_str(&self.says),
            line => write!(f, "line {line}: {}", self.says),
        }
    }
}

impl std::error::Error for Problem {}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem { line: error.line, says: error.message }
    }
}

fn whole(says: impl Into<String>) -> Problem {
    Problem { line: 0, says: says.into() }
}

/// Edits after which a file would be called endless.
const EDITS: usize = 200;

/// Where a kind keeps its pod's specification.
fn way(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => Some(&["spec", "template", "spec"]),
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        "Pod" => Some(&["spec"]),
        _ => None,
    }
}

/// A workload of the file: which document, which item of a List.
struct Found {
    document: usize,
    item: Option<usize>,
    way: &'static [&'static str],
    title: String,
    name: String,
}

/// Edits the one workload of a file that is meant: that of `name` (`NAME`, `KIND/NAME`), or without a name the one that
/// takes a GPU past the grant, or the only one.
///
/// # Errors
/// No YAML, no such workload or several, a form that is not edited (aliases), or what [`pod`] refuses.
pub fn file(text: &str, name: Option<&str>, wish: &Wish) -> Result<Patched, Problem> {
    let documents = tree::documents(text)?;
    let mut values: Vec<Value> = documents.iter().map(yamlin::value).collect::<Result<_, _>>()?;
    let found = choose(&values, name)?;
    let count = Value::from(wish.gpus);
    let spec = spec_mut(&mut values, &found).ok_or_else(|| whole(format!("{} has no pod template", found.title)))?;
    let chosen = target(spec, wish).map_err(|says| whole(format!("{}: {says}", found.title)))?;
    let words = pod(spec, wish, &count).map_err(|says| whole(format!("{}: {says}", found.title)))?;
    if words.is_empty() {
        return Ok(Patched { text: text.to_owned(), workload: found.title, words, diff: String::new() });
    }
    let mut new = text.to_owned();
    for _ in 0..EDITS {
        let documents = tree::documents(&new)?;
        let Some((range, with)) = next(&new, &documents, &found, chosen, wish)? else { break };
        new.replace_range(range, &with);
    }
    // the proof: the new text says what the edited values say, and nothing else has changed
    let says: Result<Vec<Value>, Error> =
        tree::documents(&new).and_then(|documents| documents.iter().map(yamlin::value).collect());
    if says.as_ref() != Ok(&values) {
        return Err(whole(format!(
            "{} is written in a form that is not edited surely; change it by hand: {}",
            found.title,
            words.join(", ")
        )));
    }
    let diff = similar::TextDiff::from_lines(text, &new).unified_diff().context_radius(3).to_string();
    Ok(Patched { text: new, workload: found.title, words, diff })
}

fn choose(values: &[Value], name: Option<&str>) -> Result<Found, Problem> {
    let mut all = Vec::new();
    for (document, value) in values.iter().enumerate() {
        match value.get("items").and_then(Value::as_array) {
            Some(items) => all.extend(items.iter().enumerate().map(|(n, item)| (document, Some(n), item))),
            None => all.push((document, None, value)),
        }
    }
    let text =
        |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut workloads = Vec::new();
    for (document, item, value) in all {
        let kind = text(value, "/kind");
        let Some(way) = way(&kind) else { continue };
        let (namespace, own) = (text(value, "/metadata/namespace"), text(value, "/metadata/name"));
        let full = if namespace.is_empty() { own.clone() } else { format!("{namespace}/{own}") };
        let spec = value.pointer(&format!("/{}", way.join("/")));
        let title = format!("{kind} {full}");
        let found = Found { document, item, way, title, name: format!("{}/{own}", kind.to_ascii_lowercase()) };
        workloads.push((found, spec.is_some_and(concerns)));
    }
    if workloads.is_empty() {
        return Err(whole("there is no workload in it (Deployment, StatefulSet, DaemonSet, Job, CronJob, Pod)"));
    }
    let known: Vec<String> = workloads.iter().map(|(found, _)| found.name.clone()).collect();
    let known = known.join(", ");
    if let Some(name) = name {
        let wanted = name.to_ascii_lowercase();
        let fits =
            |found: &Found| found.name == wanted || found.name.split_once('/').is_some_and(|(_, own)| own == wanted);
        workloads.retain(|(found, _)| fits(found));
        return match workloads.len() {
            1 => workloads.pop().map(|(found, _)| found).ok_or_else(|| whole("nothing")),
            0 => Err(whole(format!("there is no {name} in it; there is {known}"))),
            _ => Err(whole(format!("{name} is in it more than once"))),
        };
    }
    if workloads.len() > 1 {
        workloads.retain(|(_, concerned)| *concerned);
    }
    match workloads.len() {
        1 => workloads.pop().map(|(found, _)| found).ok_or_else(|| whole("nothing")),
        _ => Err(whole(format!("name one of its workloads: {known}"))),
    }
}

/// A pod that takes or asks for GPUs.
fn concerns(spec: &Value) -> bool {
    ["initContainers", "containers"].iter().flat_map(|field| super::containers(spec, field)).any(|container| {
        super::env(container).any(takes)
            || super::limits(container).is_some_and(|limits| limits.keys().any(|key| key.starts_with("nvidia.com/")))
    })
}

fn spec_mut<'a>(values: &'a mut [Value], found: &Found) -> Option<&'a mut Value> {
    let value = values.get_mut(found.document)?;
    let value = match found.item {
        Some(item) => value.get_mut("items")?.get_mut(item)?,
        None => value,
    };
    value.pointer_mut(&format!("/{}", found.way.join("/")))
}

/// The next edit; `None` where all is done.
fn next(
    text: &str,
    documents: &[Node],
    found: &Found,
    chosen: usize,
    wish: &Wish,
) -> Result<Option<(Range<usize>, String)>, Problem> {
    let no_form = || whole(format!("{} has no pod template where one is expected", found.title));
    let mut spec = documents.get(found.document).ok_or_else(no_form)?;
    if let Some(item) = found.item {
        spec = child(spec, "items")?.and_then(|items| items.items().get(item)).ok_or_else(no_form)?;
    }
    for key in found.way {
        spec = child(spec, key)?.ok_or_else(no_form)?;
    }
    for field in ["initContainers", "containers"] {
        let Some(list) = child(spec, field)? else { continue };
        for container in list.items() {
            let Some(env) = child(container, "env")? else { continue };
            if let Some(at) = position(env, takes)? {
                return remove(text, &[(container, index(container, "env")), (env, at)]).map(Some);
            }
        }
    }
    if wish.drop_affinity {
        if let Some(selector) = child(spec, "nodeSelector")? {
            let Kind::Map(entries) = &selector.kind else { return Err(no_form()) };
            if let Some(at) = entries.iter().position(|(key, _)| key.text().is_some_and(is_gpu_label)) {
                return remove(text, &[(spec, index(spec, "nodeSelector")), (selector, at)]).map(Some);
            }
        }
        let mut chain = Vec::new();
        let mut here = Some(spec);
        for key in TERMS {
            let Some(node) = here else { break };
            chain.push((node, index(node, key)));
            here = child(node, key)?;
        }
        for (number, term) in here.into_iter().flat_map(|terms| terms.items().iter().enumerate()) {
            let Some(list) = child(term, "matchExpressions")? else { continue };
            if let (Some(at), Some(terms)) = (position(list, sends)?, here) {
                chain.extend([(terms, number), (term, index(term, "matchExpressions")), (list, at)]);
                return remove(text, &chain).map(Some);
            }
        }
    }
    let containers = child(spec, "containers")?.ok_or_else(no_form)?;
    let container = containers.items().get(chosen).ok_or_else(no_form)?;
    let count = wish.gpus.to_string();
    if let Some(edit) = ensure(text, container, &["resources", "limits", RESOURCE], &count)? {
        return Ok(Some(edit));
    }
    let requests = child(container, "resources")?.map(|resources| child(resources, "requests")).transpose()?.flatten();
    match requests {
        Some(requests) if child(requests, RESOURCE)?.is_some() => ensure(text, requests, &[RESOURCE], &count),
        _ => Ok(None),
    }
}

fn alias(node: &Node) -> Problem {
    Problem {
        line: node.line,
        says: "what is to be changed stands elsewhere, by an alias or a merge; write it out here first".into(),
    }
}

/// The value of a key; none where the mapping has not the key.
fn child<'a>(node: &'a Node, key: &str) -> Result<Option<&'a Node>, Problem> {
    if matches!(node.kind, Kind::Alias(_)) || node.get("<<").is_some() {
        return Err(alias(node));
    }
    match node.get(key) {
        Some(value) if matches!(value.kind, Kind::Alias(_)) => Err(alias(value)),
        other => Ok(other),
    }
}

fn index(node: &Node, key: &str) -> usize {
    match &node.kind {
        Kind::Map(entries) => entries.iter().position(|(name, _)| name.text() == Some(key)).unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

/// The place of the first item that is such a value.
fn position(list: &Node, is: fn(&Value) -> bool) -> Result<Option<usize>, Problem> {
    for (at, item) in list.items().iter().enumerate() {
        if matches!(item.kind, Kind::Alias(_)) || item.get("<<").is_some() {
            return Err(alias(item));
        }
        // an anchor outside of the item cannot be put in; such an item is nobody's variable of ours
        if yamlin::value(item).is_ok_and(|value| is(&value)) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn size(node: &Node) -> usize {
    match &node.kind {
        Kind::Map(entries) => entries.len(),
        Kind::List(items) => items.len(),
        Kind::Scalar { .. } | Kind::Alias(_) => 0,
    }
}

/// Takes the last link's child out; where that leaves its parent empty, the parent too.
fn remove(text: &str, chain: &[(&Node, usize)]) -> Result<(Range<usize>, String), Problem> {
    let mut depth = chain.len();
    while depth > 1 && chain.get(depth - 1).is_some_and(|(node, _)| size(node) == 1) {
        depth -= 1;
    }
    let (node, at) = chain.get(depth.saturating_sub(1)).copied().ok_or_else(|| whole("nothing to remove"))?;
    let spans: Vec<Range<usize>> = match &node.kind {
        Kind::Map(entries) => entries
            .iter()
            .map(|(key, value)| key.span.start..if value.is_empty() { key.span.end } else { value.span.end })
            .collect(),
        Kind::List(items) => items.iter().map(|item| item.span.clone()).collect(),
        Kind::Scalar { .. } | Kind::Alias(_) => Vec::new(),
    };
    let this = spans.get(at).cloned().ok_or_else(|| whole("nothing to remove"))?;
    if node.flow {
        let before = at.checked_sub(1).and_then(|at| spans.get(at));
        return Ok(match (spans.get(at + 1), before) {
            (Some(next), _) => (this.start..next.start, String::new()),
            (None, Some(before)) => (before.end..this.end, String::new()),
            (None, None) => (this, String::new()),
        });
    }
    let mut start = this.start;
    if matches!(node.kind, Kind::List(_)) {
        let front = text.get(..start).unwrap_or_default();
        start = front
            .rfind('-')
            .filter(|dash| front.get(dash + 1..).is_some_and(|rest| rest.trim().is_empty()))
            .ok_or(Problem { line: node.line, says: "this list is written in a form that is not edited".into() })?;
    }
    let line = text.get(..start).unwrap_or_default().rfind('\n').map_or(0, |feed| feed + 1);
    let own_line = text.get(line..start).is_some_and(|blank| blank.trim().is_empty());
    match (own_line, spans.get(at + 1)) {
        (true, _) => Ok((line..after(text, this.end), String::new())),
        // the first key stands on its dash's line: the next one takes its place
        (false, Some(next)) => Ok((start..next.start, String::new())),
        (false, None) => Err(Problem { line: node.line, says: "this entry stands in a line with others".into() }),
    }
}

/// Behind the line in which something ends.
fn after(text: &str, end: usize) -> usize {
    if text.get(..end).is_some_and(|front| front.ends_with('\n')) {
        return end;
    }
    text.get(end..).and_then(|rest| rest.find('\n')).map_or(text.len(), |feed| end + feed + 1)
}

/// The edit that makes a key below `node` have this number; `None` where it has it.
fn ensure(text: &str, node: &Node, keys: &[&str], count: &str) -> Result<Option<(Range<usize>, String)>, Problem> {
    let quoted = matches!(&node.kind, Kind::Map(entries)
        if node.flow && entries.first().is_some_and(|(key, _)| text.get(key.span.clone()).is_some_and(|key| key.starts_with('"'))));
    let key = |name: &str| if quoted { format!("\"{name}\"") } else { name.to_owned() };
    // {limits: {nvidia.com/gpu: 1}}
    let flow = |keys: &[&str]| {
        let open: String = keys.iter().map(|name| format!("{{{}: ", key(name))).collect();
        format!("{open}{count}{}", "}".repeat(keys.len()))
    };
    let (mut here, mut rest, mut colon) = (node, keys, 0);
    while let Some((first, deeper)) = rest.split_first() {
        let Some(next) = child(here, first)? else { break };
        let end = here.entry(first).map_or(0, |(key, _)| key.span.end);
        colon = text.get(end..).and_then(|rest| rest.find(':')).map_or(end, |at| end + at + 1);
        (here, rest) = (next, deeper);
    }
    let Some((first, deeper)) = rest.split_first() else {
        let stands = text.get(here.span.clone()).unwrap_or_default();
        let number = here.text().and_then(formats::quantity::whole);
        return Ok((number.map(|number| number.to_string()).as_deref() != Some(count)).then(|| {
            let new = if stands.starts_with(['"', '\'']) { format!("\"{count}\"") } else { count.to_owned() };
            (here.span.clone(), new)
        }));
    };
    match &here.kind {
        Kind::Map(entries) if here.flow => {
            let inner = if deeper.is_empty() { count.to_owned() } else { flow(deeper) };
            Ok(Some(match entries.last() {
                Some((last, value)) => {
                    let end = if value.is_empty() { last.span.end } else { value.span.end };
                    (end..end, format!(", {}: {inner}", key(first)))
                }
                None => (here.span.clone(), flow(rest)),
            }))
        }
        Kind::Map(_) => {
            let feed = if text.contains("\r\n") { "\r\n" } else { "\n" };
            let at = after(text, here.span.end);
            let mut lines = String::new();
            if !text.get(..at).is_some_and(|front| front.ends_with('\n')) {
                lines.push_str(feed);
            }
            let indent = here.column.saturating_sub(1);
            for (depth, name) in rest.iter().enumerate() {
                let value = if depth + 1 == rest.len() { format!(" {count}") } else { String::new() };
                lines.push_str(&format!("{}{name}:{value}{feed}", " ".repeat(indent + 2 * depth)));
            }
            Ok(Some((at..at, lines)))
        }
        // `limits:` with nothing, or null
        Kind::Scalar { .. } if here.is_empty() => Ok(Some((colon..colon, format!(" {}", flow(rest))))),
        Kind::Scalar { .. } => Ok(Some((here.span.clone(), flow(rest)))),
        Kind::List(_) | Kind::Alias(_) => Err(Problem { line: here.line, says: "a mapping is expected here".into() }),
    }
}
