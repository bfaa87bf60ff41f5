//! The journal where it hurts: power cuts, full disks, hostile logs, broken generators, other people's edits.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the tests look at the tree from outside")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says what it does, and fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod forms;
mod generators;
mod metadata;
mod power;
mod refusals;
mod shadow;
mod space;
mod world;
