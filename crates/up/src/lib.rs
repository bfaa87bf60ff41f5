//! The whole way by one file: `thruway up way.toml`, and `thruway down` back.
//!
//! A controller, and nothing that listens: each step is a command line of thruway run on its machine by the user's own
//! ssh, shown before it is run. What is to be done is never remembered but looked at: a floor whose plan is empty and
//! whose changes hold is done, whoever did it. So an `up` that was cut off anywhere is gone on with by another `up`. What
//! was done is written where it was done, in each machine's journal, under the way's id; `down` takes back what bears it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "starts ssh, and keeps its state in the user's own directory; machines are looked at and changed by the thruway that runs on them"
)]

mod climb;
mod descend;
pub mod event;
mod fleet;
mod floor;
mod graph;
mod look;
mod outline;
mod programs;
mod reach;
mod remote;
mod state;
mod visit;
mod walk;
mod way;

pub use event::{Event, What};
pub use fleet::{Ended, Report, walk_fleet};
pub use graph::{Form, draw};
pub use look::look;
pub use outline::{Node, outline};
pub use reach::{At, Lost, Reach, quote, tame};
pub use remote::{Card as CardSeen, VmSays as VmSeen};
pub use state::{State, StateError, random};
pub use walk::{Direction, Go, Stop, walk};
pub use way::{App, Bad, Cluster, Container, Driver, Fleet, From, Guest, Host, Own, Ssh, Vm, Way, WayFile};
