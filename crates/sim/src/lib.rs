//! Simulated machines: boxes (machines as data), the trees they are laid out as, and the physics that changes such a
//! tree as a boot, a VM's start or a driver's installation would.
//!
//! Simulation replaces the machine and nothing above it: observers, checks, planners and the journal are the real
//! ones. The tree carries [`machine::SIM_DIR`], so all that is shown of it says "simulated".

mod answers;
pub mod boxes;
mod cluster;
mod efivars;
mod hands;
mod http;
pub mod jellyfin;
pub mod lab;
mod lay;
mod packages;
mod pci;
pub mod physics;
pub mod pve;
mod tree;

pub use boxes::{Box, BoxError};
pub use hands::SimHands;
pub use lay::build;
pub use pci::Pci;

/// Lays the box of this name out, with all that it extends.
pub fn build_named(name: &str, tree: &machine::scratch::Scratch) -> Result<(), BoxError> {
    build(&Box::load(name)?, tree)
}

/// The names of all boxes, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    Box::names()
}

/// A box's title; empty where there is no such box.
pub fn title(name: &str) -> String {
    Box::own(name).map(|this| this.title).unwrap_or_default()
}
