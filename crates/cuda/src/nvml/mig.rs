//! A card's GPU instances, their compute instances, and the profiles it can be cut by.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings as sys;

use super::{Device, NvmlCode, Said, bytes, done, text, version_word, zeroed};

/// NVML_GPU_INSTANCE_PROFILE_*: numbers below this are asked for; what a driver does not know it refuses.
pub const PROFILES: u32 = 0x18;
/// NVML_COMPUTE_INSTANCE_PROFILE_*.
const COMPUTE_PROFILES: u32 = 0x0c;

/// nvmlGpuInstanceProfileInfo_t, with the name where the driver tells it (510 and later).
#[derive(Clone, Debug)]
pub struct Profile {
    /// The driver's own number, as `nvidia-smi mig -lgip` shows it.
    pub id: u32,
    /// "MIG 1g.10gb".
    pub name: Option<String>,
    pub slices: u32,
    pub count: u32,
    pub multiprocessors: u32,
    pub copy_engines: u32,
    pub decoders: u32,
    pub encoders: u32,
    pub jpegs: u32,
    pub ofas: u32,
    pub memory_mib: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct GpuInstance {
    pub id: u32,
    pub profile: u32,
    /// Memory slices: first, and how many.
    pub start: u32,
    pub size: u32,
    pub(super) handle: sys::nvmlGpuInstance_t,
}

#[derive(Clone, Copy, Debug)]
pub struct ComputeInstance {
    pub id: u32,
    pub profile: u32,
    /// Compute slices: first, and how many.
    pub start: u32,
    pub size: u32,
    pub(super) handle: sys::nvmlComputeInstance_t,
}

/// nvmlDeviceAttributes_t of a MIG device.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    pub multiprocessors: u32,
    pub copy_engines: u32,
    pub decoders: u32,
    pub encoders: u32,
    pub jpegs: u32,
    pub ofas: u32,
    pub gpu_slices: u32,
    pub compute_slices: u32,
    pub memory_mib: u64,
}

