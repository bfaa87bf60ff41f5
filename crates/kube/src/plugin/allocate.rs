//! What a container gets for the devices that the kubelet granted it.

use std::collections::{BTreeMap, BTreeSet};

use journal::ledger::{self, Owner};
use machine::{Machine, MachineExt as _};
use model::{Bdf, Reason, Seen};
use serde::Serialize;

use super::{Config, Device, Found, IdStrategy, ListStrategy, Refusal, Resource};

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

/// What is so of a device's card at the moment of a grant; [`allocate`] holds the device against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The driver that holds the card's function now. Absent: none, or the card is gone.
    pub driver: Seen<String>,
    /// The UUID of the card at this address now. Unreadable: the driver does not tell it before the card's first use.
    pub uuid: Seen<String>,
    /// A node of the device that is not there any more.
    pub missing: Option<String>,
    /// To whom the ledger promises the card, where that is not to pods: "vm:100".
    pub promised: Option<String>,
}

/// The present, as a grant must know it.
pub trait Present {
    fn live(&self, device: &Device) -> Live;

    /// Is a qualified CDI name in a spec that the runtime reads?
    fn resolves(&self, name: &str) -> Seen<bool>;
}

/// The present of a machine: a handful of small files for each card. The caller keeps the specs, and UUIDs of which it is certain.
pub struct OnMachine<'a, R: Fn(&str) -> Seen<bool>, U: Fn(&Device) -> Option<String>> {
    pub machine: &'a dyn Machine,
    pub resolves: R,
    /// None: the driver is asked.
    pub certain: U,
}

impl<R: Fn(&str) -> Seen<bool>, U: Fn(&Device) -> Option<String>> Present for OnMachine<'_, R, U> {
    fn live(&self, device: &Device) -> Live {
        match (self.certain)(device) {
            Some(uuid) => live_with(self.machine, device, || Seen::Is(uuid)),
            None => live(self.machine, device),
        }
    }

    fn resolves(&self, name: &str) -> Seen<bool> {
        (self.resolves)(name)
    }
}

/// What is so of a device's card now.
pub fn live(machine: &dyn Machine, device: &Device) -> Live {
    live_with(machine, device, || uuid_now(machine, device.bdf))
}

/// The file in which the driver tells of the card at an address.
pub fn information(bdf: Bdf) -> String {
    format!("/proc/driver/nvidia/gpus/{bdf}/information")
}

/// As the driver tells it: the one look of a grant that runs the driver's own code, and so can hang with it.
fn uuid_now(machine: &dyn Machine, bdf: Bdf) -> Seen<String> {
    let told = machine.text(&information(bdf));
    told.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("GPU UUID")?.trim_start().strip_prefix(':'));
        match line.map(str::trim) {
            Some(uuid) if uuid.starts_with("GPU-") && !uuid.contains('?') => Seen::Is(uuid.to_owned()),
            _ => Seen::Unreadable(Reason::Other("the driver does not tell it before the card's first use".into())),
        }
    })
}

/// As [`live`], with the UUID from elsewhere. No look of its own runs a driver's code.
pub fn live_with(machine: &dyn Machine, device: &Device, uuid: impl FnOnce() -> Seen<String>) -> Live {
    let bdf = device.bdf;
    let driver = machine.link_name(&format!("/sys/bus/pci/devices/{bdf}/driver"));
    let missing = device.nodes.iter().find(|path| machine.stat(path).is_absent()).cloned();
    let promised = match machine.text(&ledger::path(bdf)) {
        Seen::Absent => None,
        Seen::Is(text) => match serde_json::from_str::<ledger::Promise>(&text) {
            // a promise of another card in this slot says nothing of this one
            Ok(promise) if promise.gpu.uuid.as_ref().is_some_and(|uuid| *uuid != device.gpu) => None,
            Ok(promise) => (promise.to != Owner::Pods).then(|| promise.to.to_string()),
            Err(_) => Some("somebody: its file cannot be read".into()),
        },
        Seen::Unreadable(why) => Some(format!("somebody: its file cannot be read ({why})")),
    };
    Live { driver, uuid: uuid(), missing, promised }
}

