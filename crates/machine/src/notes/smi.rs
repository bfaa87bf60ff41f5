//! `nvidia-smi -q -x` as NVML's report. What the tool prints as N/A was not there; what this version of the tool does
//! not print at all was not recorded.

mod topics;

use formats::smi_xml::{SmiGpu, SmiLog};
use model::{Reason, Seen};

use crate::nvml::{NvmlGpu, NvmlProcess, NvmlReport};

pub(super) fn report(log: &SmiLog) -> NvmlReport {
    let top = |name: &str| value(log.values.get(name));
    NvmlReport {
        driver_version: top("driver_version"),
        nvml_version: Seen::Unreadable(Reason::NotCaptured),
        cuda_version: top("cuda_version").and_then(|text| {
            let (major, minor) = text.split_once('.').unwrap_or((&text, "0"));
            number(major).and_then(|major| number(minor).map(|minor| (major, minor)))
        }),
        confidential: Seen::Unreadable(Reason::NotCaptured),
        gpus: log.gpus.iter().enumerate().map(|(index, gpu)| one(index as u32, gpu)).collect(),
    }
}

fn one(index: u32, gpu: &SmiGpu) -> NvmlGpu {
    let text = |path: &str| value(gpu.values.get(path));
    // The first of these paths that the report has: names changed between driver versions.
    let any = |paths: &[&str]| {
        let mut said = paths.iter().filter_map(|path| gpu.values.get(*path)).map(|text| value(Some(text)));
        let first = said.next().unwrap_or(Seen::Unreadable(Reason::NotCaptured));
        if first.is_there() { first } else { said.find(Seen::is_there).unwrap_or(first) }
    };
    let count = |path: &str| text(path).and_then(|text| number(&text));
    let mib = |path: &str| text(path).and_then(|text| number::<u64>(&text)).map(|mib| mib.saturating_mul(1 << 20));
    let on = |path: &str| {
        text(path).and_then(|text| match text.as_str() {
            "Enabled" | "Yes" | "Active" => Seen::Is(true),
            "Disabled" | "No" | "Not Active" => Seen::Is(false),
            other => Seen::Unreadable(Reason::Malformed(format!("\"{}\" is neither on nor off", clip(other)))),
        })
    };
    let milliwatts = |paths: &[&str]| any(paths).and_then(|text| watts(&text));
    let hex = |path: &str| {
        text(path).and_then(|text| match u32::from_str_radix(text.trim_start_matches("0x"), 16) {
            Ok(number) => Seen::Is(number),
            Err(_) => no_number(&text),
        })
    };
    NvmlGpu {
        index,
        bus_id: any(&["pci/pci_bus_id"]).is().or_else(|| Some(gpu.id.clone()).filter(|id| !id.is_empty())).into(),
        pci_device_id: hex("pci/pci_device_id"),
        pci_subsystem_id: hex("pci/pci_sub_system_id"),
        name: text("product_name"),
        uuid: text("uuid"),
        serial: text("serial"),
        minor: count("minor_number"),
        vbios: text("vbios_version"),
        architecture: text("product_architecture"),
        brand: text("product_brand"),
        compute_capability: Seen::Unreadable(Reason::NotCaptured),
        virtualization: text("gpu_virtualization_mode/virtualization_mode"),
        memory_total: mib("fb_memory_usage/total"),
        memory_used: mib("fb_memory_usage/used"),
        memory_free: mib("fb_memory_usage/free"),
        memory_reserved: mib("fb_memory_usage/reserved"),
        bar1_total: mib("bar1_memory_usage/total"),
        utilization_gpu: count("utilization/gpu_util"),
        utilization_memory: count("utilization/memory_util"),
        utilization_encoder: count("utilization/encoder_util"),
        utilization_decoder: count("utilization/decoder_util"),
        temperature: count("temperature/gpu_temp"),
        fan: count("fan_speed"),
        power_draw: milliwatts(&[
            "gpu_power_readings/average_power_draw",
            "gpu_power_readings/power_draw",
            "gpu_power_readings/instant_power_draw",
            "power_readings/power_draw",
        ]),
        power_limit: milliwatts(&[
            "gpu_power_readings/current_power_limit",
            "power_readings/enforced_power_limit",
            "power_readings/power_limit",
        ]),
        pstate: text("performance_state").and_then(|text| number(text.trim_start_matches('P'))),
        persistence: on("persistence_mode"),
        display_active: on("display_active"),
        compute_mode: text("compute_mode"),
        ecc_enabled: on("ecc_mode/current_ecc"),
        ecc_uncorrected_volatile: uncorrected(gpu),
        mig_enabled: on("mig_mode/current_mig"),
        clock_graphics: count("clocks/graphics_clock"),
        clock_sm: count("clocks/sm_clock"),
        clock_memory: count("clocks/mem_clock"),
        clock_video: count("clocks/video_clock"),
        pcie_gen_current: count("pci/pci_gpu_link_info/pcie_gen/current_link_gen"),
        pcie_gen_max: count("pci/pci_gpu_link_info/pcie_gen/max_link_gen"),
        pcie_width_current: count("pci/pci_gpu_link_info/link_widths/current_link_width"),
        pcie_width_max: count("pci/pci_gpu_link_info/link_widths/max_link_width"),
        encoder_sessions: count("encoder_stats/session_count"),
        processes: processes(gpu),
        bar1_used: mib("bar1_memory_usage/used"),
        bar1_free: mib("bar1_memory_usage/free"),
        health: Seen::Is(Box::new(topics::health(gpu))),
        board: Seen::Is(Box::new(topics::board(gpu))),
        errors: Seen::Is(Box::new(topics::errors(gpu))),
        clocks: Seen::Is(Box::new(topics::clocks(gpu))),
        power: Seen::Is(Box::new(topics::power(gpu))),
        heat: Seen::Is(Box::new(topics::heat(gpu))),
        pcie: Seen::Is(Box::new(topics::pcie(gpu))),
        engines: Seen::Is(Box::new(topics::engines(gpu))),
        nvlink: Seen::Is(Box::new(topics::links(gpu))),
        mig: Seen::Is(Box::new(topics::mig(gpu))),
    }
}

