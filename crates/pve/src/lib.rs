//! Proxmox VE by its REST API: a VM's configuration changed from afar, guarded by its digest, with the privileges looked
//! at first and a failed task's log explained.
//!
//! Source: <https://pve.proxmox.com/pve-docs/api-viewer/>; each call names its path there. The shell (`qm set`) stays
//! the default on the node itself.

mod answers;
mod client;
mod fit;
mod hands;
mod preflight;
mod secret;
mod task;
mod tree;

pub use answers::{Answers, VmAnswer};
pub use client::{Client, Pending};
pub use hands::PveHands;
pub use preflight::preflight;
pub use rest::{Secret, Trust};
pub use secret::Login;
pub use tree::RUNS;

/// Why the API could not be used, in words that hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Setting(String),
    #[error("{url} cannot be spoken to: {says}")]
    Connect { url: String, says: String },
    /// `what`: the call; `says`: Proxmox VE's own words.
    #[error("{what}: Proxmox VE says {status}: {says}")]
    Refused { what: String, status: u16, says: String },
    #[error("{what}: the answer is not what the API's description has: {says}")]
    Answer { what: String, says: String },
    /// Known before anything was tried.
    #[error("{says}. Way out: {instead}")]
    NotAllowed { says: String, instead: String },
    /// Somebody has changed it since.
    #[error("{what}: {found} is there now, not {wanted}")]
    Moved { what: String, wanted: String, found: String },
    #[error("the task {upid} failed: {status}{explained}")]
    Task { upid: String, status: String, explained: String },
}

impl From<rest::Error> for Error {
    fn from(error: rest::Error) -> Self {
        Error::Setting(error.0)
    }
}