/// Where a runtime looks for devices that are named by mounts.
const VOLUME_MOUNTS: &str = "/var/run/nvidia-container-devices";

/// What a container gets, by the strategies of the configuration. `serial` makes the annotation's key unique ("a1b2c3"); each
/// card is looked at once, and nothing is given where one is not what it was.
///
/// # Errors
/// A device is unknown, asked for twice, or is not what it was; more than one replica where that is to be refused.
pub fn allocate(
    config: &Config,
    found: &Found,
    resource: &Resource,
    ids: &[String],
    serial: &str,
    present: &dyn Present,
) -> Result<Answer, Refusal> {
    let devices = granted(resource, ids)?;
    // replicas of one device are one device
    let mut units: Vec<&Device> = Vec::with_capacity(devices.len());
    for device in devices {
        if !units.iter().any(|unit| unit.uuid == device.uuid) {
            units.push(device);
        }
    }
    let mut looked = BTreeSet::new();
    for unit in &units {
        still_there(unit, &present.live(unit), looked.insert(&unit.gpu))?;
    }
    let mut answer = Answer::default();
    let channels: Vec<u32> = config.imex.channels.iter().copied().filter(|id| found.imex.contains(id)).collect();
    if config.cdi() {
        by_cdi(config, &units, &channels, serial, present, &mut answer)?;
    }
    if config.cdi_only() {
        return Ok(answer);
    }
    let names: Vec<&str> = units
        .iter()
        .map(|unit| match config.ids {
            IdStrategy::Uuid => unit.uuid.as_str(),
            IdStrategy::Index => unit.index.as_str(),
        })
        .collect();
    let mut env = |name: &str, value: String| drop(answer.envs.insert(name.to_owned(), value));
    if config.list.contains(&ListStrategy::Envvar) {
        env("NVIDIA_VISIBLE_DEVICES", names.join(","));
        if !channels.is_empty() {
            env("NVIDIA_IMEX_CHANNELS", channels.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
        }
    }
    if config.list.contains(&ListStrategy::VolumeMounts) {
        env("NVIDIA_VISIBLE_DEVICES", VOLUME_MOUNTS.to_owned());
        let channels = channels.iter().map(|id| format!("imex/{id}"));
        let mount = |name: String| Mount {
            container_path: format!("{VOLUME_MOUNTS}/{name}"),
            host_path: "/dev/null".to_owned(),
            read_only: false,
        };
        answer.mounts = names.iter().map(|&name| name.to_owned()).chain(channels).map(mount).collect();
    }
    for (name, wanted) in
        [("NVIDIA_GDS", config.gds), ("NVIDIA_GDRCOPY", config.gdrcopy), ("NVIDIA_MOFED", config.mofed)]
    {
        if wanted {
            answer.envs.insert(name.to_owned(), "enabled".to_owned());
        }
    }
    if config.pass_device_specs {
        let mut paths: Vec<&String> = found.control.iter().collect();
        for path in units.iter().flat_map(|unit| &unit.nodes) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        let root = config.dev_root().trim_end_matches('/');
        let node = |path: &String| Node {
            container_path: path.clone(),
            host_path: format!("{root}{path}"),
            permissions: "rw".to_owned(),
        };
        answer.devices = paths.into_iter().map(node).collect();
    }
    Ok(answer)
}

/// The devices of the ids.
fn granted<'r>(resource: &'r Resource, ids: &[String]) -> Result<Vec<&'r Device>, Refusal> {
    let again = "the kubelet's list of devices is older than this one; it is sent anew at once, start the pod again";
    if ids.is_empty() {
        return Err(Refusal::new(format!("no device of {} is named", resource.name), again));
    }
    let mut seen = BTreeSet::new();
    let mut devices = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(device) = resource.device(id) else {
            return Err(Refusal::new(format!("{} has no device \"{}\"", resource.name, id.escape_debug()), again));
        };
        if !seen.insert(id) {
            return Err(Refusal::new(format!("{id} is named twice"), again));
        }
        devices.push(device);
    }
    let refuses = resource.shared.is_some_and(|shared| shared.fail_requests_greater_than_one);
    if refuses && ids.len() > 1 && devices.iter().any(|device| device.replica.is_some()) {
        let name = &resource.name;
        return Err(Refusal::new(
            format!(
                "{} of {name} were asked for: they are replicas, and more than one gives no more of a GPU",
                ids.len()
            ),
            format!("ask for {name}: 1, or set sharing.timeSlicing.failRequestsGreaterThanOne to false"),
        ));
    }
    Ok(devices)
}

