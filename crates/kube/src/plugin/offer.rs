//! Cards in, resources out: names, MIG strategies, time-slicing, and what is left out and why.

use std::collections::{BTreeMap, BTreeSet};

use model::Bdf;
use serde::Serialize;

use super::config::{Naming, Replicate, matches, resource_name};
use super::{Config, Found, Gpu, MigStrategy, Part, Refusal, Which};

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

/// What a node with these cards offers. No resource at all is no error: then the reasons stand in [`Offer::left_out`].
///
/// # Errors
/// The MIG strategy `single` on a node whose cards are not all cut alike; a name that is too long; an IMEX channel that is
/// required and not there.
pub fn offer(config: &Config, found: &Found) -> Result<Offer, Refusal> {
    if config.imex.required
        && let Some(channel) = config.imex.channels.iter().find(|channel| !found.imex.contains(channel))
    {
        return Err(Refusal::new(
            format!(
                "IMEX channel {channel} is required and /dev/nvidia-caps-imex-channels/channel{channel} is not there"
            ),
            "make it (nvidia-modprobe -i 0:1), or set imex.required to false",
        ));
    }
    let mut offer = Offer { notes: config.notes.clone(), ..Offer::default() };
    let gpus = usable(config, found, &mut offer.left_out);
    let mut groups = Groups::default();
    let single = config.mig == MigStrategy::Single && gpus.iter().any(|gpu| gpu.mig);
    if single {
        alike(config, &gpus)?;
    }
    for gpu in gpus {
        if !gpu.mig {
            if wanted(config, gpu, None) {
                groups.add(config.card_resource(&gpu.product), false, whole(gpu));
            } else {
                offer.left_out.push(left_out(gpu, None, "it is not among the cards that the configuration includes"));
            }
            continue;
        }
        if gpu.parts.is_empty() {
            offer.left_out.push(left_out(gpu, None, "MIG is on and it is not cut (thruway mig plan cuts it)"));
        }
        for one in &gpu.parts {
            match instance_name(config, gpu, one, single) {
                Ok(name) => groups.add(&name, true, part(gpu, one)),
                Err(why) => offer.left_out.push(left_out(gpu, Some(one), &why)),
            }
        }
    }
    offer.resources = share(config, groups, &mut offer.notes)?;
    check(&mut offer)?;
    Ok(offer)
}

/// Whole cards, and instances where all are alike.
pub(crate) const GPU: &str = "nvidia.com/gpu";

/// The cards that can be offered at all.
fn usable<'f>(config: &Config, found: &'f Found, left: &mut Vec<LeftOut>) -> Vec<&'f Gpu> {
    let mut gpus: Vec<&Gpu> = Vec::new();
    for gpu in &found.gpus {
        let excluded = config.exclude.iter().any(|which| which.means(gpu, None));
        // a list of instances' UUIDs alone includes their card
        let included = config.lets(gpu);
        let why = match gpu {
            Gpu { withheld: Some(why), .. } => why.clone(),
            _ if excluded => "the configuration excludes it".into(),
            _ if !included => "it is not among the cards that the configuration includes".into(),
            Gpu { uuid: None, .. } => "the driver does not tell its UUID".into(),
            Gpu { nodes, .. } if nodes.is_empty() => "it has no device node below /dev (nvidia-modprobe makes it)".into(),
            _ if gpus.iter().any(|other| other.uuid == gpu.uuid) => "another card has the same UUID".into(),
            Gpu { mig: true, .. } if config.mig == MigStrategy::None => {
                "MIG is on, so it cannot be used whole, and the MIG strategy is none (single or mixed offer its instances)".into()
            }
            _ => {
                gpus.push(gpu);
                continue;
            }
        };
        left.push(left_out(gpu, None, &why));
    }
    gpus
}

fn left_out(gpu: &Gpu, part: Option<&Part>, why: &str) -> LeftOut {
    let uuid = part.map_or(&gpu.uuid, |part| &part.uuid).clone();
    let why = match part {
        Some(part) => format!("instance {}:{} ({}): {why}", gpu.index, part.index, part.profile),
        None => why.to_owned(),
    };
    LeftOut { bdf: gpu.bdf, uuid, why }
}

/// Do the include and exclude lists let this card or instance through?
fn wanted(config: &Config, gpu: &Gpu, part: Option<&Part>) -> bool {
    let any = |list: &[Which]| list.iter().any(|which| which.means(gpu, part));
    (config.include.is_empty() || any(&config.include)) && !any(&config.exclude)
}

