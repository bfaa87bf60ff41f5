//! What changes the world beyond files: services, generators, sysfs, APIs.

use model::{Op, PackagesOp};

use crate::Stock;

/// Carries out the operations that are no plain file. The real one runs programs; the simulated one changes its tree.
pub trait Hands {
    /// Carries `op` out. `WriteFile` and `RemoveFile` never come here: the journal does those itself.
    fn act(&self, op: &Op) -> Result<(), HandError>;

    /// Takes `op` back: a service's opposite verb, sysfs's old value, the object as it was. For `Regenerate` the
    /// inputs are already restored, and it is run again.
    fn take_back(&self, op: &Op) -> Result<(), HandError>;

    /// Boots the machine again, in good order.
    fn reboot(&self) -> Result<(), HandError> {
        Err(HandError::NotHere { what: "a reboot".into(), why: "nothing runs here".into() })
    }

    /// What would come with these packages, and what is there now. Asked before the step, and refused where something
    /// that is there would be removed or get another version. It may fetch the archives' lists; it installs nothing.
    fn stock(&self, op: &PackagesOp) -> Result<Stock, HandError> {
        let what = format!("installing {}", op.install.join(", "));
        Err(HandError::NotHere { what, why: "there is no package manager here".into() })
    }

    /// Removes what came with these packages, and nothing else; also after a run that was cut off. What is not as it
    /// was is told in sentences.
    fn unstock(&self, op: &PackagesOp, _before: &Stock) -> Result<Vec<String>, HandError> {
        let what = format!("removing {}", op.install.join(", "));
        Err(HandError::NotHere { what, why: "there is no package manager here".into() })
    }

    /// Does the effect of `op` hold now (a unit that it starts is active)? `None` where that cannot be told. Asked
    /// before the step, so that what was so already is not undone, and after one that failed or was cut off, so that
    /// only what took effect gets its opposite.
    fn holds(&self, _op: &Op) -> Option<bool> {
        None
    }
}

/// Why an operation could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    #[error("{command} failed ({status}): {message}")]
    Failed { command: String, status: String, message: String },
    #[error("{what} cannot be done here: {why}")]
    NotHere { what: String, why: String },
    #[error("cannot start {command}")]
    Start {
        command: String,
        #[source]
        source: std::io::Error,
    },
    /// The kernel did not come back in time. `stuck`: the write is still under way, in a child that cannot be killed.
    #[error("{what} did not come back within {seconds} s ({evidence}). {instead}")]
    Hung { what: String, seconds: u64, evidence: String, instead: String, stuck: bool },
    #[error("{what}: {found} is there now, and {wanted} was there when the plan was made; plan again")]
    Moved { what: String, wanted: String, found: String },
    #[error("{path}")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl HandError {
    /// A Jellyfin server's settings are changed by its REST API alone.
    pub fn jellyfin(url: &str) -> Self {
        HandError::NotHere {
            what: format!("changing Jellyfin at {url}"),
            why: format!("it is done by its API: say thruway app jellyfin apply (or undo) --url {url}"),
        }
    }
}
