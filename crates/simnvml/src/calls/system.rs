//! Starting and stopping, versions, errors' names, and devices by what they are called.

use std::ffi::c_char;

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlSystemDriverBranchInfo_t};

use crate::abi::{Answer, GPU_IS_LOST, INVALID_ARGUMENT, In, NOT_FOUND, Out, Text, array, nvml, version_word};
use crate::place;
use crate::state::{Tag, enter_unstarted, handle, start, stop};
use crate::view::View;

/// nvmlInit_v2, and its older name.
#[unsafe(no_mangle)]
#[allow(unsafe_code, non_snake_case, reason = "the C interface")]
extern "C" fn nvmlInit_v2() -> u32 {
    enter_unstarted("nvmlInit_v2", start)
}

/// As nvmlInit_v2.
#[unsafe(no_mangle)]
#[allow(unsafe_code, non_snake_case, reason = "the C interface")]
extern "C" fn nvmlInit() -> u32 {
    enter_unstarted("nvmlInit", start)
}

/// The flags (no GPUs is well, do not attach) make no difference here.
#[unsafe(no_mangle)]
#[allow(unsafe_code, non_snake_case, reason = "the C interface")]
extern "C" fn nvmlInitWithFlags(_flags: u32) -> u32 {
    enter_unstarted("nvmlInitWithFlags", start)
}

/// One call for each start.
#[unsafe(no_mangle)]
#[allow(unsafe_code, non_snake_case, reason = "the C interface")]
extern "C" fn nvmlShutdown() -> u32 {
    enter_unstarted("nvmlShutdown", |_| stop())
}

