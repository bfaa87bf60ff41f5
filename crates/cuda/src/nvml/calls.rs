//! A device's calls that fill one or two numbers, a text or a structure. Each row says NVML's name and what it gives.

use std::ffi::{CStr, c_char, c_uint, c_void};

use nvml_wrapper_sys::bindings as sys;

use super::{Device, Plain, Said, bytes, done, text, version_word, zeroed};

impl Device<'_> {
    /// # Safety
    /// The symbol is `nvmlReturn_t name(nvmlDevice_t, T *)`.
    unsafe fn one<T: Plain>(&self, name: &CStr) -> Said<T> {
        // SAFETY: all zeroes are a T; passed on.
        unsafe { self.filled(name, zeroed()) }
    }

    /// # Safety
    /// As `one`; the structure is read before it is written (a version, a sensor's number).
    unsafe fn filled<T: Plain>(&self, name: &CStr, mut value: T) -> Said<T> {
        // SAFETY: the caller answers for the signature; the place is one T.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, *mut T) -> sys::nvmlReturn_t = self.calls.symbol(name)?;
            done(call(self.handle, &raw mut value))?;
        }
        Ok(value)
    }

    /// # Safety
    /// The symbol is `nvmlReturn_t name(nvmlDevice_t, A *, B *)`.
    unsafe fn two<A: Plain, B: Plain>(&self, name: &CStr) -> Said<(A, B)> {
        let (mut a, mut b) = (zeroed::<A>(), zeroed::<B>());
        // SAFETY: the caller answers for the signature; the places are one A and one B.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, *mut A, *mut B) -> sys::nvmlReturn_t =
                self.calls.symbol(name)?;
            done(call(self.handle, &raw mut a, &raw mut b))?;
        }
        Ok((a, b))
    }

    /// # Safety
    /// The symbol is `nvmlReturn_t name(nvmlDevice_t, unsigned, T *)`.
    unsafe fn of<T: Plain>(&self, name: &CStr, which: u32) -> Said<T> {
        let mut value = zeroed::<T>();
        // SAFETY: the caller answers for the signature; the place is one T.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, *mut T) -> sys::nvmlReturn_t =
                self.calls.symbol(name)?;
            done(call(self.handle, which, &raw mut value))?;
        }
        Ok(value)
    }

    /// # Safety
    /// The symbol is `nvmlReturn_t name(nvmlDevice_t, unsigned, unsigned, T *)`.
    unsafe fn of_two<T: Plain>(&self, name: &CStr, a: u32, b: u32) -> Said<T> {
        let mut value = zeroed::<T>();
        // SAFETY: the caller answers for the signature; the place is one T.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, c_uint, *mut T) -> sys::nvmlReturn_t =
                self.calls.symbol(name)?;
            done(call(self.handle, a, b, &raw mut value))?;
        }
        Ok(value)
    }

    /// # Safety
    /// The symbol is `nvmlReturn_t name(nvmlDevice_t, char *, unsigned length)`.
    unsafe fn said(&self, name: &CStr) -> Said<String> {
        let mut buffer = [0_u8; 96];
        // SAFETY: the caller answers for the signature; the length passed is the buffer's.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, *mut c_char, c_uint) -> sys::nvmlReturn_t =
                self.calls.symbol(name)?;
            done(call(self.handle, buffer.as_mut_ptr().cast(), buffer.len() as c_uint))?;
        }
        Ok(text(&buffer))
    }
}

