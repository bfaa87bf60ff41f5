//! nvidia_gpu_exporter's names (1.14), so that dashboards made for it live on: `nvidia_smi_`, the field of
//! `nvidia-smi --query-gpu` with its dots as underscores, and the unit. Its help is the field itself, and so is ours.

use machine::nvml::{NvmlGpu, reasons};
use model::Seen;

use super::names::large;
use super::picture::Picture;
use super::text::Text;

type Read = fn(&NvmlGpu) -> Option<f64>;

fn n(seen: &Seen<u32>) -> Option<f64> {
    seen.get().map(|value| f64::from(*value))
}

fn b(seen: &Seen<bool>) -> Option<f64> {
    seen.get().map(|value| f64::from(u8::from(*value)))
}

fn percent(seen: &Seen<u32>) -> Option<f64> {
    n(seen).map(|value| value / 100.0)
}

fn watts(seen: &Seen<u32>) -> Option<f64> {
    n(seen).map(|value| value / 1e3)
}

fn hertz(seen: &Seen<u32>) -> Option<f64> {
    n(seen).map(|value| value * 1e6)
}

fn micro(seen: &Seen<u64>) -> Option<f64> {
    large(seen).map(|value| value / 1e6)
}

/// nvidia-smi prints whole MiB.
fn mib(seen: &Seen<u64>) -> Option<f64> {
    large(seen).map(|bytes| (bytes / f64::from(1 << 20)).floor() * f64::from(1 << 20))
}

fn reason(g: &NvmlGpu, bit: u64) -> Option<f64> {
    g.health.get()?.event_reasons.get().map(|bits| f64::from(u8::from(bits & bit != 0)))
}

/// Words that are one of a list, by their number.
fn word(seen: &Seen<String>, words: &[(&str, u8)]) -> Option<f64> {
    let said = seen.get()?;
    words.iter().find(|(word, _)| word == said).map(|(_, number)| f64::from(*number))
}

const COMPUTE: &[(&str, u8)] = &[("Default", 0), ("Exclusive_Thread", 1), ("Prohibited", 2), ("Exclusive_Process", 3)];
const RECOVERY: &[(&str, u8)] = &[("None", 0), ("Reset", 1), ("Reboot", 2), ("Drain P2P", 3), ("Drain and Reset", 4)];
const FABRIC: &[(&str, u8)] = &[("Not Supported", 0), ("Not Started", 1), ("In Progress", 2), ("Completed", 3)];

