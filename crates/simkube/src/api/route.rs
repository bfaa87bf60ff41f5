//! From a request to what it asks, and to the answer.

use std::sync::Arc;

use serde_json::{Value, json};

use super::access::{Account, Ask, admit, authorize, validate};
use super::http::{Answer, Request};
use super::kinds::{KINDS, Kind};
use super::managed::{Who, apply, changed, merge_patch};
use super::select::{fields_match, labels_match};
use super::status::{held, no_path, not_found, refusal};
use super::store::{Event, Store};

/// What a request comes to.
pub(super) enum Outcome {
    Answer(Answer),
    Watch(Watching),
}

/// A watch that is to run.
pub(super) struct Watching {
    pub kind: Kind,
    pub namespace: String,
    pub labels: String,
    pub fields: String,
    pub from: u64,
    /// Seconds of the server's clock.
    pub last: u64,
    pub bookmarks: bool,
    pub partial: bool,
}

struct Target<'a> {
    kind: Kind,
    namespace: &'a str,
    name: &'a str,
    subresource: &'a str,
}

fn target(path: &str) -> Option<Target<'_>> {
    let mut parts = path.trim_matches('/').split('/');
    let (group, version) = match parts.next()? {
        "api" => ("", parts.next()?),
        "apis" => (parts.next()?, parts.next()?),
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    let find = |plural: &str, namespaced: Option<bool>| {
        let fits = |kind: &&Kind| {
            kind.group == group
                && kind.version == version
                && kind.plural == plural
                && namespaced.is_none_or(|namespaced| kind.namespaced == namespaced)
        };
        KINDS.iter().find(fits).copied()
    };
    let (kind, namespace, name, subresource) = match rest.as_slice() {
        ["namespaces", namespace, plural, rest @ ..] if find(plural, Some(true)).is_some() => {
            let (name, subresource) = (rest.first().unwrap_or(&""), rest.get(1).unwrap_or(&""));
            (find(plural, Some(true))?, *namespace, *name, *subresource)
        }
        [plural] => (find(plural, None)?, "", "", ""),
        [plural, name] => (find(plural, Some(false))?, "", *name, ""),
        [plural, name, subresource] => (find(plural, Some(false))?, "", *name, *subresource),
        _ => return None,
    };
    Some(Target { kind, namespace, name, subresource })
}

/// Discovery, health, version: for everyone.
fn public(path: &str) -> Option<Value> {
    let path = path.trim_end_matches('/');
    let groups = || {
        let mut names: Vec<&str> = KINDS.iter().map(|kind| kind.group).filter(|group| !group.is_empty()).collect();
        names.dedup();
        names
    };
    let version = |group: &str| json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
    Some(match path {
        "/version" => json!({
            "major": "1", "minor": "34", "gitVersion": "v1.34.0+simulated", "platform": "linux/amd64",
        }),
        "/healthz" | "/readyz" | "/livez" => json!("ok"),
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        "/apis" => {
            let of =
                |group: &str| json!({"name": group, "versions": [version(group)], "preferredVersion": version(group)});
            json!({
                "kind": "APIGroupList", "apiVersion": "v1",
                "groups": groups().into_iter().map(of).collect::<Vec<_>>(),
            })
        }
        _ => {
            let group = match path.strip_prefix("/apis/").and_then(|rest| rest.strip_suffix("/v1")) {
                Some(group) => group,
                None if path == "/api/v1" => "",
                None => return None,
            };
            let of: Vec<&Kind> = KINDS.iter().filter(|kind| kind.group == group).collect();
            if of.is_empty() {
                return None;
            }
            let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
            let mut resources = Vec::new();
            for kind in of {
                resources.push(json!({
                    "name": kind.plural, "singularName": kind.kind.to_lowercase(), "namespaced": kind.namespaced,
                    "kind": kind.kind, "verbs": verbs,
                }));
                if kind.has_status() {
                    resources.push(json!({
                        "name": format!("{}/status", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                        "kind": kind.kind, "verbs": ["get", "patch", "update"],
                    }));
                }
            }
            let group_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
            json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
            })
        }
    })
}

/// Answers a request of that account (none: no token).
pub(super) fn answer(store: &mut Store, account: Option<&Account>, policy: bool, request: &Request) -> Outcome {
    match carry_out(store, account, policy, request) {
        Ok(outcome) => outcome,
        Err(answer) => Outcome::Answer(answer),
    }
}