macro_rules! rows {
    (one: $($(#[$doc:meta])* $method:ident $name:literal -> $type:ty;)*) => {
        impl Device<'_> {$(
            $(#[$doc])*
            pub fn $method(&self) -> Said<$type> {
                // SAFETY: NVML's header gives this symbol this signature.
                unsafe { self.one($name) }
            }
        )*}
    };
    (two: $($(#[$doc:meta])* $method:ident $name:literal -> $type:ty;)*) => {
        impl Device<'_> {$(
            $(#[$doc])*
            pub fn $method(&self) -> Said<$type> {
                // SAFETY: NVML's header gives this symbol this signature.
                unsafe { self.two($name) }
            }
        )*}
    };
    (of: $($(#[$doc:meta])* $method:ident $name:literal -> $type:ty;)*) => {
        impl Device<'_> {$(
            $(#[$doc])*
            pub fn $method(&self, which: u32) -> Said<$type> {
                // SAFETY: NVML's header gives this symbol this signature.
                unsafe { self.of($name, which) }
            }
        )*}
    };
    (said: $($(#[$doc:meta])* $method:ident $name:literal;)*) => {
        impl Device<'_> {$(
            $(#[$doc])*
            pub fn $method(&self) -> Said<String> {
                // SAFETY: NVML's header gives this symbol this signature.
                unsafe { self.said($name) }
            }
        )*}
    };
}

rows! { one:
    /// Bytes; counts the driver's own share as used. The only form before 510.
    memory c"nvmlDeviceGetMemoryInfo" -> sys::nvmlMemory_t;
    bar1 c"nvmlDeviceGetBAR1MemoryInfo" -> sys::nvmlBAR1Memory_t;
    protected_memory c"nvmlDeviceGetConfComputeProtectedMemoryUsage" -> sys::nvmlMemory_t;
    /// Bits of nvmlClocksEventReason; the older name is asked where the driver has no newer.
    event_reasons c"nvmlDeviceGetCurrentClocksEventReasons" -> u64;
    throttle_reasons c"nvmlDeviceGetCurrentClocksThrottleReasons" -> u64;
    supported_event_reasons c"nvmlDeviceGetSupportedClocksEventReasons" -> u64;
    supported_throttle_reasons c"nvmlDeviceGetSupportedClocksThrottleReasons" -> u64;
    retired_pending c"nvmlDeviceGetRetiredPagesPendingStatus" -> u32;
    histogram c"nvmlDeviceGetRowRemapperHistogram" -> sys::nvmlRowRemapperHistogramValues_t;
    /// mJ since the driver was loaded.
    energy c"nvmlDeviceGetTotalEnergyConsumption" -> u64;
    power_mode c"nvmlDeviceGetPowerManagementMode" -> u32;
    /// Milliwatts.
    power_limit c"nvmlDeviceGetPowerManagementLimit" -> u32;
    power_limit_enforced c"nvmlDeviceGetEnforcedPowerLimit" -> u32;
    power_limit_default c"nvmlDeviceGetPowerManagementDefaultLimit" -> u32;
    pcie_replays c"nvmlDeviceGetPcieReplayCounter" -> u32;
    pcie_gen_max_card c"nvmlDeviceGetGpuMaxPcieLinkGeneration" -> u32;
    board_id c"nvmlDeviceGetBoardId" -> u32;
    multi_gpu_board c"nvmlDeviceGetMultiGpuBoard" -> u32;
    module_id c"nvmlDeviceGetModuleId" -> u32;
    display_mode c"nvmlDeviceGetDisplayMode" -> u32;
    accounting c"nvmlDeviceGetAccountingMode" -> u32;
    accounting_buffer c"nvmlDeviceGetAccountingBufferSize" -> u32;
    host_vgpu_mode c"nvmlDeviceGetHostVgpuMode" -> u32;
    max_mig_devices c"nvmlDeviceGetMaxMigDeviceCount" -> u32;
    gpu_instance_id c"nvmlDeviceGetGpuInstanceId" -> u32;
    compute_instance_id c"nvmlDeviceGetComputeInstanceId" -> u32;
    fbc_stats c"nvmlDeviceGetFBCStats" -> sys::nvmlFBCStats_t;
    fans c"nvmlDeviceGetNumFans" -> u32;
    event_types c"nvmlDeviceGetSupportedEventTypes" -> u64;
    c2c c"nvmlDeviceGetC2cModeInfoV" -> sys::nvmlC2cModeInfo_v1_t;
    /// nvmlUnrepairableMemoryStatus_v1_t is one number.
    unrepairable c"nvmlDeviceGetUnrepairableMemoryFlag_v1" -> u32;
}

rows! { two:
    /// (now, pending); 1 enabled.
    mig_mode c"nvmlDeviceGetMigMode" -> (u32, u32);
    ecc_mode c"nvmlDeviceGetEccMode" -> (u32, u32);
    operation_mode c"nvmlDeviceGetGpuOperationMode" -> (u32, u32);
    /// (least, most) in milliwatts.
    power_limit_range c"nvmlDeviceGetPowerManagementLimitConstraints" -> (u32, u32);
    /// (now, default).
    gsp_mode c"nvmlDeviceGetGspFirmwareMode" -> (u32, u32);
    auto_boost c"nvmlDeviceGetAutoBoostedClocksEnabled" -> (u32, u32);
    /// (per cent, sampling period in µs).
    jpeg c"nvmlDeviceGetJpgUtilization" -> (u32, u32);
    ofa c"nvmlDeviceGetOfaUtilization" -> (u32, u32);
}

rows! { of:
    /// 0 shutdown, 1 slowdown, 2 memory's, 3 GPU's; °C.
    threshold c"nvmlDeviceGetTemperatureThreshold" -> u32;
    /// 0 graphics, 1 SM, 2 memory, 3 video; MHz.
    clock_max c"nvmlDeviceGetMaxClockInfo" -> u32;
    clock_application c"nvmlDeviceGetApplicationsClock" -> u32;
    clock_application_default c"nvmlDeviceGetDefaultApplicationsClock" -> u32;
    clock_boost_max c"nvmlDeviceGetMaxCustomerBoostClock" -> u32;
    /// 0 sent, 1 received; KB/s. Measures for 20 ms.
    pcie_throughput c"nvmlDeviceGetPcieThroughput" -> u32;
    fan c"nvmlDeviceGetFanSpeed_v2" -> u32;
    nvlink_state c"nvmlDeviceGetNvLinkState" -> u32;
    nvlink_version c"nvmlDeviceGetNvLinkVersion" -> u32;
    /// 0 a GPU, 1 an IBM NPU, 2 a switch.
    nvlink_remote_type c"nvmlDeviceGetNvLinkRemoteDeviceType" -> u32;
}

rows! { said:
    part_number c"nvmlDeviceGetBoardPartNumber";
    inforom_image c"nvmlDeviceGetInforomImageVersion";
}

impl Device<'_> {
    /// Objects: 0 OEM, 1 ECC, 2 power.
    pub fn inforom(&self, object: u32) -> Said<String> {
        let mut buffer = [0_u8; 96];
        // SAFETY: the header's signature; the length passed is the buffer's.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, *mut c_char, c_uint) -> sys::nvmlReturn_t =
                self.calls.symbol(c"nvmlDeviceGetInforomVersion")?;
            done(call(self.handle, object, buffer.as_mut_ptr().cast(), buffer.len() as c_uint))?;
        }
        Ok(text(&buffer))
    }

    /// The buffer that NVML's header asks for has 80 characters.
    pub fn gsp_version(&self) -> Said<String> {
        let mut buffer = [0_u8; 96];
        // SAFETY: the header's signature; the buffer is longer than what is asked for.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, *mut c_char) -> sys::nvmlReturn_t =
                self.calls.symbol(c"nvmlDeviceGetGspFirmwareVersion")?;
            done(call(self.handle, buffer.as_mut_ptr().cast()))?;
        }
        Ok(text(&buffer))
    }

    /// kind 0 corrected, 1 uncorrected; counter 0 since the driver was loaded, 1 ever.
    pub fn ecc_total(&self, kind: u32, counter: u32) -> Said<u64> {
        // SAFETY: the header's signature.
        unsafe { self.of_two(c"nvmlDeviceGetTotalEccErrors", kind, counter) }
    }

    /// Places: 0 L1, 1 L2, 2 device memory, 3 registers, 4 texture, 5 shared, 6 CBU, 7 SRAM.
    pub fn ecc_at(&self, kind: u32, counter: u32, place: u32) -> Said<u64> {
        let mut value = 0_u64;
        // SAFETY: the header's signature; a place for one number.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, c_uint, c_uint, *mut u64) -> sys::nvmlReturn_t =
                self.calls.symbol(c"nvmlDeviceGetMemoryErrorCounter")?;
            done(call(self.handle, kind, counter, place, &raw mut value))?;
        }
        Ok(value)
    }

    /// SRAM's errors by kind and place; Ampere and later, since branch 535.
    pub fn sram(&self) -> Said<sys::nvmlEccSramErrorStatus_v1_t> {
        let mut asked = zeroed::<sys::nvmlEccSramErrorStatus_v1_t>();
        asked.version = version_word::<sys::nvmlEccSramErrorStatus_v1_t>(1);
        // SAFETY: the header's signature; the version is that of the structure.
        unsafe { self.filled(c"nvmlDeviceGetSramEccErrorStatus", asked) }
    }

    /// (channel, TPC): a repair waits for a reset.
    pub fn repair(&self) -> Said<(bool, bool)> {
        let mut asked = zeroed::<sys::nvmlRepairStatus_v1_t>();
        asked.version = version_word::<sys::nvmlRepairStatus_v1_t>(1);
        // SAFETY: the header's signature; the version is that of the structure.
        let status = unsafe { self.filled(c"nvmlDeviceGetRepairStatus", asked) }?;
        Ok((status.bChannelRepairPending != 0, status.bTpcRepairPending != 0))
    }

    /// (corrected, uncorrected, pending, failed).
    pub fn remapped(&self) -> Said<(u32, u32, bool, bool)> {
        let (mut a, mut b, mut c, mut d) = (0, 0, 0, 0);
        type Call =
            unsafe extern "C" fn(sys::nvmlDevice_t, *mut u32, *mut u32, *mut u32, *mut u32) -> sys::nvmlReturn_t;
        // SAFETY: the header's signature; four places for numbers.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlDeviceGetRemappedRows")?;
            done(call(self.handle, &raw mut a, &raw mut b, &raw mut c, &raw mut d))?;
        }
        Ok((a, b, c != 0, d != 0))
    }

    /// 0 none, 1 HMM, 2 ATS.
    pub fn addressing(&self) -> Said<u32> {
        let mut asked = zeroed::<sys::nvmlDeviceAddressingMode_v1_t>();
        asked.version = version_word::<sys::nvmlDeviceAddressingMode_v1_t>(1);
        // SAFETY: the header's signature; the version is that of the structure.
        Ok(unsafe { self.filled(c"nvmlDeviceGetAddressingMode", asked) }?.value)
    }

    /// As [`Device::memory`], with what the driver keeps told apart: 510 and later.
    pub fn memory_reserved(&self) -> Said<sys::nvmlMemory_v2_t> {
        let mut asked = zeroed::<sys::nvmlMemory_v2_t>();
        asked.version = version_word::<sys::nvmlMemory_v2_t>(2);
        // SAFETY: the header's signature; the version is that of the structure.
        unsafe { self.filled(c"nvmlDeviceGetMemoryInfo_v2", asked) }
    }

    /// (sessions, frames a second, latency in µs): means over the sessions.
    pub fn encoder_stats(&self) -> Said<(u32, u32, u32)> {
        type Call = unsafe extern "C" fn(sys::nvmlDevice_t, *mut u32, *mut u32, *mut u32) -> sys::nvmlReturn_t;
        let (mut count, mut fps, mut latency) = (0, 0, 0);
        // SAFETY: the header's signature; three places for numbers.
        unsafe {
            let call: Call = self.calls.symbol(c"nvmlDeviceGetEncoderStats")?;
            done(call(self.handle, &raw mut count, &raw mut fps, &raw mut latency))?;
        }
        Ok((count, fps, latency))
    }

    /// Degrees that are left until the card slows down.
    pub fn margin(&self) -> Said<i32> {
        let mut asked = zeroed::<sys::nvmlMarginTemperature_v1_t>();
        asked.version = version_word::<sys::nvmlMarginTemperature_v1_t>(1);
        // SAFETY: the header's signature; the version is that of the structure.
        Ok(unsafe { self.filled(c"nvmlDeviceGetMarginTemperature", asked) }?.marginTemperature)
    }

    /// The chip's own number: as unique as its UUID.
    pub fn pdi(&self) -> Said<u64> {
        let mut asked = zeroed::<sys::nvmlPdi_v1_t>();
        asked.version = version_word::<sys::nvmlPdi_v1_t>(1);
        // SAFETY: the header's signature; the version is that of the structure.
        Ok(unsafe { self.filled(c"nvmlDeviceGetPdi", asked) }?.value)
    }

    /// NVML_DEV_CAP_*: bit 0 is EGM.
    pub fn capabilities(&self) -> Said<u32> {
        let mut asked = zeroed::<sys::nvmlDeviceCapabilities_v1_t>();
        asked.version = version_word::<sys::nvmlDeviceCapabilities_v1_t>(1);
        // SAFETY: the header's signature; the version is that of the structure.
        Ok(unsafe { self.filled(c"nvmlDeviceGetCapabilities", asked) }?.capMask)
    }

    /// (base class, sub class) of the PCI function.
    pub fn pci_class(&self) -> Said<(u32, u32)> {
        let mut asked = zeroed::<sys::nvmlPciInfoExt_v1_t>();
        asked.version = version_word::<sys::nvmlPciInfoExt_v1_t>(1);
        // SAFETY: the header's signature; the version is that of the structure.
        let info = unsafe { self.filled(c"nvmlDeviceGetPciInfoExt", asked) }?;
        Ok((info.baseClass, info.subClass))
    }

    /// The NVLink fabric: state 0 not supported, 1 not started, 2 in progress, 3 completed.
    pub fn fabric(&self) -> Said<Fabric> {
        let mut asked = zeroed::<sys::nvmlGpuFabricInfo_v3_t>();
        asked.version = version_word::<sys::nvmlGpuFabricInfo_v3_t>(3);
        // SAFETY: the header's signature; the version is that of the structure.
        let info = unsafe { self.filled(c"nvmlDeviceGetGpuFabricInfoV", asked) }?;
        Ok(Fabric {
            state: u32::from(info.state),
            status: info.status,
            clique: info.cliqueId,
            cluster: info.clusterUuid,
            health: info.healthMask,
            summary: u32::from(info.healthSummary),
        })
    }

    /// The module's place in its chassis.
    pub fn platform(&self) -> Said<Platform> {
        let mut asked = zeroed::<sys::nvmlPlatformInfo_v2_t>();
        asked.version = version_word::<sys::nvmlPlatformInfo_v2_t>(2);
        // SAFETY: the header's signature; the version is that of the structure.
        let info = unsafe { self.filled(c"nvmlDeviceGetPlatformInfo", asked) }?;
        Ok(Platform {
            chassis_serial: text(&info.chassisSerialNumber),
            slot: info.slotNumber,
            tray: info.trayIndex,
            host: info.hostId,
            peer: info.peerType,
            module: info.moduleId,
        })
    }

    /// "00000000:C0:00.0": what is at a link's other end.
    pub fn nvlink_remote(&self, link: u32) -> Said<String> {
        // SAFETY: the header's signature.
        let info: sys::nvmlPciInfo_t = unsafe { self.of(c"nvmlDeviceGetNvLinkRemotePciInfo_v2", link) }?;
        Ok(text(&bytes(&info.busId)))
    }

    /// 0 replay, 1 recovery, 2 CRC of flits, 3 CRC of data.
    pub fn nvlink_errors(&self, link: u32, counter: u32) -> Said<u64> {
        // SAFETY: the header's signature.
        unsafe { self.of_two(c"nvmlDeviceGetNvLinkErrorCounter", link, counter) }
    }

    pub fn uuid(&self) -> Said<String> {
        // SAFETY: the header's signature.
        unsafe { self.said(c"nvmlDeviceGetUUID") }
    }

    pub fn name(&self) -> Said<String> {
        // SAFETY: the header's signature.
        unsafe { self.said(c"nvmlDeviceGetName") }
    }
}

impl<'a> Device<'a> {
    /// The MIG device of this number; NOT_FOUND where there is none.
    pub fn mig_device(&self, number: u32) -> Said<Device<'a>> {
        // SAFETY: the header's signature: nvmlDevice_t is a pointer. The handle lives as long as its parent's.
        let handle = unsafe { self.of::<Pointer>(c"nvmlDeviceGetMigDeviceHandleByIndex", number) }?;
        Ok(Device { calls: self.calls, handle: handle.0.cast() })
    }
}

/// A handle, as NVML writes it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Pointer(*mut c_void);
// SAFETY: a raw pointer.
unsafe impl Plain for Pointer {}

/// nvmlGpuFabricInfo_v3_t.
#[derive(Clone, Copy, Debug)]
pub struct Fabric {
    pub state: u32,
    /// nvmlReturn_t; means something where the state is "completed".
    pub status: u32,
    pub clique: u32,
    pub cluster: [u8; 16],
    pub health: u32,
    pub summary: u32,
}

/// nvmlPlatformInfo_v2_t.
#[derive(Clone, Debug)]
pub struct Platform {
    pub chassis_serial: String,
    pub slot: u8,
    pub tray: u8,
    pub host: u8,
    pub peer: u8,
    pub module: u8,
}
