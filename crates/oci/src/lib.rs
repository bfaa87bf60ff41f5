//! What a container asks for and what it is given, as data: OCI configurations, requests, policy. No I/O.
//!
//! | module | what |
//! |---|---|
//! | [`json`] | a JSON text of which only what is edited is ever taken apart |
//! | [`config`] | an OCI runtime configuration: the few places that a GPU concerns |
//! | [`request`] | what a container asks for: environment, mounts, annotations |
//! | [`settings`] | config.toml with NVIDIA's keys, and our policy |
//! | [`policy`] | whether it may have what it asks for |
//! | [`resolve`] | the names of a request and a CDI spec in, edits out |
//! | [`apply`] | CDI edits onto a configuration, in the specification's order |
//! | [`require`] | NVIDIA_REQUIRE_*: what an image needs of driver and card |

pub mod apply;
pub mod config;
pub mod json;
pub mod policy;
pub mod request;
pub mod require;
pub mod resolve;
pub mod settings;
