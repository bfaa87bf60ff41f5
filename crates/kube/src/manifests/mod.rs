//! Manifests as data: thruway's own agent with all that it needs, and one for NVIDIA's device plugin.
//!
//! [`Placement::objects`] is what `thruway kube manifests` prints and what the Helm chart renders with its default values;
//! a test holds the chart to it, and every object to the API's own types.

mod agent;
mod nvidia;
mod policy;
mod rights;

pub use agent::{Access, GPU_NODE_LABELS, Placement};
pub use nvidia::{PLUGIN_IMAGE, PluginManifest, manifests};
pub(crate) use nvidia::{present_expression, present_term};

/// The label by which the discovery pods mark a node: an NVIDIA display function that no VM has.
pub const PCI_PRESENT: &str = "thruway.dev/nvidia-pci.present";
