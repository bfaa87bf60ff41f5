//! What the device plugin offers and answers, pure: the kubelet's protocol is spoken by `thruway-node`.
//!
//! [`look`](found::look) takes a node's cards in, [`offer`](offer::offer) makes resources of them by a [`Config`],
//! [`prefer`](prefer::prefer) chooses among what is free, [`allocate`](allocate::allocate) says what a container gets, and
//! a [`health::Tracker`] whether a device may be given at all.
//!
//! Sources: kubernetes.io, Device Plugins; KEP 3573, KEP 4009; the README of NVIDIA's k8s-device-plugin.

pub mod allocate;
pub mod config;
#[cfg(test)]
mod fixtures;
pub mod found;
pub mod health;
#[cfg(test)]
mod model;
pub mod offer;
pub mod prefer;
#[cfg(test)]
mod random;
pub mod topology;

pub use allocate::{Answer, Live, Mount, Node, OnMachine, Present, allocate, information};
pub use config::{Config, IdStrategy, ListStrategy, MigStrategy, SharedPolicy, Which};
pub use found::{Found, Gpu, Part};
pub use offer::{Device, LeftOut, Offer, Resource, Shared, offer};
pub use prefer::prefer;
pub use topology::Topology;

/// Why something is not done: what the kubelet is told, and what a person can do about it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// One sentence without a full stop.
    pub says: String,
    pub fix: String,
}

impl Refusal {
    pub(crate) fn new(says: impl Into<String>, fix: impl Into<String>) -> Self {
        Refusal { says: says.into(), fix: fix.into() }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.says, self.fix)
    }
}

impl std::error::Error for Refusal {}
