//! The fields of `--query-gpu`: name, unit, and where the value is from.

use std::fmt::Write as _;

use machine::nvml::{NvmlGpu, reasons};
use model::Seen;

use super::sections::fabric;
use super::{Smi, active, either, enabled, mib, of, watts, yes};

/// One field, under all its names.
pub(super) struct Field {
    pub(super) names: &'static [&'static str],
    /// Of the header's brackets; "" where the value has none.
    pub(super) unit: &'static str,
    pub(super) get: fn(&Smi<'_>, &NvmlGpu) -> Seen<String>,
    what: &'static str,
}

pub(super) fn find(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.names.contains(&name))
}

/// `--help-query-gpu`: the names, in the tool's form.
pub fn help() -> String {
    let mut out = String::from("List of valid properties to query for the switch \"--query-gpu\":\n");
    for field in FIELDS {
        let names: Vec<String> = field.names.iter().map(|name| format!("\"{name}\"")).collect();
        let _ = write!(out, "\n{}\n{}\n", names.join(" or "), field.what);
    }
    out
}

fn text<T: std::fmt::Display>(seen: &Seen<T>) -> Seen<String> {
    seen.as_ref().map(|value| value.to_string())
}

/// "0x1B" of "00000000:1B:00.0".
fn part(gpu: &NvmlGpu, at: std::ops::Range<usize>) -> Seen<String> {
    gpu.bus_id.as_ref().map(|id| format!("0x{}", id.get(at).unwrap_or_default().to_ascii_uppercase()))
}

fn hex(seen: &Seen<u32>) -> Seen<String> {
    seen.as_ref().map(|id| format!("0x{id:08X}"))
}

fn bits(seen: &Seen<u64>) -> Seen<String> {
    seen.as_ref().map(|bits| format!("0x{bits:016X}"))
}

fn reason(gpu: &NvmlGpu, bit: u64) -> Seen<String> {
    text(&active(&of(&gpu.health, |health| &health.event_reasons), bit))
}

fn bank(gpu: &NvmlGpu, n: usize) -> Seen<String> {
    of(&gpu.errors, |errors| &errors.histogram).and_then(|banks| banks.get(n).map(u32::to_string).into())
}

fn average(gpu: &NvmlGpu) -> Seen<u32> {
    let average = of(&gpu.power, |power| &power.average);
    if average.is_there() { average } else { gpu.power_draw.clone() }
}

/// A GPU whose limit cannot be set has none that was.
fn requested(gpu: &NvmlGpu) -> Seen<u32> {
    if of(&gpu.power, |power| &power.managed).is_there() {
        of(&gpu.power, |power| &power.requested)
    } else {
        Seen::Absent
    }
}

fn display_mode(smi: &Smi<'_>, gpu: &NvmlGpu) -> Seen<String> {
    if smi.branch() >= 570 {
        return Seen::Is("[Requested functionality has been deprecated]".into());
    }
    text(&enabled(&of(&gpu.board, |board| &board.display_attached)))
}

