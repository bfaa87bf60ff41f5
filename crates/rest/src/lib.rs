//! What every API that is spoken to over HTTP has in common: whose certificate is believed, secrets that have no way to be
//! shown, and a client that follows nobody elsewhere.

mod secret;
mod transport;
mod trust;

use std::time::Duration;

use ureq::Agent;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, TcpConnector};

pub use secret::Secret;
pub use trust::Trust;

/// What is wrong with what the client was told, in words that hold no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// A client by HTTPS alone: no proxy, no redirects (a token goes to nobody else), answers of any status given back.
/// `timeout`: for a whole call.
///
/// # Errors
/// The trust cannot be made of what it holds: no PEM, no certificate.
pub fn https(trust: &Trust, timeout: Duration) -> Result<Agent, Error> {
    let connector = ().chain(TcpConnector::default()).chain(transport::Tls(trust.config()?));
    Ok(Agent::with_parts(config(timeout, true), connector, DefaultResolver::default()))
}

/// As [`https`], in clear text: only for whoever says http:// of a server on this machine or in a network of their own.
pub fn http(timeout: Duration) -> Agent {
    Agent::with_parts(config(timeout, false), ().chain(TcpConnector::default()), DefaultResolver::default())
}

fn config(timeout: Duration, https: bool) -> ureq::config::Config {
    Agent::config_builder()
        .https_only(https)
        .max_redirects(0)
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(timeout))
        .user_agent(concat!("thruway/", env!("CARGO_PKG_VERSION")))
        .build()
}
