//! MIG: what a card can be cut into, and which cut is wanted. Pure: the card's profiles come from NVML.
//!
//! A GPU instance takes memory slices (its placement) and compute slices; within it lie compute instances, one over all
//! of it unless said otherwise. NVIDIA's MIG user guide, "Supported MIG profiles"; NVML's nvmlGpuInstanceProfileInfo_v2_t.

mod file;
mod place;

pub use file::{FileError, read_file};
pub use place::place;

use std::collections::BTreeMap;
use std::fmt;

use machine::nvml::NvmlMigProfile;
use model::{MigInstance, MigLayout, Reason, Seen};
use serde::Serialize;

use crate::Card;

/// One GPU instance profile of a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// "3g.20gb", "1g.10gb+me".
    pub name: String,
    /// The driver's number, as `nvidia-smi mig -lgip` shows it.
    pub id: u32,
    /// Compute slices.
    pub slices: u32,
    /// The most of it at once.
    pub count: u32,
    /// MiB.
    pub memory: u64,
    /// Where it may begin, in memory slices; empty where the driver is too old to say.
    pub starts: Vec<u32>,
    /// Memory slices; 0 where the driver does not say.
    pub size: u32,
}

impl Profile {
    fn of(told: &NvmlMigProfile) -> Self {
        let places = told.placements.get().map(Vec::as_slice).unwrap_or_default();
        // Drivers before 510 tell no name. NVIDIA's rule for it: slices, and memory as the whole card's eighths in GB.
        let name =
            told.name.get().cloned().unwrap_or_else(|| format!("{}g.{}gb", told.slices, (told.memory_mib + 512) >> 10));
        Profile {
            name,
            id: told.id,
            slices: told.slices,
            count: told.count,
            memory: told.memory_mib,
            starts: places.iter().map(|(start, _)| *start).collect(),
            size: places.first().map_or(0, |(_, size)| *size),
        }
    }

    /// Without media or graphics extensions.
    fn plain(&self) -> bool {
        !self.name.contains(['+', '-'])
    }
}

/// How a card is cut, and how it could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// NVML's.
    pub uuid: String,
    pub profiles: Vec<Profile>,
    pub now: MigLayout,
    /// The mode after the next reset.
    pub pending: bool,
}

/// How this card is cut, by what NVML said of it (asked in depth); or why it cannot be.
pub fn cut(card: &Card) -> Result<Cut, String> {
    let nvml = card.nvml.as_ref().ok_or("NVML does not show it: no driver of NVIDIA's has it")?;
    let unread = |what: &str, why: &Reason| format!("{what} cannot be told: {why}");
    let mig = match &nvml.mig {
        Seen::Is(mig) => mig,
        Seen::Absent => return Err(MigError::NotMig.to_string()),
        Seen::Unreadable(reason) => return Err(unread("what it can be cut into", reason)),
    };
    let told = match &mig.profiles {
        Seen::Is(told) if !told.is_empty() => told,
        Seen::Unreadable(reason) => return Err(unread("its profiles", reason)),
        _ => return Err(MigError::NotMig.to_string()),
    };
    let enabled = match &nvml.mig_enabled {
        Seen::Is(enabled) => *enabled,
        Seen::Absent => return Err(MigError::NotMig.to_string()),
        Seen::Unreadable(reason) => return Err(unread("its MIG mode", reason)),
    };
    let pending = nvml.health.get().and_then(|health| health.mig_pending.get().copied()).unwrap_or(enabled);
    let profiles: Vec<Profile> = told.iter().map(Profile::of).collect();
    let mut now = MigLayout { enabled, instances: Vec::new() };
    let instances = match &mig.instances {
        Seen::Is(all) if enabled => all.as_slice(),
        Seen::Unreadable(reason) if enabled => return Err(unread("its instances (root may see them)", reason)),
        _ => &[],
    };
    for it in instances {
        let compute = it.compute.get().map(|all| all.iter().map(|(_, slices)| *slices).collect());
        let known = profiles.iter().find(|profile| profile.id == it.profile);
        now.instances.push(MigInstance {
            profile: known.map_or_else(|| format!("profile {}", it.profile), |profile| profile.name.clone()),
            id: it.profile,
            start: Some(it.start),
            size: it.size,
            compute: compute.ok_or("its compute instances cannot be told; run this as root")?,
        });
    }
    now.instances.sort_by_key(|it| it.start);
    let uuid = nvml.uuid.get().cloned().ok_or("NVML does not tell its UUID")?;
    Ok(Cut { uuid, profiles, now, pending })
}

/// The same instances at the same places, as far as both say.
pub fn same(one: &MigLayout, other: &MigLayout) -> bool {
    one.enabled == other.enabled
        && one.instances.len() == other.instances.len()
        && one.instances.iter().all(|it| other.instances.iter().any(|other| same_instance(it, other)))
}

