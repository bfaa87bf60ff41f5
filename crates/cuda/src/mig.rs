//! Cutting a card by NVML. nvml-wrapper has none of it; NVML API reference, "Multi Instance GPU Management".
//!
//! Whoever calls this is root: NVML itself wants access to /dev/nvidia-caps' config.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use crate::library::{Library, LoadError};

type Device = *mut c_void;
type GpuInstance = *mut c_void;
type ComputeInstance = *mut c_void;
type Call1<A> = unsafe extern "C" fn(A) -> c_int;
type Call2<A, B> = unsafe extern "C" fn(A, B) -> c_int;
type Call3<A, B, C> = unsafe extern "C" fn(A, B, C) -> c_int;
type Call4<A, B, C, D> = unsafe extern "C" fn(A, B, C, D) -> c_int;

/// NVML_ERROR_NOT_SUPPORTED, _INVALID_ARGUMENT: of a profile that this card or this driver does not have.
const NOT_SUPPORTED: c_int = 3;
const INVALID_ARGUMENT: c_int = 2;
/// Beyond NVML_GPU_INSTANCE_PROFILE_COUNT and NVML_COMPUTE_INSTANCE_PROFILE_COUNT of any driver; what it does not know is
/// refused by number.
const PROFILES: c_uint = 32;
const COMPUTE_PROFILES: c_uint = 12;
/// No card has more parts than slices.
const MOST: usize = 16;

/// Why a card was not cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{call}: {says} ({code})")]
    Call { call: &'static str, code: i32, says: &'static str },
    #[error("the card has no compute instance profile of {0} slices")]
    NoCompute(u32),
}

/// One GPU instance as the driver tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub instance: u32,
    /// The driver's number of its profile.
    pub profile: u32,
    /// Memory slices.
    pub start: u32,
    pub size: u32,
    /// Compute slices of each compute instance, by its number.
    pub compute: Vec<u32>,
}

/// nvmlGpuInstanceProfileInfo_t
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProfileInfo {
    id: c_uint,
    p2p: c_uint,
    slices: c_uint,
    instances: c_uint,
    engines: [c_uint; 6],
    memory: u64,
}

/// nvmlGpuInstancePlacement_t and nvmlComputeInstancePlacement_t
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Placement {
    start: c_uint,
    size: c_uint,
}

/// nvmlGpuInstanceInfo_t
#[repr(C)]
struct InstanceInfo {
    device: Device,
    id: c_uint,
    profile: c_uint,
    placement: Placement,
}

/// nvmlComputeInstanceInfo_t
#[repr(C)]
struct ComputeInfo {
    device: Device,
    instance: GpuInstance,
    id: c_uint,
    profile: c_uint,
    placement: Placement,
}

/// nvmlComputeInstanceProfileInfo_t
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ComputeProfileInfo {
    id: c_uint,
    slices: c_uint,
    instances: c_uint,
    engines: [c_uint; 6],
}

/// NVML, started, for cutting. Shut down when dropped.
pub struct Mig {
    library: Library,
}

/// One card of it.
pub struct MigCard<'a> {
    mig: &'a Mig,
    device: Device,
}

impl Mig {
    /// nvmlInit_v2.
    pub fn open() -> Result<Mig, MigError> {
        let library = Library::open("libnvidia-ml.so.1")?;
        let mig = Mig { library };
        // SAFETY: it takes no argument and may be called any number of times.
        unsafe {
            let init: unsafe extern "C" fn() -> c_int = mig.library.symbol(c"nvmlInit_v2")?;
            done("nvmlInit_v2", init())?;
        }
        Ok(mig)
    }

