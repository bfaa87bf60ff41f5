//! The NVLink fabric's health, out of its mask: two bits a question (1 yes, 2 no), four for what is configured wrongly.
//! Source: NVML_GPU_FABRIC_HEALTH_MASK_* of the NVML API reference.

use machine::nvml::NvmlGpu;
use model::Seen;

use super::super::of;

fn part(gpu: &NvmlGpu, shift: u32, width: u32) -> Seen<u32> {
    of(&gpu.nvlink, |links| &links.health).map(|mask| (mask >> shift) & width)
}

/// The question that begins at this bit.
pub(in crate::smi) fn question(gpu: &NvmlGpu, shift: u32) -> Seen<&'static str> {
    part(gpu, shift, 3).and_then(|bits| match bits {
        1 => Seen::Is("True"),
        2 => Seen::Is("False"),
        _ => Seen::Absent,
    })
}

pub(in crate::smi) fn bandwidth(gpu: &NvmlGpu) -> Seen<&'static str> {
    question(gpu, 0).map(|degraded| if degraded == "True" { "Degraded" } else { "Full" })
}

pub(in crate::smi) fn configuration(gpu: &NvmlGpu) -> Seen<&'static str> {
    part(gpu, 8, 15).and_then(|bits| match bits {
        0 => Seen::Absent,
        1 => Seen::Is("None"),
        2 => Seen::Is("Incorrect SysGuid"),
        3 => Seen::Is("Incorrect Chassis SN"),
        4 => Seen::Is("No Partition"),
        5 => Seen::Is("Insufficient Nvlinks"),
        6 => Seen::Is("Incompatible GPU FW"),
        7 => Seen::Is("Invalid Location"),
        8 => Seen::Is("GPU State Invalid"),
        _ => Seen::Is("Unknown"),
    })
}
