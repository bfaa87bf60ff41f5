//! The agent: registers what `kube::plugin` offers, answers for it, and keeps it true.
//!
//! One thread runs everything that only waits (tokio, current_thread). What can hang in the driver has threads of its own:
//! the look at the node ([`looker`]), the grants ([`grants`]), NVML (one a card). They tell, and this one decides.

mod audit;
mod directory;
pub mod front;
mod grants;
mod http;
pub mod looker;
mod rival;
mod run;
mod side;
mod state;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kube::plugin::Config;
use machine::Root;

use crate::cluster::Task;

pub use grants::Standing;
pub use run::run;
pub use state::Picture;

/// Where everything is.
pub struct Settings {
    /// The machine's root as this process sees it: "/", "/host".
    pub root: PathBuf,
    /// The kubelet's directory, as this process sees it.
    pub plugins: PathBuf,
    /// The kubelet's registration socket; none: offer and do not register.
    pub kubelet: Option<PathBuf>,
    pub pod_resources: PathBuf,
    /// Where metrics and health are served; none: nowhere.
    pub listen: Option<SocketAddr>,
    /// Write the CDI specs and the agent's inventory.
    pub specs: bool,
    /// The side towards the API: labels, cordon, Events; none: the agent stays for itself.
    pub task: Option<Task>,
    /// How often it is looked for pods that use a card without a grant; none: never.
    pub audit: Option<Duration>,
    pub started: Instant,
}

/// How the machine is opened: each thread has a view of its own.
pub type Open<'a> = dyn Fn(&Config) -> std::io::Result<Root> + 'a;
/// How the configuration is read, and read again on SIGHUP.
pub type Read<'a> = dyn Fn() -> Result<Config, String> + 'a;
