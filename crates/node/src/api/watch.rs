//! A watch: what changes of a collection, as it changes.

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt as _;
use kube_rs::client::Body;
use serde_json::Value;

use super::{Api, Error, Kind, Part, Select, chain, is_ok, pairs, request, retry_after, unreachable};

/// The most bytes of one change.
const LINE: usize = 4 << 20;

/// One change of a watched collection.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// Added or modified: as it is now.
    Is(Value),
    /// As it was last.
    Gone(Value),
    /// Nothing changed up to this version.
    Mark(String),
}

/// A running watch. It ends after the time that was asked for; then another is begun from the last version.
pub struct Watch {
    body: Body,
    buffer: Vec<u8>,
    idle: Duration,
}

impl Api {
    /// Watches from `version` on (the `metadata.resourceVersion` of what was read) for so long, then the server ends it.
    ///
    /// # Errors
    /// [`Error::Gone`] where that version is too old: read again; else [`Error`].
    pub async fn watch(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        select: &Select,
        version: &str,
        last: Duration,
        part: Part,
    ) -> Result<Watch, Error> {
        let seconds = last.as_secs().max(1);
        let mut query = vec![
            ("watch", "true".to_owned()),
            ("allowWatchBookmarks", "true".to_owned()),
            ("resourceVersion", version.to_owned()),
            ("timeoutSeconds", seconds.to_string()),
        ];
        query.extend(select.labels.clone().map(|labels| ("labelSelector", labels)));
        query.extend(select.fields.clone().map(|fields| ("fieldSelector", fields)));
        let path = format!("{}?{}", kind.path(namespace), pairs(&query));
        let request = request(Method::GET, &path, part.accept(false), None)?;
        let begin = async {
            let answer = self.client.send(request).await.map_err(unreachable)?;
            let (head, body) = answer.into_parts();
            if is_ok(head.status) {
                return Ok(body);
            }
            let bytes = http_body_util::Limited::new(body, LINE).collect().await.map(|all| all.to_bytes());
            let bytes = bytes.unwrap_or_default();
            Err(Error::of_status(head.status.as_u16(), &bytes, retry_after(&head.headers)))
        };
        let begun = tokio::time::timeout(self.deadline, begin).await.map_err(|_| Error::Slow(self.deadline))?;
        // The server ends it; one that is silent far beyond is dead.
        Ok(Watch { body: begun?, buffer: Vec::new(), idle: Duration::from_secs(seconds + 15) })
    }
}

impl Watch {
    /// The next change; `None` where the server has ended the watch.
    ///
    /// # Errors
    /// [`Error::Gone`], where the version has become too old; [`Error::Unreachable`] where the connection broke;
    /// [`Error::Slow`] where it has been silent for longer than the server said it would last.
    pub async fn next(&mut self) -> Result<Option<Changed>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                match line.trim_ascii() {
                    [] => continue,
                    line => return changed(line).map(Some),
                }
            }
            if self.buffer.len() > LINE {
                return Err(Error::TooLarge(LINE));
            }
            let frame = tokio::time::timeout(self.idle, self.body.frame()).await.map_err(|_| Error::Slow(self.idle))?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
                Some(Err(error)) => return Err(Error::Unreachable(chain(&error))),
            }
        }
    }
}

fn changed(line: &[u8]) -> Result<Changed, Error> {
    let mut event: Value = serde_json::from_slice(line).map_err(|_| Error::Malformed("watch event"))?;
    let object = event.get_mut("object").map(Value::take).ok_or(Error::Malformed("watch event"))?;
    match event.get("type").and_then(Value::as_str) {
        Some("ADDED" | "MODIFIED") => Ok(Changed::Is(object)),
        Some("DELETED") => Ok(Changed::Gone(object)),
        Some("BOOKMARK") => {
            let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
            Ok(Changed::Mark(version.ok_or(Error::Malformed("bookmark"))?.to_owned()))
        }
        Some("ERROR") => {
            let code = object.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
            Err(Error::of_status(code.unwrap_or(500), object.to_string().as_bytes(), None))
        }
        _ => Err(Error::Malformed("watch event")),
    }
}