#[rustfmt::skip]
const FIELDS: &[(&str, &str, Read)] = &[
    ("nvidia_smi_accounting_buffer_size", "accounting.buffer_size", |g| n(&g.board.get()?.accounting_buffer)),
    ("nvidia_smi_accounting_mode", "accounting.mode", |g| b(&g.board.get()?.accounting)),
    ("nvidia_smi_c2c_mode", "c2c.mode", |g| b(&g.board.get()?.c2c)),
    ("nvidia_smi_clocks_current_graphics_clock_hz", "clocks.current.graphics [MHz]", |g| hertz(&g.clock_graphics)),
    ("nvidia_smi_clocks_current_memory_clock_hz", "clocks.current.memory [MHz]", |g| hertz(&g.clock_memory)),
    ("nvidia_smi_clocks_current_sm_clock_hz", "clocks.current.sm [MHz]", |g| hertz(&g.clock_sm)),
    ("nvidia_smi_clocks_current_video_clock_hz", "clocks.current.video [MHz]", |g| hertz(&g.clock_video)),
    ("nvidia_smi_clocks_event_reasons_active", "clocks_event_reasons.active", |g| large(&g.health.get()?.event_reasons)),
    ("nvidia_smi_clocks_event_reasons_applications_clocks_setting", "clocks_event_reasons.applications_clocks_setting", |g| reason(g, reasons::APPLICATION)),
    ("nvidia_smi_clocks_event_reasons_counters_hw_power_brake_slowdown_seconds", "clocks_event_reasons_counters.hw_power_brake_slowdown [us]", |g| micro(&g.clocks.get()?.held_hw_power_brake)),
    ("nvidia_smi_clocks_event_reasons_counters_hw_thermal_slowdown_seconds", "clocks_event_reasons_counters.hw_thermal_slowdown [us]", |g| micro(&g.clocks.get()?.held_hw_thermal)),
    ("nvidia_smi_clocks_event_reasons_counters_sw_power_cap_seconds", "clocks_event_reasons_counters.sw_power_cap [us]", |g| micro(&g.clocks.get()?.held_sw_power_cap)),
    ("nvidia_smi_clocks_event_reasons_counters_sw_thermal_slowdown_seconds", "clocks_event_reasons_counters.sw_thermal_slowdown [us]", |g| micro(&g.clocks.get()?.held_sw_thermal)),
    ("nvidia_smi_clocks_event_reasons_counters_sync_boost_seconds", "clocks_event_reasons_counters.sync_boost [us]", |g| micro(&g.clocks.get()?.held_sync_boost)),
    ("nvidia_smi_clocks_event_reasons_gpu_idle", "clocks_event_reasons.gpu_idle", |g| reason(g, reasons::IDLE)),
    ("nvidia_smi_clocks_event_reasons_hw_power_brake_slowdown", "clocks_event_reasons.hw_power_brake_slowdown", |g| reason(g, reasons::HW_POWER_BRAKE)),
    ("nvidia_smi_clocks_event_reasons_hw_slowdown", "clocks_event_reasons.hw_slowdown", |g| reason(g, reasons::HW_SLOWDOWN)),
    ("nvidia_smi_clocks_event_reasons_hw_thermal_slowdown", "clocks_event_reasons.hw_thermal_slowdown", |g| reason(g, reasons::HW_THERMAL)),
    ("nvidia_smi_clocks_event_reasons_supported", "clocks_event_reasons.supported", |g| large(&g.clocks.get()?.reasons_supported)),
    ("nvidia_smi_clocks_event_reasons_sw_power_cap", "clocks_event_reasons.sw_power_cap", |g| reason(g, reasons::SW_POWER_CAP)),
    ("nvidia_smi_clocks_event_reasons_sw_thermal_slowdown", "clocks_event_reasons.sw_thermal_slowdown", |g| reason(g, reasons::SW_THERMAL)),
    ("nvidia_smi_clocks_event_reasons_sync_boost", "clocks_event_reasons.sync_boost", |g| reason(g, reasons::SYNC_BOOST)),
    ("nvidia_smi_clocks_max_graphics_clock_hz", "clocks.max.graphics [MHz]", |g| hertz(&g.clocks.get()?.max_graphics)),
    ("nvidia_smi_clocks_max_memory_clock_hz", "clocks.max.memory [MHz]", |g| hertz(&g.clocks.get()?.max_memory)),
    ("nvidia_smi_clocks_max_sm_clock_hz", "clocks.max.sm [MHz]", |g| hertz(&g.clocks.get()?.max_sm)),
    ("nvidia_smi_compute_cap", "compute_cap", |g| g.compute_capability.get().and_then(|(major, minor)| format!("{major}.{minor}").parse().ok())),
    ("nvidia_smi_compute_mode", "compute_mode", |g| word(&g.compute_mode, COMPUTE)),
    ("nvidia_smi_display_active", "display_active", |g| b(&g.display_active)),
    ("nvidia_smi_display_attached", "display_attached", |g| b(&g.board.get()?.display_attached)),
    ("nvidia_smi_ecc_errors_corrected_aggregate_total", "ecc.errors.corrected.aggregate.total", |g| large(&g.health.get()?.corrected_aggregate)),
    ("nvidia_smi_ecc_errors_corrected_volatile_total", "ecc.errors.corrected.volatile.total", |g| large(&g.health.get()?.corrected_volatile)),
    ("nvidia_smi_ecc_errors_uncorrected_aggregate_total", "ecc.errors.uncorrected.aggregate.total", |g| large(&g.health.get()?.uncorrected_aggregate)),
    ("nvidia_smi_ecc_errors_uncorrected_volatile_total", "ecc.errors.uncorrected.volatile.total", |g| large(&g.ecc_uncorrected_volatile)),
    ("nvidia_smi_ecc_mode_current", "ecc.mode.current", |g| b(&g.ecc_enabled)),
    ("nvidia_smi_ecc_mode_pending", "ecc.mode.pending", |g| b(&g.health.get()?.ecc_pending)),
    ("nvidia_smi_encoder_stats_average_fps", "encoder.stats.averageFps", |g| n(&g.engines.get()?.encoder_fps)),
    ("nvidia_smi_encoder_stats_average_latency", "encoder.stats.averageLatency", |g| n(&g.engines.get()?.encoder_latency)),
    ("nvidia_smi_encoder_stats_session_count", "encoder.stats.sessionCount", |g| n(&g.encoder_sessions)),
    ("nvidia_smi_enforced_power_limit_watts", "enforced.power.limit [W]", |g| watts(&g.power.get()?.enforced)),
    ("nvidia_smi_fabric_clique_id", "fabric.cliqueId", |g| n(&g.nvlink.get()?.clique)),
    ("nvidia_smi_fabric_state", "fabric.state", |g| word(&g.nvlink.get()?.state, FABRIC)),
    ("nvidia_smi_fan_speed_ratio", "fan.speed [%]", |g| percent(&g.fan)),
    ("nvidia_smi_gpu_recovery_action", "gpu_recovery_action", |g| word(&g.health.get()?.recovery, RECOVERY)),
    ("nvidia_smi_gsp_mode_current", "gsp.mode.current", |g| b(&g.board.get()?.gsp_enabled)),
    ("nvidia_smi_gsp_mode_default", "gsp.mode.default", |g| b(&g.board.get()?.gsp_default)),
    ("nvidia_smi_index", "index", |g| Some(f64::from(g.index))),
    ("nvidia_smi_memory_free_bytes", "memory.free [MiB]", |g| mib(&g.memory_free)),
    ("nvidia_smi_memory_reserved_bytes", "memory.reserved [MiB]", |g| mib(&g.memory_reserved)),
    ("nvidia_smi_memory_total_bytes", "memory.total [MiB]", |g| mib(&g.memory_total)),
    ("nvidia_smi_memory_used_bytes", "memory.used [MiB]", |g| mib(&g.memory_used)),
    ("nvidia_smi_mig_mode_current", "mig.mode.current", |g| b(&g.mig_enabled)),
    ("nvidia_smi_mig_mode_pending", "mig.mode.pending", |g| b(&g.health.get()?.mig_pending)),
    ("nvidia_smi_module_power_draw_average_watts", "module.power.draw.average [W]", |g| watts(&g.power.get()?.module.average)),
    ("nvidia_smi_module_power_draw_instant_watts", "module.power.draw.instant [W]", |g| watts(&g.power.get()?.module.instant)),
    ("nvidia_smi_pcie_link_gen_current", "pcie.link.gen.current", |g| n(&g.pcie_gen_current)),
    ("nvidia_smi_pcie_link_gen_gpucurrent", "pcie.link.gen.gpucurrent", |g| n(&g.pcie_gen_current)),
    ("nvidia_smi_pcie_link_gen_gpumax", "pcie.link.gen.gpumax", |g| n(&g.health.get()?.pcie_gen_max_card)),
    ("nvidia_smi_pcie_link_gen_hostmax", "pcie.link.gen.hostmax", |g| n(&g.pcie.get()?.host_gen_max)),
    ("nvidia_smi_pcie_link_gen_max", "pcie.link.gen.max", |g| n(&g.pcie_gen_max)),
    ("nvidia_smi_pcie_link_width_current", "pcie.link.width.current", |g| n(&g.pcie_width_current)),
    ("nvidia_smi_pcie_link_width_max", "pcie.link.width.max", |g| n(&g.pcie_width_max)),
    ("nvidia_smi_persistence_mode", "persistence_mode", |g| b(&g.persistence)),
    ("nvidia_smi_power_default_limit_watts", "power.default_limit [W]", |g| watts(&g.power.get()?.default)),
    ("nvidia_smi_power_draw_average_watts", "power.draw.average [W]", |g| watts(&g.power.get()?.average)),
    ("nvidia_smi_power_draw_instant_watts", "power.draw.instant [W]", |g| watts(&g.power.get()?.instant)),
    ("nvidia_smi_power_draw_watts", "power.draw [W]", |g| watts(&g.power_draw)),
    ("nvidia_smi_power_limit_watts", "power.limit [W]", |g| watts(&g.power_limit)),
    ("nvidia_smi_power_management", "power.management", |g| b(&g.power.get()?.managed)),
    ("nvidia_smi_power_max_limit_watts", "power.max_limit [W]", |g| watts(&g.power.get()?.max)),
    ("nvidia_smi_power_min_limit_watts", "power.min_limit [W]", |g| watts(&g.power.get()?.min)),
    ("nvidia_smi_pstate", "pstate", |g| n(&g.pstate)),
    ("nvidia_smi_remapped_rows_correctable", "remapped_rows.correctable", |g| n(&g.health.get()?.remapped_corrected)),
    ("nvidia_smi_remapped_rows_failure", "remapped_rows.failure", |g| b(&g.health.get()?.remapped_failed)),
    ("nvidia_smi_remapped_rows_pending", "remapped_rows.pending", |g| b(&g.health.get()?.remapped_pending)),
    ("nvidia_smi_remapped_rows_uncorrectable", "remapped_rows.uncorrectable", |g| n(&g.health.get()?.remapped_uncorrected)),
    ("nvidia_smi_retired_pages_double_bit_count", "retired_pages.double_bit.count", |g| n(&g.health.get()?.retired_double)),
    ("nvidia_smi_retired_pages_pending", "retired_pages.pending", |g| b(&g.health.get()?.retired_pending)),
    ("nvidia_smi_retired_pages_single_bit_ecc_count", "retired_pages.single_bit_ecc.count", |g| n(&g.health.get()?.retired_single)),
    ("nvidia_smi_temperature_gpu", "temperature.gpu", |g| n(&g.temperature)),
    ("nvidia_smi_temperature_gpu_tlimit", "temperature.gpu.tlimit", |g| g.heat.get()?.margin.get().map(|margin| f64::from(*margin))),
    ("nvidia_smi_temperature_memory", "temperature.memory", |g| n(&g.heat.get()?.memory)),
    ("nvidia_smi_utilization_decoder_ratio", "utilization.decoder [%]", |g| percent(&g.utilization_decoder)),
    ("nvidia_smi_utilization_encoder_ratio", "utilization.encoder [%]", |g| percent(&g.utilization_encoder)),
    ("nvidia_smi_utilization_gpu_ratio", "utilization.gpu [%]", |g| percent(&g.utilization_gpu)),
    ("nvidia_smi_utilization_jpeg_ratio", "utilization.jpeg [%]", |g| percent(&g.engines.get()?.jpeg)),
    ("nvidia_smi_utilization_memory_ratio", "utilization.memory [%]", |g| percent(&g.utilization_memory)),
    ("nvidia_smi_utilization_ofa_ratio", "utilization.ofa [%]", |g| percent(&g.engines.get()?.ofa)),
];

