//! The agent as a process, against the simulated kubelet and the simulated driver.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests make their machines and run the program"
)]

mod faults;
mod grants;
mod lives;
mod restarts;
mod rivals;
mod world;
