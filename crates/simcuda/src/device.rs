//! What CUDA shows of a box: whole cards, and of a card that is cut up one MIG instance.

use simcards::view::{Gpu, View};

/// One CUDA device.
#[derive(Clone, Debug)]
pub struct Device {
    /// The card's index in the box.
    pub gpu: u32,
    pub name: String,
    pub uuid: String,
    /// Bytes.
    pub total: u64,
    pub multiprocessors: u32,
    /// The GPU instance, of a card that is cut up.
    pub mig: bool,
}

/// The devices in CUDA's order. A process sees one MIG instance at most, the first where nothing else was asked for; with
/// one asked for, it sees no whole card (MIG user guide, "CUDA device enumeration"). `wanted`: CUDA_VISIBLE_DEVICES.
pub fn devices(view: &View, wanted: Option<&str>) -> Vec<Device> {
    let whole = |gpu: &Gpu| Device {
        gpu: gpu.index,
        name: gpu.card.name.clone(),
        uuid: gpu.uuid(),
        // what the driver keeps for itself is not CUDA's
        total: gpu.total() - (gpu.card.reserved_mib << 20),
        multiprocessors: gpu.card.multiprocessors,
        mig: false,
    };
    let parts = |gpu: &Gpu| -> Vec<Device> {
        let part = |instance| {
            let profile = gpu.profile(instance)?;
            Some(Device {
                gpu: gpu.index,
                name: format!("{} MIG {}", gpu.card.name, profile.name),
                uuid: gpu.mig_uuid(instance),
                total: profile.memory_mib << 20,
                multiprocessors: profile.sm,
                mig: true,
            })
        };
        gpu.instances().iter().filter_map(part).collect()
    };
    let cards: Vec<&Gpu> = view.gpus.iter().collect();
    let all: Vec<Device> = cards.iter().filter(|gpu| !gpu.mig_enabled()).map(|gpu| whole(gpu)).collect();
    let instances: Vec<Device> = cards.iter().filter(|gpu| gpu.mig_enabled()).flat_map(|gpu| parts(gpu)).collect();
    let Some(wanted) = wanted else {
        return if all.is_empty() { instances.into_iter().take(1).collect() } else { all };
    };
    let mut found = Vec::new();
    for word in wanted.split(',').map(str::trim) {
        let one = match word.parse::<usize>() {
            Ok(index) if all.is_empty() => instances.get(index).filter(|_| index == 0),
            Ok(index) => all.get(index),
            Err(_) => all.iter().chain(&instances).find(|one| !word.is_empty() && one.uuid.starts_with(word)),
        };
        // the first that is not there ends the list
        let Some(one) = one else { break };
        found.push(one.clone());
        if one.mig {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, wanted: Option<&str>) -> Vec<String> {
        let view = View::new(View::named(name).expect("a box"), "").expect("a view");
        devices(&view, wanted).into_iter().map(|device| device.uuid).collect()
    }

    #[test]
    fn what_is_asked_for_is_shown() {
        let all = names("h100x8", None);
        assert_eq!(all.len(), 8);
        assert_eq!(names("h100x8", Some("2,0")), [all[2].clone(), all[0].clone()]);
        assert_eq!(names("h100x8", Some("1,9,3")), [all[1].clone()]);
        assert_eq!(names("h100x8", Some("")), Vec::<String>::new());
        assert_eq!(names("h100x8", Some(&all[5])), [all[5].clone()]);
        let cut = names("h100-mig", None);
        assert!(cut.len() == 1 && cut[0].starts_with("MIG-"), "{cut:?}");
    }
}
