//! The calls that are answered.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Role, State};
use crate::http::Raw;

const ENCODING: &str = "/System/Configuration/encoding";

/// Keys and defaults of each release, from the documented properties of its transcoding settings.
pub(super) fn all() -> BTreeMap<String, Map<String, Value>> {
    serde_json::from_str(include_str!("defaults.json")).unwrap_or_default()
}

pub(super) fn defaults(release: &str) -> Option<Map<String, Value>> {
    all().remove(release)
}

type Answer = (u16, Option<Value>);

pub(super) fn answer(state: &mut State, request: &Raw) -> Answer {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let login = request.headers.get("authorization").cloned();
    let answer = route(state, request, path, query);
    state.calls.push((format!("{} {path} {}", request.method, answer.0), login));
    answer
}

fn route(state: &mut State, request: &Raw, path: &str, query: &str) -> Answer {
    if state.starting {
        return (503, None);
    }
    match (request.method.as_str(), path) {
        ("GET", "/System/Info/Public") => {
            let body = json!({
                "LocalAddress": "http://127.0.0.1:8096", "ServerName": "simulated", "Version": format!("{}.1", state.release),
                "ProductName": "Jellyfin Server", "Id": "00000000000000000000000000000000", "StartupWizardCompleted": true
            });
            (200, Some(body))
        }
        ("GET", ENCODING) => match role(state, request, query) {
            None => (401, None),
            Some(_) => (200, Some(Value::Object(state.options.clone()))),
        },
        ("POST", ENCODING) => match role(state, request, query) {
            None => (401, None),
            Some(Role::User) => (403, None),
            Some(Role::Administrator) => replace(state, request),
        },
        (_, ENCODING | "/System/Info/Public") => (405, None),
        _ => (404, None),
    }
}

/// Whose call it is. Jellyfin 10.11 can switch all ways off but the Authorization header and `?ApiKey=`.
fn role(state: &State, request: &Raw, query: &str) -> Option<Role> {
    let header = |name: &str| request.headers.get(name).cloned();
    let in_scheme = |text: String| {
        let fields =
            text.strip_prefix("MediaBrowser ").or_else(|| text.strip_prefix("Emby ").filter(|_| state.legacy))?;
        let mut fields = fields.split(',').filter_map(|field| field.trim().split_once('='));
        fields.find(|(name, _)| *name == "Token").map(|(_, value)| value.trim_matches('"').to_owned())
    };
    let param = |wanted: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
    };
    let now = header("authorization").and_then(in_scheme).or_else(|| param("ApiKey"));
    let old = || {
        let header = header("x-emby-token").or_else(|| header("x-mediabrowser-token"));
        header.or_else(|| param("api_key")).filter(|_| state.legacy)
    };
    state.tokens.get(&now.or_else(old)?).copied()
}

fn replace(state: &mut State, request: &Raw) -> Answer {
    if !request.headers.get("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        return (415, None);
    }
    let Ok(Value::Object(sent)) = serde_json::from_slice(&request.body) else { return (400, None) };
    let mut options = defaults(&state.release).unwrap_or_default();
    for (key, place) in &mut options {
        let Some(value) = sent.get(key) else { continue };
        let fits = match place {
            Value::Bool(_) => value.is_boolean(),
            Value::Number(_) => value.is_number(),
            Value::Array(_) => value.as_array().is_some_and(|all| all.iter().all(Value::is_string)),
            _ => value.is_string() || value.is_null(),
        };
        if !fits || key == "HardwareAccelerationType" && !known(value) {
            return (400, None);
        }
        *place = value.clone();
    }
    let text = |options: &Map<String, Value>, key: &str| {
        options.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    if text(&options, "EncoderAppPath") != text(&state.options, "EncoderAppPath") {
        return (500, None);
    }
    let temporary = text(&options, "TranscodingTempPath");
    let same = temporary == text(&state.options, "TranscodingTempPath");
    if !temporary.is_empty() && !same && !state.dirs.contains(&temporary) {
        return (404, None);
    }
    state.options = options;
    (204, None)
}

fn known(value: &Value) -> bool {
    let types = ["", "none", "amf", "qsv", "nvenc", "v4l2m2m", "vaapi", "videotoolbox", "rkmpp"];
    value.as_str().is_none_or(|text| types.contains(&text))
}
