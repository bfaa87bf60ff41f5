//! Which instance lies where.

use model::MigInstance;

use super::{MigError, Profile, Wish};

/// The placement of all wanted instances, the largest first: a small one in the middle would bar a large one. Where the
/// driver is too old to tell places, they are left to it (`start` none).
///
/// Every order of places is tried, so that what fits is found: a card has at most eight memory slices.
pub fn place(wish: &Wish, profiles: &[Profile]) -> Result<Vec<MigInstance>, MigError> {
    let mut wanted = Vec::new();
    for (asked, count) in &wish.parts {
        let (compute, name) = split(asked);
        let Some(profile) = profiles.iter().find(|profile| profile.name == name) else {
            let known: Vec<&str> = profiles.iter().map(|profile| profile.name.as_str()).collect();
            return Err(MigError::NoProfile { asked: asked.clone(), known: known.join(", ") });
        };
        let compute = match compute {
            Some(slices) if slices == 0 || slices > profile.slices => {
                let why = format!("{name} has {} compute slices", profile.slices);
                return Err(MigError::NoRoom { asked: asked.clone(), why });
            }
            // as many as there is room for
            Some(slices) => vec![slices; (profile.slices / slices) as usize],
            None => vec![profile.slices],
        };
        if *count > profile.count {
            let why = format!("{} of {name} at most", profile.count);
            return Err(MigError::NoRoom { asked: wish.to_string(), why });
        }
        wanted.extend((0..*count).map(|_| (profile, compute.clone())));
    }
    wanted.sort_by_key(|(profile, _)| std::cmp::Reverse((profile.size, profile.slices, profile.memory)));
    let slices: u32 = wanted.iter().map(|(profile, _)| profile.slices).sum();
    let whole = profiles.iter().map(|profile| profile.slices).max().unwrap_or(0);
    if slices > whole {
        let why = format!("{slices} compute slices are asked for, and it has {whole}");
        return Err(MigError::NoRoom { asked: wish.to_string(), why });
    }
    let mut starts = vec![None; wanted.len()];
    let known = wanted.iter().all(|(profile, _)| !profile.starts.is_empty());
    if known && !search(&wanted.iter().map(|(profile, _)| *profile).collect::<Vec<_>>(), &mut starts, 0, 0) {
        let why = "its memory slices are too few where each of these may begin".to_owned();
        return Err(MigError::NoRoom { asked: wish.to_string(), why });
    }
    let made = wanted.into_iter().zip(starts).map(|((profile, compute), start)| MigInstance {
        profile: profile.name.clone(),
        id: profile.id,
        start,
        size: profile.size,
        compute,
    });
    let mut made: Vec<MigInstance> = made.collect();
    made.sort_by_key(|instance| instance.start);
    Ok(made)
}

/// "1c.3g.20gb" → one slice each, in "3g.20gb".
fn split(asked: &str) -> (Option<u32>, &str) {
    let compute = asked.split_once("c.").and_then(|(slices, rest)| Some((slices.parse().ok()?, rest)));
    compute.map_or((None, asked), |(slices, rest)| (Some(slices), rest))
}

/// The first order of places that holds all. `taken`: a bit a memory slice.
fn search(wanted: &[&Profile], starts: &mut [Option<u32>], at: usize, taken: u64) -> bool {
    let Some(profile) = wanted.get(at) else { return true };
    // equal ones go upwards: their other orders are the same layout
    let least = match at.checked_sub(1).and_then(|before| wanted.get(before)) {
        Some(before) if before.id == profile.id => starts[at - 1].map_or(0, |start| start + 1),
        _ => 0,
    };
    for start in profile.starts.iter().copied().filter(|start| *start >= least && *start < 64) {
        let span = (1u64 << profile.size.min(63)) - 1;
        let own = span << start;
        if taken & own == 0 {
            starts[at] = Some(start);
            if search(wanted, starts, at + 1, taken | own) {
                return true;
            }
        }
    }
    starts[at] = None;
    false
}
