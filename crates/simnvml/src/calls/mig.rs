//! MIG: a card cut into GPU instances. Each has one compute instance here, which takes all of it.

use nvml_wrapper_sys::bindings::{
    nvmlComputeInstance_t, nvmlComputeInstanceInfo_t, nvmlComputeInstancePlacement_t, nvmlComputeInstanceProfileInfo_t,
    nvmlDevice_t, nvmlDeviceAttributes_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t,
    nvmlGpuInstanceProfileInfo_t, nvmlGpuInstanceProfileInfo_v2_t,
};

use crate::abi::{
    Answer, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, Out, VERSION_MISMATCH, array, nvml, version_word,
};
use crate::card::{Instance, Mig, Profile};
use crate::state::{Device, Tag, handle, supported, unhandle};
use crate::view::{Gpu, View};

/// NVML_GPU_INSTANCE_PROFILE_COUNT.
const PROFILES: u32 = 0x12;

fn mig(gpu: &Gpu) -> Answer<&Mig> {
    supported(gpu.card.mig.as_ref())
}

/// By NVML_GPU_INSTANCE_PROFILE_*: one that this card does not have is not supported.
fn by_profile(gpu: &Gpu, profile: u32) -> Answer<&Profile> {
    let mig = mig(gpu)?;
    if profile >= PROFILES {
        return Err(INVALID_ARGUMENT);
    }
    supported(mig.profiles.iter().find(|known| known.profile == profile))
}

fn by_id(gpu: &Gpu, id: u32) -> Answer<&Profile> {
    mig(gpu)?.profiles.iter().find(|known| known.id == id).ok_or(NOT_SUPPORTED)
}

/// One of a GPU that is cut up.
fn instance<T>(view: &View, tag: Tag, given: *mut T) -> Answer<(&Gpu, &Instance)> {
    let (index, gi) = unhandle(tag, given)?;
    let gpu = view.gpus.get(index as usize).ok_or(INVALID_ARGUMENT)?;
    let instance = gpu.instances().iter().find(|instance| instance.gi == gi).ok_or(INVALID_ARGUMENT)?;
    Ok((gpu, instance))
}

fn attributes(view: &View, device: nvmlDevice_t, out: Out<nvmlDeviceAttributes_t>) -> Answer {
    let Device::Mig(gpu, instance) = view.device(device)? else { return Err(NOT_SUPPORTED) };
    let profile = supported(gpu.profile(instance))?;
    out.put(nvmlDeviceAttributes_t {
        multiprocessorCount: profile.sm,
        sharedCopyEngineCount: profile.ce,
        sharedDecoderCount: profile.dec,
        sharedEncoderCount: profile.enc,
        sharedJpegCount: profile.jpeg,
        sharedOfaCount: profile.ofa,
        gpuInstanceSliceCount: profile.slices,
        computeInstanceSliceCount: profile.slices,
        memorySizeMB: profile.memory_mib,
    })
}

/// How many more of a profile there is room for: its own number, less what overlaps.
fn remaining(gpu: &Gpu, profile: &Profile) -> u32 {
    let taken: Vec<(u32, u32)> = gpu
        .instances()
        .iter()
        .filter_map(|it| gpu.profile(it).map(|profile| (it.start, it.start + profile.size)))
        .collect();
    let free = profile.starts.iter().filter(|start| {
        let end = *start + profile.size;
        taken.iter().all(|(from, to)| end <= *from || *start >= to)
    });
    u32::try_from(free.count()).unwrap_or(0).min(profile.count)
}

fn placements(gpu: &Gpu, id: u32, out: Out<nvmlGpuInstancePlacement_t>, count: Out<u32>) -> Answer {
    let profile = by_id(gpu, id)?;
    let all: Vec<_> =
        profile.starts.iter().map(|start| nvmlGpuInstancePlacement_t { start: *start, size: profile.size }).collect();
    if out.is_null() {
        return count.put(u32::try_from(all.len()).unwrap_or(0));
    }
    out.list(count, &all)
}

/// The second form of a profile's data; the first word said which is wanted, and the third differs in its tail.
fn info_v(gpu: &Gpu, profile: &Profile, out: Out<nvmlGpuInstanceProfileInfo_v2_t>) -> Answer {
    out.versioned(2).map_err(|code| if code == VERSION_MISMATCH { INVALID_ARGUMENT } else { code })?;
    out.put(nvmlGpuInstanceProfileInfo_v2_t {
        version: version_word::<nvmlGpuInstanceProfileInfo_v2_t>(2),
        id: profile.id,
        isP2pSupported: 0,
        sliceCount: profile.slices,
        instanceCount: profile.count,
        multiprocessorCount: profile.sm,
        copyEngineCount: profile.ce,
        decoderCount: profile.dec,
        encoderCount: profile.enc,
        jpegCount: profile.jpeg,
        ofaCount: profile.ofa,
        memorySizeMB: profile.memory_mib,
        name: array(&format!("MIG {}", profile.name)),
    })?;
    mig(gpu).map(|_| ())
}