#[rustfmt::skip]
static FIELDS: &[Field] = &[
    Field { names: &["timestamp"], unit: "", get: |s, _| Seen::Is(s.stamp.to_owned()), what: "when the question was asked: YYYY/MM/DD HH:MM:SS.msec" },
    Field { names: &["driver_version"], unit: "", get: |s, _| s.report.driver_version.clone(), what: "the kernel driver's version" },
    Field { names: &["vgpu_driver_capability.heterogenous_multivGPU"], unit: "", get: |_, _| Seen::Absent, what: "not told by a public call" },
    Field { names: &["count"], unit: "", get: |s, _| Seen::Is(s.report.gpus.len().to_string()), what: "how many GPUs the driver counts" },
    Field { names: &["name", "gpu_name"], unit: "", get: |_, g| g.name.clone(), what: "the product name" },
    Field { names: &["serial", "gpu_serial"], unit: "", get: |_, g| g.serial.clone(), what: "the serial number on the board" },
    Field { names: &["uuid", "gpu_uuid"], unit: "", get: |_, g| g.uuid.clone(), what: "the UUID" },
    Field { names: &["pci.bus_id", "gpu_bus_id"], unit: "", get: |_, g| g.bus_id.clone(), what: "the PCI address: domain:bus:device.function" },
    Field { names: &["pci.domain"], unit: "", get: |_, g| part(g, 4..8), what: "the PCI domain" },
    Field { names: &["pci.bus"], unit: "", get: |_, g| part(g, 9..11), what: "the PCI bus" },
    Field { names: &["pci.device"], unit: "", get: |_, g| part(g, 12..14), what: "the PCI device" },
    Field { names: &["pci.baseClass"], unit: "", get: |_, g| of(&g.board, |b| &b.pci_class).map(|c| format!("0x{:x}", c.0)), what: "the PCI base class" },
    Field { names: &["pci.subClass"], unit: "", get: |_, g| of(&g.board, |b| &b.pci_class).map(|c| format!("0x{:x}", c.1)), what: "the PCI sub class" },
    Field { names: &["pci.device_id"], unit: "", get: |_, g| hex(&g.pci_device_id), what: "PCI device and vendor" },
    Field { names: &["pci.sub_device_id"], unit: "", get: |_, g| hex(&g.pci_subsystem_id), what: "PCI subsystem device and vendor" },
    Field { names: &["vgpu_device_capability.fractional_multiVgpu"], unit: "", get: |_, _| Seen::Absent, what: "not told by a public call" },
    Field { names: &["vgpu_device_capability.heterogeneous_timeSlice_profile"], unit: "", get: |_, _| Seen::Absent, what: "not told by a public call" },
    Field { names: &["vgpu_device_capability.heterogeneous_timeSlice_sizes"], unit: "", get: |_, _| Seen::Absent, what: "not told by a public call" },
    Field { names: &["vgpu_device_capability.homogeneous_placements"], unit: "", get: |_, _| Seen::Absent, what: "not told by a public call" },
    Field { names: &["vgpu_device_capability.mig_timeSlicing"], unit: "", get: |_, _| Seen::Absent, what: "not told by a public call" },
    Field { names: &["vgpu_device_capability.mig_timeSlicing_mode"], unit: "", get: |_, _| Seen::Absent, what: "not told by a public call" },
    Field { names: &["pcie.link.gen.current"], unit: "", get: |_, g| text(&g.pcie_gen_current), what: "the link's PCIe generation now; an idle GPU goes down to 1" },
    Field { names: &["pcie.link.gen.gpucurrent"], unit: "", get: |_, g| text(&g.pcie_gen_current), what: "the same, at the GPU's end" },
    Field { names: &["pcie.link.gen.max"], unit: "", get: |_, g| text(&g.pcie_gen_max), what: "the generation that GPU and slot can do" },
    Field { names: &["pcie.link.gen.gpumax"], unit: "", get: |_, g| text(&of(&g.health, |h| &h.pcie_gen_max_card)), what: "the generation that the GPU can do" },
    Field { names: &["pcie.link.gen.hostmax"], unit: "", get: |_, g| text(&of(&g.pcie, |p| &p.host_gen_max)), what: "the generation that the slot can do" },
    Field { names: &["pcie.link.width.current"], unit: "", get: |_, g| text(&g.pcie_width_current), what: "the link's lanes now" },
    Field { names: &["pcie.link.width.max"], unit: "", get: |_, g| text(&g.pcie_width_max), what: "the lanes that GPU and slot can do" },
    Field { names: &["index"], unit: "", get: |_, g| Seen::Is(g.index.to_string()), what: "NVML's number of the GPU" },
    Field { names: &["display_mode"], unit: "", get: |s, g| display_mode(s, g), what: "a monitor is connected; deprecated by newer drivers" },
    Field { names: &["display_attached"], unit: "", get: |_, g| text(&yes(&of(&g.board, |b| &b.display_attached))), what: "a monitor is connected" },
    Field { names: &["display_active"], unit: "", get: |_, g| text(&enabled(&g.display_active)), what: "a display is set up on the GPU" },
    Field { names: &["persistence_mode"], unit: "", get: |_, g| text(&enabled(&g.persistence)), what: "the driver stays with the GPU while nobody uses it" },
    Field { names: &["addressing_mode"], unit: "", get: |_, g| of(&g.board, |b| &b.addressing), what: "how the GPU reaches the host's memory: None, HMM, ATS" },
    Field { names: &["accounting.mode"], unit: "", get: |_, g| text(&enabled(&of(&g.board, |b| &b.accounting))), what: "processes are accounted" },
    Field { names: &["accounting.buffer_size"], unit: "", get: |_, g| text(&of(&g.board, |b| &b.accounting_buffer)), what: "how many processes accounting remembers" },
    Field { names: &["driver_model.current"], unit: "", get: |_, _| Seen::Absent, what: "Windows alone has driver models" },
    Field { names: &["driver_model.pending"], unit: "", get: |_, _| Seen::Absent, what: "Windows alone has driver models" },
    Field { names: &["vbios_version"], unit: "", get: |_, g| g.vbios.clone(), what: "the GPU's BIOS" },
    Field { names: &["inforom.img", "inforom.image"], unit: "", get: |_, g| of(&g.board, |b| &b.inforom_image), what: "the InfoROM's image" },
    Field { names: &["inforom.oem"], unit: "", get: |_, g| of(&g.board, |b| &b.inforom_oem), what: "the InfoROM's OEM object" },
    Field { names: &["inforom.ecc"], unit: "", get: |_, g| of(&g.board, |b| &b.inforom_ecc), what: "the InfoROM's ECC object" },
    Field { names: &["inforom.pwr", "inforom.power"], unit: "", get: |_, g| of(&g.board, |b| &b.inforom_power), what: "the InfoROM's power object" },
    Field { names: &["inforom.checksum_validation"], unit: "", get: |_, _| Seen::Absent, what: "not asked: validating reads the whole InfoROM" },
    Field { names: &["reset_status.reset_required"], unit: "", get: |_, _| Seen::Absent, what: "older drivers; see gpu_recovery_action" },
    Field { names: &["reset_status.drain_and_reset_recommended"], unit: "", get: |_, _| Seen::Absent, what: "older drivers; see gpu_recovery_action" },
    Field { names: &["gpu_recovery_action"], unit: "", get: |_, g| of(&g.health, |h| &h.recovery), what: "what brings the GPU back: None, Reset, Reboot, Drain P2P, Drain and Reset" },
    Field { names: &["gom.current", "gpu_operation_mode.current"], unit: "", get: |_, g| of(&g.board, |b| &b.operation_mode), what: "the operation mode" },
    Field { names: &["gom.pending", "gpu_operation_mode.pending"], unit: "", get: |_, g| of(&g.board, |b| &b.operation_mode_pending), what: "the operation mode after the next reboot" },
    Field { names: &["fan.speed"], unit: "%", get: |_, g| text(&g.fan), what: "the fan's speed of its most" },
    Field { names: &["pstate"], unit: "", get: |_, g| g.pstate.as_ref().map(|p| format!("P{p}")), what: "the performance state: P0 is the fastest" },
    Field { names: &["clocks_event_reasons.supported", "clocks_throttle_reasons.supported"], unit: "", get: |_, g| bits(&of(&g.clocks, |c| &c.reasons_supported)), what: "reasons that this GPU can give, as bits" },
    Field { names: &["clocks_event_reasons.active", "clocks_throttle_reasons.active"], unit: "", get: |_, g| bits(&of(&g.health, |h| &h.event_reasons)), what: "why the clocks are what they are, as bits" },
    Field { names: &["clocks_event_reasons.gpu_idle", "clocks_throttle_reasons.gpu_idle"], unit: "", get: |_, g| reason(g, reasons::IDLE), what: "clocks are held down: nothing runs" },
    Field { names: &["clocks_event_reasons.applications_clocks_setting", "clocks_throttle_reasons.applications_clocks_setting"], unit: "", get: |_, g| reason(g, reasons::APPLICATION), what: "clocks are held down: application clocks are set" },
    Field { names: &["clocks_event_reasons.sw_power_cap", "clocks_throttle_reasons.sw_power_cap"], unit: "", get: |_, g| reason(g, reasons::SW_POWER_CAP), what: "clocks are held down: the power limit" },
    Field { names: &["clocks_event_reasons.hw_slowdown", "clocks_throttle_reasons.hw_slowdown"], unit: "", get: |_, g| reason(g, reasons::HW_SLOWDOWN), what: "clocks are held down: the hardware halves the clocks: heat, or power brake" },
    Field { names: &["clocks_event_reasons.hw_thermal_slowdown", "clocks_throttle_reasons.hw_thermal_slowdown"], unit: "", get: |_, g| reason(g, reasons::HW_THERMAL), what: "clocks are held down: the hardware: heat" },
    Field { names: &["clocks_event_reasons.hw_power_brake_slowdown", "clocks_throttle_reasons.hw_power_brake_slowdown"], unit: "", get: |_, g| reason(g, reasons::HW_POWER_BRAKE), what: "clocks are held down: the hardware: the power supply's brake" },
    Field { names: &["clocks_event_reasons.sw_thermal_slowdown", "clocks_throttle_reasons.sw_thermal_slowdown"], unit: "", get: |_, g| reason(g, reasons::SW_THERMAL), what: "clocks are held down: the driver: heat" },
    Field { names: &["clocks_event_reasons.sync_boost", "clocks_throttle_reasons.sync_boost"], unit: "", get: |_, g| reason(g, reasons::SYNC_BOOST), what: "clocks are held down: a group of GPUs waits for its slowest" },
    Field { names: &["clocks_event_reasons_counters.sw_power_cap"], unit: "us", get: |_, g| text(&of(&g.clocks, |c| &c.held_sw_power_cap)), what: "how long clocks were held down: the power limit" },
    Field { names: &["clocks_event_reasons_counters.sync_boost"], unit: "us", get: |_, g| text(&of(&g.clocks, |c| &c.held_sync_boost)), what: "how long clocks were held down: sync boost" },
    Field { names: &["clocks_event_reasons_counters.sw_thermal_slowdown"], unit: "us", get: |_, g| text(&of(&g.clocks, |c| &c.held_sw_thermal)), what: "how long clocks were held down: heat, by the driver" },
    Field { names: &["clocks_event_reasons_counters.hw_thermal_slowdown"], unit: "us", get: |_, g| text(&of(&g.clocks, |c| &c.held_hw_thermal)), what: "how long clocks were held down: heat, by the hardware" },
    Field { names: &["clocks_event_reasons_counters.hw_power_brake_slowdown"], unit: "us", get: |_, g| text(&of(&g.clocks, |c| &c.held_hw_power_brake)), what: "how long clocks were held down: the power brake" },
    Field { names: &["memory.total"], unit: "MiB", get: |_, g| text(&mib(&g.memory_total)), what: "device memory" },
    Field { names: &["memory.reserved"], unit: "MiB", get: |_, g| text(&mib(&g.memory_reserved)), what: "device memory that the driver keeps" },
    Field { names: &["memory.used"], unit: "MiB", get: |_, g| text(&mib(&g.memory_used)), what: "device memory in use" },
    Field { names: &["memory.free"], unit: "MiB", get: |_, g| text(&mib(&g.memory_free)), what: "device memory that is free" },
    Field { names: &["compute_mode"], unit: "", get: |_, g| g.compute_mode.clone(), what: "who may compute: Default, Exclusive_Process, Prohibited" },
    Field { names: &["compute_cap"], unit: "", get: |_, g| g.compute_capability.as_ref().map(|(a, b)| format!("{a}.{b}")), what: "CUDA's compute capability" },
    Field { names: &["utilization.gpu"], unit: "%", get: |_, g| text(&g.utilization_gpu), what: "share of time in which a kernel ran" },
    Field { names: &["utilization.memory"], unit: "%", get: |_, g| text(&g.utilization_memory), what: "share of time in which memory was read or written" },
    Field { names: &["utilization.encoder"], unit: "%", get: |_, g| text(&g.utilization_encoder), what: "the encoders' load, all engines together" },
    Field { names: &["utilization.decoder"], unit: "%", get: |_, g| text(&g.utilization_decoder), what: "the decoders' load, all engines together" },
    Field { names: &["utilization.jpeg"], unit: "%", get: |_, g| text(&of(&g.engines, |e| &e.jpeg)), what: "the JPEG engines' load" },
    Field { names: &["utilization.ofa"], unit: "%", get: |_, g| text(&of(&g.engines, |e| &e.ofa)), what: "the optical flow engine's load" },
    Field { names: &["encoder.stats.sessionCount"], unit: "", get: |_, g| text(&g.encoder_sessions), what: "encoding sessions now" },
    Field { names: &["encoder.stats.averageFps"], unit: "", get: |_, g| text(&of(&g.engines, |e| &e.encoder_fps)), what: "frames a second, mean over the sessions" },
    Field { names: &["encoder.stats.averageLatency"], unit: "", get: |_, g| text(&of(&g.engines, |e| &e.encoder_latency)), what: "microseconds a frame, mean over the sessions" },
    Field { names: &["dramEncryption.mode.current"], unit: "", get: |_, _| Seen::Absent, what: "not asked" },
    Field { names: &["dramEncryption.mode.pending"], unit: "", get: |_, _| Seen::Absent, what: "not asked" },
    Field { names: &["ecc.mode.current"], unit: "", get: |_, g| text(&enabled(&g.ecc_enabled)), what: "ECC is on" },
    Field { names: &["ecc.mode.pending"], unit: "", get: |_, g| text(&enabled(&of(&g.health, |h| &h.ecc_pending))), what: "ECC after the next reset" },
    Field { names: &["ecc.errors.corrected.volatile.device_memory"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.corrected.device_memory)), what: "corrected errors of device_memory since the driver was loaded" },
    Field { names: &["ecc.errors.corrected.volatile.dram"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.corrected.device_memory)), what: "corrected errors of dram since the driver was loaded" },
    Field { names: &["ecc.errors.corrected.volatile.register_file"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.corrected.registers)), what: "corrected errors of register_file since the driver was loaded" },
    Field { names: &["ecc.errors.corrected.volatile.l1_cache"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.corrected.l1)), what: "corrected errors of l1_cache since the driver was loaded" },
    Field { names: &["ecc.errors.corrected.volatile.l2_cache"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.corrected.l2)), what: "corrected errors of l2_cache since the driver was loaded" },
    Field { names: &["ecc.errors.corrected.volatile.texture_memory"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.corrected.texture)), what: "corrected errors of texture_memory since the driver was loaded" },
    Field { names: &["ecc.errors.corrected.volatile.cbu"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.corrected.cbu)), what: "corrected errors of cbu since the driver was loaded" },
    Field { names: &["ecc.errors.corrected.volatile.sram"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.corrected.sram)), what: "corrected errors of sram since the driver was loaded" },
    Field { names: &["ecc.errors.corrected.volatile.total"], unit: "", get: |_, g| text(&of(&g.health, |h| &h.corrected_volatile)), what: "all corrected errors since the driver was loaded" },
    Field { names: &["ecc.errors.corrected.aggregate.device_memory"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.corrected.device_memory)), what: "corrected errors of device_memory ever" },
    Field { names: &["ecc.errors.corrected.aggregate.dram"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.corrected.device_memory)), what: "corrected errors of dram ever" },
    Field { names: &["ecc.errors.corrected.aggregate.register_file"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.corrected.registers)), what: "corrected errors of register_file ever" },
    Field { names: &["ecc.errors.corrected.aggregate.l1_cache"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.corrected.l1)), what: "corrected errors of l1_cache ever" },
    Field { names: &["ecc.errors.corrected.aggregate.l2_cache"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.corrected.l2)), what: "corrected errors of l2_cache ever" },
    Field { names: &["ecc.errors.corrected.aggregate.texture_memory"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.corrected.texture)), what: "corrected errors of texture_memory ever" },
    Field { names: &["ecc.errors.corrected.aggregate.cbu"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.corrected.cbu)), what: "corrected errors of cbu ever" },
    Field { names: &["ecc.errors.corrected.aggregate.sram"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.corrected.sram)), what: "corrected errors of sram ever" },
    Field { names: &["ecc.errors.corrected.aggregate.total"], unit: "", get: |_, g| text(&of(&g.health, |h| &h.corrected_aggregate)), what: "all corrected errors ever" },
    Field { names: &["ecc.errors.uncorrected.volatile.device_memory"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.uncorrected.device_memory)), what: "uncorrected errors of device_memory since the driver was loaded" },
    Field { names: &["ecc.errors.uncorrected.volatile.dram"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.uncorrected.device_memory)), what: "uncorrected errors of dram since the driver was loaded" },
    Field { names: &["ecc.errors.uncorrected.volatile.register_file"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.uncorrected.registers)), what: "uncorrected errors of register_file since the driver was loaded" },
    Field { names: &["ecc.errors.uncorrected.volatile.l1_cache"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.uncorrected.l1)), what: "uncorrected errors of l1_cache since the driver was loaded" },
    Field { names: &["ecc.errors.uncorrected.volatile.l2_cache"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.uncorrected.l2)), what: "uncorrected errors of l2_cache since the driver was loaded" },
    Field { names: &["ecc.errors.uncorrected.volatile.texture_memory"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.uncorrected.texture)), what: "uncorrected errors of texture_memory since the driver was loaded" },
    Field { names: &["ecc.errors.uncorrected.volatile.cbu"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.uncorrected.cbu)), what: "uncorrected errors of cbu since the driver was loaded" },
    Field { names: &["ecc.errors.uncorrected.volatile.sram"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.uncorrected.sram)), what: "uncorrected errors of sram since the driver was loaded" },
    Field { names: &["ecc.errors.uncorrected.volatile.total"], unit: "", get: |_, g| text(&g.ecc_uncorrected_volatile), what: "all uncorrected errors since the driver was loaded" },
    Field { names: &["ecc.errors.uncorrected.aggregate.device_memory"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.uncorrected.device_memory)), what: "uncorrected errors of device_memory ever" },
    Field { names: &["ecc.errors.uncorrected.aggregate.dram"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.uncorrected.device_memory)), what: "uncorrected errors of dram ever" },
    Field { names: &["ecc.errors.uncorrected.aggregate.register_file"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.uncorrected.registers)), what: "uncorrected errors of register_file ever" },
    Field { names: &["ecc.errors.uncorrected.aggregate.l1_cache"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.uncorrected.l1)), what: "uncorrected errors of l1_cache ever" },
    Field { names: &["ecc.errors.uncorrected.aggregate.l2_cache"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.uncorrected.l2)), what: "uncorrected errors of l2_cache ever" },
    Field { names: &["ecc.errors.uncorrected.aggregate.texture_memory"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.uncorrected.texture)), what: "uncorrected errors of texture_memory ever" },
    Field { names: &["ecc.errors.uncorrected.aggregate.cbu"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.uncorrected.cbu)), what: "uncorrected errors of cbu ever" },
    Field { names: &["ecc.errors.uncorrected.aggregate.sram"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.uncorrected.sram)), what: "uncorrected errors of sram ever" },
    Field { names: &["ecc.errors.uncorrected.aggregate.total"], unit: "", get: |_, g| text(&of(&g.health, |h| &h.uncorrected_aggregate)), what: "all uncorrected errors ever" },
    Field { names: &["ecc.errors.uncorrected.volatile.sram.parity"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.sram_uncorrected_parity)), what: "SRAM, by parity" },
    Field { names: &["ecc.errors.uncorrected.volatile.sram.secded"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.volatile.sram_uncorrected_secded)), what: "SRAM, by SEC-DED" },
    Field { names: &["ecc.errors.uncorrected.aggregate.sram.parity"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.sram_uncorrected_parity)), what: "SRAM, by parity" },
    Field { names: &["ecc.errors.uncorrected.aggregate.sram.secded"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.aggregate.sram_uncorrected_secded)), what: "SRAM, by SEC-DED" },
    Field { names: &["ecc.errors.uncorrected.aggregate.sram.thresholdExceeded"], unit: "", get: |_, g| text(&yes(&of(&g.errors, |e| &e.sram_threshold_exceeded))), what: "so many SRAM errors that the GPU should be replaced" },
    Field { names: &["ecc.errors.uncorrected.aggregate.sram.l2"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.sram_l2)), what: "where SRAM's uncorrected errors were" },
    Field { names: &["ecc.errors.uncorrected.aggregate.sram.sm"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.sram_sm)), what: "where SRAM's uncorrected errors were" },
    Field { names: &["ecc.errors.uncorrected.aggregate.sram.mcu"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.sram_microcontroller)), what: "where SRAM's uncorrected errors were" },
    Field { names: &["ecc.errors.uncorrected.aggregate.sram.pcie"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.sram_pcie)), what: "where SRAM's uncorrected errors were" },
    Field { names: &["ecc.errors.uncorrected.aggregate.sram.other"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.sram_other)), what: "where SRAM's uncorrected errors were" },
    Field { names: &["retired_pages.single_bit_ecc.count", "retired_pages.sbe"], unit: "", get: |_, g| text(&of(&g.health, |h| &h.retired_single)), what: "pages retired for several single-bit errors" },
    Field { names: &["retired_pages.double_bit.count", "retired_pages.dbe"], unit: "", get: |_, g| text(&of(&g.health, |h| &h.retired_double)), what: "pages retired for a double-bit error" },
    Field { names: &["retired_pages.pending"], unit: "", get: |_, g| text(&yes(&of(&g.health, |h| &h.retired_pending))), what: "a page waits for a reboot to be retired" },
    Field { names: &["remapped_rows.correctable", "remapped_rows.sbe"], unit: "", get: |_, g| text(&of(&g.health, |h| &h.remapped_corrected)), what: "rows remapped for correctable errors" },
    Field { names: &["remapped_rows.correctable_inactive"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.remapped_corrected_inactive)), what: "such remappings that are not in use" },
    Field { names: &["remapped_rows.uncorrectable", "remapped_rows.dbe"], unit: "", get: |_, g| text(&of(&g.health, |h| &h.remapped_uncorrected)), what: "rows remapped for uncorrectable errors" },
    Field { names: &["remapped_rows.uncorrectable_inactive"], unit: "", get: |_, g| text(&of(&g.errors, |e| &e.remapped_uncorrected_inactive)), what: "such remappings that are not in use" },
    Field { names: &["remapped_rows.pending"], unit: "", get: |_, g| text(&yes(&of(&g.health, |h| &h.remapped_pending))), what: "a remapping waits for a reset" },
    Field { names: &["remapped_rows.failure"], unit: "", get: |_, g| text(&yes(&of(&g.health, |h| &h.remapped_failed))), what: "a remapping failed" },
    Field { names: &["remapped_rows.histogram.max"], unit: "", get: |_, g| bank(g, 0), what: "banks by what they have left for remapping" },
    Field { names: &["remapped_rows.histogram.high"], unit: "", get: |_, g| bank(g, 1), what: "banks by what they have left for remapping" },
    Field { names: &["remapped_rows.histogram.partial"], unit: "", get: |_, g| bank(g, 2), what: "banks by what they have left for remapping" },
    Field { names: &["remapped_rows.histogram.low"], unit: "", get: |_, g| bank(g, 3), what: "banks by what they have left for remapping" },
    Field { names: &["remapped_rows.histogram.none"], unit: "", get: |_, g| bank(g, 4), what: "banks by what they have left for remapping" },
    Field { names: &["temperature.gpu"], unit: "", get: |_, g| text(&g.temperature), what: "°C" },
    Field { names: &["temperature.gpu.tlimit"], unit: "", get: |_, g| text(&of(&g.heat, |h| &h.margin)), what: "degrees left until the GPU slows down" },
    Field { names: &["temperature.memory"], unit: "", get: |_, g| text(&of(&g.heat, |h| &h.memory)), what: "°C of the memory" },
    Field { names: &["power.management"], unit: "", get: |_, g| text(&enabled(&of(&g.power, |p| &p.managed))), what: "the power limit can be set" },
    Field { names: &["power.draw"], unit: "W", get: |_, g| watts(&average(g)), what: "power, mean over a second where the GPU tells it so" },
    Field { names: &["power.draw.average", "gpu.power.draw.average"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.average)), what: "power, mean over a second" },
    Field { names: &["power.draw.instant", "gpu.power.draw.instant"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.instant)), what: "power of this moment" },
    Field { names: &["power.limit", "gpu.power.requested_limit"], unit: "W", get: |_, g| watts(&requested(g)), what: "the limit that was set" },
    Field { names: &["enforced.power.limit", "gpu.power.current_limit"], unit: "W", get: |_, g| watts(&either(of(&g.power, |p| &p.enforced), || g.power_limit.clone())), what: "the limit that holds" },
    Field { names: &["power.default_limit", "gpu.power.default_limit"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.default)), what: "the default limit" },
    Field { names: &["power.min_limit", "gpu.power.min_limit"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.min)), what: "the min limit" },
    Field { names: &["power.max_limit", "gpu.power.max_limit"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.max)), what: "the max limit" },
    Field { names: &["module.power.draw.average"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.module.average)), what: "of the whole module, where the GPU is part of one" },
    Field { names: &["module.power.draw.instant"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.module.instant)), what: "of the whole module, where the GPU is part of one" },
    Field { names: &["module.power.limit", "module.power.requested_limit"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.module.requested)), what: "of the whole module, where the GPU is part of one" },
    Field { names: &["module.enforced.power.limit", "module.power.current_limit"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.module.enforced)), what: "of the whole module, where the GPU is part of one" },
    Field { names: &["module.power.default_limit"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.module.default)), what: "of the whole module, where the GPU is part of one" },
    Field { names: &["module.power.min_limit"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.module.min)), what: "of the whole module, where the GPU is part of one" },
    Field { names: &["module.power.max_limit"], unit: "W", get: |_, g| watts(&of(&g.power, |p| &p.module.max)), what: "of the whole module, where the GPU is part of one" },
    Field { names: &["clocks.current.graphics", "clocks.gr"], unit: "MHz", get: |_, g| text(&g.clock_graphics), what: "the clock now" },
    Field { names: &["clocks.current.sm", "clocks.sm"], unit: "MHz", get: |_, g| text(&g.clock_sm), what: "the clock now" },
    Field { names: &["clocks.current.memory", "clocks.mem"], unit: "MHz", get: |_, g| text(&g.clock_memory), what: "the clock now" },
    Field { names: &["clocks.current.video", "clocks.video"], unit: "MHz", get: |_, g| text(&g.clock_video), what: "the clock now" },
    Field { names: &["clocks.applications.graphics", "clocks.applications.gr"], unit: "MHz", get: |_, g| text(&of(&g.clocks, |c| &c.application_graphics)), what: "the clock that applications asked for" },
    Field { names: &["clocks.applications.memory", "clocks.applications.mem"], unit: "MHz", get: |_, g| text(&of(&g.clocks, |c| &c.application_memory)), what: "the clock that applications asked for" },
    Field { names: &["clocks.default_applications.graphics", "clocks.default_applications.gr"], unit: "MHz", get: |_, g| text(&of(&g.clocks, |c| &c.default_graphics)), what: "the same, where none was asked for" },
    Field { names: &["clocks.default_applications.memory", "clocks.default_applications.mem"], unit: "MHz", get: |_, g| text(&of(&g.clocks, |c| &c.default_memory)), what: "the same, where none was asked for" },
    Field { names: &["clocks.max.graphics", "clocks.max.gr"], unit: "MHz", get: |_, g| text(&of(&g.clocks, |c| &c.max_graphics)), what: "the fastest clock" },
    Field { names: &["clocks.max.sm"], unit: "MHz", get: |_, g| text(&of(&g.clocks, |c| &c.max_sm)), what: "the fastest clock" },
    Field { names: &["clocks.max.memory", "clocks.max.mem"], unit: "MHz", get: |_, g| text(&of(&g.clocks, |c| &c.max_memory)), what: "the fastest clock" },
    Field { names: &["mig.mode.current"], unit: "", get: |_, g| text(&enabled(&g.mig_enabled)), what: "the GPU is cut into instances" },
    Field { names: &["mig.mode.pending"], unit: "", get: |_, g| text(&enabled(&of(&g.health, |h| &h.mig_pending))), what: "MIG after the next reset" },
    Field { names: &["gsp.mode.current"], unit: "", get: |_, g| text(&enabled(&of(&g.board, |b| &b.gsp_enabled))), what: "the driver's firmware runs on the GPU's own processor" },
    Field { names: &["gsp.mode.default"], unit: "", get: |_, g| text(&enabled(&of(&g.board, |b| &b.gsp_default))), what: "the same, by default" },
    Field { names: &["c2c.mode"], unit: "", get: |_, g| text(&enabled(&of(&g.board, |b| &b.c2c))), what: "a chip-to-chip link to a CPU is on" },
    Field { names: &["protected_memory.total"], unit: "MiB", get: |_, g| text(&mib(&of(&g.board, |b| &b.protected_total))), what: "memory that confidential computing protects" },
    Field { names: &["protected_memory.used"], unit: "MiB", get: |_, g| text(&mib(&of(&g.board, |b| &b.protected_used))), what: "memory that confidential computing protects" },
    Field { names: &["protected_memory.free"], unit: "MiB", get: |_, g| text(&mib(&of(&g.board, |b| &b.protected_free))), what: "memory that confidential computing protects" },
    Field { names: &["fabric.state"], unit: "", get: |_, g| of(&g.nvlink, |l| &l.state), what: "where the GPU's joining of the NVLink fabric is" },
    Field { names: &["fabric.status"], unit: "", get: |_, g| of(&g.nvlink, |l| &l.status), what: "how it ended" },
    Field { names: &["fabric.cliqueId"], unit: "", get: |_, g| text(&of(&g.nvlink, |l| &l.clique)), what: "its clique in the fabric" },
    Field { names: &["fabric.clusterUuid"], unit: "", get: |_, g| of(&g.nvlink, |l| &l.cluster), what: "its cluster" },
    Field { names: &["fabric.health.summary"], unit: "", get: |_, g| of(&g.nvlink, |l| &l.summary), what: "its health in one word" },
    Field { names: &["fabric.health.bandwidth"], unit: "", get: |_, g| text(&fabric::bandwidth(g)), what: "the fabric's bandwidth: Full, Degraded" },
    Field { names: &["fabric.health.route_recovery_in_progress"], unit: "", get: |_, g| text(&fabric::question(g, 2)), what: "a route is being recovered" },
    Field { names: &["fabric.health.route_unhealthy"], unit: "", get: |_, g| text(&fabric::question(g, 4)), what: "a route is not well" },
    Field { names: &["fabric.health.access_timeout_recovery"], unit: "", get: |_, g| text(&fabric::question(g, 6)), what: "an access timed out and is being recovered" },
    Field { names: &["fabric.health.incorrect_configuration"], unit: "", get: |_, g| text(&fabric::configuration(g)), what: "what is configured wrongly" },
    Field { names: &["fabric.health.partition_assigned"], unit: "", get: |_, g| text(&fabric::question(g, 12)), what: "the GPU has a partition of the fabric" },
    Field { names: &["platform.chassis_serial_number"], unit: "", get: |_, g| of(&g.board, |b| &b.chassis_serial), what: "the module's place in its rack" },
    Field { names: &["platform.slot_number"], unit: "", get: |_, g| text(&of(&g.board, |b| &b.slot)), what: "the module's place in its rack" },
    Field { names: &["platform.tray_index"], unit: "", get: |_, g| text(&of(&g.board, |b| &b.tray)), what: "the module's place in its rack" },
    Field { names: &["platform.host_id"], unit: "", get: |_, g| text(&of(&g.board, |b| &b.host_id)), what: "the module's place in its rack" },
    Field { names: &["platform.peer_type"], unit: "", get: |_, g| of(&g.board, |b| &b.peer_type), what: "the module's place in its rack" },
    Field { names: &["platform.module_id"], unit: "", get: |_, g| text(&of(&g.board, |b| &b.platform_module)), what: "the module's place in its rack" },
    Field { names: &["platform.gpu_fabric_guid"], unit: "", get: |_, _| Seen::Absent, what: "not told by a public call" },
    Field { names: &["power_smoothing.delayed_power_smoothing_supported"], unit: "", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.primary_power_floor"], unit: "W", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.secondary_power_floor"], unit: "W", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.min_primary_floor_activation_offset"], unit: "W", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.min_primary_floor_activation_point"], unit: "W", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.window_multiplier"], unit: "ms", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.curr_profile.secondary_power_floor"], unit: "W", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.curr_profile.primary_floor_act_window_multiplier"], unit: "", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.curr_profile.primary_floor_tar_window_multiplier"], unit: "", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.curr_profile.primary_floor_act_offset"], unit: "W", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.admin_override.secondary_power_floor"], unit: "W", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.admin_override.primary_floor_act_window_multiplier"], unit: "", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.admin_override.primary_floor_tar_window_multiplier"], unit: "", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["power_smoothing.admin_override.primary_floor_act_offset"], unit: "W", get: |_, _| Seen::Absent, what: "not asked: power smoothing" },
    Field { names: &["hostname"], unit: "", get: |_, _| Seen::Absent, what: "a name that was given to the GPU; no public call of today's drivers tells it" },
];
