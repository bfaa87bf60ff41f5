//! The other way to labels: a feature file, which node feature discovery's worker reads and its master writes to the Node.
//!
//! Source: the documentation of node-feature-discovery, "local" feature source: a file of `key=value` lines in
//! /etc/kubernetes/node-feature-discovery/features.d; hidden files are passed over; labels of other domains than its own are
//! kept as they are called.

use journal::cache::Cache;

use crate::labels::Labels;

/// The feature file. GPU feature discovery's is called gfd.
pub const FILE: &str = "/etc/kubernetes/node-feature-discovery/features.d/thruway";

/// The file's text.
pub fn text(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// Has the file at `path` (as [`FILE`]) say these labels, or has none where there are none. True where something changed.
///
/// # Errors
/// What the operating system says, with the path.
pub fn write(cache: &Cache, path: &str, labels: &Labels) -> Result<bool, String> {
    let done = match labels.is_empty() {
        true => cache.remove(path),
        false => cache.put(path, text(labels).as_bytes()),
    };
    done.map_err(|error| format!("{path} cannot be written: {error}"))
}
