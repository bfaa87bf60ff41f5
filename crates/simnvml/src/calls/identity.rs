//! What a device is.

use nvml_wrapper_sys::bindings::nvmlDevice_t;

use crate::abi::{INVALID_ARGUMENT, NOT_SUPPORTED, Out, Text, nvml};
use crate::state::{Device, Handles, supported};

nvml! {
    /// No "(simulated)" here: clients take cards' names for keys.
    fn nvmlDeviceGetName(device: nvmlDevice_t, name: Text, length: u32) |view| {
        match view.device(device)? {
            Device::Whole(gpu) => name.put(length, &gpu.card.name),
            Device::Mig(gpu, instance) => name.put(length, &format!("{} MIG {}", gpu.card.name, instance.profile)),
        }
    }

    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: Text, length: u32) |view| {
        match view.device(device)? {
            Device::Whole(gpu) => uuid.put(length, &gpu.uuid()),
            Device::Mig(gpu, instance) => uuid.put(length, &gpu.mig_uuid(instance)),
        }
    }

    fn nvmlDeviceGetBrand(device: nvmlDevice_t, brand: Out<u32>) |view| { brand.put(view.gpu_of(device)?.card.brand) }
    fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: Out<u32>) |view| {
        match view.device(device)? {
            Device::Whole(gpu) => index.put(gpu.index),
            Device::Mig(gpu, instance) => {
                let at = gpu.instances().iter().position(|other| other.gi == instance.gi);
                index.put(at.and_then(|at| u32::try_from(at).ok()).ok_or(INVALID_ARGUMENT)?)
            }
        }
    }

    /// GeForce cards do not tell it.
    fn nvmlDeviceGetSerial(device: nvmlDevice_t, serial: Text, length: u32) |view| {
        serial.put(length, &supported(view.gpu(device)?.serial())?)
    }

    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: Out<u32>) |view| { minor.put(view.gpu(device)?.index) }
    fn nvmlDeviceGetModuleId(device: nvmlDevice_t, id: Out<u32>) |view| { id.put(view.gpu(device)?.index + 1) }
    fn nvmlDeviceGetBoardId(device: nvmlDevice_t, id: Out<u32>) |view| {
        let (domain, bus, slot) = view.gpu(device)?.at();
        id.put((domain << 16) | (bus << 8) | slot)
    }
    fn nvmlDeviceGetMultiGpuBoard(device: nvmlDevice_t, several: Out<u32>) |view| { view.gpu(device)?; several.put(0) }

    fn nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, version: Text, length: u32) |view| {
        version.put(length, &format!("{} (simulated)", view.gpu(device)?.card.vbios))
    }
    fn nvmlDeviceGetBoardPartNumber(device: nvmlDevice_t, part: Text, length: u32) |view| {
        part.put(length, &format!("{} (simulated)", supported(view.gpu(device)?.card.part.as_ref())?))
    }

    /// Objects: 0 OEM, 1 ECC, 2 power.
    fn nvmlDeviceGetInforomVersion(device: nvmlDevice_t, object: u32, version: Text, length: u32) |view| {
        let inforom = supported(view.gpu(device)?.card.inforom.as_ref())?;
        match object {
            0 => version.put(length, &inforom.oem),
            1 => version.put(length, &inforom.ecc),
            2..4 => Err(NOT_SUPPORTED),
            _ => Err(INVALID_ARGUMENT),
        }
    }
    fn nvmlDeviceGetInforomImageVersion(device: nvmlDevice_t, version: Text, length: u32) |view| {
        version.put(length, &supported(view.gpu(device)?.card.inforom.as_ref())?.image)
    }
    fn nvmlDeviceGetInforomConfigurationChecksum(device: nvmlDevice_t, sum: Out<u32>) |view| {
        supported(view.gpu(device)?.card.inforom.as_ref())?;
        sum.put(0x51a5_1a51)
    }
    fn nvmlDeviceValidateInforom(device: nvmlDevice_t) |view| {
        supported(view.gpu(device)?.card.inforom.as_ref()).map(|_| ())
    }

    fn nvmlDeviceGetArchitecture(device: nvmlDevice_t, arch: Out<u32>) |view| {
        arch.put(view.gpu_of(device)?.card.architecture)
    }
    fn nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: Out<i32>, minor: Out<i32>) |view| {
        let [first, second] = view.gpu_of(device)?.card.compute;
        major.put(first)?;
        minor.put(second)
    }
    fn nvmlDeviceGetNumGpuCores(device: nvmlDevice_t, cores: Out<u32>) |view| { cores.put(view.gpu(device)?.card.cores) }
    fn nvmlDeviceGetMemoryBusWidth(device: nvmlDevice_t, bits: Out<u32>) |view| {
        bits.put(view.gpu(device)?.card.bus_width)
    }

    /// 1 passed through, as in a VM.
    fn nvmlDeviceGetVirtualizationMode(device: nvmlDevice_t, mode: Out<u32>) |view| {
        mode.put(view.gpu(device)?.card.virtualization)
    }
    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: Out<u32>) |view| {
        mode.put(u32::from(view.gpu(device)?.card.persistence))
    }
    /// 0: every process may.
    fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: Out<u32>) |view| { view.gpu(device)?; mode.put(0) }
    fn nvmlDeviceGetDisplayMode(device: nvmlDevice_t, mode: Out<u32>) |view| {
        mode.put(u32::from(view.gpu(device)?.card.display))
    }
    fn nvmlDeviceGetDisplayActive(device: nvmlDevice_t, active: Out<u32>) |view| {
        active.put(u32::from(view.gpu(device)?.card.display))
    }
    fn nvmlDeviceOnSameBoard(one: nvmlDevice_t, other: nvmlDevice_t, same: Out<i32>) |view| {
        same.put(i32::from(view.gpu(one)?.index == view.gpu(other)?.index))
    }

    /// The length is the header's: 80 characters.
    fn nvmlDeviceGetGspFirmwareVersion(device: nvmlDevice_t, version: Text) |view| {
        let gpu = view.gpu(device)?;
        if gpu.card.gsp { version.put(80, &view.driver.version) } else { Err(NOT_SUPPORTED) }
    }
    fn nvmlDeviceGetGspFirmwareMode(device: nvmlDevice_t, enabled: Out<u32>, default: Out<u32>) |view| {
        let gsp = u32::from(view.gpu(device)?.card.gsp);
        enabled.put(gsp)?;
        default.put(gsp)
    }
}
