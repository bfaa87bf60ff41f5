//! What a container asks for: environment, volume mounts, annotations, in the forms that NVIDIA's toolkit reads.
//!
//! Annotations go before volume mounts, and those before the environment. Whether it is given what it asks for is
//! [`crate::policy`]'s word.

use std::fmt;

use model::Capabilities;

use crate::config::Look;
use crate::settings::{Settings, all};

/// The volume mounts of a device list: a bind of /dev/null at a path below this one is a name.
pub const LIST: &str = "/var/run/nvidia-container-devices/";
/// The most channels that IMEX has.
const CHANNELS: u32 = 1 << 20;

/// Which cards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpus {
    All,
    /// Control nodes and libraries, no card.
    None,
    /// Each an index, a UUID or the unique beginning of one, `G:M` of MIG, or a qualified CDI name.
    Named(Vec<String>),
}

/// In which form it asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    Annotations,
    Mounts,
    /// The variable's name.
    Env(String),
    /// An old image that says nothing but CUDA_VERSION, which has always meant all cards.
    OldImage,
}

/// What beyond cards is asked for by a variable of its own, `NVIDIA_GDS=enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    Gds,
    Mofed,
    Gdrcopy,
    Nvswitch,
    /// NVIDIA_MIG_CONFIG_DEVICES: may cut cards into MIG instances.
    MigConfig,
    /// NVIDIA_MIG_MONITOR_DEVICES: may watch all instances of the cards.
    MigMonitor,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub gpus: Gpus,
    pub by: By,
    pub capabilities: Capabilities,
    /// Numbers of IMEX channels, and whether they were asked for by environment.
    pub imex: Vec<u32>,
    pub imex_by_env: bool,
    pub extras: Vec<Extra>,
}

/// A request that cannot be met as it stands: one sentence, with what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// What a container asks for; `None` where it asks for nothing.
///
/// # Errors
/// It asks for what does not exist, or what only a privileged container may have.
pub fn read(look: &Look<'_>, settings: &Settings) -> Result<Option<Request>, Refused> {
    let Some((gpus, by)) = gpus(look, settings)? else { return Ok(None) };
    let capabilities = capabilities(look, settings)?;
    let (imex, imex_by_env) = imex(look, settings)?;
    let mut extras = Vec::new();
    for (name, extra) in [
        ("NVIDIA_GDS", Extra::Gds),
        ("NVIDIA_MOFED", Extra::Mofed),
        ("NVIDIA_GDRCOPY", Extra::Gdrcopy),
        ("NVIDIA_NVSWITCH", Extra::Nvswitch),
    ] {
        if look.var(name) == Some("enabled") {
            extras.push(extra);
        }
    }
    for (name, extra) in
        [("NVIDIA_MIG_CONFIG_DEVICES", Extra::MigConfig), ("NVIDIA_MIG_MONITOR_DEVICES", Extra::MigMonitor)]
    {
        if look.var(name).is_some_and(|value| !value.is_empty()) {
            if !look.sys_admin {
                return Err(Refused(format!(
                    "{name} is for privileged containers only, and this one has no CAP_SYS_ADMIN: start it with \
                     --privileged or --cap-add SYS_ADMIN, or take {name} out of its environment"
                )));
            }
            extras.push(extra);
        }
    }
    Ok(Some(Request { gpus, by, capabilities, imex, imex_by_env, extras }))
}

fn gpus(look: &Look<'_>, settings: &Settings) -> Result<Option<(Gpus, By)>, Refused> {
    if let Some(names) = annotated(look, settings)? {
        return Ok(Some((Gpus::Named(names), By::Annotations)));
    }
    if settings.accept_volume_mounts
        && let Some(gpus) = mounted(look)
    {
        return Ok(Some((gpus, By::Mounts)));
    }
    let swarm: Vec<(&str, &str)> =
        settings.swarm_resource.iter().filter_map(|name| Some((name.as_str(), look.var(name)?))).collect();
    if let Some((first, _)) = swarm.first() {
        let values: Vec<&str> = swarm.iter().map(|(_, value)| *value).collect();
        return Ok(listed(&values.join(",")).map(|gpus| (gpus, By::Env((*first).to_owned()))));
    }
    match look.var(VISIBLE) {
        Some(list) => Ok(listed(list).map(|gpus| (gpus, By::Env(VISIBLE.to_owned())))),
        None if old_image(look) => Ok(Some((Gpus::All, By::OldImage))),
        None => Ok(None),
    }
}

const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// CUDA's images before 2018: they name their CUDA version and require nothing.
pub fn old_image(look: &Look<'_>) -> bool {
    look.var("CUDA_VERSION").is_some_and(|version| !version.is_empty()) && look.var("NVIDIA_REQUIRE_CUDA").is_none()
}

/// A comma list as the variable has it; `None` where it asks for no change at all.
fn listed(list: &str) -> Option<Gpus> {
    let mut names: Vec<String> = Vec::new();
    let mut none = false;
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match name {
            "void" => return None,
            "none" => none = true,
            name if names.iter().all(|there| there != name) => names.push(name.to_owned()),
            _ => {}
        }
    }
    if names.iter().any(|name| name == "all") {
        return Some(Gpus::All);
    }
    match (names.is_empty(), none) {
        (false, _) => Some(Gpus::Named(names)),
        (true, true) => Some(Gpus::None),
        (true, false) => None,
    }
}

