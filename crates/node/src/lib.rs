//! The node agent: one small process per GPU node, and all else that speaks the protocols of the cluster.

pub mod api;
