//! A whole driver root on disk, for tests and labs: what a distribution's packages, a container host's installer or a driver
//! container would have laid out for a box of the card model.
//!
//! The four libraries that we have are the simulated ones; every other library is a small ELF file with the right SONAME and
//! nothing in it. Programs are scripts that say that they are simulated. `thruway-sim/` beside the libraries holds the box,
//! and `SIMULATED` at the root says what all this is.
//!
//! `files` is the one list of a driver's files; `layout` is where each system keeps them.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "writes the folder that it is given; no machine of anyone's"
)]

pub mod elf;
pub mod files;
pub mod layout;
mod others;
mod root;

pub use layout::Layout;
pub use others::{lay_tegra, lay_wsl};
pub use root::{Built, Laid, lay, mig_minor};
