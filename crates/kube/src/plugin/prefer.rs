//! Which of the free devices a container is best given.
//!
//! Whole cards: of all ways to split the free cards into groups of the size that is asked, the one whose groups are nearest
//! together in sum, and of it the best group: so that the next container finds a good one too. This is the objective of
//! NVIDIA's best-effort policy, found by dynamic programming over sets in place of trying every split. Replicas and
//! instances: spread over the cards, or packed on few.

mod best;

use std::collections::BTreeMap;

use super::{Device, Refusal, Resource, SharedPolicy, Topology};

/// `size` of the `available` ids, `must` among them: what GetPreferredAllocation answers for one container. The same input
/// gives the same answer, and the order of the ids is no input. It is a wish: the kubelet may do otherwise.
///
/// # Errors
/// More is asked than there is, `must` is no part of `available`, or an id is not of this resource.
pub fn prefer(
    resource: &Resource,
    topology: &Topology,
    policy: SharedPolicy,
    available: &[String],
    must: &[String],
    size: usize,
) -> Result<Vec<String>, Refusal> {
    let places: BTreeMap<&str, usize> =
        resource.devices.iter().enumerate().map(|(place, device)| (device.id.as_str(), place)).collect();
    let free = sorted(resource, &places, available)?;
    let must = sorted(resource, &places, must)?;
    if let Some(stranger) = must.iter().find(|place| free.binary_search(place).is_err()) {
        let id = resource.devices.get(*stranger).map_or("", |device| device.id.as_str());
        return Err(asked_wrongly(format!("{id} must be among the devices and is not free")));
    }
    if must.len() > size || size > free.len() {
        let says = format!(
            "{size} of {} were asked, {} are free and {} must be among them",
            resource.name,
            free.len(),
            must.len()
        );
        return Err(asked_wrongly(says));
    }
    let devices: Vec<&Device> = resource.devices.iter().collect();
    let shared = resource.mig || devices.iter().any(|device| device.replica.is_some());
    let mut chosen = match shared {
        true => spread(&devices, &free, &must, size, policy),
        false => {
            let score = |a: usize, b: usize| {
                let uuid = |place: usize| free.get(place).and_then(|at| devices.get(*at)).map_or("", |one| &one.gpu);
                topology.score(uuid(a), uuid(b))
            };
            let must: Vec<usize> = must.iter().filter_map(|place| free.binary_search(place).ok()).collect();
            best::best(free.len(), &must, size, &score).into_iter().filter_map(|at| free.get(at).copied()).collect()
        }
    };
    chosen.sort_unstable();
    Ok(chosen.into_iter().filter_map(|place| devices.get(place)).map(|device| device.id.clone()).collect())
}

/// The places of ids in the resource, each once.
fn sorted(resource: &Resource, places: &BTreeMap<&str, usize>, ids: &[String]) -> Result<Vec<usize>, Refusal> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match places.get(id.as_str()) {
            Some(place) => found.push(*place),
            None => return Err(asked_wrongly(format!("\"{}\" is no device of {}", id.escape_debug(), resource.name))),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn asked_wrongly(says: String) -> Refusal {
    Refusal::new(says, "the kubelet asks again; if it goes on, restart it so that it reads the devices anew")
}

/// Replicas and instances, one after the other of the card with the fewest (or most) given away; of a card's, those of the
/// instance with the fewest (or most).
fn spread(devices: &[&Device], free: &[usize], must: &[usize], size: usize, policy: SharedPolicy) -> Vec<usize> {
    let (cards, units) = (numbers(devices, |device| &device.gpu), numbers(devices, |device| &device.uuid));
    let mut taken = vec![(0_u32, 0_u32); devices.len()];
    let take = |place: usize, taken: &mut Vec<(u32, u32)>| {
        taken[cards[place]].0 += 1;
        taken[units[place]].1 += 1;
    };
    let gone = (0..devices.len()).filter(|place| free.binary_search(place).is_err());
    for place in gone.chain(must.iter().copied()) {
        take(place, &mut taken);
    }
    let mut chosen = must.to_vec();
    let mut left: Vec<usize> = free.iter().copied().filter(|place| must.binary_search(place).is_err()).collect();
    while chosen.len() < size {
        let count = |place: usize| (taken[cards[place]].0, taken[units[place]].1);
        let places = left.iter().enumerate();
        let next = match policy {
            SharedPolicy::Distributed => places.min_by_key(|(_, place)| (count(**place), **place)),
            SharedPolicy::Packed => places.min_by_key(|(_, place)| (std::cmp::Reverse(count(**place)), **place)),
        };
        let Some(at) = next.map(|(at, _)| at) else { break };
        let place = left.remove(at);
        take(place, &mut taken);
        chosen.push(place);
    }
    chosen
}

/// For each device the place of the first one with the same key.
fn numbers<'d>(devices: &[&'d Device], key: impl Fn(&'d Device) -> &'d String) -> Vec<usize> {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    devices.iter().enumerate().map(|(place, device)| *first.entry(key(device)).or_insert(place)).collect()
}

#[cfg(test)]
mod tests;
