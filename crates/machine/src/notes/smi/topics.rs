//! A report's topics. Names of elements are those of drivers 470 to 610.

use formats::smi_xml::SmiGpu;
use model::Seen;

use super::{number, value, watts};
use crate::nvml::{
    NvmlBoard, NvmlClocks, NvmlCounts, NvmlEngines, NvmlErrors, NvmlHealth, NvmlHeat, NvmlLinks, NvmlMig,
    NvmlMigDevice, NvmlModulePower, NvmlPcie, NvmlPower, reasons,
};

/// A path's text. What this version of the tool does not print at all is taken for N/A: a topic holds what some driver tells.
fn text(gpu: &SmiGpu, path: &str) -> Seen<String> {
    gpu.values.get(path).map_or(Seen::Absent, |text| value(Some(text)))
}

fn whole<T: std::str::FromStr>(gpu: &SmiGpu, path: &str) -> Seen<T> {
    text(gpu, path).and_then(|text| number(&text))
}

fn signed(gpu: &SmiGpu, path: &str) -> Seen<i32> {
    text(gpu, path).and_then(|text| match text.split_whitespace().next().and_then(|word| word.parse().ok()) {
        Some(number) => Seen::Is(number),
        None => super::no_number(&text),
    })
}

fn yes(gpu: &SmiGpu, path: &str) -> Seen<bool> {
    text(gpu, path).and_then(|text| match text.as_str() {
        "Enabled" | "Yes" | "Active" => Seen::Is(true),
        "Disabled" | "No" | "Not Active" => Seen::Is(false),
        _ => Seen::Absent,
    })
}

fn milliwatts(gpu: &SmiGpu, path: &str) -> Seen<u32> {
    text(gpu, path).and_then(|text| watts(&text))
}

fn mib(gpu: &SmiGpu, path: &str) -> Seen<u64> {
    whole::<u64>(gpu, path).map(|mib| mib.saturating_mul(1 << 20))
}

fn hex(gpu: &SmiGpu, path: &str) -> Seen<u32> {
    text(gpu, path).and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok().into())
}

fn first<T>(all: impl IntoIterator<Item = Seen<T>>) -> Seen<T> {
    all.into_iter().find(|seen| !seen.is_absent()).unwrap_or_default()
}

pub(super) fn health(gpu: &SmiGpu) -> NvmlHealth {
    let sum = |paths: [&str; 2]| {
        let parts = paths.map(|path| whole::<u64>(gpu, path));
        parts.into_iter().fold(Seen::Absent, |sum, part| match (sum, part) {
            (Seen::Is(a), Seen::Is(b)) => Seen::Is(u64::saturating_add(a, b)),
            (Seen::Absent, other) | (other, _) => other,
        })
    };
    let lost = |of: &str| {
        let parity = whole::<u64>(gpu, &format!("ecc_errors/{of}/sram_uncorrectable_parity"));
        let secded = sum([
            &format!("ecc_errors/{of}/sram_uncorrectable_secded"),
            &format!("ecc_errors/{of}/dram_uncorrectable"),
        ]);
        match (parity, secded) {
            (Seen::Is(a), Seen::Is(b)) => Seen::Is(a.saturating_add(b)),
            (Seen::Absent, other) | (other, _) => other,
        }
    };
    let corrected =
        |of: &str| sum([&format!("ecc_errors/{of}/sram_correctable"), &format!("ecc_errors/{of}/dram_correctable")]);
    NvmlHealth {
        ecc_pending: yes(gpu, "ecc_mode/pending_ecc"),
        corrected_volatile: corrected("volatile"),
        corrected_aggregate: corrected("aggregate"),
        uncorrected_aggregate: lost("aggregate"),
        retired_single: whole(gpu, "retired_pages/multiple_single_bit_retirement/retired_count"),
        retired_double: whole(gpu, "retired_pages/double_bit_retirement/retired_count"),
        retired_pending: first([
            yes(gpu, "retired_pages/pending_retirement"),
            yes(gpu, "retired_pages/pending_blacklist"),
        ]),
        remapped_corrected: whole(gpu, "remapped_rows/remapped_row_corr"),
        remapped_uncorrected: whole(gpu, "remapped_rows/remapped_row_unc"),
        remapped_pending: yes(gpu, "remapped_rows/remapped_row_pending"),
        remapped_failed: yes(gpu, "remapped_rows/remapped_row_failure"),
        event_reasons: event_reasons(gpu),
        mig_pending: yes(gpu, "mig_mode/pending_mig"),
        recovery: text(gpu, "gpu_recovery_action"),
        pcie_gen_max_card: whole(gpu, "pci/pci_gpu_link_info/pcie_gen/max_device_link_gen"),
    }
}