impl Config {
    /// Do the include and exclude lists let this card through, or an instance of it?
    pub(crate) fn lets(&self, gpu: &Gpu) -> bool {
        wanted(self, gpu, None) || gpu.parts.iter().any(|part| wanted(self, gpu, Some(part)))
    }

    pub(crate) fn lets_part(&self, gpu: &Gpu, part: &Part) -> bool {
        wanted(self, gpu, Some(part))
    }

    /// The resource of whole cards of a product.
    pub(crate) fn card_resource(&self, product: &str) -> &str {
        named(&self.names, product).unwrap_or(GPU)
    }

    /// The resource of instances of a profile by the strategy `mixed`, or why there is none.
    ///
    /// # Errors
    /// A profile that gets no name by itself.
    pub(crate) fn instance_resource(&self, profile: &str) -> Result<String, String> {
        if let Some(name) = named(&self.mig_names, profile) {
            return Ok(name.to_owned());
        }
        if profile.is_empty() {
            return Err("the driver does not tell its profile".into());
        }
        // "1c.3g.20gb": a third of an instance's compute slices. NVIDIA's plugin names whole ones alone.
        if profile.split_once("c.").is_some_and(|(slices, _)| slices.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err("it has only a part of its instance's compute slices; resources.mig can give it a name".into());
        }
        resource_name(&format!("mig-{}", profile.replace('+', ".")))
    }

    /// How a resource's devices are shared: replicas of each, and whether the resource keeps its name.
    pub(crate) fn replicas(&self, name: &str) -> Option<(u32, bool)> {
        let sharing = self.sharing.as_ref()?;
        let rule = sharing.resources.iter().find(|one| one.name == name)?;
        Some((rule.replicas, rule.rename.is_none() && !sharing.rename_by_default))
    }
}

/// The name by a product or profile. A pattern may be anywhere in it, as NVIDIA's are.
fn named<'c>(names: &'c [Naming], text: &str) -> Option<&'c str> {
    let naming = names.iter().find(|naming| matches(&format!("*{}*", naming.pattern), text));
    naming.map(|naming| naming.name.as_str())
}

/// The strategy `single` needs every card cut, and every instance the same.
fn alike(config: &Config, gpus: &[&Gpu]) -> Result<(), Refusal> {
    let fix = "cut all cards alike (thruway mig plan), or use the MIG strategy mixed";
    let refuse =
        |says: String| Err(Refusal::new(format!("the MIG strategy single does not fit this node: {says}"), fix));
    let name = |gpu: &Gpu| format!("{} ({})", gpu.bdf.short(), gpu.product);
    if let Some(gpu) = gpus.iter().find(|gpu| !gpu.mig) {
        return refuse(format!("{} has MIG off, and others have it on", name(gpu)));
    }
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.parts.is_empty()) {
        return refuse(format!("{} has MIG on and no instance", name(gpu)));
    }
    let parts = gpus.iter().flat_map(|gpu| gpu.parts.iter().filter(|part| wanted(config, gpu, Some(part))));
    let mut profiles: Vec<&str> = parts.map(|part| part.profile.as_str()).collect();
    profiles.sort_unstable();
    profiles.dedup();
    match profiles.as_slice() {
        [] | [_] => Ok(()),
        several => refuse(format!("its instances are of several profiles: {}", several.join(", "))),
    }
}

/// The resource of an instance, or why there is none.
fn instance_name(config: &Config, gpu: &Gpu, part: &Part, single: bool) -> Result<String, String> {
    if !wanted(config, gpu, Some(part)) {
        return Err("the configuration leaves it out".into());
    }
    if part.uuid.is_none() {
        return Err("the driver does not tell its UUID".into());
    }
    if single {
        return Ok(GPU.to_owned());
    }
    config.instance_resource(&part.profile)
}

fn whole(gpu: &Gpu) -> Device {
    let uuid = gpu.uuid.clone().unwrap_or_default();
    Device {
        id: uuid.clone(),
        cdi_name: format!("{}={uuid}", cdi::KIND),
        gpu: uuid.clone(),
        uuid,
        index: gpu.index.to_string(),
        bdf: gpu.bdf,
        minor: gpu.minor,
        numa: gpu.numa,
        nodes: gpu.nodes.iter().filter(|path| path.starts_with("/dev/nvidia")).cloned().collect(),
        replica: None,
        profile: None,
    }
}

