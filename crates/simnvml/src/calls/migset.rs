//! MIG, changed: the mode, GPU instances and compute instances come and go, for every process, by the state file.

use nvml_wrapper_sys::bindings::{
    nvmlComputeInstance_t, nvmlComputeInstanceProfileInfo_t, nvmlDevice_t, nvmlGpuInstance_t,
    nvmlGpuInstancePlacement_t,
};

use super::mig::{by_id, compute, compute_handle, compute_of, instance, mig};
use crate::abi::{
    Answer, IN_USE, INSUFFICIENT_RESOURCES, INVALID_ARGUMENT, NO_PERMISSION, NOT_SUPPORTED, Out, UNKNOWN, nvml,
};
use crate::card::{Instance, Mig, Profile};
use crate::place;
use crate::state::{Handles as _, Tag, handle, supported};
use crate::view::Gpu;

/// NVML_COMPUTE_INSTANCE_PROFILE_*: slices by number. The simulated driver's own number is the same.
const COMPUTE: [u32; 7] = [1, 2, 3, 4, 7, 8, 6];

pub(super) fn compute_profile(slices: u32) -> Answer<u32> {
    let number = COMPUTE.iter().position(|known| *known == slices).ok_or(UNKNOWN)?;
    u32::try_from(number).map_err(|_| UNKNOWN)
}

/// As the real one: whoever is not root has no access to the config capability.
fn allowed(gpu: &Gpu) -> Answer<&Mig> {
    let mig = mig(gpu)?;
    if place::root() { Ok(mig) } else { Err(NO_PERMISSION) }
}

/// Keeps one card's new MIG state for all processes.
fn keep(gpu: &Gpu, enabled: bool, pending: Option<bool>, instances: &[Instance]) -> Answer {
    let text =
        place::state_text().and_then(|text| simcards::kept::with_mig(&text, gpu.index, enabled, pending, instances));
    text.and_then(|text| place::write_state(&text)).map_err(|_| UNKNOWN)
}

/// The places of a profile where nothing lies.
fn free(gpu: &Gpu, profile: &Profile) -> Vec<u32> {
    let taken = |start: u32| {
        gpu.instances().iter().any(|it| {
            let size = gpu.profile(it).map_or(0, |profile| profile.size);
            start < it.start + size && it.start < start + profile.size
        })
    };
    profile.starts.iter().copied().filter(|start| !taken(*start)).collect()
}

fn create(gpu: &Gpu, id: u32, start: Option<u32>, out: Out<nvmlGpuInstance_t>) -> Answer {
    let mig = allowed(gpu)?;
    if !mig.enabled {
        return Err(NOT_SUPPORTED);
    }
    let profile = by_id(gpu, id)?;
    let slices: u32 = gpu.instances().iter().filter_map(|it| gpu.profile(it)).map(|profile| profile.slices).sum();
    let of_it = gpu.instances().iter().filter(|it| it.profile == profile.name).count();
    let free = free(gpu, profile);
    let start = match start {
        Some(start) if !profile.starts.contains(&start) => return Err(INVALID_ARGUMENT),
        Some(start) => free.contains(&start).then_some(start),
        None => free.first().copied(),
    };
    let whole = mig.profiles.iter().map(|profile| profile.slices).max().unwrap_or(0);
    if slices + profile.slices > whole || of_it >= profile.count as usize {
        return Err(INSUFFICIENT_RESOURCES);
    }
    let start = start.ok_or(INSUFFICIENT_RESOURCES)?;
    let gi = (1..).find(|gi| gpu.instances().iter().all(|it| it.gi != *gi)).unwrap_or(1);
    let mut instances = gpu.instances().to_vec();
    instances.push(Instance { profile: profile.name.clone(), gi, start, compute: Some(Vec::new()), used_mib: 0 });
    keep(gpu, true, mig.pending, &instances)?;
    out.put(handle(Tag::GpuInstance, gpu.index, gi))
}

/// The card with one of its instances changed.
fn change(gpu: &Gpu, gi: u32, with: impl FnOnce(&mut Instance)) -> Answer {
    let mig = allowed(gpu)?;
    let mut instances = gpu.instances().to_vec();
    with(instances.iter_mut().find(|it| it.gi == gi).ok_or(INVALID_ARGUMENT)?);
    keep(gpu, true, mig.pending, &instances)
}

