//! The way to the API, for every verb that takes it.

use std::path::PathBuf;
use std::time::Duration;

use machine::{Machine, MachineExt as _};

use super::Ground;
use crate::api::{Access, Error};

#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "The cluster's API")]
pub struct Way {
    /// A kubeconfig, in place of the pod's service account, $KUBECONFIG and ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig other than the current one
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// This node's name in the cluster [NODE_NAME; else the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
}

impl Way {
    pub fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }
    }

    /// The node's name: as the kubelet makes it of the host's, where nothing else is said.
    ///
    /// # Errors
    /// Nothing says it.
    pub fn node(&self, ground: &Ground, machine: &dyn Machine) -> Result<String, String> {
        let told = self.node_name.as_deref().or_else(|| ground.var("NODE_NAME")).map(str::to_owned);
        let host = || machine.value("/proc/sys/kernel/hostname").is().or_else(|| machine.value("/etc/hostname").is());
        let name = told.or_else(host).map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty());
        name.ok_or_else(|| "which Node this is is not known: say --node-name, or NODE_NAME by the downward API".into())
    }
}

/// What went wrong between us and the API, with the fix.
pub fn says(error: &Error) -> String {
    match error.fix() {
        Some(fix) => format!("{error}\n  {fix}"),
        None => error.to_string(),
    }
}

/// A runtime of one thread, for one conversation.
///
/// # Errors
/// The operating system gives none.
pub fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("no event loop is to be had: {error}"))
}

/// Waits until the labels are settled, or says what is in the way.
///
/// # Errors
/// The trouble, with its fix; or that nothing came of it in time.
pub async fn settled(link: &mut crate::cluster::Link, limit: Duration) -> Result<crate::cluster::State, String> {
    let wait = link.state.wait_for(|state| state.settled || state.trouble.is_some());
    let state = match tokio::time::timeout(limit, wait).await {
        Ok(Ok(state)) => state.clone(),
        Ok(Err(_)) => return Err("the conversation with the API ended".into()),
        Err(_) => return Err(format!("nothing came of it within {} s", limit.as_secs())),
    };
    match state.trouble {
        Some(why) => Err(why),
        None => Ok(state),
    }
}
