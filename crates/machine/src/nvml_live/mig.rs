//! A card's parts, and how it could be cut.

use cuda::nvml::{Device, PROFILES, Profile};
use model::Seen;

use super::plain::newest;
use super::said;
use crate::nvml::{NvmlMig, NvmlMigDevice, NvmlMigInstance, NvmlMigProfile};

pub(super) fn mig(own: &Device<'_>, cut: bool) -> NvmlMig {
    // 0 of a card that cannot be cut, and of one that can be and is not: the profiles tell which.
    let max = said(own.max_mig_devices());
    let profiles: Vec<Profile> = (0..PROFILES).filter_map(|number| own.profile(number).ok()).collect();
    if profiles.is_empty() {
        return NvmlMig { max, ..NvmlMig::default() };
    }
    let devices = if cut { devices(own, max.get().copied().unwrap_or(0)) } else { Vec::new() };
    NvmlMig {
        max,
        devices: Seen::Is(devices),
        instances: if cut { instances(own, &profiles) } else { Seen::Is(Vec::new()) },
        profiles: Seen::Is(profiles.iter().map(|profile| known(own, profile)).collect()),
    }
}

/// The MIG devices alone, of a card that is cut.
pub(super) fn parts(own: &Device<'_>) -> NvmlMig {
    let max = said(own.max_mig_devices());
    let devices = Seen::Is(devices(own, max.get().copied().unwrap_or(0)));
    NvmlMig { max, devices, ..NvmlMig::default() }
}

fn name(profile: &Profile) -> Seen<String> {
    profile.name.as_ref().map(|name| name.trim_start_matches("MIG ").to_owned()).into()
}

fn known(own: &Device<'_>, profile: &Profile) -> NvmlMigProfile {
    NvmlMigProfile {
        id: profile.id,
        name: name(profile),
        slices: profile.slices,
        count: profile.count,
        remaining: said(own.remaining(profile.id)),
        memory_mib: profile.memory_mib,
        multiprocessors: profile.multiprocessors,
        copy_engines: profile.copy_engines,
        decoders: profile.decoders,
        encoders: profile.encoders,
        jpegs: profile.jpegs,
        ofas: profile.ofas,
        placements: said(own.placements(profile.id)),
    }
}

fn instances(own: &Device<'_>, profiles: &[Profile]) -> Seen<Vec<NvmlMigInstance>> {
    let mut all = Vec::new();
    for profile in profiles {
        let found = match said(own.gpu_instances(profile.id)) {
            Seen::Is(found) => found,
            Seen::Absent => continue,
            Seen::Unreadable(reason) => return Seen::Unreadable(reason),
        };
        all.extend(found.iter().map(|instance| NvmlMigInstance {
            id: instance.id,
            profile: instance.profile,
            profile_name: name(profile),
            start: instance.start,
            size: instance.size,
            compute: said(own.compute_instances(instance)).map(|list| list.iter().map(|it| (it.id, it.size)).collect()),
        }));
    }
    all.sort_unstable_by_key(|instance: &NvmlMigInstance| instance.id);
    Seen::Is(all)
}

fn devices(own: &Device<'_>, max: u32) -> Vec<NvmlMigDevice> {
    let part = |index: u32| {
        let device = own.mig_device(index).ok()?;
        let memory = said(device.memory_reserved());
        let old = if memory.is_absent() { said(device.memory()) } else { Seen::Absent };
        let bar1 = said(device.bar1());
        let attributes = said(device.attributes());
        let number = |get: fn(&cuda::nvml::Attributes) -> u32| attributes.as_ref().map(get);
        Some(NvmlMigDevice {
            index,
            uuid: said(device.uuid()),
            // "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
            profile: said(device.name())
                .and_then(|name| name.rsplit_once("MIG ").map(|(_, end)| end.to_owned()).into()),
            gpu_instance: said(device.gpu_instance_id()),
            compute_instance: said(device.compute_instance_id()),
            memory_total: newest(memory.as_ref().map(|it| it.total), || old.as_ref().map(|it| it.total)),
            memory_used: newest(memory.as_ref().map(|it| it.used), || old.as_ref().map(|it| it.used)),
            memory_free: newest(memory.as_ref().map(|it| it.free), || old.as_ref().map(|it| it.free)),
            memory_reserved: memory.map(|it| it.reserved),
            bar1_total: bar1.as_ref().map(|it| it.bar1Total),
            bar1_used: bar1.as_ref().map(|it| it.bar1Used),
            bar1_free: bar1.map(|it| it.bar1Free),
            multiprocessors: number(|it| it.multiprocessors),
            copy_engines: number(|it| it.copy_engines),
            decoders: number(|it| it.decoders),
            encoders: number(|it| it.encoders),
            jpegs: number(|it| it.jpegs),
            ofas: number(|it| it.ofas),
            sram_uncorrected: said(device.ecc_at(1, 0, 7)),
        })
    };
    (0..max).filter_map(part).collect()
}
