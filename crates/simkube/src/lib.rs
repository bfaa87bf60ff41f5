//! What of Kubernetes cannot be had here, simulated: a kubelet and an API server, built from the public specifications.

pub mod api;
pub mod kubelet;
mod life;
pub mod plugin;