/// What a code means; never null, and not freed by the caller.
#[unsafe(no_mangle)]
#[allow(unsafe_code, non_snake_case, reason = "the C interface")]
extern "C" fn nvmlErrorString(result: u32) -> *const c_char {
    let text = match result {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        5 => c"Already Initialized",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        8 => c"Insufficient External Power",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        11 => c"Interrupt Request Issue",
        12 => c"NVML Shared Library Not Found",
        13 => c"Function Not Found",
        14 => c"Corrupted infoROM",
        15 => c"GPU is lost",
        16 => c"GPU requires reset",
        17 => c"GPU access blocked by the operating system",
        18 => c"Driver/library version mismatch",
        19 => c"In use by another client",
        20 => c"Insufficient Memory",
        21 => c"No data",
        22 => c"The requested vgpu operation is not available on target device, becasue ECC is enabled",
        23 => c"Ran out of critical resources, other than memory",
        25 => c"Argument version mismatch",
        26 => c"Requested functionality has been deprecated",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

/// The module's version; it works without a start, as the real one's does not need the GPUs.
#[unsafe(no_mangle)]
#[allow(unsafe_code, non_snake_case, reason = "the C interface")]
extern "C" fn nvmlSystemGetNVMLVersion(version: Text, length: u32) -> u32 {
    // 13.580.159.04: CUDA's major number first, since driver 550 or so
    enter_unstarted("nvmlSystemGetNVMLVersion", |view| {
        version.put(length, &format!("{}.{}", view.driver.cuda / 1000, view.driver.version))
    })
}

/// 1000 * major + 10 * minor; needs no start.
#[unsafe(no_mangle)]
#[allow(unsafe_code, non_snake_case, reason = "the C interface")]
extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: Out<i32>) -> u32 {
    enter_unstarted("nvmlSystemGetCudaDriverVersion_v2", |view| version.put(view.driver.cuda))
}

/// As its second form, which fails where no library for CUDA is found; here they are the same.
#[unsafe(no_mangle)]
#[allow(unsafe_code, non_snake_case, reason = "the C interface")]
extern "C" fn nvmlSystemGetCudaDriverVersion(version: Out<i32>) -> u32 {
    enter_unstarted("nvmlSystemGetCudaDriverVersion", |view| version.put(view.driver.cuda))
}

fn count(view: &View, out: Out<u32>) -> Answer {
    out.put(u32::try_from(view.gpus.len()).unwrap_or(u32::MAX))
}

fn by_index(view: &View, index: u32, out: Out<nvmlDevice_t>) -> Answer {
    let gpu = view.gpus.get(index as usize).ok_or(INVALID_ARGUMENT)?;
    if gpu.lost {
        return Err(GPU_IS_LOST);
    }
    out.put(handle(Tag::Device, gpu.index, 0))
}

/// "0000:01:00.0" and every other spelling of it that the real one takes.
fn by_bus(view: &View, id: In, out: Out<nvmlDevice_t>) -> Answer {
    let wanted = address(&id.get()?).ok_or(INVALID_ARGUMENT)?;
    let gpu = view.gpus.iter().find(|gpu| gpu.at() == wanted).ok_or(NOT_FOUND)?;
    by_index(view, gpu.index, out)
}

/// (domain, bus, device); the domain may be left out.
fn address(text: &str) -> Option<(u32, u32, u32)> {
    let (start, device) = text.rsplit_once(':')?;
    let device = device.split_once('.').map_or(device, |(device, _)| device);
    let (domain, bus) = start.rsplit_once(':').unwrap_or(("0", start));
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    Some((number(domain)?, number(bus)?, number(device)?))
}

nvml! {
    fn nvmlSystemGetDriverVersion(version: Text, length: u32) |view| { version.put(length, &view.driver.version) }

    fn nvmlSystemGetDriverBranch(info: Out<nvmlSystemDriverBranchInfo_t>, length: u32) |view| {
        info.versioned(1)?;
        let branch = format!("r{}_00", view.branch());
        if (length as usize) <= branch.len() {
            return Err(crate::abi::INSUFFICIENT_SIZE);
        }
        info.put(nvmlSystemDriverBranchInfo_t {
            version: version_word::<nvmlSystemDriverBranchInfo_t>(1),
            branch: array(&branch),
        })
    }

    /// By /proc, so it fails for a process that cannot be seen from here.
    fn nvmlSystemGetProcessName(pid: u32, name: Text, length: u32) |_| {
        let text = place::process_name(pid).ok_or(NOT_FOUND)?;
        // cut, as the real one does
        let room = (length as usize).saturating_sub(1).min(text.len());
        name.put(length, text.get(..room).unwrap_or_default())
    }

    fn nvmlDeviceGetCount_v2(out: Out<u32>) |view| { count(view, out) }
    fn nvmlDeviceGetCount(out: Out<u32>) |view| { count(view, out) }
    fn nvmlDeviceGetHandleByIndex_v2(index: u32, out: Out<nvmlDevice_t>) |view| { by_index(view, index, out) }
    fn nvmlDeviceGetHandleByIndex(index: u32, out: Out<nvmlDevice_t>) |view| { by_index(view, index, out) }
    fn nvmlDeviceGetHandleByPciBusId_v2(id: In, out: Out<nvmlDevice_t>) |view| { by_bus(view, id, out) }
    fn nvmlDeviceGetHandleByPciBusId(id: In, out: Out<nvmlDevice_t>) |view| { by_bus(view, id, out) }

    /// A GPU's or a MIG device's.
    fn nvmlDeviceGetHandleByUUID(uuid: In, out: Out<nvmlDevice_t>) |view| {
        let wanted = uuid.get()?;
        for gpu in &view.gpus {
            if gpu.uuid() == wanted {
                return by_index(view, gpu.index, out);
            }
            let part = gpu.instances().iter().position(|instance| gpu.mig_uuid(instance) == wanted);
            if let Some(part) = part.and_then(|part| u32::try_from(part).ok()) {
                return out.put(handle(Tag::Device, gpu.index, part + 1));
            }
        }
        Err(NOT_FOUND)
    }

    fn nvmlDeviceGetHandleBySerial(serial: In, out: Out<nvmlDevice_t>) |view| {
        let wanted = serial.get()?;
        let gpu = view.gpus.iter().find(|gpu| gpu.serial().as_ref() == Some(&wanted)).ok_or(NOT_FOUND)?;
        by_index(view, gpu.index, out)
    }

    fn nvmlGetExcludedDeviceCount(out: Out<u32>) |_| { out.put(0) }
    fn nvmlUnitGetCount(out: Out<u32>) |_| { out.put(0) }
    fn nvmlSystemGetHicVersion(count: Out<u32>, _entries: usize) |_| { count.put(0) }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses_are_read_in_every_spelling() {
        for text in ["0000:81:00.0", "00000000:81:00.0", "81:00.0", "0:81:0"] {
            assert_eq!(address(text), Some((0, 0x81, 0)), "{text}");
        }
        for text in ["", "81", "x:y:z", "0000:81:zz.0"] {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