fn compute_info(view: &View, given: nvmlComputeInstance_t, out: Out<nvmlComputeInstanceInfo_t>) -> Answer {
    let (gpu, instance) = instance(view, Tag::ComputeInstance, given)?;
    let size = supported(gpu.profile(instance))?.slices;
    out.put(nvmlComputeInstanceInfo_t {
        device: handle(Tag::Device, gpu.index, 0),
        gpuInstance: handle(Tag::GpuInstance, gpu.index, instance.gi),
        id: 0,
        profileId: 0,
        placement: nvmlComputeInstancePlacement_t { start: 0, size },
    })
}

nvml! {
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, current: Out<u32>, pending: Out<u32>) |view| {
        let enabled = u32::from(mig(view.gpu(device)?)?.enabled);
        current.put(enabled)?;
        pending.put(enabled)
    }
    /// 0 for a card that cannot be cut, which is success.
    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: Out<u32>) |view| {
        count.put(view.gpu(device)?.card.mig.as_ref().map_or(0, |_| 7))
    }
    fn nvmlDeviceGetMigDeviceHandleByIndex(device: nvmlDevice_t, index: u32, out: Out<nvmlDevice_t>) |view| {
        let gpu = view.gpu(device)?;
        let mig = mig(gpu)?;
        if index >= 7 { return Err(INVALID_ARGUMENT); }
        if !mig.enabled || index as usize >= gpu.instances().len() { return Err(NOT_FOUND); }
        out.put(handle(Tag::Device, gpu.index, index + 1))
    }
    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device: nvmlDevice_t, out: Out<nvmlDevice_t>) |view| {
        match view.device(device)? {
            Device::Mig(gpu, _) => out.put(handle(Tag::Device, gpu.index, 0)),
            Device::Whole(_) => Err(INVALID_ARGUMENT),
        }
    }
    fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(u32::from(matches!(view.device(device)?, Device::Mig(..))))
    }
    fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, id: Out<u32>) |view| {
        match view.device(device)? {
            Device::Mig(_, instance) => id.put(instance.gi),
            Device::Whole(_) => Err(NOT_SUPPORTED),
        }
    }
    fn nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, id: Out<u32>) |view| {
        match view.device(device)? {
            Device::Mig(..) => id.put(0),
            Device::Whole(_) => Err(NOT_SUPPORTED),
        }
    }
    fn nvmlDeviceGetAttributes_v2(device: nvmlDevice_t, out: Out<nvmlDeviceAttributes_t>) |view| {
        attributes(view, device, out)
    }
    fn nvmlDeviceGetAttributes(device: nvmlDevice_t, out: Out<nvmlDeviceAttributes_t>) |view| {
        attributes(view, device, out)
    }

    /// By NVML_GPU_INSTANCE_PROFILE_*, not by the driver's id.
    fn nvmlDeviceGetGpuInstanceProfileInfo(device: nvmlDevice_t, profile: u32, out: Out<nvmlGpuInstanceProfileInfo_t>) |view| {
        let profile = by_profile(view.gpu(device)?, profile)?;
        out.put(nvmlGpuInstanceProfileInfo_t {
            id: profile.id,
            isP2pSupported: 0,
            sliceCount: profile.slices,
            instanceCount: profile.count,
            multiprocessorCount: profile.sm,
            copyEngineCount: profile.ce,
            decoderCount: profile.dec,
            encoderCount: profile.enc,
            jpegCount: profile.jpeg,
            ofaCount: profile.ofa,
            memorySizeMB: profile.memory_mib,
        })
    }
    fn nvmlDeviceGetGpuInstanceProfileInfoV(
        device: nvmlDevice_t, profile: u32, out: Out<nvmlGpuInstanceProfileInfo_v2_t>
    ) |view| {
        let gpu = view.gpu(device)?;
        info_v(gpu, by_profile(gpu, profile)?, out)
    }
    fn nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        device: nvmlDevice_t, id: u32, out: Out<nvmlGpuInstancePlacement_t>, count: Out<u32>
    ) |view| { placements(view.gpu(device)?, id, out, count) }
    fn nvmlDeviceGetGpuInstancePossiblePlacements(
        device: nvmlDevice_t, id: u32, out: Out<nvmlGpuInstancePlacement_t>, count: Out<u32>
    ) |view| { placements(view.gpu(device)?, id, out, count) }
    fn nvmlDeviceGetGpuInstanceRemainingCapacity(device: nvmlDevice_t, id: u32, count: Out<u32>) |view| {
        // also of a card that is not cut up: a real H100 with MIG off said 7/7
        let gpu = view.gpu(device)?;
        count.put(remaining(gpu, by_id(gpu, id)?))
    }
    /// The array has room for the profile's number; the count is only told.
    fn nvmlDeviceGetGpuInstances(device: nvmlDevice_t, id: u32, out: Out<nvmlGpuInstance_t>, count: Out<u32>) |view| {
        let gpu = view.gpu(device)?;
        if !gpu.mig_enabled() { return Err(NOT_SUPPORTED); }
        let profile = by_id(gpu, id)?;
        let found = gpu.instances().iter().filter(|instance| instance.profile == profile.name);
        let found: Vec<nvmlGpuInstance_t> = found.map(|it| handle(Tag::GpuInstance, gpu.index, it.gi)).collect();
        count.put(u32::try_from(found.len()).unwrap_or(0))?;
        out.fill(&found)
    }
    fn nvmlDeviceGetGpuInstanceById(device: nvmlDevice_t, id: u32, out: Out<nvmlGpuInstance_t>) |view| {
        let gpu = view.gpu(device)?;
        if !gpu.mig_enabled() { return Err(NOT_SUPPORTED); }
        if !gpu.instances().iter().any(|instance| instance.gi == id) { return Err(NOT_FOUND); }
        out.put(handle(Tag::GpuInstance, gpu.index, id))
    }
    fn nvmlGpuInstanceGetInfo(given: nvmlGpuInstance_t, out: Out<nvmlGpuInstanceInfo_t>) |view| {
        let (gpu, instance) = instance(view, Tag::GpuInstance, given)?;
        let profile = supported(gpu.profile(instance))?;
        out.put(nvmlGpuInstanceInfo_t {
            device: handle(Tag::Device, gpu.index, 0),
            id: instance.gi,
            profileId: profile.id,
            placement: nvmlGpuInstancePlacement_t { start: instance.start, size: profile.size },
        })
    }
    fn nvmlGpuInstanceGetComputeInstanceById(given: nvmlGpuInstance_t, id: u32, out: Out<nvmlComputeInstance_t>) |view| {
        let (gpu, instance) = instance(view, Tag::GpuInstance, given)?;
        if id != 0 { return Err(NOT_FOUND); }
        out.put(handle(Tag::ComputeInstance, gpu.index, instance.gi))
    }
    /// The profile of the whole instance alone, since compute instances here take all of theirs: NVML_COMPUTE_INSTANCE_
    /// PROFILE_* 0 to 4 are those of 1, 2, 3, 4 and 7 slices. Engine profile 0 is "shared".
    fn nvmlGpuInstanceGetComputeInstanceProfileInfo(
        given: nvmlGpuInstance_t, number: u32, engines: u32, out: Out<nvmlComputeInstanceProfileInfo_t>
    ) |view| {
        let (gpu, instance) = instance(view, Tag::GpuInstance, given)?;
        let profile = supported(gpu.profile(instance))?;
        if engines != 0 || number >= 0x0c { return Err(INVALID_ARGUMENT); }
        if [1, 2, 3, 4, 7].get(number as usize) != Some(&profile.slices) { return Err(NOT_SUPPORTED); }
        out.put(nvmlComputeInstanceProfileInfo_t {
            id: number,
            sliceCount: profile.slices,
            instanceCount: 1,
            multiprocessorCount: profile.sm,
            sharedCopyEngineCount: profile.ce,
            sharedDecoderCount: profile.dec,
            sharedEncoderCount: profile.enc,
            sharedJpegCount: profile.jpeg,
            sharedOfaCount: profile.ofa,
        })
    }
    /// Whatever profile is asked for, it is the one that there is.
    fn nvmlGpuInstanceGetComputeInstances(
        given: nvmlGpuInstance_t, _profile: u32, out: Out<nvmlComputeInstance_t>, count: Out<u32>
    ) |view| {
        let (gpu, instance) = instance(view, Tag::GpuInstance, given)?;
        count.put(1)?;
        out.put(handle(Tag::ComputeInstance, gpu.index, instance.gi))
    }
    fn nvmlComputeInstanceGetInfo_v2(given: nvmlComputeInstance_t, out: Out<nvmlComputeInstanceInfo_t>) |view| {
        compute_info(view, given, out)
    }
}