/// The bits that the report shows, one element each.
fn event_reasons(gpu: &SmiGpu) -> Seen<u64> {
    let all = [
        ("gpu_idle", reasons::IDLE),
        ("applications_clocks_setting", reasons::APPLICATION),
        ("sw_power_cap", reasons::SW_POWER_CAP),
        ("hw_slowdown", reasons::HW_SLOWDOWN),
        ("hw_thermal_slowdown", reasons::HW_THERMAL),
        ("hw_power_brake_slowdown", reasons::HW_POWER_BRAKE),
        ("sync_boost", reasons::SYNC_BOOST),
        ("sw_thermal_slowdown", reasons::SW_THERMAL),
        ("display_clocks_setting", reasons::DISPLAY),
    ];
    let mut found = Seen::Absent;
    for (name, bit) in all {
        let active = first([
            yes(gpu, &format!("clocks_event_reasons/clocks_event_reason_{name}")),
            yes(gpu, &format!("clocks_throttle_reasons/clocks_throttle_reason_{name}")),
        ]);
        match active {
            Seen::Is(on) => found = Seen::Is(found.is().unwrap_or(0) | if on { bit } else { 0 }),
            Seen::Absent => {}
            Seen::Unreadable(reason) => return Seen::Unreadable(reason),
        }
    }
    found
}

pub(super) fn board(gpu: &SmiGpu) -> NvmlBoard {
    NvmlBoard {
        part_number: text(gpu, "board_part_number"),
        gpu_part_number: text(gpu, "gpu_part_number"),
        board_id: hex(gpu, "board_id"),
        multi_gpu: yes(gpu, "multigpu_board"),
        module_id: first([whole(gpu, "gpu_module_id"), whole(gpu, "platformInfo/module_id")]),
        pdi: text(gpu, "pdi"),
        inforom_image: text(gpu, "inforom_version/img_version"),
        inforom_oem: text(gpu, "inforom_version/oem_object"),
        inforom_ecc: text(gpu, "inforom_version/ecc_object"),
        inforom_power: text(gpu, "inforom_version/pwr_object"),
        gsp_version: text(gpu, "gsp_firmware_version"),
        gsp_enabled: text(gpu, "gsp_firmware_version").map(|_| true),
        gsp_default: text(gpu, "gsp_firmware_version").map(|_| true),
        addressing: text(gpu, "addressing_mode"),
        display_attached: first([yes(gpu, "display_attached"), yes(gpu, "display_mode")]),
        accounting: yes(gpu, "accounting_mode"),
        accounting_buffer: whole(gpu, "accounting_mode_buffer_size"),
        operation_mode: text(gpu, "gpu_operation_mode/current_gom"),
        operation_mode_pending: text(gpu, "gpu_operation_mode/pending_gom"),
        c2c: yes(gpu, "c2c_mode"),
        host_vgpu_mode: text(gpu, "gpu_virtualization_mode/host_vgpu_mode"),
        pci_class: hex(gpu, "pci/pci_base_class").and_then(|base| hex(gpu, "pci/pci_sub_class").map(|sub| (base, sub))),
        chassis_serial: text(gpu, "platformInfo/chassis_serial_number"),
        slot: whole(gpu, "platformInfo/slot_number"),
        tray: whole(gpu, "platformInfo/tray_index"),
        host_id: whole(gpu, "platformInfo/host_id"),
        peer_type: text(gpu, "platformInfo/peer_type"),
        platform_module: first([whole(gpu, "platformInfo/module_id"), whole(gpu, "gpu_module_id")]),
        sparse_operation: yes(gpu, "sparse_operation_mode"),
        egm: text(gpu, "capabilities/egm"),
        protected_total: mib(gpu, "cc_protected_memory_usage/total"),
        protected_used: mib(gpu, "cc_protected_memory_usage/used"),
        protected_free: mib(gpu, "cc_protected_memory_usage/free"),
    }
}

