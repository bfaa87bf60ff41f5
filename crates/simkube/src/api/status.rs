//! What the API says when it refuses: a `Status`, in the words of the real one.

use serde_json::{Value, json};

use super::http::Answer;

pub(super) fn refusal(code: u16, reason: &str, message: &str) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    });
    Answer { code, body, wait: None }
}

pub(super) fn not_found(plural: &str, group: &str, name: &str) -> Answer {
    let of = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    let mut answer = refusal(404, "NotFound", &format!("{of} \"{name}\" not found"));
    put(&mut answer, json!({"name": name, "group": group, "kind": plural}));
    answer
}

/// The path leads to nothing that is served.
pub(super) fn no_path() -> Answer {
    refusal(404, "NotFound", "the server could not find the requested resource")
}

pub(super) fn invalid(kind: &str, name: &str, field: &str, why: &str) -> Answer {
    let mut answer = refusal(422, "Invalid", &format!("{kind} \"{name}\" is invalid: {field}: {why}"));
    let cause = json!({"reason": "FieldValueInvalid", "message": why, "field": field});
    put(&mut answer, json!({"name": name, "kind": kind, "causes": [cause]}));
    answer
}

/// A server-side apply's conflicts: field and manager, "using v1".
pub(super) fn held(conflicts: &[(String, String)]) -> Answer {
    let count = conflicts.len();
    let plural = if count == 1 { "" } else { "s" };
    let all: Vec<String> = conflicts.iter().map(|(field, by)| format!("conflict with \"{by}\": {field}")).collect();
    let message = format!("Apply failed with {count} conflict{plural}: {}", all.join(", "));
    let mut answer = refusal(409, "Conflict", &message);
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(field, by)| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with \"{by}\""), "field": field})
        })
        .collect();
    put(&mut answer, json!({"causes": causes}));
    answer
}

pub(super) fn busy(seconds: u64) -> Answer {
    let message = "too many requests, please try again later";
    let mut answer = refusal(429, "TooManyRequests", message);
    put(&mut answer, json!({"retryAfterSeconds": seconds}));
    answer.wait = Some(seconds);
    answer
}

fn put(answer: &mut Answer, details: Value) {
    if let Some(body) = answer.body.as_object_mut() {
        body.insert("details".into(), details);
    }
}