nvml! {
    /// Busy: the mode waits for a reset, and the call succeeds; what keeps it is told beside.
    fn nvmlDeviceSetMigMode(device: nvmlDevice_t, mode: u32, status: Out<u32>) |view| {
        let gpu = view.gpu(device)?;
        let mig = allowed(gpu)?;
        let on = match mode { 0 => false, 1 => true, _ => return Err(INVALID_ARGUMENT) };
        if mig.enabled && !on && !mig.instances.is_empty() { return Err(IN_USE); }
        if mig.enabled == on {
            status.put(0)?;
            return keep(gpu, on, None, &mig.instances);
        }
        let busy = !gpu.card.processes.is_empty();
        status.put(if busy { IN_USE.0 } else { 0 })?;
        keep(gpu, on != busy, busy.then_some(on), &[])
    }
    fn nvmlDeviceCreateGpuInstance(device: nvmlDevice_t, id: u32, out: Out<nvmlGpuInstance_t>) |view| {
        create(view.gpu(device)?, id, None, out)
    }
    fn nvmlDeviceCreateGpuInstanceWithPlacement(
        device: nvmlDevice_t, id: u32, place: Out<nvmlGpuInstancePlacement_t>, out: Out<nvmlGpuInstance_t>
    ) |view| { create(view.gpu(device)?, id, Some(place.get()?.start), out) }
    fn nvmlGpuInstanceDestroy(given: nvmlGpuInstance_t) |view| {
        let (gpu, instance) = instance(view, Tag::GpuInstance, given)?;
        let mig = allowed(gpu)?;
        if compute(gpu, instance)?.iter().any(|slices| *slices > 0) { return Err(IN_USE); }
        let rest: Vec<Instance> = gpu.instances().iter().filter(|it| it.gi != instance.gi).cloned().collect();
        keep(gpu, true, mig.pending, &rest)
    }
    /// By NVML_COMPUTE_INSTANCE_PROFILE_*, of the shared engines alone.
    fn nvmlGpuInstanceGetComputeInstanceProfileInfo(
        given: nvmlGpuInstance_t, profile: u32, engine: u32, out: Out<nvmlComputeInstanceProfileInfo_t>
    ) |view| {
        let (gpu, instance) = instance(view, Tag::GpuInstance, given)?;
        let of = supported(gpu.profile(instance))?;
        let slices = *COMPUTE.get(profile as usize).ok_or(INVALID_ARGUMENT)?;
        if engine != 0 { return Err(INVALID_ARGUMENT); }
        if slices > of.slices { return Err(NOT_SUPPORTED); }
        out.put(nvmlComputeInstanceProfileInfo_t {
            id: profile,
            sliceCount: slices,
            instanceCount: of.slices / slices,
            multiprocessorCount: of.sm / of.slices.max(1) * slices,
            sharedCopyEngineCount: of.ce,
            sharedDecoderCount: of.dec,
            sharedEncoderCount: of.enc,
            sharedJpegCount: of.jpeg,
            sharedOfaCount: of.ofa,
        })
    }
    fn nvmlGpuInstanceCreateComputeInstance(given: nvmlGpuInstance_t, id: u32, out: Out<nvmlComputeInstance_t>) |view| {
        let (gpu, instance) = instance(view, Tag::GpuInstance, given)?;
        let slices = *COMPUTE.get(id as usize).ok_or(INVALID_ARGUMENT)?;
        let whole = supported(gpu.profile(instance))?.slices;
        let mut all = compute(gpu, instance)?;
        if all.iter().sum::<u32>() + slices > whole { return Err(INSUFFICIENT_RESOURCES); }
        let number = all.iter().position(|slices| *slices == 0).unwrap_or(all.len());
        all.resize(all.len().max(number + 1), 0);
        all[number] = slices;
        change(gpu, instance.gi, |it| it.compute = Some(all))?;
        out.put(compute_handle(gpu, instance, number))
    }
    fn nvmlComputeInstanceDestroy(given: nvmlComputeInstance_t) |view| {
        let (gpu, instance, number) = compute_of(view, given)?;
        let busy = gpu.card.processes.iter().any(|process| process.gi == Some(instance.gi));
        if busy { return Err(IN_USE); }
        let mut all = compute(gpu, instance)?;
        // the others keep their numbers
        all[number as usize] = 0;
        change(gpu, instance.gi, |it| it.compute = Some(all))
    }
}
