//! Start, errors, and what a device is.
#![allow(unsafe_code, reason = "exported by their names")]

use std::ffi::c_char;

use simcards::abi::{In, Out, Text};
use simcards::view::{Gpu, View};

use crate::errors::{Answer, INVALID_DEVICE, INVALID_VALUE, words};
use crate::state::{cuda, enter_unstarted, guard, start, world};

#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
pub(super) unsafe extern "C" fn cuInit(flags: u32) -> i32 {
    enter_unstarted("cuInit", |view| start(flags, view))
}

/// Works before cuInit.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
pub(super) unsafe extern "C" fn cuDriverGetVersion(version: Out<i32>) -> i32 {
    enter_unstarted("cuDriverGetVersion", |view| Ok(version.put(view.driver.cuda)?))
}

#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
pub(super) unsafe extern "C" fn cuGetErrorName(code: i32, name: Out<*const c_char>) -> i32 {
    guard("cuGetErrorName", || {
        let known = words(code);
        name.put(known.map_or(std::ptr::null(), |(name, _)| name.as_ptr()))?;
        known.map(|_| ()).ok_or(INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
pub(super) unsafe extern "C" fn cuGetErrorString(code: i32, text: Out<*const c_char>) -> i32 {
    guard("cuGetErrorString", || {
        let known = words(code);
        text.put(known.map_or(std::ptr::null(), |(_, sentence)| sentence.as_ptr()))?;
        known.map(|_| ()).ok_or(INVALID_VALUE)
    })
}

fn gpu(view: &View, ordinal: i32) -> Answer<(&Gpu, u32)> {
    let world = world();
    let (_, device) = world.device(ordinal)?;
    Ok((view.gpus.get(device.gpu as usize).ok_or(INVALID_DEVICE)?, device.multiprocessors))
}

/// Threads, bytes of shared memory (of a multiprocessor, and of a block that asks for more), and blocks of a
/// multiprocessor. Source: CUDA C++ Programming Guide, technical specifications per compute capability.
fn limits([major, minor]: [i32; 2]) -> [i32; 4] {
    match (major, minor) {
        (..=6, _) => [2048, 98_304, 49_152, 32],
        (7, 0) => [2048, 98_304, 98_304, 32],
        (7, _) => [1024, 65_536, 65_536, 16],
        (8, 0) => [2048, 167_936, 166_912, 32],
        (8, 9) => [1536, 102_400, 101_376, 24],
        (8, _) => [1536, 102_400, 101_376, 16],
        _ => [2048, 233_472, 232_448, 32],
    }
}

/// By CUdevice_attribute's numbers. What an H100 said of those that no data is for stands here for all cards.
fn attribute(gpu: &Gpu, multiprocessors: u32, number: i32) -> Option<i32> {
    let card = &gpu.card;
    let whole = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let [threads, shared, opt_in, blocks] = limits(card.compute);
    let (domain, bus, device) = gpu.at();
    Some(match number {
        1..=3 => 1024,
        4 => 64,
        5 | 11 => i32::MAX,
        6 | 7 => 65_535,
        8 => 49_152,
        9 | 12 | 82 => 65_536,
        10 => 32,
        13 => whole(card.clocks.max[1] * 1000),
        14 => 512,
        16 => whole(multiprocessors),
        17 => i32::from(card.display),
        18 | 20 | 35 | 84 => 0,
        15 | 19 | 31 | 41 | 78 | 79 | 80 | 83 | 90 => 1,
        32 => i32::from(card.ecc.as_ref().is_some_and(|ecc| ecc.enabled)),
        33 => whole(bus),
        34 => whole(device),
        36 => whole(card.clocks.max[2] * 1000),
        37 => whole(card.bus_width),
        38 => whole(card.l2_kib * 1024),
        39 => threads,
        40 => {
            if card.ecc.is_some() {
                3
            } else {
                2
            }
        }
        50 => whole(domain),
        75 => card.compute[0],
        76 => card.compute[1],
        81 => shared,
        97 => opt_in,
        106 => blocks,
        _ => return None,
    })
}

cuda! { table:
    fn cuDeviceGetCount(count: Out<i32>) |_| {
        Ok(count.put(i32::try_from(world().devices.len()).unwrap_or(0))?)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) |_| {
        world().device(ordinal)?;
        Ok(device.put(ordinal)?)
    }

    /// Cut where it is too long. No "(simulated)": clients take cards' names for keys.
    fn cuDeviceGetName(name: Text, length: i32, device: i32) |_| {
        let text = world().device(device)?.1.name.clone();
        Ok(name.cut(usize::try_from(length).map_err(|_| INVALID_VALUE)?, &text)?)
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) |_| {
        Ok(uuid.put(bytes(&world().device(device)?.1.uuid))?)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) |_| {
        Ok(uuid.put(bytes(&world().device(device)?.1.uuid))?)
    }

    fn cuDeviceTotalMem_v2(total: Out<usize>, device: i32) |_| {
        Ok(total.put(usize::try_from(world().device(device)?.1.total).unwrap_or(usize::MAX))?)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, number: i32, device: i32) |view| {
        let (gpu, multiprocessors) = gpu(view, device)?;
        Ok(value.put(attribute(gpu, multiprocessors, number).ok_or(INVALID_VALUE)?)?)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) |view| {
        let [a, b] = gpu(view, device)?.0.card.compute;
        major.put(a)?;
        Ok(minor.put(b)?)
    }

    fn cuDeviceGetPCIBusId(text: Text, length: i32, device: i32) |view| {
        let (domain, bus, slot) = gpu(view, device)?.0.at();
        let id = format!("{domain:04X}:{bus:02X}:{slot:02X}.0");
        let room = usize::try_from(length).map_err(|_| INVALID_VALUE)?;
        if room <= id.len() {
            return Err(INVALID_VALUE);
        }
        Ok(text.cut(room, &id)?)
    }

    /// "0000:01:00.0", "01:00.0".
    fn cuDeviceGetByPCIBusId(device: Out<i32>, id: In) |view| {
        let text = id.get()?;
        let text = text.strip_suffix(".0").unwrap_or(&text);
        let parts: Option<Vec<u32>> = text.split(':').map(|part| u32::from_str_radix(part, 16).ok()).collect();
        let wanted = match parts.ok_or(INVALID_VALUE)?.as_slice() {
            [domain, bus, slot] => (*domain, *bus, *slot),
            [bus, slot] => (0, *bus, *slot),
            _ => return Err(INVALID_VALUE),
        };
        let found = world().devices.iter().position(|device| {
            view.gpus.get(device.gpu as usize).is_some_and(|gpu| gpu.at() == wanted)
        });
        Ok(device.put(i32::try_from(found.ok_or(INVALID_DEVICE)?).unwrap_or(0))?)
    }
}

/// The 32 digits behind "GPU-" or "MIG-".
fn bytes(uuid: &str) -> [u8; 16] {
    let digits: Vec<u32> = uuid.bytes().skip(4).filter_map(|byte| char::from(byte).to_digit(16)).collect();
    std::array::from_fn(|n| {
        let digit = |at: usize| digits.get(at).copied().unwrap_or(0) as u8;
        digit(2 * n) << 4 | digit(2 * n + 1)
    })
}
