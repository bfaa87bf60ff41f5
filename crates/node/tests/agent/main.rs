//! The agent as a process, against the simulated kubelet and the simulated driver.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests make their machines, run the program and print what they measured"
)]

mod clocks;
mod cluster;
mod faults;
mod grants;
mod lives;
mod restarts;
mod rivals;
mod world;
