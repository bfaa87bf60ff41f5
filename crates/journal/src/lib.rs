//! The only writer.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the only writer: the bans point here")]

mod hands;

pub use hands::{HandError, Hands};
