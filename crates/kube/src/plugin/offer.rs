//! Cards in, resources out: names, MIG strategies, time-slicing, and what is left out and why.

use model::Bdf;
use serde::Serialize;

use super::{Config, Found, Refusal};

/// The longest name of a resource and the longest id of a device (the kubelet's device plugin API).
pub const LONGEST: usize = 63;

/// All that a node offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// By name.
    pub resources: Vec<Resource>,
    /// Cards and instances that are not in it.
    pub left_out: Vec<LeftOut>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// An extended resource and its devices: one plugin socket, one registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// "nvidia.com/gpu", at most 63 characters.
    pub name: String,
    /// By GPU, instance, replica.
    pub devices: Vec<Device>,
    /// Its devices are offered several times.
    pub shared: Option<Shared>,
    /// Its devices are MIG devices.
    pub mig: bool,
}

/// How a resource is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shared {
    pub replicas: u32,
    pub fail_requests_greater_than_one: bool,
}

/// One thing that the kubelet may grant: a card, an instance of it, or one of the replicas of either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The kubelet's id: the UUID, of a replica "UUID::N".
    pub id: String,
    /// "GPU-…" or "MIG-…".
    pub uuid: String,
    /// Of the card that it is, or is a part of.
    pub gpu: String,
    /// "0", of an instance "0:1".
    pub index: String,
    pub bdf: Bdf,
    /// The card's N of /dev/nvidiaN.
    pub minor: Option<u32>,
    /// Of the card; none: no topology is told to the kubelet.
    pub numa: Option<u32>,
    /// /dev/nvidiaN, and of an instance its two nodes below /dev/nvidia-caps.
    pub nodes: Vec<String>,
    /// "nvidia.com/gpu=GPU-…": never the device `all`.
    pub cdi_name: String,
    /// Which replica it is, from 0.
    pub replica: Option<u32>,
    /// Of an instance: "1g.10gb".
    pub profile: Option<String>,
}

/// A card that is not offered, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    pub bdf: Bdf,
    pub uuid: Option<String>,
    pub why: String,
}

impl Resource {
    /// The device of an id.
    pub fn device(&self, id: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.id == id)
    }

    /// The name of its socket in the kubelet's directory: "thruway-gpu.sock", "thruway-mig-1g.5gb.sock".
    pub fn socket(&self) -> String {
        format!("thruway-{}.sock", self.name.rsplit('/').next().unwrap_or_default())
    }
}

/// What a node with these cards offers.
///
/// # Errors
/// The MIG strategy `single` on a node whose cards are not all cut alike; a resource with too long a name.
pub fn offer(config: &Config, found: &Found) -> Result<Offer, Refusal> {
    let _ = (config, found);
    Ok(Offer::default())
}