/// Its UUIDs have no "GPU-" before them.
fn bare(uuid: &str) -> String {
    uuid.strip_prefix("GPU-").unwrap_or(uuid).to_ascii_lowercase()
}

pub fn write(text: &mut Text, picture: &Picture<'_>) {
    for (name, help, read) in FIELDS {
        text.gauge(name, help, |series| {
            for card in &picture.cards {
                series.some(&[("uuid", &bare(&card.uuid))], read(&card.now.gpu));
            }
        });
    }
    text.gauge("nvidia_smi_count", "count", |series| {
        for card in &picture.cards {
            series.put(&[("uuid", &bare(&card.uuid))], picture.cards.len() as f64);
        }
    });
    info(text, picture);
    text.counter("nvidia_smi_energy_joules_total", "Energy since the driver was loaded, in joules", |series| {
        for card in &picture.cards {
            let energy = card.now.gpu.power.get().and_then(|power| large(&power.energy));
            series.some(&[("uuid", &bare(&card.uuid))], energy.map(|mj| mj / 1e3));
        }
    });
    text.counter("nvidia_smi_xid_errors_total", "Xid messages since this program began", |series| {
        for xid in picture.xids {
            let labels = [("uuid", bare(&xid.uuid)), ("xid", xid.number.to_string())];
            series.put(&labels.each_ref().map(|(name, value)| (*name, value.as_str())), xid.count as f64);
        }
    });
    text.gauge("nvidia_smi_xid_last_timestamp_seconds", "When the last one came", |series| {
        for xid in picture.xids {
            let labels = [("uuid", bare(&xid.uuid)), ("xid", xid.number.to_string())];
            series.put(&labels.each_ref().map(|(name, value)| (*name, value.as_str())), xid.last);
        }
    });
    mig(text, picture);
    processes(text, picture);
    health(text, picture);
}

