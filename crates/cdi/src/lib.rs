//! What a container must be given of a card and its driver: driver files, device nodes, CDI specs.
//!
//! The spec made here needs no hook. Each library is mounted at the places where a C library looks without being told,
//! under its file name and under its SONAME, so nothing has to run inside a container before it starts.

mod files;
mod generate;
mod judge;
mod nodes;

pub use files::{Binary, DriverFiles, Library, MountFile, driver_files};
pub use generate::{Generated, NoSpec, Options, generate};
pub use judge::{Fault, Judged, judge};
pub use nodes::{CONTROL_NODES, GpuNodes, gpu_nodes};

/// The kind under which NVIDIA GPUs are known to engines, schedulers and people.
pub const KIND: &str = "nvidia.com/gpu";

/// Where engines look for specs, in rising priority.
pub const SPEC_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
