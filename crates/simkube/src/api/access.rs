//! Who asks, whether they may, and what admission says.
//!
//! Sources: kubernetes.io, "Using RBAC Authorization" (a rule's `resourceNames` also bind a list or watch by
//! `metadata.name`), "NodeRestriction", "ValidatingAdmissionPolicy", "Managing Service Accounts" (a bound token's node).

use serde_json::{Map, Value};

use super::http::Answer;
use super::kinds::Kind;
use super::status::{invalid, refusal};

/// One rule of a role.
#[derive(Clone, Debug)]
pub struct Rule {
    /// "get", "list", "watch", "create", "update", "patch", "delete"; "*" is all.
    pub verbs: Vec<String>,
    /// "" is the core group, "*" all.
    pub group: String,
    /// "nodes", "nodes/status", "*".
    pub resources: Vec<String>,
    /// Only these objects; empty: all.
    pub names: Vec<String>,
}

impl Rule {
    pub fn new(verbs: &[&str], group: &str, resources: &[&str]) -> Self {
        let all = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Rule { verbs: all(verbs), group: group.to_owned(), resources: all(resources), names: Vec::new() }
    }

    fn allows(&self, verb: &str, group: &str, resource: &str, name: &str) -> bool {
        let among = |list: &[String], what: &str| list.iter().any(|one| one == "*" || one == what);
        among(&self.verbs, verb)
            && (self.group == "*" || self.group == group)
            && among(&self.resources, resource)
            && (self.names.is_empty() || self.names.iter().any(|one| one == name))
    }
}

/// Who may speak to the API, by a bearer token.
#[derive(Clone, Debug)]
pub struct Account {
    pub token: String,
    /// "system:serviceaccount:thruway:node"
    pub user: String,
    pub groups: Vec<String>,
    /// The node in the token, where it is bound to a pod there.
    pub node: Option<String>,
    pub rules: Vec<Rule>,
}

impl Account {
    /// May do everything.
    pub fn admin(token: &str) -> Self {
        Account {
            token: token.to_owned(),
            user: "kubernetes-admin".into(),
            groups: vec!["system:masters".into()],
            node: None,
            rules: vec![Rule::new(&["*"], "*", &["*"])],
        }
    }

    /// A pod's service account, with the token that the kubelet of that node has mounted.
    pub fn pod(token: &str, namespace: &str, name: &str, node: &str, rules: Vec<Rule>) -> Self {
        Account {
            token: token.to_owned(),
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
            node: Some(node.to_owned()),
            rules,
        }
    }

    /// A kubelet.
    pub fn kubelet(token: &str, node: &str) -> Self {
        let rules = vec![
            Rule::new(&["get", "list", "watch", "create", "update", "patch"], "", &["nodes", "nodes/status", "pods"]),
            Rule::new(&["create", "patch"], "events.k8s.io", &["events"]),
        ];
        Account {
            token: token.to_owned(),
            user: format!("system:node:{node}"),
            groups: vec!["system:nodes".into()],
            node: None,
            rules,
        }
    }
}

/// What is asked of which object.
pub(super) struct Ask<'a> {
    pub verb: &'a str,
    pub kind: Kind,
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
}

impl Ask<'_> {
    fn resource(&self) -> String {
        match self.subresource {
            "" => self.kind.plural.to_owned(),
            sub => format!("{}/{sub}", self.kind.plural),
        }
    }

    fn subject(&self) -> String {
        let group = if self.kind.group.is_empty() { String::new() } else { format!(".{}", self.kind.group) };
        match self.name {
            "" => format!("{}{group} is forbidden", self.kind.plural),
            name => format!("{}{group} \"{name}\" is forbidden", self.kind.plural),
        }
    }
}

/// RBAC.
pub(super) fn authorize(account: &Account, ask: &Ask<'_>) -> Result<(), Answer> {
    let resource = ask.resource();
    if account.rules.iter().any(|rule| rule.allows(ask.verb, ask.kind.group, &resource, ask.name)) {
        return Ok(());
    }
    let scope = match (ask.kind.namespaced, ask.namespace) {
        (true, namespace) if !namespace.is_empty() => format!("in the namespace \"{namespace}\""),
        _ => "at the cluster scope".to_owned(),
    };
    let message = format!(
        "{}: User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {scope}",
        ask.subject(),
        account.user,
        ask.verb,
        ask.kind.group
    );
    Err(refusal(403, "Forbidden", &message))
}