fn info(text: &mut Text, picture: &Picture<'_>) {
    let driver = picture.sample.driver.get().map_or("", String::as_str);
    text.gauge("nvidia_smi_gpu_info", "What each card is", |series| {
        for card in &picture.cards {
            let g = &card.now.gpu;
            let said = |seen: &Seen<String>| seen.get().cloned().unwrap_or_else(|| "[N/A]".into());
            let capability = g.compute_capability.get().map(|(major, minor)| format!("{major}.{minor}"));
            let subsystem = g.pci_subsystem_id.get().map(|id| format!("0x{id:08X}"));
            series.one(&[
                ("uuid", &bare(&card.uuid)),
                ("name", &said(&g.name)),
                ("driver_model_current", "[N/A]"),
                ("driver_model_pending", "[N/A]"),
                ("vbios_version", &said(&g.vbios)),
                ("driver_version", driver),
                ("pci_bus_id", &said(&g.bus_id)),
                ("serial", &said(&g.serial)),
                ("compute_cap", &capability.unwrap_or_default()),
                ("pci_sub_device_id", &subsystem.unwrap_or_default()),
                ("index", &card.index),
                // empty there, too, where it could not be read
                ("cuda_version", ""),
            ]);
        }
    });
}

fn mig(text: &mut Text, picture: &Picture<'_>) {
    let all = || {
        picture.cards.iter().flat_map(|card| {
            let devices = card.now.gpu.mig.get().and_then(|mig| mig.devices.get());
            devices.into_iter().flatten().map(move |device| (bare(&card.uuid), device))
        })
    };
    let said = |seen: &Seen<u32>| seen.get().map(u32::to_string).unwrap_or_default();
    text.gauge("nvidia_smi_mig_info", "Each MIG device", |series| {
        for (uuid, device) in all() {
            series.one(&[
                ("uuid", &uuid),
                ("mig_uuid", device.uuid.get().map_or("", String::as_str)),
                ("gpu_instance_id", &said(&device.gpu_instance)),
                ("compute_instance_id", &said(&device.compute_instance)),
                ("profile", device.profile.get().map_or("", String::as_str)),
            ]);
        }
    });
    type Of = fn(&machine::nvml::NvmlMigDevice) -> Option<f64>;
    let memory: [(&str, Of); 4] = [
        ("nvidia_smi_mig_memory_total_bytes", |device| large(&device.memory_total)),
        ("nvidia_smi_mig_memory_used_bytes", |device| large(&device.memory_used)),
        ("nvidia_smi_mig_memory_free_bytes", |device| large(&device.memory_free)),
        ("nvidia_smi_mig_memory_reserved_bytes", |device| large(&device.memory_reserved)),
    ];
    for (name, read) in memory {
        text.gauge(name, "A GPU instance's memory", |series| {
            // the memory is the GPU instance's: once for all its compute instances
            let mut told = Vec::new();
            for (uuid, device) in all() {
                let key = (uuid, said(&device.gpu_instance));
                if !told.contains(&key) {
                    series.some(&[("uuid", &key.0), ("gpu_instance_id", &key.1)], read(device));
                    told.push(key);
                }
            }
        });
    }
}

