//! Selectors: labels, fields, node affinity, taints. Source: kubernetes.io, "Labels and Selectors", "Field Selectors",
//! "Assigning Pods to Nodes", "Taints and Tolerations".

use serde_json::Value;

pub(super) fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// "a=b,c!=d,e,!f,g in (x,y)" as the query has it; an error is the server's 400.
pub(super) fn labels_match(selector: &str, object: &Value) -> Result<bool, String> {
    let mut all = true;
    for term in split(selector) {
        let term = term.trim();
        if term.is_empty() {
            continue;
        }
        all &= term_matches(term, object)?;
    }
    Ok(all)
}

/// At the commas that stand in no parentheses.
fn split(selector: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, c) in selector.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(selector.get(from..at).unwrap_or_default());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(selector.get(from..).unwrap_or_default());
    parts
}

fn term_matches(term: &str, object: &Value) -> Result<bool, String> {
    if let Some((key, wanted)) = term.split_once("!=") {
        return Ok(label(object, key.trim()) != Some(wanted.trim()));
    }
    if let Some((key, wanted)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(label(object, key.trim()) == Some(wanted.trim()));
    }
    if let Some((head, values)) = term.split_once('(') {
        let values: Vec<&str> = values.trim_end_matches(')').split(',').map(str::trim).collect();
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let among = label(object, key).is_some_and(|value| values.contains(&value));
        return match operator {
            "in" => Ok(among),
            "notin" => Ok(!among),
            _ => Err(format!("unable to parse requirement: found '{term}'")),
        };
    }
    match term.strip_prefix('!') {
        Some(key) => Ok(label(object, key.trim()).is_none()),
        None => Ok(label(object, term).is_some()),
    }
}

/// The fields that the kinds served can be selected by.
pub(super) fn fields_match(selector: &str, kind: &str, object: &Value) -> Result<bool, String> {
    for term in selector.split(',').filter(|term| !term.is_empty()) {
        let (key, wanted, equal) = match (term.split_once("!="), term.split_once('=')) {
            (Some((key, wanted)), _) => (key, wanted, false),
            (None, Some((key, wanted))) => (key, wanted.trim_start_matches('='), true),
            _ => return Err(format!("invalid selector: '{term}'; can't understand '{term}'")),
        };
        let known = match kind {
            "Pod" => ["metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "spec.schedulerName"]
                .as_slice(),
            "Node" => &["metadata.name", "spec.unschedulable"],
            _ => &["metadata.name", "metadata.namespace"],
        };
        if !known.contains(&key) {
            return Err(format!("field label not supported: {key}"));
        }
        let value = object.pointer(&format!("/{}", key.replace('.', "/"))).and_then(Value::as_str).unwrap_or_default();
        if (value == wanted) != equal {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the pod's node selector and required node affinity let it onto the node.
pub(super) fn selects(pod: &Value, node: &Value) -> bool {
    let chosen = pod.get("nodeSelector").and_then(Value::as_object);
    if !chosen.into_iter().flatten().all(|(key, value)| label(node, key) == value.as_str()) {
        return false;
    }
    let required = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    match pod.pointer(required).and_then(Value::as_array) {
        None => true,
        Some(terms) => terms.iter().any(|term| term_selects(term, node)),
    }
}

fn term_selects(term: &Value, node: &Value) -> bool {
    let list = |key: &str| term.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (labels, fields) = (list("matchExpressions"), list("matchFields"));
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let key = |expression: &Value| expression.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = node.pointer("/metadata/name").and_then(Value::as_str);
    labels.iter().all(|expression| holds(expression, label(node, &key(expression))))
        && fields.iter().all(|expression| key(expression) == "metadata.name" && holds(expression, name))
}

fn holds(expression: &Value, value: Option<&str>) -> bool {
    let values: Vec<&str> =
        expression.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let bound = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match expression.get("operator").and_then(Value::as_str) {
        Some("In") => value.is_some_and(|value| values.contains(&value)),
        Some("NotIn") => !value.is_some_and(|value| values.contains(&value)),
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        Some("Gt") => bound().is_some_and(|(value, bound)| value > bound),
        Some("Lt") => bound().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether all taints of the node that keep pods off are tolerated. A DaemonSet's pods tolerate the node controller's own.
pub(super) fn tolerates(pod: &Value, node: &Value, daemon: bool) -> bool {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let tolerations = list(pod.get("tolerations"));
    list(node.pointer("/spec/taints")).iter().all(|taint| {
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        if effect == "PreferNoSchedule" || (daemon && key.starts_with("node.kubernetes.io/")) {
            return true;
        }
        tolerations.iter().any(|toleration| {
            let exists = text(toleration, "operator") == "Exists";
            let (of, on) = (text(toleration, "key"), text(toleration, "effect"));
            (on.is_empty() || on == effect)
                && (of == key || (of.is_empty() && exists))
                && (exists || text(toleration, "value") == value)
        })
    })
}
