//! Which root: the OCI state on standard input (runtime-spec, "State") names the bundle, its config.json the root. Both
//! are the runtime's words, not the image's.

use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

const STATE: u64 = 4 << 20;
const CONFIG: u64 = 32 << 20;

/// What of the state is used.
#[derive(Debug, Deserialize)]
pub struct State {
    pub bundle: String,
}

#[derive(Debug, Deserialize)]
struct Config {
    root: ConfigRoot,
}

#[derive(Debug, Deserialize)]
struct ConfigRoot {
    path: String,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("standard input is no OCI state ({0}); this program is started by a container runtime, see --help")]
    State(String),
    #[error("{path}: {cause}")]
    Config { path: String, cause: String },
}

impl State {
    /// # Errors
    /// What is no state, or has a bundle that is no absolute path.
    pub fn read(from: impl Read) -> Result<State, StateError> {
        let mut bytes = Vec::new();
        from.take(STATE).read_to_end(&mut bytes).map_err(|error| StateError::State(error.to_string()))?;
        let state: State = serde_json::from_slice(&bytes).map_err(|error| StateError::State(error.to_string()))?;
        if !state.bundle.starts_with('/') {
            return Err(StateError::State("its bundle is no absolute path".to_owned()));
        }
        Ok(state)
    }
}

/// The one descriptor of the root that all else starts from.
///
/// # Errors
/// A bundle without a config.json, one without root.path, a root that cannot be opened.
pub fn open_root(bundle: &str) -> Result<OwnedFd, StateError> {
    let path = format!("{bundle}/config.json");
    let wrong = |cause: String| StateError::Config { path: path.clone(), cause };
    let file = std::fs::File::open(&path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(CONFIG).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    let config: Config = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let root = config.root.path;
    let root = if root.starts_with('/') { root } else { format!("{bundle}/{root}") };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&root, flags, Mode::empty())
        .map_err(|cause| wrong(format!("its root {root} cannot be opened: {cause}")))
}
