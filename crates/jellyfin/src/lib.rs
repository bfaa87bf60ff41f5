//! Jellyfin by its REST API: its transcoding settings read, changed as a whole object, and put back.
//!
//! Source: Jellyfin's own description of its API (/api-docs/openapi.json); each call names its path there. A POST replaces the whole
//! object: what is left out becomes its default. So the object that was read is sent back with some of its values
//! changed, and keys that this server did not answer with are never sent. There is no condition to a POST (no ETag):
//! between the last reading and it lies one round trip.

mod client;
mod hands;

pub use client::{Client, Public};
pub use hands::JellyfinHands;

use model::Digest;
use serde_json::{Map, Value};

/// Why the API could not be used, in words that hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Setting(String),
    #[error("{url} cannot be spoken to: {says}")]
    Connect { url: String, says: String },
    #[error("{what}: Jellyfin answers {status}: {says}")]
    Refused { what: String, status: u16, says: String },
    #[error("{what}: the answer is not what Jellyfin's API has: {says}")]
    Answer { what: String, says: String },
    /// Somebody has changed it since.
    #[error("{what}: {found} is there now, not {wanted}")]
    Moved { what: String, wanted: String, found: String },
}

/// An object's digest, whatever the order of its keys.
pub fn digest(options: &Map<String, Value>) -> Digest {
    let mut keys: Vec<(&String, &Value)> = options.iter().collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    let lines: Vec<String> = keys.into_iter().map(|(key, value)| format!("{key}\0{value}\n")).collect();
    Digest::of(lines.concat().as_bytes())
}