/// What admission says of a change of an object.
pub(super) fn admit(
    account: &Account,
    ask: &Ask<'_>,
    policy: bool,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<(), Answer> {
    if ask.kind.kind == "Node" {
        node_restriction(account, ask, old, new)?;
        let of_us = account.user.starts_with("system:serviceaccount:");
        if policy && of_us && account.node.as_deref() != Some(ask.name) {
            let message = format!(
                "{}: ValidatingAdmissionPolicy 'thruway-node' with binding 'thruway-node' denied request: \
                 the account may change its own node only (simulated)",
                ask.subject()
            );
            return Err(refusal(422, "Invalid", &message));
        }
    }
    Ok(())
}

fn node_restriction(account: &Account, ask: &Ask<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<(), Answer> {
    let Some(own) = account.user.strip_prefix("system:node:") else { return Ok(()) };
    let refuse = |why: String| Err(refusal(403, "Forbidden", &format!("{}: {why}", ask.subject())));
    if own != ask.name {
        return refuse(format!("node \"{own}\" is not allowed to modify node \"{}\"", ask.name));
    }
    let labels = |object: Option<&Value>| -> Map<String, Value> {
        let found = object.and_then(|object| object.pointer("/metadata/labels")).and_then(Value::as_object);
        found.cloned().unwrap_or_default()
    };
    let (before, after) = (labels(old), labels(new));
    let changed = before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key));
    let restricted = |key: &&String| {
        let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
        let of = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
        let free = prefix == "kubelet.kubernetes.io"
            || prefix.ends_with(".kubelet.kubernetes.io")
            || prefix == "node.kubernetes.io"
            || prefix.ends_with(".node.kubernetes.io");
        let known = ["kubernetes.io/arch", "kubernetes.io/os", "kubernetes.io/hostname"].contains(&key.as_str());
        (of("kubernetes.io") || of("k8s.io")) && !free && !known
    };
    let bad: Vec<&String> = changed.filter(restricted).collect();
    if !bad.is_empty() {
        let all: Vec<&str> = bad.iter().map(|key| key.as_str()).collect();
        return refuse(format!("is not allowed to modify labels: {}", all.join(", ")));
    }
    Ok(())
}

/// What is no legal object.
pub(super) fn validate(kind: Kind, name: &str, object: &Value) -> Result<(), Answer> {
    let fail = |field: &str, why: &str| Err(invalid(kind.kind, name, field, why));
    let name_ok = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b':'))
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !name_ok {
        return fail(
            "metadata.name",
            &format!("Invalid value: \"{name}\": a lowercase RFC 1123 subdomain is expected"),
        );
    }
    let map = |at: &str| object.pointer(at).and_then(Value::as_object);
    for (key, value) in map("/metadata/labels").into_iter().flatten() {
        if let Some(why) = bad_key(key) {
            return fail("metadata.labels", &format!("Invalid value: \"{key}\": {why}"));
        }
        let Some(value) = value.as_str() else {
            return Err(refusal(400, "BadRequest", &format!("metadata.labels.{key}: a string is expected")));
        };
        if let Some(why) = bad_value(value) {
            return fail("metadata.labels", &format!("Invalid value: \"{value}\": {why}"));
        }
    }
    for (key, value) in map("/metadata/annotations").into_iter().flatten() {
        if let Some(why) = bad_key(key) {
            return fail("metadata.annotations", &format!("Invalid value: \"{key}\": {why}"));
        }
        if !value.is_string() {
            return Err(refusal(400, "BadRequest", &format!("metadata.annotations.{key}: a string is expected")));
        }
    }
    if kind.kind == "Event" {
        return event(kind, name, object);
    }
    Ok(())
}

/// Source: the reference of events.k8s.io/v1.
fn event(kind: Kind, name: &str, object: &Value) -> Result<(), Answer> {
    let fail = |field: &str, why: &str| Err(invalid(kind.kind, name, field, why));
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    if !text("eventTime").ends_with('Z') || !text("eventTime").contains('.') {
        return fail("eventTime", "Required value: a time with microseconds");
    }
    for (field, most) in [("reportingController", 253), ("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        match text(field).len() {
            0 => return fail(field, "Required value"),
            length if length > most => {
                return fail(field, &format!("Invalid value: can have at most {most} characters"));
            }
            _ => {}
        }
    }
    if !matches!(text("type"), "Normal" | "Warning") {
        return fail("type", &format!("Invalid value: \"{}\"", text("type")));
    }
    if text("note").len() > 1024 {
        return fail("note", "Invalid value: can have at most 1024 characters");
    }
    let own = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let about = object.pointer("/regarding/namespace").and_then(Value::as_str).unwrap_or_default();
    if own != about && !(about.is_empty() && matches!(own, "default" | "kube-system")) {
        return fail(
            "involvedObject.namespace",
            &format!("Invalid value: \"{about}\": does not match event.namespace"),
        );
    }
    Ok(())
}

fn ends(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    edge(text.bytes().next()) && edge(text.bytes().last())
}

fn bad_key(key: &str) -> Option<&'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if prefix.is_some_and(|prefix| prefix.len() > 253 || !ends(prefix) || !prefix.bytes().all(lower)) {
        return Some("prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters");
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 characters");
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (!ends(name) || !name.bytes().all(plain))
        .then_some("name part must consist of alphanumeric characters, '-', '_' or '.'")
}

fn bad_value(value: &str) -> Option<&'static str> {
    if value.len() > 63 {
        return Some("must be no more than 63 characters");
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let sound = value.is_empty() || (ends(value) && value.bytes().all(plain));
    (!sound).then_some("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'")
}