pub(super) fn errors(gpu: &SmiGpu) -> NvmlErrors {
    let counts = |of: &str| {
        let at = |name: &str| whole(gpu, &format!("ecc_errors/{of}/{name}"));
        let mut counts = NvmlCounts {
            sram_corrected: at("sram_correctable"),
            sram_uncorrected_parity: at("sram_uncorrectable_parity"),
            sram_uncorrected_secded: at("sram_uncorrectable_secded"),
            dram_corrected: at("dram_correctable"),
            dram_uncorrected: at("dram_uncorrectable"),
            ..NvmlCounts::default()
        };
        counts.corrected.device_memory = counts.dram_corrected.clone();
        counts.uncorrected.device_memory = counts.dram_uncorrected.clone();
        counts.corrected.sram = counts.sram_corrected.clone();
        counts
    };
    let source = |name: &str| whole(gpu, &format!("ecc_errors/aggregate_uncorrectable_sram_sources/{name}"));
    let bank =
        |name: &str| whole::<u32>(gpu, &format!("remapped_rows/row_remapper_histogram/row_remapper_histogram_{name}"));
    let histogram = ["max", "high", "partial", "low", "none"].map(|name| bank(name).is());
    NvmlErrors {
        volatile: counts("volatile"),
        aggregate: counts("aggregate"),
        sram_threshold_exceeded: yes(gpu, "ecc_errors/aggregate/sram_threshold_exceeded"),
        sram_l2: source("sram_l2"),
        sram_sm: source("sram_sm"),
        sram_microcontroller: source("sram_microcontroller"),
        sram_pcie: source("sram_pcie"),
        sram_other: source("sram_other"),
        channel_repair_pending: yes(gpu, "ecc_errors/channel_repair_pending"),
        tpc_repair_pending: yes(gpu, "ecc_errors/tpc_repair_pending"),
        unrepairable_memory: yes(gpu, "ecc_errors/unrepairable_memory"),
        remapped_corrected_inactive: whole(gpu, "remapped_rows/remapped_row_corr_inactive"),
        remapped_uncorrected_inactive: whole(gpu, "remapped_rows/remapped_row_unc_inactive"),
        histogram: match histogram {
            [Some(max), Some(high), Some(partial), Some(low), Some(none)] => Seen::Is([max, high, partial, low, none]),
            _ => Seen::Absent,
        },
        retired_single_pages: Seen::Absent,
        retired_double_pages: Seen::Absent,
    }
}

pub(super) fn clocks(gpu: &SmiGpu) -> NvmlClocks {
    let held = |name: &str| whole(gpu, &format!("clocks_event_reasons_counters/clocks_event_reasons_counters_{name}"));
    let boost = |name: &str| yes(gpu, &format!("clock_policy/{name}"));
    let mhz = |text: &String| number::<u32>(text).is();
    NvmlClocks {
        max_graphics: whole(gpu, "max_clocks/graphics_clock"),
        max_sm: whole(gpu, "max_clocks/sm_clock"),
        max_memory: whole(gpu, "max_clocks/mem_clock"),
        max_video: whole(gpu, "max_clocks/video_clock"),
        application_graphics: whole(gpu, "applications_clocks/graphics_clock"),
        application_memory: whole(gpu, "applications_clocks/mem_clock"),
        default_graphics: whole(gpu, "default_applications_clocks/graphics_clock"),
        default_memory: whole(gpu, "default_applications_clocks/mem_clock"),
        boost_max_graphics: whole(gpu, "max_customer_boost_clocks/graphics_clock"),
        auto_boost: boost("auto_boost").and_then(|now| boost("auto_boost_default").map(|default| (now, default))),
        reasons_supported: Seen::Absent,
        held_sw_power_cap: held("sw_power_cap"),
        held_sync_boost: held("sync_boost"),
        held_sw_thermal: held("sw_therm_slowdown"),
        held_hw_thermal: held("hw_therm_slowdown"),
        held_hw_power_brake: held("hw_power_brake"),
        supported: if gpu.clocks.is_empty() {
            Seen::Absent
        } else {
            let list =
                |(memory, list): &(String, Vec<String>)| Some((mhz(memory)?, list.iter().filter_map(mhz).collect()));
            Seen::Is(gpu.clocks.iter().filter_map(list).collect())
        },
    }
}

pub(super) fn power(gpu: &SmiGpu) -> NvmlPower {
    let at = |name: &str| {
        first([
            milliwatts(gpu, &format!("gpu_power_readings/{name}")),
            milliwatts(gpu, &format!("power_readings/{name}")),
        ])
    };
    let module = |name: &str| milliwatts(gpu, &format!("module_power_readings/{name}"));
    let default = at("default_power_limit");
    NvmlPower {
        managed: default.as_ref().map(|_| true),
        average: first([at("average_power_draw"), at("power_draw")]),
        instant: at("instant_power_draw"),
        enforced: first([at("current_power_limit"), at("enforced_power_limit")]),
        requested: first([at("requested_power_limit"), at("power_limit")]),
        default,
        min: at("min_power_limit"),
        max: at("max_power_limit"),
        memory_average: milliwatts(gpu, "gpu_memory_power_readings/average_power_draw"),
        memory_instant: milliwatts(gpu, "gpu_memory_power_readings/instant_power_draw"),
        module: NvmlModulePower {
            average: first([module("average_power_draw"), module("power_draw")]),
            instant: module("instant_power_draw"),
            enforced: module("current_power_limit"),
            requested: module("requested_power_limit"),
            default: module("default_power_limit"),
            min: module("min_power_limit"),
            max: module("max_power_limit"),
        },
        energy: Seen::Absent,
    }
}