fn part(gpu: &Gpu, part: &Part) -> Device {
    let uuid = part.uuid.clone().unwrap_or_default();
    let card = whole(gpu);
    Device {
        id: uuid.clone(),
        cdi_name: format!("{}={uuid}", cdi::KIND),
        uuid,
        index: format!("{}:{}", gpu.index, part.index),
        nodes: card.nodes.iter().chain(&part.nodes).cloned().collect(),
        profile: Some(part.profile.clone()),
        ..card
    }
}

/// Resources while they are put together, by name.
#[derive(Default)]
struct Groups(BTreeMap<String, Resource>);

impl Groups {
    fn add(&mut self, name: &str, mig: bool, device: Device) {
        let fresh = || Resource { name: name.to_owned(), devices: Vec::new(), shared: None, mig: false };
        let resource = self.0.entry(name.to_owned()).or_insert_with(fresh);
        resource.mig |= mig;
        resource.devices.push(device);
    }
}

/// Puts replicas in place of the devices that are to be shared.
fn share(config: &Config, groups: Groups, notes: &mut Vec<String>) -> Result<Vec<Resource>, Refusal> {
    let Some(sharing) = &config.sharing else { return Ok(groups.0.into_values().collect()) };
    for one in sharing.resources.iter().filter(|one| !groups.0.contains_key(&one.name)) {
        notes.push(format!("{} is to be shared, and this node has no such resource", one.name));
    }
    let mut shared = Groups::default();
    for resource in groups.0.into_values() {
        let Some(rule) = sharing.resources.iter().find(|one| one.name == resource.name) else {
            for device in resource.devices {
                shared.add(&resource.name, resource.mig, device);
            }
            continue;
        };
        let name = match &rule.rename {
            Some(name) => name.clone(),
            None if sharing.rename_by_default => format!("{}.shared", resource.name),
            None => resource.name.clone(),
        };
        if name.len() > LONGEST {
            let says = format!("{name} has {} characters, and the kubelet takes {LONGEST}", name.len());
            return Err(Refusal::new(says, "give it a shorter name: sharing.timeSlicing.resources[].rename"));
        }
        for (position, device) in resource.devices.into_iter().enumerate() {
            if !is_replicated(&rule.devices, position, &device) {
                shared.add(&resource.name, resource.mig, device);
                continue;
            }
            for replica in 0..rule.replicas {
                let id = format!("{}::{replica}", device.uuid);
                shared.add(&name, resource.mig, Device { id, replica: Some(replica), ..device.clone() });
            }
            if let Some(into) = shared.0.get_mut(&name) {
                let fail_requests_greater_than_one = sharing.fail_requests_greater_than_one;
                into.shared = Some(Shared { replicas: rule.replicas, fail_requests_greater_than_one });
            }
        }
    }
    Ok(shared.0.into_values().collect())
}

fn is_replicated(which: &Replicate, position: usize, device: &Device) -> bool {
    match which {
        Replicate::All => true,
        Replicate::Count(count) => position < *count as usize,
        Replicate::List(list) => list.iter().any(|one| *one == device.index || *one == device.uuid),
    }
}

/// What the kubelet would refuse never reaches it.
fn check(offer: &mut Offer) -> Result<(), Refusal> {
    let mut sockets = BTreeSet::new();
    for resource in &mut offer.resources {
        if resource.name.len() > LONGEST {
            let says =
                format!("{} has {} characters, and the kubelet takes {LONGEST}", resource.name, resource.name.len());
            return Err(Refusal::new(says, "give it a shorter name: resources.gpus[].name"));
        }
        if !sockets.insert(resource.socket()) {
            return Err(Refusal::new(
                format!("two resources would use the socket {}", resource.socket()),
                "rename one",
            ));
        }
        let left = &mut offer.left_out;
        let mut ids = BTreeSet::new();
        resource.devices.retain(|device| {
            let why = if device.id.len() > LONGEST {
                format!("its id {} is longer than {LONGEST} characters", device.id)
            } else if !ids.insert(device.id.clone()) {
                format!("its id {} is another's too", device.id)
            } else {
                return true;
            };
            left.push(LeftOut { bdf: device.bdf, uuid: Some(device.uuid.clone()), why });
            false
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
