//! A bounded client of the cluster's API, over kube-rs: objects as JSON, so that nothing of an object is lost and no table of
//! types is linked in. Each call has a deadline, each answer a size; nothing is retried here (who calls knows how long it may
//! wait).
//!
//! Sources: kubernetes.io, "Kubernetes API Concepts" (resources, watches, `PartialObjectMetadata`, dry run) and "Server-Side
//! Apply".

mod access;
mod error;
mod kind;
mod watch;

use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kube_rs::client::Body;
use serde_json::Value;

pub use access::Access;
pub use error::{Error, Held};
pub use kind::{Kind, Object};
pub use watch::{Changed, Watch};

/// The most bytes of one answer: a page of 500 nodes with their images is about 8 MB.
const ANSWER: usize = 32 << 20;
/// The most objects of one list, over all its pages.
const OBJECTS: usize = 100_000;
/// Objects per page of a list.
const PAGE: usize = 500;

/// How much of an object is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The object.
    Whole,
    /// `metadata` alone: a node's status and its list of images are a hundred times more.
    Metadata,
}

impl Part {
    fn accept(self, list: bool) -> &'static str {
        match (self, list) {
            (Part::Whole, _) => "application/json",
            (Part::Metadata, false) => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            (Part::Metadata, true) => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        }
    }
}

/// Which objects of a collection.
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// "app=jellyfin,tier!=web"
    pub labels: Option<String>,
    /// "spec.nodeName=mufti-4"
    pub fields: Option<String>,
}

/// How a change is made.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// The field manager's name, at most 128 characters.
    pub manager: &'a str,
    /// Take fields from whoever holds them with another value; else they are [`Error::Held`].
    pub force: bool,
    /// The server does all but keep it: admission, defaults, conflicts.
    pub dry_run: bool,
    /// How much of the changed object the answer is to hold.
    pub answer: Part,
}

impl<'a> How<'a> {
    pub fn by(manager: &'a str) -> Self {
        How { manager, force: false, dry_run: false, answer: Part::Whole }
    }

    pub fn dry(self) -> Self {
        How { dry_run: true, ..self }
    }
}

/// The API as one account sees it.
#[derive(Clone)]
pub struct Api {
    client: kube_rs::Client,
    /// Where it is, for messages: "https://10.0.0.1:6443".
    url: String,
    namespace: String,
    deadline: Duration,
}

