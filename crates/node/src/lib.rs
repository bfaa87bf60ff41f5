//! The node agent: one small process per GPU node, and all else that speaks the protocols of the cluster.
//!
//! tokio is here and nowhere else of the house. What is decided (what is offered, what a container is given, which
//! labels) is decided in `kube`, purely; here are sockets, time, and the threads that wait for a driver.
#![allow(
    clippy::disallowed_methods,
    reason = "the agent's own sockets lie in the kubelet's directory, and its clock and threads are its own; a machine is \
              looked at through machine, and written by journal"
)]

pub mod agent;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod cordon;
pub mod events;
pub mod labels;
pub mod look;
pub mod nfd;