impl Device<'_> {
    pub fn attributes(&self) -> Said<Attributes> {
        type Call = unsafe extern "C" fn(sys::nvmlDevice_t, *mut sys::nvmlDeviceAttributes_t) -> sys::nvmlReturn_t;
        let mut it: sys::nvmlDeviceAttributes_t = zeroed();
        // SAFETY: the header's signature; a place for one structure.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlDeviceGetAttributes_v2")?;
            done(call(self.handle, &raw mut it))?;
        }
        Ok(Attributes {
            multiprocessors: it.multiprocessorCount,
            copy_engines: it.sharedCopyEngineCount,
            decoders: it.sharedDecoderCount,
            encoders: it.sharedEncoderCount,
            jpegs: it.sharedJpegCount,
            ofas: it.sharedOfaCount,
            gpu_slices: it.gpuInstanceSliceCount,
            compute_slices: it.computeInstanceSliceCount,
            memory_mib: it.memorySizeMB,
        })
    }

    /// By NVML_GPU_INSTANCE_PROFILE_*; NOT_SUPPORTED where this card has no such profile.
    pub fn profile(&self, number: u32) -> Said<Profile> {
        match self.profile_named(number) {
            // before 510, or a number that this driver's newer call refuses
            Err(NvmlCode::FUNCTION_NOT_FOUND | NvmlCode::INVALID_ARGUMENT) => self.profile_old(number),
            other => other,
        }
    }

    fn profile_named(&self, number: u32) -> Said<Profile> {
        type Info = sys::nvmlGpuInstanceProfileInfo_v2_t;
        type Call = unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, *mut Info) -> sys::nvmlReturn_t;
        // SAFETY: numbers and one array of characters: all bytes zero is a value.
        let mut it: Info = unsafe { std::mem::zeroed() };
        it.version = version_word::<Info>(2);
        // SAFETY: the header's signature; the version is that of the structure.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlDeviceGetGpuInstanceProfileInfoV")?;
            done(call(self.handle, number, &raw mut it))?;
        }
        Ok(Profile {
            id: it.id,
            name: Some(text(&bytes(&it.name))),
            slices: it.sliceCount,
            count: it.instanceCount,
            multiprocessors: it.multiprocessorCount,
            copy_engines: it.copyEngineCount,
            decoders: it.decoderCount,
            encoders: it.encoderCount,
            jpegs: it.jpegCount,
            ofas: it.ofaCount,
            memory_mib: it.memorySizeMB,
        })
    }

    fn profile_old(&self, number: u32) -> Said<Profile> {
        type Info = sys::nvmlGpuInstanceProfileInfo_t;
        type Call = unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, *mut Info) -> sys::nvmlReturn_t;
        let mut it: Info = zeroed();
        // SAFETY: the header's signature; a place for one structure.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlDeviceGetGpuInstanceProfileInfo")?;
            done(call(self.handle, number, &raw mut it))?;
        }
        Ok(Profile {
            id: it.id,
            name: None,
            slices: it.sliceCount,
            count: it.instanceCount,
            multiprocessors: it.multiprocessorCount,
            copy_engines: it.copyEngineCount,
            decoders: it.decoderCount,
            encoders: it.encoderCount,
            jpegs: it.jpegCount,
            ofas: it.ofaCount,
            memory_mib: it.memorySizeMB,
        })
    }

    /// How many more of this profile (by the driver's number) there is room for now.
    pub fn remaining(&self, profile: u32) -> Said<u32> {
        type Call = unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, *mut c_uint) -> sys::nvmlReturn_t;
        let mut count = 0;
        // SAFETY: the header's signature; a place for one number.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlDeviceGetGpuInstanceRemainingCapacity")?;
            done(call(self.handle, profile, &raw mut count))?;
        }
        Ok(count)
    }

    /// Where instances of this profile may begin, and how many memory slices they take.
    pub fn placements(&self, profile: u32) -> Said<Vec<(u32, u32)>> {
        type Call = unsafe extern "C" fn(
            sys::nvmlDevice_t,
            c_uint,
            *mut sys::nvmlGpuInstancePlacement_t,
            *mut c_uint,
        ) -> sys::nvmlReturn_t;
        let mut list: [sys::nvmlGpuInstancePlacement_t; 64] = [zeroed(); 64];
        let mut count: c_uint = 64;
        // SAFETY: the header's signature; no card has so many places as there is room for, and the count says it.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlDeviceGetGpuInstancePossiblePlacements_v2")?;
            done(call(self.handle, profile, list.as_mut_ptr(), &raw mut count))?;
        }
        Ok(list.iter().take(count as usize).map(|place| (place.start, place.size)).collect())
    }

    /// The instances of a profile (by the driver's number). Root alone may see them.
    pub fn gpu_instances(&self, profile: u32) -> Said<Vec<GpuInstance>> {
        type List = unsafe extern "C" fn(
            sys::nvmlDevice_t,
            c_uint,
            *mut sys::nvmlGpuInstance_t,
            *mut c_uint,
        ) -> sys::nvmlReturn_t;
        type Info = unsafe extern "C" fn(sys::nvmlGpuInstance_t, *mut sys::nvmlGpuInstanceInfo_t) -> sys::nvmlReturn_t;
        let mut handles = [std::ptr::null_mut(); 64];
        let mut count: c_uint = 64;
        // SAFETY: the header's signature; the array has more room than any profile has instances (7).
        unsafe {
            let call: List = self.calls.symbol(c"nvmlDeviceGetGpuInstances")?;
            done(call(self.handle, profile, handles.as_mut_ptr(), &raw mut count))?;
        }
        // SAFETY: the header's signature.
        let info: Info = unsafe { self.calls.symbol(c"nvmlGpuInstanceGetInfo") }?;
        let one = |handle: &sys::nvmlGpuInstance_t| {
            let mut it: sys::nvmlGpuInstanceInfo_t = zeroed();
            // SAFETY: NVML gave this handle just now; a place for one structure.
            done(unsafe { info(*handle, &raw mut it) })?;
            let (start, size) = (it.placement.start, it.placement.size);
            Ok(GpuInstance { id: it.id, profile: it.profileId, start, size, handle: *handle })
        };
        handles.iter().take(count as usize).map(one).collect()
    }

    /// The compute instances of a GPU instance of this device.
    pub fn compute_instances(&self, of: &GpuInstance) -> Said<Vec<ComputeInstance>> {
        let mut found: Vec<ComputeInstance> = Vec::new();
        for (profile, _) in self.compute_profiles(of)? {
            found.extend(self.compute_of(of, profile)?);
        }
        found.sort_unstable_by_key(|instance| instance.id);
        found.dedup_by_key(|instance| instance.id);
        Ok(found)
    }

    /// The compute instance profiles of a GPU instance: the driver's own number, and compute slices.
    pub(super) fn compute_profiles(&self, of: &GpuInstance) -> Said<Vec<(u32, u32)>> {
        type Profiles = unsafe extern "C" fn(
            sys::nvmlGpuInstance_t,
            c_uint,
            c_uint,
            *mut sys::nvmlComputeInstanceProfileInfo_t,
        ) -> sys::nvmlReturn_t;
        // SAFETY: the header's signature.
        let profile: Profiles = unsafe { self.calls.symbol(c"nvmlGpuInstanceGetComputeInstanceProfileInfo") }?;
        let mut all = Vec::new();
        for number in 0..COMPUTE_PROFILES {
            // SAFETY: numbers alone.
            let mut it: sys::nvmlComputeInstanceProfileInfo_t = unsafe { std::mem::zeroed() };
            // SAFETY: the handle is NVML's; a place for one structure. Engine profile 0 is "shared", the only one.
            match done(unsafe { profile(of.handle, number, 0, &raw mut it) }) {
                Ok(()) => all.push((it.id, it.sliceCount)),
                // not of this instance, or this driver knows no such profile
                Err(NvmlCode::NOT_SUPPORTED | NvmlCode::INVALID_ARGUMENT) => {}
                Err(code) => return Err(code),
            }
        }
        Ok(all)
    }

    fn compute_of(&self, of: &GpuInstance, profile: u32) -> Said<Vec<ComputeInstance>> {
        type List = unsafe extern "C" fn(
            sys::nvmlGpuInstance_t,
            c_uint,
            *mut sys::nvmlComputeInstance_t,
            *mut c_uint,
        ) -> sys::nvmlReturn_t;
        type Info =
            unsafe extern "C" fn(sys::nvmlComputeInstance_t, *mut sys::nvmlComputeInstanceInfo_t) -> sys::nvmlReturn_t;
        let mut handles = [std::ptr::null_mut(); 64];
        let mut count: c_uint = 64;
        // SAFETY: the header's signature; the array has more room than any instance has parts (7).
        unsafe {
            let call: List = self.calls.symbol(c"nvmlGpuInstanceGetComputeInstances")?;
            done(call(of.handle, profile, handles.as_mut_ptr(), &raw mut count))?;
        }
        // SAFETY: the header's signature.
        let info: Info = unsafe { self.calls.symbol(c"nvmlComputeInstanceGetInfo_v2") }?;
        let one = |handle: &sys::nvmlComputeInstance_t| {
            let mut it: sys::nvmlComputeInstanceInfo_t = zeroed();
            // SAFETY: NVML gave this handle just now; a place for one structure.
            done(unsafe { info(*handle, &raw mut it) })?;
            let (start, size) = (it.placement.start, it.placement.size);
            Ok(ComputeInstance { id: it.id, profile: it.profileId, start, size, handle: *handle })
        };
        handles.iter().take(count as usize).map(one).collect()
    }
}