/// Refuses a device that is not what it was when it was offered. `first`: of its card, else the card was judged already.
fn still_there(device: &Device, live: &Live, first: bool) -> Result<(), Refusal> {
    let name = format!("{} ({})", device.uuid, device.bdf.short());
    let refuse = |says: String, fix: &str| Err(Refusal::new(says, fix));
    if let Some(path) = &live.missing {
        let fix = "nvidia-modprobe makes it; thruway doctor says what removed it";
        return refuse(format!("{name} cannot be given: its node {path} is not there any more"), fix);
    }
    if !first {
        return Ok(());
    }
    match &live.driver {
        Seen::Is(driver) if driver == "nvidia" => {}
        Seen::Is(driver) => {
            return refuse(
                format!("{name} cannot be given: the driver {driver} holds it now"),
                "thruway gpus shows who has it",
            );
        }
        Seen::Absent => {
            return refuse(
                format!("{name} cannot be given: no driver holds it any more"),
                "thruway doctor says what happened",
            );
        }
        Seen::Unreadable(why) => {
            let says = format!("{name} cannot be given: which driver holds it could not be seen: {why}");
            return refuse(says, "give the agent /sys to read");
        }
    }
    match &live.uuid {
        Seen::Is(uuid) if *uuid == device.gpu => {}
        Seen::Is(uuid) => {
            let says = format!("{name} cannot be given: another card ({uuid}) sits at its address now");
            return refuse(says, "the agent looks again by itself; start the pod again");
        }
        Seen::Absent => {
            return refuse(
                format!("{name} cannot be given: the driver knows no card at its address any more"),
                "thruway doctor says what happened",
            );
        }
        // the driver has the card at this address, and says no more before its first use
        Seen::Unreadable(_) => {}
    }
    match &live.promised {
        Some(owner) => refuse(
            format!("{name} cannot be given: it is promised to {owner}"),
            &format!("thruway assign {} nobody, if that is over", device.bdf),
        ),
        None => Ok(()),
    }
}

fn by_cdi(
    config: &Config,
    units: &[&Device],
    channels: &[u32],
    serial: &str,
    present: &dyn Present,
    answer: &mut Answer,
) -> Result<(), Refusal> {
    let mut names: Vec<String> = units.iter().map(|unit| unit.cdi_name.clone()).collect();
    let sets = [
        (config.gds, "nvidia.com/gds=all"),
        (config.gdrcopy, "nvidia.com/gdrcopy=all"),
        (config.mofed, "nvidia.com/mofed=all"),
    ];
    names.extend(sets.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name.to_owned()));
    for id in channels {
        let name = format!("nvidia.com/imex-channel={id}");
        // a channel that is not required is left out where it cannot be given
        if config.imex.required || present.resolves(&name) == Seen::Is(true) {
            names.push(name);
        }
    }
    for name in &names {
        let says = match present.resolves(name) {
            Seen::Is(true) => continue,
            Seen::Is(false) | Seen::Absent => format!("no CDI spec has a device {name}"),
            Seen::Unreadable(why) => format!("whether a CDI spec has a device {name} could not be seen: {why}"),
        };
        return Err(Refusal::new(says, "thruway cdi refresh writes it; thruway cdi list shows what there is"));
    }
    if config.list.contains(&ListStrategy::CdiAnnotations) {
        answer.annotations.insert(format!("{}thruway_{serial}", config.annotation_prefix), names.join(","));
    }
    if config.list.contains(&ListStrategy::CdiCri) {
        answer.cdi = names;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
