//! The cluster floor: the device plugin lands where GPUs are, nodes carry true labels, workloads ask the scheduler
//! for a GPU and do not go round it.

mod api;
mod checks;
pub mod discovery;
pub mod gfd;
mod manifests;
pub mod objects;
mod observe;
pub mod patch;
pub mod placement;
mod plan;
pub mod plugin;
pub mod preflight;
mod read;
pub mod topology;
mod verify;
pub mod why;

pub use api::{apply_to_list, inverse, settle};
pub use checks::CHECKS;
pub use manifests::{Access, GPU_NODE_LABELS, PCI_PRESENT, PLUGIN_IMAGE, Placement, PluginManifest, manifests};
pub use observe::{Facts, observe, presence};
pub use plan::plan;
pub use verify::verify;
