//! What a container must be given of a card and its driver: driver files, device nodes, CDI specs.
//!
//! Each library is mounted once, in the directory of Debian's family, and one hook (`thruway-hook`, static) makes the names by
//! which it is asked for and has the image's own loader find it. Where the hook is not installed, the spec needs none: each
//! library is then mounted at the places where a C library looks without being told, under its file name and its SONAME.

mod below;
mod csv;
mod edits;
mod files;
mod generate;
mod judge;
mod modes;
mod nodes;
mod options;
mod refresh;
mod specs;
pub mod transform;
pub mod unit;
mod wsl;

pub use formats::cdispec::SPEC_DIRS;

pub use files::{Binary, DriverFiles, Library, MountFile, driver_files};
pub use generate::{Gathered, Generated, NoSpec, gather_here, generate, generate_here};
pub use judge::{Fault, Judged, judge};
pub use modes::{Mode, generate_mode};
pub use nodes::{CONTROL_NODES, GpuNodes, MigPart, gpu_nodes};
pub use options::{HookWish, Naming, Options, Wanted};
pub use refresh::{
    Carried, DRIVER_FILE, OUTPUT_DIR, SPEC_NAME, Wish, capability_file, carry_out, others, pulse, watched, wish,
};
pub use specs::{Finding, GONE, Listed, SpecFile, State, Weight, check, list, read_dirs, read_file};

/// The hook that a spec names, where it is installed.
pub const HOOK: &str = "/usr/bin/thruway-hook";

/// The kind under which NVIDIA GPUs are known to engines, schedulers and people.
pub const KIND: &str = "nvidia.com/gpu";