pub fn same_instance(one: &MigInstance, other: &MigInstance) -> bool {
    let place = one.start.is_none() || other.start.is_none() || one.start == other.start;
    place && one.id == other.id && one.compute == other.compute
}

/// What somebody wants of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub enabled: bool,
    /// Profile → how many, as written; "1c.3g.20gb" asks for compute instances of one slice in a GPU instance.
    pub parts: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigError {
    #[error("this card cannot be cut into MIG instances")]
    NotMig,
    #[error("{asked:?} is no layout: say one of {known}, or profiles as in 3g.20gb,1g.5gb*2")]
    Unknown { asked: String, known: String },
    #[error("the card has no profile {asked}; it has {known}")]
    NoProfile { asked: String, known: String },
    #[error("{asked} does not fit on the card: {why}")]
    NoRoom { asked: String, why: String },
}

/// The named layouts of a card, as NVIDIA's mig-parted ships them: name → wish. Sorted as a reader expects them.
pub fn named(profiles: &[Profile]) -> Vec<(String, Wish)> {
    let mut all = vec![("all-disabled".to_owned(), Wish::off()), ("all-enabled".to_owned(), Wish::of([]))];
    for profile in profiles {
        let parts = [(profile.name.clone(), profile.count)];
        all.push((format!("all-{}", profile.name.replace('+', ".")), Wish::of(parts)));
    }
    all.extend(balanced(profiles).map(|wish| ("all-balanced".to_owned(), wish)));
    all
}

/// Half of the card in small parts: two of one slice, one of two and, where the card has seven slices, one of three.
fn balanced(profiles: &[Profile]) -> Option<Wish> {
    let of = |slices: u32| {
        let plain = profiles.iter().filter(|profile| profile.slices == slices && profile.plain());
        plain.min_by_key(|profile| (profile.size, profile.memory)).map(|profile| profile.name.clone())
    };
    let whole = profiles.iter().map(|profile| profile.slices).max()?;
    let mut parts = vec![(of(1)?, 2), (of(2)?, 1)];
    if whole == 7 {
        parts.push((of(3)?, 1));
    }
    Some(Wish::of(parts))
}

impl Wish {
    pub fn off() -> Self {
        Wish { enabled: false, parts: BTreeMap::new() }
    }

    pub fn of(parts: impl IntoIterator<Item = (String, u32)>) -> Self {
        let mut wish = Wish { enabled: true, parts: BTreeMap::new() };
        for (name, count) in parts {
            *wish.parts.entry(name).or_insert(0) += count;
        }
        wish
    }

    /// A layout's name, or profiles: "3g.20gb,1g.5gb*2".
    pub fn read(text: &str, profiles: &[Profile]) -> Result<Self, MigError> {
        if profiles.is_empty() {
            return Err(MigError::NotMig);
        }
        let named = named(profiles);
        if let Some((_, wish)) = named.iter().find(|(name, _)| name == text) {
            return Ok(wish.clone());
        }
        let unknown = || {
            let known: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
            MigError::Unknown { asked: text.chars().take(80).collect(), known: known.join(", ") }
        };
        if text.starts_with("all-") || text.is_empty() {
            return Err(unknown());
        }
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, count) = match part.split_once('*') {
                Some((name, count)) => (name.trim(), count.trim().parse().map_err(|_| unknown())?),
                None => (part, 1),
            };
            if name.is_empty() || !(1..=16).contains(&count) {
                return Err(unknown());
            }
            parts.push((name.to_owned(), count));
        }
        Ok(Wish::of(parts))
    }

    /// The cut itself: which instance lies where.
    pub fn layout(&self, profiles: &[Profile]) -> Result<MigLayout, MigError> {
        if !self.enabled {
            return Ok(MigLayout::default());
        }
        if profiles.is_empty() {
            return Err(MigError::NotMig);
        }
        Ok(MigLayout { enabled: true, instances: place(self, profiles)? })
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.enabled {
            return f.write_str("MIG off");
        }
        if self.parts.is_empty() {
            return f.write_str("MIG on, not cut");
        }
        for (at, (name, count)) in self.parts.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            match count {
                1 => write!(f, "{comma}{name}")?,
                count => write!(f, "{comma}{name} × {count}")?,
            }
        }
        Ok(())
    }
}

/// What a layout holds, in words: "1g.5gb × 2, 3g.20gb".
pub fn says(layout: &MigLayout) -> String {
    let name = |instance: &MigInstance| (instance.profile.clone(), 1);
    if layout.enabled { Wish::of(layout.instances.iter().map(name)) } else { Wish::off() }.to_string()
}

#[cfg(test)]
mod tests;
