//! What goes wrong between us and the API, each with what to do.

use std::time::Duration;

use serde_json::Value;

/// A field that another manager owns with another value, as a server-side apply that does not force is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// ".metadata.labels.nvidia.com/gpu.product"
    pub field: String,
    /// The manager's name: "nfd-master", "kubectl-label".
    pub by: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a kubeconfig nor a service account.
    #[error("no way to the cluster's API is known here: {0}")]
    NoAccess(String),
    /// The kubeconfig, the certificate or the token cannot be used.
    #[error("the way to the cluster's API cannot be used: {0}")]
    Access(String),
    /// No answer: refused, unreachable, a certificate that does not fit, a connection that broke.
    #[error("the cluster's API does not answer: {0}")]
    Unreachable(String),
    #[error("the cluster's API has not answered within {} s", .0.as_secs_f32())]
    Slow(Duration),
    #[error("the cluster's API does not know who asks (401): {0}")]
    Unauthorized(String),
    /// RBAC, admission (NodeRestriction, a ValidatingAdmissionPolicy).
    #[error("the cluster's API refuses (403): {0}")]
    Forbidden(String),
    #[error("not found: {0}")]
    NotFound(String),
    /// Server-side apply: these fields are another's, with another value.
    #[error("{} held by another field manager: {}", fields(.0), held(.0))]
    Held(Vec<Held>),
    /// The object changed since it was read, or is there already.
    #[error("the object is not as it was taken to be (409): {0}")]
    Conflict(String),
    /// The version from which a watch was to go on is too old: list again.
    #[error("the API has forgotten that version (410): {0}")]
    Gone(String),
    #[error("the cluster's API finds the object invalid ({code}): {message}")]
    Invalid { code: u16, message: String },
    /// 429: wait so long.
    #[error("the cluster's API asks for patience (429): {message}")]
    Busy { message: String, wait: Duration },
    /// 5xx, and what else is no answer to what was asked.
    #[error("the cluster's API failed ({code}): {message}")]
    Server { code: u16, message: String },
    /// More than is taken in one answer.
    #[error("the cluster's API answers more than {0} bytes")]
    TooLarge(usize),
    #[error("the cluster's API answers what is no {0}")]
    Malformed(&'static str),
    /// What cannot be asked at all: a kind that is not known here, a name that is none.
    #[error("{0}")]
    Asked(String),
}

fn fields(held: &[Held]) -> &'static str {
    if held.len() == 1 { "a field is" } else { "fields are" }
}

fn held(held: &[Held]) -> String {
    let all: Vec<String> = held.iter().map(|held| format!("{} by {}", held.field, held.by)).collect();
    all.join(", ")
}

impl Error {
    /// From an answer that is no success. `wait` is its Retry-After.
    pub(super) fn of_status(code: u16, body: &[u8], wait: Option<Duration>) -> Error {
        let status: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |key: &str| status.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let message = match text("message") {
            none if none.is_empty() => short(&String::from_utf8_lossy(body)),
            message => short(&message),
        };
        let after = status.pointer("/details/retryAfterSeconds").and_then(Value::as_u64).map(Duration::from_secs);
        match code {
            401 => Error::Unauthorized(message),
            403 => Error::Forbidden(message),
            404 => Error::NotFound(message),
            409 => match causes(&status) {
                held if held.is_empty() => Error::Conflict(message),
                held => Error::Held(held),
            },
            410 => Error::Gone(message),
            400 | 413 | 415 | 422 => Error::Invalid { code, message },
            429 => Error::Busy { message, wait: wait.or(after).unwrap_or(Duration::from_secs(1)) },
            _ => Error::Server { code, message },
        }
    }

    /// Worth asking again later, with nothing changed by anyone.
    pub fn passes(&self) -> bool {
        match self {
            Error::Unreachable(_) | Error::Slow(_) | Error::Busy { .. } | Error::Gone(_) => true,
            Error::Server { code, .. } => *code >= 500,
            _ => false,
        }
    }

    /// What to do, to be pasted where that is possible. `None` where waiting is all.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Error::NoAccess(_) => "say where: --kubeconfig FILE (on a node of kubeadm: /etc/kubernetes/kubelet.conf); in a \
                                   pod: a service account with automountServiceAccountToken"
                .into(),
            Error::Access(_) => "kubectl --kubeconfig FILE get nodes   # with the same file: it says which entry is wrong".into(),
            Error::Unreachable(_) | Error::Slow(_) => {
                "kubectl get --raw /readyz   # is the API up, and is the address of the kubeconfig the right one?".into()
            }
            Error::Unauthorized(_) => {
                "the token or certificate has expired or is another cluster's: write the kubeconfig anew, or restart the pod".into()
            }
            Error::Forbidden(_) => {
                "kubectl auth can-i patch nodes --as system:serviceaccount:NAMESPACE:NAME   # then: thruway kube manifests | \
                 kubectl apply -f -"
                    .into()
            }
            Error::Held(_) => {
                "kubectl get node NAME --show-managed-fields -o yaml   # who else writes it? Switch that one off, or let \
                 thruway take it: --take"
                    .into()
            }
            Error::Conflict(_) => "run it again: it starts from what is there now".into(),
            _ => return None,
        })
    }
}

/// The conflicts of a server-side apply: the cause's message names the manager in quotes.
fn causes(status: &Value) -> Vec<Held> {
    let causes = status.pointer("/details/causes").and_then(Value::as_array);
    let conflict = |cause: &&Value| cause.get("reason").and_then(Value::as_str) == Some("FieldManagerConflict");
    let held = |cause: &Value| {
        let text = |key: &str| cause.get(key).and_then(Value::as_str).unwrap_or_default();
        let by = text("message").split('"').nth(1).unwrap_or("another").to_owned();
        Held { field: text("field").to_owned(), by }
    };
    causes.into_iter().flatten().filter(conflict).take(256).map(held).collect()
}

/// A message from outside, in one line and bounded.
pub(super) fn short(text: &str) -> String {
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(500) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line,
    }
}
