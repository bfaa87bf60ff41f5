//! The names of a request and the machine's CDI specs in; the edits that a container gets out.

use std::fmt;

use formats::cdispec::{Device, Edits, Spec};

use crate::request::{Gpus, Request, qualified};

/// A spec, where it was read, and its directory's rank: the last directory wins.
#[derive(Clone, Debug, PartialEq)]
pub struct SpecAt {
    pub path: String,
    pub priority: usize,
    pub spec: Spec,
}

/// What a container gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen<'s> {
    /// In the order in which they are applied: each device's, then the common ones of each spec, once.
    pub edits: Vec<&'s Edits>,
    /// The specs that they are of.
    pub specs: Vec<&'s SpecAt>,
    /// Names of the devices, as the specs have them.
    pub devices: Vec<&'s str>,
    /// Every name was a qualified CDI name: the spec is then applied whole, as every other reader of it would.
    pub qualified: bool,
}

/// A name that leads to no device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    pub name: String,
    pub says: String,
    /// A spec that is written anew may have it.
    pub refresh: bool,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.says)
    }
}

impl std::error::Error for Unresolved {}

/// Resolves a request over specs in rising priority. With `only`, no card is given but those all of whose nodes are
/// among these paths, and `all` is all of those.
pub fn resolve<'s>(
    request: &Request,
    default_kind: &str,
    specs: &'s [SpecAt],
    only: Option<&[String]>,
) -> Result<Chosen<'s>, Unresolved> {
    let mut chosen = Chosen { qualified: true, ..Chosen::default() };
    let mut take = |spec: &'s SpecAt, device: Option<&'s Device>| {
        if let Some(device) = device {
            if chosen.devices.contains(&device.name.as_str()) {
                return;
            }
            chosen.edits.push(&device.container_edits);
            chosen.devices.push(&device.name);
        }
        if !chosen.specs.iter().any(|there| there.path == spec.path) {
            chosen.specs.push(spec);
        }
    };
    match &request.gpus {
        Gpus::None => {
            let spec = specs.iter().rev().find(|at| at.spec.kind == default_kind);
            take(spec.ok_or_else(|| no_spec(default_kind, "none"))?, None);
            chosen.qualified = false;
        }
        Gpus::All => {
            match only {
                Some(granted) => {
                    let spec = specs.iter().rev().find(|at| at.spec.kind == default_kind);
                    let spec = spec.ok_or_else(|| no_spec(default_kind, "all"))?;
                    let mut nodes: Vec<Vec<&str>> = Vec::new();
                    for device in spec.spec.devices.iter().filter(|device| within(device, granted)) {
                        // one name of a card is enough: its index and its UUID are the same nodes
                        let own = cards(device);
                        if !nodes.contains(&own) {
                            nodes.push(own);
                            take(spec, Some(device));
                        }
                    }
                }
                None => {
                    let (spec, device) = find(default_kind, "all", specs)?;
                    take(spec, Some(device));
                }
            }
            chosen.qualified = false;
        }
        Gpus::Named(names) => {
            let mut whole = true;
            for name in names {
                let (kind, device) = match qualified(name) {
                    Some(named) => named,
                    None => {
                        whole = false;
                        (default_kind, name.as_str())
                    }
                };
                let (spec, device) = find(kind, device, specs)?;
                if let Some(granted) = only
                    && !within(device, granted)
                {
                    return Err(Unresolved {
                        name: name.clone(),
                        says: format!(
                            "this pod asks for GPU \"{name}\", and its node's device plugin granted it {} only: take the \
                             variable out of the pod, or request the card from the scheduler",
                            granted.join(", ")
                        ),
                        refresh: false,
                    });
                }
                take(spec, Some(device));
            }
            chosen.qualified = whole;
        }
    }
    let common: Vec<&Edits> = chosen.specs.iter().map(|at| &at.spec.container_edits).collect();
    chosen.edits.extend(common);
    Ok(chosen)
}

/// The nodes of a device that stand for a card or a part of one.
fn cards(device: &Device) -> Vec<&str> {
    let paths = device.container_edits.device_nodes.iter().map(|node| node.path.as_str());
    paths.filter(|path| path.starts_with("/dev/nvidia")).collect()
}

fn within(device: &Device, granted: &[String]) -> bool {
    let own = cards(device);
    !own.is_empty() && own.iter().all(|path| granted.iter().any(|there| there == path))
}

fn no_spec(kind: &str, name: &str) -> Unresolved {
    Unresolved {
        name: name.to_owned(),
        says: format!(
            "this container asks for \"{name}\" of {kind}, and no CDI spec of that kind is on this machine: is NVIDIA's \
             driver loaded (thruway doctor says)? thruway cdi refresh writes the spec"
        ),
        refresh: true,
    }
}

fn find<'s>(kind: &str, name: &str, specs: &'s [SpecAt]) -> Result<(&'s SpecAt, &'s Device), Unresolved> {
    let of_kind: Vec<&SpecAt> = specs.iter().filter(|at| at.spec.kind == kind).collect();
    if of_kind.is_empty() {
        return Err(no_spec(kind, name));
    }
    let exact = |at: &&'s SpecAt| {
        let at: &'s SpecAt = at;
        at.spec.devices.iter().find(|device| device.name == name).map(|device| (at, device))
    };
    let found: Vec<(&SpecAt, &Device)> = of_kind.iter().rev().filter_map(exact).collect();
    match found.as_slice() {
        [] => {}
        [one] => return Ok(*one),
        [first, second, ..] if first.0.priority != second.0.priority => return Ok(*first),
        // two of one directory: engines refuse both, ours is the one that is kept fresh
        all => {
            return all.iter().copied().find(|(at, _)| is_ours(&at.path)).ok_or_else(|| Unresolved {
                name: name.to_owned(),
                says: format!(
                    "{kind}={name} stands in {} and in {} alike, so that no reader of CDI can tell which is meant: remove \
                     one of the two",
                    all.first().map_or("", |(at, _)| at.path.as_str()),
                    all.get(1).map_or("", |(at, _)| at.path.as_str()),
                ),
                refresh: false,
            });
        }
    }
    // a UUID may be given by its beginning
    if name.starts_with("GPU-") || name.starts_with("MIG-") {
        let mut begin: Vec<(&SpecAt, &Device)> = Vec::new();
        for at in of_kind.iter().rev() {
            for device in at.spec.devices.iter().filter(|device| device.name.starts_with(name)) {
                if begin.iter().all(|(_, there)| there.name != device.name) {
                    begin.push((at, device));
                }
            }
        }
        match begin.as_slice() {
            [one] => return Ok(*one),
            [] => {}
            many => {
                let names: Vec<&str> = many.iter().map(|(_, device)| device.name.as_str()).collect();
                return Err(Unresolved {
                    name: name.to_owned(),
                    says: format!("\"{name}\" begins more than one UUID here: {}", names.join(", ")),
                    refresh: false,
                });
            }
        }
    }
    let mut known: Vec<&str> = Vec::new();
    for device in of_kind.iter().flat_map(|at| &at.spec.devices) {
        if !known.contains(&device.name.as_str()) {
            known.push(&device.name);
        }
    }
    let more = known.len().saturating_sub(24);
    known.truncate(24);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Unresolved {
        name: name.to_owned(),
        says: format!(
            "this container asks for \"{name}\" of {kind}, and this machine has {}{more}; a card that came since is seen by \
             thruway cdi refresh",
            known.join(", ")
        ),
        refresh: true,
    })
}

/// The file that `thruway cdi refresh` writes.
fn is_ours(path: &str) -> bool {
    path.ends_with("/nvidia.com-gpu.json")
}