pub(super) fn heat(gpu: &SmiGpu) -> NvmlHeat {
    let at = |name: &str| whole(gpu, &format!("temperature/{name}"));
    let margin = |name: &str| signed(gpu, &format!("temperature/{name}"));
    NvmlHeat {
        memory: at("memory_temp"),
        margin: margin("gpu_temp_tlimit"),
        shutdown: at("gpu_temp_max_threshold"),
        slowdown: at("gpu_temp_slow_threshold"),
        gpu_max: at("gpu_temp_max_gpu_threshold"),
        memory_max: at("gpu_temp_max_mem_threshold"),
        margin_shutdown: margin("gpu_temp_max_tlimit_threshold"),
        margin_slowdown: margin("gpu_temp_slow_tlimit_threshold"),
        margin_gpu_max: margin("gpu_temp_max_gpu_tlimit_threshold"),
        margin_memory_max: margin("gpu_temp_max_mem_tlimit_threshold"),
        fans: whole(gpu, "fan_speed").map(|speed| vec![speed]),
    }
}

pub(super) fn pcie(gpu: &SmiGpu) -> NvmlPcie {
    NvmlPcie {
        replays: whole(gpu, "pci/replay_counter"),
        replay_rollovers: whole(gpu, "pci/replay_rollover_counter"),
        sent: whole(gpu, "pci/tx_util"),
        received: whole(gpu, "pci/rx_util"),
        host_gen_max: whole(gpu, "pci/pci_gpu_link_info/pcie_gen/max_host_link_gen"),
    }
}

pub(super) fn engines(gpu: &SmiGpu) -> NvmlEngines {
    let capture = |name: &str| whole::<u32>(gpu, &format!("fbc_stats/{name}"));
    NvmlEngines {
        jpeg: whole(gpu, "utilization/jpeg_util"),
        ofa: whole(gpu, "utilization/ofa_util"),
        encoder_fps: whole(gpu, "encoder_stats/average_fps"),
        encoder_latency: whole(gpu, "encoder_stats/average_latency"),
        capture: capture("session_count")
            .and_then(|count| capture("average_fps").map(|fps| (count, fps)))
            .and_then(|(count, fps)| capture("average_latency").map(|latency| (count, fps, latency))),
        sessions: Seen::Absent,
    }
}

pub(super) fn links(gpu: &SmiGpu) -> NvmlLinks {
    NvmlLinks {
        links: Vec::new(),
        state: text(gpu, "fabric/state"),
        status: text(gpu, "fabric/status"),
        clique: whole(gpu, "fabric/cliqueId"),
        cluster: text(gpu, "fabric/clusterUuid"),
        summary: text(gpu, "fabric/health/summary"),
        health: Seen::Absent,
    }
}

pub(super) fn mig(gpu: &SmiGpu) -> NvmlMig {
    let devices = gpu.mig.iter().map(|values| {
        let text = |path: &str| values.get(path).map_or(Seen::Absent, |text| value(Some(text)));
        let whole = |path: &str| text(path).and_then(|text| number::<u32>(&text));
        let mib = |path: &str| text(path).and_then(|text| number::<u64>(&text)).map(|mib| mib.saturating_mul(1 << 20));
        let shared = |name: &str| whole(&format!("device_attributes/shared/{name}"));
        NvmlMigDevice {
            index: whole("index").is().unwrap_or(0),
            uuid: Seen::Absent,
            profile: Seen::Absent,
            gpu_instance: whole("gpu_instance_id"),
            compute_instance: whole("compute_instance_id"),
            memory_total: mib("fb_memory_usage/total"),
            memory_used: mib("fb_memory_usage/used"),
            memory_free: mib("fb_memory_usage/free"),
            memory_reserved: mib("fb_memory_usage/reserved"),
            bar1_total: mib("bar1_memory_usage/total"),
            bar1_used: mib("bar1_memory_usage/used"),
            bar1_free: mib("bar1_memory_usage/free"),
            multiprocessors: shared("multiprocessor_count"),
            copy_engines: shared("copy_engine_count"),
            decoders: shared("decoder_count"),
            encoders: shared("encoder_count"),
            jpegs: shared("jpg_count"),
            ofas: shared("ofa_count"),
            sram_uncorrected: text("ecc_error_count/volatile_count/sram_uncorrectable").and_then(|text| number(&text)),
        }
    });
    NvmlMig { devices: Seen::Is(devices.collect()), ..NvmlMig::default() }
}