fn carry_out(store: &mut Store, account: Option<&Account>, policy: bool, request: &Request) -> Result<Outcome, Answer> {
    if request.large {
        return Err(refusal(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"));
    }
    if let (Some(body), "GET") = (public(&request.path), request.method.as_str()) {
        return Ok(Outcome::Answer(Answer::ok(body)));
    }
    let target = target(&request.path).ok_or_else(no_path)?;
    let known = match target.subresource {
        "" => true,
        "status" => target.kind.has_status(),
        _ => false,
    };
    if !known {
        return Err(no_path());
    }
    let watch = matches!(request.param("watch"), Some("true" | "1"));
    let verb = match (request.method.as_str(), target.name) {
        ("GET", "") if watch => "watch",
        ("GET", "") => "list",
        ("GET", _) => "get",
        ("POST", "") => "create",
        ("PUT", name) if !name.is_empty() => "update",
        ("PATCH", name) if !name.is_empty() => "patch",
        ("DELETE", name) if !name.is_empty() => "delete",
        _ => {
            let message = "the server does not allow this method on the requested resource";
            return Err(refusal(405, "MethodNotAllowed", message));
        }
    };
    let by_field = request.param("fieldSelector").and_then(|fields| fields.strip_prefix("metadata.name="));
    let name = match verb {
        "list" | "watch" => by_field.unwrap_or_default(),
        _ => target.name,
    };
    let Target { kind, namespace, subresource, .. } = target;
    let ask = Ask { verb, kind, namespace, name, subresource };
    let anonymous = Account {
        token: String::new(),
        user: "system:anonymous".into(),
        groups: Vec::new(),
        node: None,
        rules: Vec::new(),
    };
    let account = account.unwrap_or(&anonymous);
    authorize(account, &ask)?;
    let accept = request.header("accept").split(',').next().unwrap_or_default().to_owned();
    if accept.contains("protobuf") && !request.header("accept").contains("json") {
        return Err(refusal(406, "NotAcceptable", "only the following media types are accepted: application/json"));
    }
    let partial = accept.contains("as=PartialObjectMetadata");
    if !matches!(request.param("dryRun"), None | Some("All")) {
        return Err(refusal(400, "BadRequest", "dryRun: Unsupported value: supported values: \"All\""));
    }
    let select = |key: &str| request.param(key).unwrap_or_default().to_owned();
    let (labels, fields) = (select("labelSelector"), select("fieldSelector"));
    let bad = |why: String| refusal(400, "BadRequest", &why);
    let fits = |object: &Value| matches(&labels, &fields, kind, object).map_err(bad);
    Ok(Outcome::Answer(match verb {
        "get" => match store.get(kind, namespace, name) {
            Some(found) => Answer::ok(shown(&found, partial)),
            None => return Err(not_found(kind.plural, kind.group, name)),
        },
        "list" => list(store, kind, namespace, request, partial, fits)?,
        "watch" => {
            let from = request.param("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
            if from != 0 && from < store.oldest {
                return Err(refusal(410, "Expired", &format!("too old resource version: {from} ({})", store.oldest)));
            }
            fits(&Value::Null)?;
            let last = request.param("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(1800);
            let bookmarks = request.param("allowWatchBookmarks") == Some("true");
            let namespace = namespace.to_owned();
            return Ok(Outcome::Watch(Watching { kind, namespace, labels, fields, from, last, bookmarks, partial }));
        }
        "delete" => {
            let old = store.get(kind, namespace, name).ok_or_else(|| not_found(kind.plural, kind.group, name))?;
            admit(account, &ask, policy, Some(&old), None)?;
            if request.param("dryRun").is_none() {
                store.delete(kind, namespace, name);
            }
            Answer::ok(shown(&old, partial))
        }
        _ => change(store, account, policy, &ask, request, partial)?,
    }))
}

fn list(
    store: &Store,
    kind: Kind,
    namespace: &str,
    request: &Request,
    partial: bool,
    fits: impl Fn(&Value) -> Result<bool, Answer>,
) -> Result<Answer, Answer> {
    let mut items = Vec::new();
    for object in store.list(kind, namespace) {
        if fits(&object)? {
            items.push(shown(&object, partial));
        }
    }
    let mut metadata = json!({"resourceVersion": store.version.to_string()});
    let from: usize = request.param("continue").and_then(|text| text.parse().ok()).unwrap_or(0);
    let limit = request.param("limit").and_then(|text| text.parse().ok()).filter(|limit| *limit > 0);
    let mut items = items.split_off(from.min(items.len()));
    if let Some(limit) = limit.filter(|limit| *limit < items.len()) {
        let left = items.len() - limit;
        items.truncate(limit);
        metadata = json!({
            "resourceVersion": store.version.to_string(), "continue": (from + limit).to_string(),
            "remainingItemCount": left,
        });
    }
    let (version, kind) = match partial {
        true => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
        false => (kind.api_version(), format!("{}List", kind.kind)),
    };
    Ok(Answer::ok(json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items})))
}

fn change(
    store: &mut Store,
    account: &Account,
    policy: bool,
    ask: &Ask<'_>,
    request: &Request,
    partial: bool,
) -> Result<Answer, Answer> {
    let bad = |why: &str| refusal(400, "BadRequest", why);
    let body: Value = serde_json::from_slice(&request.body).map_err(|error| {
        bad(&format!("the object provided is unrecognized: {error} (simulated: a body is taken as JSON only)"))
    })?;
    let form = request.header("content-type").split(';').next().unwrap_or_default().to_owned();
    let ssa = ask.verb == "patch" && form == "application/apply-patch+yaml";
    if ask.verb == "patch" && !ssa && form != "application/merge-patch+json" {
        let message = format!("the body of the request was in an unknown format - {form} (simulated: apply and merge)");
        return Err(refusal(415, "UnsupportedMediaType", &message));
    }
    let force = request.param("force");
    if !ssa && force.is_some() {
        let message =
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch";
        return Err(refusal(422, "Invalid", message));
    }
    let agent = request.header("user-agent").split('/').next().unwrap_or_default();
    let manager = request.param("fieldManager").filter(|name| !name.is_empty());
    if ssa && manager.is_none() {
        let message =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return Err(refusal(422, "Invalid", message));
    }
    if manager.is_some_and(|name| name.len() > 128) {
        return Err(refusal(422, "Invalid", "fieldManager: Too long: may not be more than 128 bytes"));
    }
    if ssa && body.pointer("/metadata/managedFields").is_some() {
        return Err(bad("metadata.managedFields must be nil"));
    }
    let told = body.pointer("/metadata/name").and_then(Value::as_str);
    let name = match (ask.verb, told) {
        ("create", None) => {
            let prefix = body.pointer("/metadata/generateName").and_then(Value::as_str).ok_or_else(|| {
                refusal(422, "Invalid", "metadata.name: Required value: name or generateName is required")
            })?;
            store.serial += 1;
            format!("{prefix}{:05x}", store.serial)
        }
        ("create", Some(name)) => name.to_owned(),
        (_, Some(told)) if told != ask.name => {
            return Err(bad(&format!(
                "the name of the object ({told}) does not match the name on the URL ({})",
                ask.name
            )));
        }
        _ => ask.name.to_owned(),
    };
    let kind = ask.kind;
    let says = (body.get("kind").and_then(Value::as_str), body.get("apiVersion").and_then(Value::as_str));
    let expected = (Some(kind.kind), Some(kind.api_version()));
    if (ssa || ask.verb == "create") && (says.0 != expected.0 || says.1 != expected.1.as_deref()) {
        return Err(bad(&format!(
            "the kind of the object ({says:?}) does not match what the path says ({expected:?})"
        )));
    }
    if kind.namespaced && ask.verb == "create" {
        let namespaces = Kind::named("Namespace").and_then(|kind| store.get(kind, "", ask.namespace));
        namespaces.ok_or_else(|| not_found("namespaces", "", ask.namespace))?;
    }
    let old = store.get(kind, ask.namespace, &name);
    match (ask.verb, &old) {
        ("create", Some(_)) => {
            let message = format!("{} \"{name}\" already exists", kind.plural);
            return Err(refusal(409, "AlreadyExists", &message));
        }
        ("update", None) => return Err(not_found(kind.plural, kind.group, &name)),
        ("patch", None) if !ssa => return Err(not_found(kind.plural, kind.group, &name)),
        _ => {}
    }
    let asked = body.pointer("/metadata/resourceVersion").and_then(Value::as_str).filter(|text| !text.is_empty());
    let has = old.as_ref().and_then(|old| old.pointer("/metadata/resourceVersion")).and_then(Value::as_str);
    if ask.verb != "create" && asked.is_some() && asked != has {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes to the \
             latest version and try again",
            kind.plural
        );
        return Err(refusal(409, "Conflict", &message));
    }
    let (now, version) = (store.now(), kind.api_version());
    let who = Who { manager: manager.unwrap_or(agent), subresource: ask.subresource, api_version: &version, now: &now };
    let blank = json!({"apiVersion": version, "kind": kind.kind, "metadata": {}});
    let base = old.as_deref().unwrap_or(&blank);
    let mut next = match (ask.verb, ssa) {
        (_, true) => {
            let mut config = body;
            only(&mut config, kind, ask.subresource);
            apply(base, &config, force == Some("true"), &who).map_err(|conflicts| held(&conflicts))?
        }
        ("patch", false) => {
            let mut next = base.clone();
            merge_patch(&mut next, &body);
            next
        }
        _ => body,
    };
    if let Some(metadata) = next.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("name".into(), Value::from(name.clone()));
        if kind.namespaced {
            metadata.insert("namespace".into(), Value::from(ask.namespace));
        }
        // what a client cannot change
        for key in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
            match base.pointer(&format!("/metadata/{key}")) {
                Some(value) => drop(metadata.insert(key.into(), value.clone())),
                None => drop(metadata.remove(key)),
            }
        }
    }
    if old.is_some() {
        beside(&mut next, base, kind, ask.subresource);
    }
    if !ssa {
        if let Some(metadata) = next.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        changed(base, &mut next, &who);
    }
    validate(kind, &name, &next)?;
    let named = Ask { name: &name, ..*ask };
    admit(account, &named, policy, old.as_deref(), Some(&next))?;
    let code = if old.is_some() { 200 } else { 201 };
    let kept = match request.param("dryRun") {
        Some(_) => Arc::new(next),
        None => store.put(kind, next),
    };
    Ok(Answer { code, body: shown(&kept, partial), wait: None })
}

