//! What a container gets for the devices that the kubelet granted it.

use std::collections::BTreeMap;

use machine::Machine;
use model::Seen;
use serde::Serialize;

use super::{Config, Device, Found, Refusal, Resource};

/// The answer for one container, in the shape of ContainerAllocateResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub envs: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Node>,
    pub annotations: BTreeMap<String, String>,
    /// Qualified CDI names.
    pub cdi: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    pub container_path: String,
    pub host_path: String,
    pub read_only: bool,
}

/// A device node. Permissions of "rwm".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    pub container_path: String,
    pub host_path: String,
    pub permissions: String,
}

/// What is so at the moment of a grant; [`allocate`] holds the device against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The driver that holds the card's function now. Absent: none, or the card is gone.
    pub driver: Seen<String>,
    /// The UUID of the card at this address now.
    pub uuid: Seen<String>,
    /// Its CDI name is in a spec that the runtime reads. Absent where CDI is not used.
    pub cdi: Seen<bool>,
    /// To whom the ledger promises the card, where that is not to pods or containers: "vm:100".
    pub promised: Option<String>,
}

/// What is so at this moment of a device's card: four small files. `cdi` says whether a qualified name is in a spec that the
/// runtime reads; the caller keeps those.
pub fn live(machine: &dyn Machine, device: &Device, cdi: impl Fn(&str) -> Seen<bool>) -> Live {
    let _ = machine;
    Live { driver: Seen::Absent, uuid: Seen::Absent, cdi: cdi(&device.cdi_name), promised: None }
}

/// What a container gets. `serial` makes the annotation's key unique; `live` is asked once for each card.
///
/// # Errors
/// A device is unknown, or is not what it was; more than one replica where that is to be refused.
pub fn allocate(
    config: &Config,
    found: &Found,
    resource: &Resource,
    ids: &[String],
    serial: &str,
    live: &dyn Fn(&Device) -> Live,
) -> Result<Answer, Refusal> {
    let _ = (config, found, resource, ids, serial, live);
    Ok(Answer::default())
}
