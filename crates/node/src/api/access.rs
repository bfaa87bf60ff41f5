//! The way to the API: a kubeconfig, or the service account of the pod.

use std::path::PathBuf;
use std::time::Duration;

use kube_rs::Config;
use kube_rs::config::{KubeConfigOptions, Kubeconfig};

use super::error::short;
use super::{Api, Error, chain};

/// Which way to take. The default is that of the pod where there is one, else $KUBECONFIG or ~/.kube/config.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig, and no other way.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it other than the current one.
    pub context: Option<String>,
}

impl Access {
    /// The client. Asks nothing of the API yet.
    ///
    /// # Errors
    /// [`Error::NoAccess`] where there is none, [`Error::Access`] where it cannot be used.
    pub async fn connect(&self) -> Result<Api, Error> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(Duration::from_secs(5));
        // A watch is silent for minutes; each call has a deadline of its own.
        config.read_timeout = None;
        config.write_timeout = Some(Duration::from_secs(10));
        config.default_retry = false;
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = config.default_namespace.clone();
        let client = kube_rs::Client::try_from(config).map_err(|error| Error::Access(chain(&error)))?;
        Ok(Api { client, url, namespace, deadline: Duration::from_secs(10) })
    }

    async fn config(&self) -> Result<Config, Error> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let bad = |error: &(dyn std::error::Error + 'static)| {
                Error::Access(format!("{}: {}", path.display(), chain(error)))
            };
            let read = Kubeconfig::read_from(path).map_err(|error| bad(&error))?;
            return Config::from_custom_kubeconfig(read, &options).await.map_err(|error| bad(&error));
        }
        let in_cluster = match Config::incluster() {
            Ok(config) if self.context.is_none() => return Ok(config),
            Ok(_) => "a context is asked for".to_owned(),
            Err(error) => short(&chain(&error)),
        };
        match Config::from_kubeconfig(&options).await {
            Ok(config) => Ok(config),
            Err(error) => Err(Error::NoAccess(format!("no pod's service account ({in_cluster}); {}", chain(&error)))),
        }
    }
}