/// Since the driver was loaded: of SRAM and DRAM, or one total in reports of old drivers.
fn uncorrected(gpu: &SmiGpu) -> Seen<u64> {
    let parts: Vec<&String> = gpu
        .values
        .iter()
        .filter(|(path, _)| {
            path.strip_prefix("ecc_errors/volatile/").is_some_and(|name| {
                name == "double_bit/total" || name.starts_with("sram_uncorrectable") || name == "dram_uncorrectable"
            })
        })
        .map(|(_, text)| text)
        .collect();
    if parts.is_empty() {
        return Seen::Unreadable(Reason::NotCaptured);
    }
    let mut sum = Seen::Absent;
    for part in parts {
        match value(Some(part)).and_then(|text| number::<u64>(&text)) {
            Seen::Is(count) => sum = Seen::Is(sum.is().unwrap_or(0_u64).saturating_add(count)),
            Seen::Absent => {}
            Seen::Unreadable(reason) => return Seen::Unreadable(reason),
        }
    }
    sum
}

fn processes(gpu: &SmiGpu) -> Seen<Vec<NvmlProcess>> {
    // "N/A" or an error stands in the place of the list.
    if let Some(text) = gpu.values.get("processes") {
        return value(Some(text)).map(|_| Vec::new());
    }
    let all = gpu.processes.iter().filter_map(|process| {
        let field = |name: &str| value(process.get(name));
        let mut known = NvmlProcess::blank(process.get("pid")?.parse().ok()?, &field("type").is().unwrap_or_default());
        known.memory =
            field("used_memory").and_then(|text| number::<u64>(&text)).map(|mib| mib.saturating_mul(1 << 20));
        known.name = field("process_name");
        known.gpu_instance = field("gpu_instance_id").and_then(|text| number(&text));
        known.compute_instance = field("compute_instance_id").and_then(|text| number(&text));
        Some(known)
    });
    Seen::Is(all.collect())
}

fn value(text: Option<&String>) -> Seen<String> {
    let Some(text) = text else { return Seen::Unreadable(Reason::NotCaptured) };
    match text.trim().trim_start_matches('[').trim_end_matches(']') {
        "N/A" | "Not Supported" | "Not Found" | "Requested functionality has been deprecated" => Seen::Absent,
        "Insufficient Permissions" => Seen::Unreadable(Reason::PermissionDenied),
        error @ ("Unknown Error" | "ERR!" | "GPU is lost" | "GPU requires reset") => {
            Seen::Unreadable(Reason::Other(format!("nvidia-smi says \"{error}\"")))
        }
        _ => Seen::Is(text.trim().to_owned()),
    }
}

/// The number at the start: "81559 MiB", "16x", "0 %", "34 C".
fn number<T: std::str::FromStr>(text: &str) -> Seen<T> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    match text.get(..end).and_then(|digits| digits.parse().ok()) {
        Some(number) => Seen::Is(number),
        None => no_number(text),
    }
}

/// "73.58 W" in milliwatts.
fn watts(text: &str) -> Seen<u32> {
    let number: Option<f64> = text.split_whitespace().next().and_then(|word| word.parse().ok());
    match number.map(|watts| (watts * 1000.0).round()).filter(|mw| (0.0..=f64::from(u32::MAX)).contains(mw)) {
        Some(milliwatts) => Seen::Is(milliwatts as u32),
        None => no_number(text),
    }
}

fn no_number<T>(text: &str) -> Seen<T> {
    Seen::Unreadable(Reason::Malformed(format!("\"{}\" is no number", clip(text))))
}

fn clip(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}