/// The devices of the annotations whose keys have one of the prefixes, keys sorted.
fn annotated(look: &Look<'_>, settings: &Settings) -> Result<Option<Vec<String>>, Refused> {
    let has = |key: &str| settings.annotation_prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()));
    let mut found: Vec<(&str, &str)> = look
        .annotations
        .iter()
        .map(|(key, value)| (key.as_ref(), value.as_ref()))
        .filter(|(key, _)| has(key))
        .collect();
    found.sort_by_key(|(key, _)| *key);
    let mut names: Vec<String> = Vec::new();
    for (key, value) in found {
        for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if qualified(name).is_none() {
                return Err(Refused(format!(
                    "the annotation {key} names \"{name}\", which is no CDI device: a name is vendor/class=device, \
                     nvidia.com/gpu=0"
                )));
            }
            if names.iter().all(|there| there != name) {
                names.push(name.to_owned());
            }
        }
    }
    Ok((!names.is_empty()).then_some(names))
}

/// The names of a volume-mount list; `None` where there is no such list.
fn mounted(look: &Look<'_>) -> Option<Gpus> {
    let mut names: Vec<String> = Vec::new();
    for name in volume_names(look).filter(|name| !name.starts_with("imex/")) {
        let name = match name.strip_prefix("cdi/") {
            Some(cdi) if cdi.contains('=') => cdi.to_owned(),
            // vendor/class/name
            Some(cdi) => match cdi.rsplit_once('/') {
                Some((kind, name)) => format!("{kind}={name}"),
                None => cdi.to_owned(),
            },
            None => name.to_owned(),
        };
        names.push(name);
    }
    listed(&names.join(","))
}

fn volume_names<'l>(look: &'l Look<'_>) -> impl Iterator<Item = &'l str> {
    look.mounts
        .iter()
        .filter(|mount| mount.source == "/dev/null")
        .filter_map(|mount| mount.destination.strip_prefix(LIST))
        .map(|name| name.trim_matches('/'))
        .filter(|name| !name.is_empty())
}

fn capabilities(look: &Look<'_>, settings: &Settings) -> Result<Capabilities, Refused> {
    let list = match look.var("NVIDIA_DRIVER_CAPABILITIES") {
        None if old_image(look) => return Ok(settings.supported),
        list => list.unwrap_or_default(),
    };
    let unsupported = |word: &str, why: &str| {
        Refused(format!(
            "NVIDIA_DRIVER_CAPABILITIES={list} asks for \"{word}\", {why}: set it to a list of {}, or to all",
            if settings.supported == Capabilities::ALL { all() } else { settings.supported.to_string() }
        ))
    };
    let asked = Capabilities::parse(list).map_err(|word| unsupported(&word, "which is no driver capability"))?;
    if list.split(',').any(|word| word.trim() == "all") {
        return Ok(settings.supported);
    }
    // what nobody asked for is no reason to refuse
    if list.trim().is_empty() {
        let both = asked.iter().filter(|one| settings.supported.has(*one));
        return Ok(both.fold(Capabilities::NONE, Capabilities::with));
    }
    match asked.iter().find(|one| !settings.supported.has(*one)) {
        Some(one) => Err(unsupported(one.word(), "which supported-driver-capabilities does not have on this machine")),
        None => Ok(asked),
    }
}

fn imex(look: &Look<'_>, settings: &Settings) -> Result<(Vec<u32>, bool), Refused> {
    if settings.ignore_imex {
        return Ok((Vec::new(), false));
    }
    if settings.accept_volume_mounts {
        let names: Vec<&str> = volume_names(look).filter_map(|name| name.strip_prefix("imex/")).collect();
        if !names.is_empty() {
            return Ok((channels(&names)?, false));
        }
    }
    let Some(list) = look.var("NVIDIA_IMEX_CHANNELS") else { return Ok((Vec::new(), false)) };
    let names: Vec<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    // a node has a million of them: all is what images say that mean none
    if names == ["all"] {
        return Ok((Vec::new(), false));
    }
    let channels = channels(&names)?;
    let some = !channels.is_empty();
    Ok((channels, some))
}

fn channels(names: &[&str]) -> Result<Vec<u32>, Refused> {
    let mut found = Vec::new();
    for name in names {
        match name.parse::<u32>() {
            Ok(number) if number < CHANNELS && name.bytes().all(|byte| byte.is_ascii_digit()) => {
                if !found.contains(&number) {
                    found.push(number);
                }
            }
            _ => {
                return Err(Refused(format!(
                    "\"{name}\" is no IMEX channel: NVIDIA_IMEX_CHANNELS is a list of numbers from 0 to {}",
                    CHANNELS - 1
                )));
            }
        }
    }
    Ok(found)
}

/// A qualified CDI name, `vendor/class=device`, as (kind, device).
pub fn qualified(name: &str) -> Option<(&str, &str)> {
    let (kind, device) = name.split_once('=')?;
    let (vendor, class) = kind.split_once('/')?;
    let good = |text: &str, between: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || between.as_bytes().contains(&byte))
    };
    (good(vendor, "_-.") && good(class, "_-.") && good(device, "_-.:")).then_some((kind, device))
}