impl Api {
    /// Where the API is, for messages.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The namespace of the kubeconfig's context, or of the pod.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same with another deadline of each call (10 s unless told).
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Api { deadline, ..self }
    }

    /// The object, or `None` where there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get(&self, object: &Object, part: Part) -> Result<Option<Value>, Error> {
        match self.call(Method::GET, &sound(object)?.path(), part.accept(false), None).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The objects of one namespace, or of all (`None`), page after page.
    ///
    /// # Errors
    /// [`Error`]; [`Error::TooLarge`] beyond 100,000 objects.
    pub async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        select: &Select,
        part: Part,
    ) -> Result<Vec<Value>, Error> {
        let mut all = Vec::new();
        let mut on = String::new();
        loop {
            let mut query = vec![("limit", PAGE.to_string())];
            query.extend(select.labels.clone().map(|labels| ("labelSelector", labels)));
            query.extend(select.fields.clone().map(|fields| ("fieldSelector", fields)));
            query.extend((!on.is_empty()).then(|| ("continue", on.clone())));
            let path = format!("{}?{}", kind.path(namespace), pairs(&query));
            let mut page = self.call(Method::GET, &path, part.accept(true), None).await?;
            match page.get_mut("items").map(Value::take) {
                Some(Value::Array(items)) => all.extend(items),
                _ => return Err(Error::Malformed("list")),
            }
            if all.len() > OBJECTS {
                return Err(Error::TooLarge(OBJECTS));
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(more) if !more.is_empty() && more != on => on = more.to_owned(),
                _ => return Ok(all),
            }
        }
    }

    /// Server-side apply: `body` is the whole of what `how.manager` wants of the object (`apiVersion`, `kind`, `metadata.name`
    /// and those fields); fields it wanted before and leaves out are taken off, unless another wants them too. Makes the object
    /// where it is not there.
    ///
    /// # Errors
    /// [`Error::Held`] where another manager has other values and `how.force` is not set; else [`Error`].
    pub async fn apply(&self, object: &Object, body: &Value, how: How<'_>) -> Result<Value, Error> {
        let mut query = vec![("fieldManager", how.manager.to_owned()), ("force", how.force.to_string())];
        query.extend(how.dry_run.then(|| ("dryRun", "All".to_owned())));
        let path = format!("{}?{}", sound(object)?.path(), pairs(&query));
        let body = Some(("application/apply-patch+yaml", body));
        self.call(Method::PATCH, &path, how.answer.accept(false), body).await
    }

    /// A JSON merge patch (RFC 7396). A `metadata.resourceVersion` in it must be the object's, or it is [`Error::Conflict`].
    ///
    /// # Errors
    /// [`Error`].
    pub async fn merge(&self, object: &Object, body: &Value, how: How<'_>) -> Result<Value, Error> {
        let mut query = vec![("fieldManager", how.manager.to_owned())];
        query.extend(how.dry_run.then(|| ("dryRun", "All".to_owned())));
        let path = format!("{}?{}", sound(object)?.path(), pairs(&query));
        let body = Some(("application/merge-patch+json", body));
        self.call(Method::PATCH, &path, how.answer.accept(false), body).await
    }

    /// Puts the whole object in the place of the one that is there. With `metadata.resourceVersion` only over that version.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn replace(&self, object: &Object, body: &Value, how: How<'_>) -> Result<Value, Error> {
        let mut query = vec![("fieldManager", how.manager.to_owned())];
        query.extend(how.dry_run.then(|| ("dryRun", "All".to_owned())));
        let path = format!("{}?{}", sound(object)?.path(), pairs(&query));
        self.call(Method::PUT, &path, how.answer.accept(false), Some(("application/json", body))).await
    }

    /// Makes a new object; the body names it, or asks for a name by `metadata.generateName`.
    ///
    /// # Errors
    /// [`Error::Conflict`] where there is one of that name; else [`Error`].
    pub async fn create(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        body: &Value,
        how: How<'_>,
    ) -> Result<Value, Error> {
        let mut query = vec![("fieldManager", how.manager.to_owned())];
        query.extend(how.dry_run.then(|| ("dryRun", "All".to_owned())));
        let path = format!("{}?{}", kind.path(namespace), pairs(&query));
        self.call(Method::POST, &path, how.answer.accept(false), Some(("application/json", body))).await
    }

    /// Takes the object away; false where there was none.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete(&self, object: &Object, dry_run: bool) -> Result<bool, Error> {
        let query = if dry_run { "?dryRun=All" } else { "" };
        let path = format!("{}{query}", sound(object)?.path());
        match self.call(Method::DELETE, &path, Part::Metadata.accept(false), None).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The server's version: "v1.34.1".
    ///
    /// # Errors
    /// [`Error`].
    pub async fn version(&self) -> Result<String, Error> {
        let told = self.call(Method::GET, "/version", Part::Whole.accept(false), None).await?;
        told.get("gitVersion").and_then(Value::as_str).map(error::short).ok_or(Error::Malformed("version"))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, Error> {
        let request = request(method, path, accept, body)?;
        let exchange = async {
            let answer = self.client.send(request).await.map_err(unreachable)?;
            let (head, body) = answer.into_parts();
            let bytes = match Limited::new(body, ANSWER).collect().await {
                Ok(all) => all.to_bytes(),
                Err(error) if error.is::<LengthLimitError>() => return Err(Error::TooLarge(ANSWER)),
                Err(error) => return Err(Error::Unreachable(chain(&*error))),
            };
            if !head.status.is_success() {
                return Err(Error::of_status(head.status.as_u16(), &bytes, retry_after(&head.headers)));
            }
            serde_json::from_slice(&bytes).map_err(|_| Error::Malformed("JSON"))
        };
        tokio::time::timeout(self.deadline, exchange).await.map_err(|_| Error::Slow(self.deadline))?
    }
}

fn request(method: Method, path: &str, accept: &str, body: Option<(&str, &Value)>) -> Result<Request<Body>, Error> {
    let mut request = Request::builder().method(method).uri(path).header(http::header::ACCEPT, accept);
    let bytes = match body {
        Some((form, body)) => {
            request = request.header(http::header::CONTENT_TYPE, form);
            serde_json::to_vec(body).map_err(|error| Error::Asked(format!("the object is no JSON: {error}")))?
        }
        None => Vec::new(),
    };
    request.body(Body::from(bytes)).map_err(|error| Error::Asked(format!("{path}: {error}")))
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

fn sound(object: &Object) -> Result<&Object, Error> {
    match object.is_sound() {
        true => Ok(object),
        false => Err(Error::Asked(format!("{object:?} is no name that the API takes"))),
    }
}

fn unreachable(error: kube_rs::Error) -> Error {
    match error {
        kube_rs::Error::Auth(error) => Error::Access(chain(&error)),
        other => Error::Unreachable(chain(&other)),
    }
}

/// An error with its causes, each said once: a refused connection is three errors deep.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let says = error.to_string();
        // what wraps another often says its text too
        if !words.iter().any(|word| word.contains(&says)) {
            words.push(says);
        }
        next = error.source();
    }
    error::short(&words.join(": "))
}

/// A query string: all but the unreserved characters in hexadecimal (RFC 3986).
fn pairs(pairs: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (key, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(key);
        out.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
                other => out.push_str(&format!("%{other:02X}")),
            }
        }
    }
    out
}

/// Success and no more: used where the answer's head alone counts.
fn is_ok(status: StatusCode) -> bool {
    status.is_success()
}