/// An apply to the object leaves its status out, and one to the status all else.
fn only(config: &mut Value, kind: Kind, subresource: &str) {
    let Some(map) = config.as_object_mut().filter(|_| kind.has_status()) else { return };
    match subresource {
        "status" => map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        _ => drop(map.remove("status")),
    }
}

/// The half of the object that this path does not change stays as it is.
fn beside(next: &mut Value, base: &Value, kind: Kind, subresource: &str) {
    let Some(map) = next.as_object_mut().filter(|_| kind.has_status()) else { return };
    let keep = if subresource == "status" { "spec" } else { "status" };
    match base.get(keep) {
        Some(value) => drop(map.insert(keep.into(), value.clone())),
        None => drop(map.remove(keep)),
    }
}

fn matches(labels: &str, fields: &str, kind: Kind, object: &Value) -> Result<bool, String> {
    Ok(labels_match(labels, object)? && fields_match(fields, kind.kind, object)?)
}

/// As it is sent: whole, or its metadata.
pub(super) fn shown(object: &Value, partial: bool) -> Value {
    match partial {
        false => object.clone(),
        true => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or_default(),
        }),
    }
}

impl Watching {
    /// What this watch is told of an event; an object that leaves the selection is deleted for it.
    pub fn told(&self, event: &Event) -> Option<Value> {
        if event.kind != self.kind.kind || (!self.namespace.is_empty() && event.namespace != self.namespace) {
            return None;
        }
        let fits = |object: &Option<Arc<Value>>| {
            object
                .as_ref()
                .filter(|object| matches(&self.labels, &self.fields, self.kind, object).unwrap_or(false))
                .cloned()
        };
        let (what, object) = match (fits(&event.old), fits(&event.new)) {
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => ("DELETED", event.new.clone().unwrap_or(old)),
            (None, None) => return None,
        };
        Some(json!({"type": what, "object": shown(&object, self.partial)}))
    }

    pub fn bookmark(&self, version: u64) -> Value {
        let (api, kind) = match self.partial {
            true => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
            false => (self.kind.api_version(), self.kind.kind),
        };
        let metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": api, "metadata": metadata}})
    }
}