/// As with its --collect.compute-apps.
fn processes(text: &mut Text, picture: &Picture<'_>) {
    let all = || {
        picture.cards.iter().flat_map(|card| {
            let computing = card.now.processes.get().into_iter().flatten();
            let computing = computing.filter(|process| process.process.kind.contains('C'));
            computing.map(move |process| (bare(&card.uuid), process))
        })
    };
    let name = |process: &crate::ProcessNow| process.process.name.get().cloned().unwrap_or_default();
    text.gauge("nvidia_smi_compute_app_info", "Each process with a compute context", |series| {
        for (uuid, process) in all() {
            let pid = process.process.pid.to_string();
            series.one(&[("uuid", &uuid), ("pid", &pid), ("process_name", &name(process))]);
        }
    });
    text.gauge("nvidia_smi_compute_app_used_memory_bytes", "Its memory", |series| {
        for (uuid, process) in all() {
            let pid = process.process.pid.to_string();
            let labels = [("uuid", uuid.as_str()), ("pid", &pid), ("process_name", &name(process))];
            series.some(&labels, large(&process.process.memory));
        }
    });
    text.gauge("nvidia_smi_compute_apps", "Processes with a compute context on the card", |series| {
        for card in &picture.cards {
            if let Some(list) = card.now.processes.get() {
                let count = list.iter().filter(|process| process.process.kind.contains('C')).count();
                series.put(&[("uuid", &bare(&card.uuid))], count as f64);
            }
        }
    });
    let told = picture.cards.iter().all(|card| card.now.processes.unreadable().is_none());
    text.gauge("nvidia_smi_compute_apps_last_collect_success", "1: the processes could be asked for", |series| {
        series.put(&[], f64::from(u8::from(told && picture.up)));
    });
}

fn health(text: &mut Text, picture: &Picture<'_>) {
    let up = f64::from(u8::from(picture.up));
    text.gauge("nvidia_smi_last_collect_success", "1: the newest look succeeded", |series| series.put(&[], up));
    text.gauge("nvidia_smi_last_collect_success_timestamp_seconds", "When a look last succeeded", |series| {
        series.put(&[], picture.time);
    });
    text.gauge("nvidia_smi_last_collect_duration_seconds", "How long the newest look took", |series| {
        series.put(&[], picture.took);
    });
    text.counter("nvidia_smi_failed_scrapes_total", "Looks that failed", |series| {
        series.put(&[], picture.failed as f64)
    });
    text.gauge("nvidia_smi_nvml_return_code", "0: NVML answered; 999: it did not", |series| {
        series.put(&[], if picture.up { 0.0 } else { 999.0 });
    });
}
