//! The node agent: one small process per GPU node, and all else that speaks the protocols of the cluster.
//!
//! tokio is here and nowhere else of the house. What is decided (what is offered, what a container is given, which
//! labels) is decided in `kube`, purely; here are sockets, time, and the threads that wait for a driver.

pub mod api;
pub mod cli;