    /// By address, "0000:01:00.0": nvmlDeviceGetHandleByPciBusId_v2.
    pub fn card(&self, bus_id: &str) -> Result<MigCard<'_>, MigError> {
        let text = CString::new(bus_id).unwrap_or_default();
        let mut device: Device = std::ptr::null_mut();
        // SAFETY: a terminated string and a place for one handle.
        unsafe {
            let get: Call2<*const c_char, *mut Device> = self.library.symbol(c"nvmlDeviceGetHandleByPciBusId_v2")?;
            done("nvmlDeviceGetHandleByPciBusId_v2", get(text.as_ptr(), &raw mut device))?;
        }
        Ok(MigCard { mig: self, device })
    }
}

impl Drop for Mig {
    fn drop(&mut self) {
        // SAFETY: undoes the one init of `open`; an error at the end changes nothing.
        unsafe {
            if let Ok(shutdown) = self.library.symbol::<unsafe extern "C" fn() -> c_int>(c"nvmlShutdown") {
                shutdown();
            }
        }
    }
}

impl MigCard<'_> {
    pub fn uuid(&self) -> Result<String, MigError> {
        let mut text = [0u8; 96];
        // SAFETY: the buffer is as long as is said.
        unsafe {
            let get: Call3<Device, *mut c_char, c_uint> = self.mig.library.symbol(c"nvmlDeviceGetUUID")?;
            done("nvmlDeviceGetUUID", get(self.device, text.as_mut_ptr().cast(), text.len() as c_uint))?;
        }
        let text = std::ffi::CStr::from_bytes_until_nul(&text).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    /// (now, after a reset): nvmlDeviceGetMigMode.
    pub fn mode(&self) -> Result<(bool, bool), MigError> {
        let (mut current, mut pending) = (0, 0);
        // SAFETY: two places for an unsigned int.
        unsafe {
            let get: Call3<Device, *mut c_uint, *mut c_uint> = self.mig.library.symbol(c"nvmlDeviceGetMigMode")?;
            done("nvmlDeviceGetMigMode", get(self.device, &raw mut current, &raw mut pending))?;
        }
        Ok((current == 1, pending == 1))
    }

    /// nvmlDeviceSetMigMode. `Ok(Err)`: set, and not effective yet, for this reason.
    pub fn set_mode(&self, on: bool) -> Result<Result<(), MigError>, MigError> {
        let mut status = 0;
        // SAFETY: a place for one nvmlReturn_t.
        unsafe {
            let set: Call3<Device, c_uint, *mut c_int> = self.mig.library.symbol(c"nvmlDeviceSetMigMode")?;
            done("nvmlDeviceSetMigMode", set(self.device, c_uint::from(on), &raw mut status))?;
        }
        Ok(done("nvmlDeviceSetMigMode's activation", status))
    }

    /// What the card is cut into, by start. Empty where MIG is off.
    pub fn parts(&self) -> Result<Vec<Part>, MigError> {
        let mut parts = Vec::new();
        for profile in self.profiles()? {
            for instance in self.instances(profile.id)? {
                let info = self.info(instance)?;
                let compute = self.compute(instance)?.into_iter().map(|(_, slices)| slices).collect();
                let Placement { start, size } = info.placement;
                let part = Part { instance: info.id, profile: info.profile, start, size, compute };
                // two numbers of one profile (with and without media engines) would show it twice
                if !parts.contains(&part) {
                    parts.push(part);
                }
            }
        }
        parts.sort_by_key(|part| (part.start, part.instance));
        Ok(parts)
    }

    /// Makes a GPU instance, and in it compute instances of so many slices. `start`: in memory slices, with `size`; none:
    /// where the driver likes.
    pub fn create(&self, profile: u32, place: Option<(u32, u32)>, compute: &[u32]) -> Result<(), MigError> {
        let mut instance: GpuInstance = std::ptr::null_mut();
        // SAFETY: a placement that outlives the call, and a place for one handle.
        unsafe {
            match place {
                Some((start, size)) => {
                    let place = Placement { start, size };
                    let call = "nvmlDeviceCreateGpuInstanceWithPlacement";
                    let make: Call4<Device, c_uint, *const Placement, *mut GpuInstance> =
                        self.mig.library.symbol(c"nvmlDeviceCreateGpuInstanceWithPlacement")?;
                    done(call, make(self.device, profile, &raw const place, &raw mut instance))?;
                }
                None => {
                    let make: Call3<Device, c_uint, *mut GpuInstance> =
                        self.mig.library.symbol(c"nvmlDeviceCreateGpuInstance")?;
                    done("nvmlDeviceCreateGpuInstance", make(self.device, profile, &raw mut instance))?;
                }
            }
        }
        for slices in compute {
            let known = self.compute_profiles(instance)?;
            let profile = known.iter().find(|known| known.slices == *slices).ok_or(MigError::NoCompute(*slices))?;
            let mut made: ComputeInstance = std::ptr::null_mut();
            // SAFETY: the instance was made above; a place for one handle.
            unsafe {
                let make: Call3<GpuInstance, c_uint, *mut ComputeInstance> =
                    self.mig.library.symbol(c"nvmlGpuInstanceCreateComputeInstance")?;
                done("nvmlGpuInstanceCreateComputeInstance", make(instance, profile.id, &raw mut made))?;
            }
        }
        Ok(())
    }

    /// Takes a GPU instance away, its compute instances first.
    pub fn destroy(&self, instance: u32) -> Result<(), MigError> {
        let mut handle: GpuInstance = std::ptr::null_mut();
        // SAFETY: a place for one handle.
        unsafe {
            let get: Call3<Device, c_uint, *mut GpuInstance> =
                self.mig.library.symbol(c"nvmlDeviceGetGpuInstanceById")?;
            done("nvmlDeviceGetGpuInstanceById", get(self.device, instance, &raw mut handle))?;
        }
        for (compute, _) in self.compute(handle)? {
            // SAFETY: a handle that the driver just gave.
            unsafe {
                let destroy: Call1<ComputeInstance> = self.mig.library.symbol(c"nvmlComputeInstanceDestroy")?;
                done("nvmlComputeInstanceDestroy", destroy(compute))?;
            }
        }
        // SAFETY: the handle from above.
        unsafe {
            let destroy: Call1<GpuInstance> = self.mig.library.symbol(c"nvmlGpuInstanceDestroy")?;
            done("nvmlGpuInstanceDestroy", destroy(handle))
        }
    }

    fn profiles(&self) -> Result<Vec<ProfileInfo>, MigError> {
        let mut all = Vec::new();
        for number in 0..PROFILES {
            let mut info = ProfileInfo::default();
            // SAFETY: a place for one nvmlGpuInstanceProfileInfo_t.
            let code = unsafe {
                let get: Call3<Device, c_uint, *mut ProfileInfo> =
                    self.mig.library.symbol(c"nvmlDeviceGetGpuInstanceProfileInfo")?;
                get(self.device, number, &raw mut info)
            };
            match code {
                NOT_SUPPORTED | INVALID_ARGUMENT => {}
                code => done("nvmlDeviceGetGpuInstanceProfileInfo", code).map(|()| all.push(info))?,
            }
        }
        Ok(all)
    }

    fn instances(&self, profile: u32) -> Result<Vec<GpuInstance>, MigError> {
        let mut handles: [GpuInstance; MOST] = [std::ptr::null_mut(); MOST];
        let mut count = MOST as c_uint;
        // SAFETY: room for more instances than any profile has.
        let code = unsafe {
            let get: Call4<Device, c_uint, *mut GpuInstance, *mut c_uint> =
                self.mig.library.symbol(c"nvmlDeviceGetGpuInstances")?;
            get(self.device, profile, handles.as_mut_ptr(), &raw mut count)
        };
        if code == NOT_SUPPORTED {
            return Ok(Vec::new());
        }
        done("nvmlDeviceGetGpuInstances", code)?;
        Ok(handles.into_iter().take(count as usize).collect())
    }

    fn info(&self, instance: GpuInstance) -> Result<InstanceInfo, MigError> {
        let mut info =
            InstanceInfo { device: std::ptr::null_mut(), id: 0, profile: 0, placement: Placement::default() };
        // SAFETY: a handle that the driver gave, and a place for one nvmlGpuInstanceInfo_t.
        unsafe {
            let get: Call2<GpuInstance, *mut InstanceInfo> = self.mig.library.symbol(c"nvmlGpuInstanceGetInfo")?;
            done("nvmlGpuInstanceGetInfo", get(instance, &raw mut info))?;
        }
        Ok(info)
    }

    /// The compute instances of one GPU instance, with their slices, by number.
    fn compute(&self, instance: GpuInstance) -> Result<Vec<(ComputeInstance, u32)>, MigError> {
        let mut all: Vec<(u32, ComputeInstance, u32)> = Vec::new();
        for profile in self.compute_profiles(instance)? {
            let mut handles: [ComputeInstance; MOST] = [std::ptr::null_mut(); MOST];
            let mut count = MOST as c_uint;
            // SAFETY: room for more than any profile has; then a place for one info of each.
            unsafe {
                let get: Call4<GpuInstance, c_uint, *mut ComputeInstance, *mut c_uint> =
                    self.mig.library.symbol(c"nvmlGpuInstanceGetComputeInstances")?;
                done(
                    "nvmlGpuInstanceGetComputeInstances",
                    get(instance, profile.id, handles.as_mut_ptr(), &raw mut count),
                )?;
                let ask: Call2<ComputeInstance, *mut ComputeInfo> =
                    self.mig.library.symbol(c"nvmlComputeInstanceGetInfo_v2")?;
                for handle in handles.into_iter().take(count as usize) {
                    let mut info = ComputeInfo {
                        device: std::ptr::null_mut(),
                        instance: std::ptr::null_mut(),
                        id: 0,
                        profile: 0,
                        placement: Placement::default(),
                    };
                    done("nvmlComputeInstanceGetInfo_v2", ask(handle, &raw mut info))?;
                    if !all.iter().any(|(id, ..)| *id == info.id) {
                        all.push((info.id, handle, info.placement.size));
                    }
                }
            }
        }
        all.sort_by_key(|(id, ..)| *id);
        Ok(all.into_iter().map(|(_, handle, slices)| (handle, slices)).collect())
    }

    fn compute_profiles(&self, instance: GpuInstance) -> Result<Vec<ComputeProfileInfo>, MigError> {
        let mut all = Vec::new();
        for number in 0..COMPUTE_PROFILES {
            let mut info = ComputeProfileInfo::default();
            // SAFETY: a handle that the driver gave; engine profile 0 is "shared"; a place for one info.
            let code = unsafe {
                let get: Call4<GpuInstance, c_uint, c_uint, *mut ComputeProfileInfo> =
                    self.mig.library.symbol(c"nvmlGpuInstanceGetComputeInstanceProfileInfo")?;
                get(instance, number, 0, &raw mut info)
            };
            match code {
                NOT_SUPPORTED | INVALID_ARGUMENT => {}
                code => done("nvmlGpuInstanceGetComputeInstanceProfileInfo", code).map(|()| all.push(info))?,
            }
        }
        Ok(all)
    }
}

/// nvmlReturn_t in words, for the calls above.
fn done(call: &'static str, code: c_int) -> Result<(), MigError> {
    let says = match code {
        0 => return Ok(()),
        2 => "the driver does not take this",
        3 => "not supported on this card",
        4 => "no permission; this needs root",
        6 => "not found",
        23 => "there is no room for it",
        9 => "the driver is not loaded",
        15 => "the GPU is lost",
        16 => "the GPU must be reset first",
        19 => "something uses the card",
        _ => "an error of the driver",
    };
    Err(MigError::Call { call, code, says })
}
