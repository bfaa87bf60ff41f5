//! What `-q` shows of a GPU, in its order. What no public call of NVML tells stands as N/A.

pub(super) mod fabric;
mod memory;
mod running;

use machine::nvml::{NvmlGpu, reasons};
use model::Seen;

use super::tree::{Item, group, leaf};
use super::{Smi, active, enabled, mib, na, of, unit, yes};

fn none() -> String {
    "N/A".into()
}

pub(super) fn all(smi: &Smi<'_>, gpu: &NvmlGpu) -> Vec<Item> {
    let branch = smi.branch();
    let mut items = identity(gpu, branch);
    items.push(pci(gpu, branch));
    items.extend(state(gpu, branch));
    items.extend(memory::use_of(gpu, branch));
    items.push(leaf("Compute Mode", "compute_mode", na(&gpu.compute_mode)));
    items.extend(running::engines(gpu, branch));
    items.extend(memory::errors(gpu, branch));
    items.extend(running::heat_and_power(gpu, branch));
    items.extend(running::clocks(gpu, branch));
    items.extend(running::fabric_items(gpu, branch));
    items.push(running::supported_clocks(gpu));
    items.extend(running::processes(gpu, branch));
    items
}

fn identity(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let board = &gpu.board;
    let deprecated = || "Requested functionality has been deprecated".to_owned();
    let attached = of(board, |b| &b.display_attached);
    let mut items = vec![
        leaf("Product Name", "product_name", na(&gpu.name)),
        leaf("Product Brand", "product_brand", na(&gpu.brand)),
    ];
    if branch >= 500 {
        items.push(leaf("Product Architecture", "product_architecture", na(&gpu.architecture)));
    }
    if branch >= 570 {
        items.push(leaf("Display Mode", "display_mode", deprecated()));
        items.push(leaf("Display Attached", "display_attached", na(&yes(&attached))));
    } else {
        items.push(leaf("Display Mode", "display_mode", na(&enabled(&attached))));
    }
    items.push(leaf("Display Active", "display_active", na(&enabled(&gpu.display_active))));
    items.push(leaf("Persistence Mode", "persistence_mode", na(&enabled(&gpu.persistence))));
    if branch >= 530 {
        items.push(leaf("Addressing Mode", "addressing_mode", na(&of(board, |b| &b.addressing))));
    }
    items.push(group(
        "MIG Mode",
        "mig_mode",
        vec![
            leaf("Current", "current_mig", na(&enabled(&gpu.mig_enabled))),
            leaf("Pending", "pending_mig", na(&enabled(&of(&gpu.health, |h| &h.mig_pending)))),
        ],
    ));
    items.extend(running::mig_devices(gpu));
    items.push(leaf("Accounting Mode", "accounting_mode", na(&enabled(&of(board, |b| &b.accounting)))));
    items.push(leaf(
        "Accounting Mode Buffer Size",
        "accounting_mode_buffer_size",
        na(&of(board, |b| &b.accounting_buffer)),
    ));
    // Windows alone has driver models.
    items.push(group(
        "Driver Model",
        "driver_model",
        vec![leaf("Current", "current_dm", none()), leaf("Pending", "pending_dm", none())],
    ));
    items.push(leaf("Serial Number", "serial", na(&gpu.serial)));
    items.push(leaf("GPU UUID", "uuid", na(&gpu.uuid)));
    if branch >= 570 {
        items.push(leaf("GPU PDI", "pdi", na(&of(board, |b| &b.pdi))));
    }
    items.push(leaf("Minor Number", "minor_number", na(&gpu.minor)));
    items.push(leaf("VBIOS Version", "vbios_version", na(&gpu.vbios)));
    items.push(leaf("MultiGPU Board", "multigpu_board", na(&yes(&of(board, |b| &b.multi_gpu)))));
    items.push(leaf("Board ID", "board_id", na(&of(board, |b| &b.board_id).map(|id| format!("0x{id:x}")))));
    let part = na(&of(board, |b| &b.part_number));
    let gpu_part = na(&of(board, |b| &b.gpu_part_number));
    if branch >= 500 {
        items.push(leaf("Board Part Number", "board_part_number", part));
        items.push(leaf("GPU Part Number", "gpu_part_number", gpu_part));
        items.push(leaf("FRU Part Number", "gpu_fru_part_number", none()));
    } else {
        items.push(leaf("GPU Part Number", "gpu_part_number", part));
    }
    if branch >= 570 {
        items.push(platform(gpu));
    } else {
        let module = if branch >= 500 { na(&of(board, |b| &b.module_id)) } else { none() };
        items.push(leaf("Module ID", "gpu_module_id", module));
    }
    items.push(group(
        "Inforom Version",
        "inforom_version",
        vec![
            leaf("Image Version", "img_version", na(&of(board, |b| &b.inforom_image))),
            leaf("OEM Object", "oem_object", na(&of(board, |b| &b.inforom_oem))),
            leaf("ECC Object", "ecc_object", na(&of(board, |b| &b.inforom_ecc))),
            leaf("Power Management Object", "pwr_object", na(&of(board, |b| &b.inforom_power))),
        ],
    ));
    if branch >= 530 {
        items.push(group(
            "Inforom BBX Object Flush",
            "inforom_bbx_flush",
            vec![
                leaf("Latest Timestamp", "latest_timestamp", none()),
                leaf("Latest Duration", "latest_duration", none()),
            ],
        ));
    }
    items.push(group(
        "GPU Operation Mode",
        "gpu_operation_mode",
        vec![
            leaf("Current", "current_gom", na(&of(board, |b| &b.operation_mode))),
            leaf("Pending", "pending_gom", na(&of(board, |b| &b.operation_mode_pending))),
        ],
    ));
    items.extend(virtualization(gpu, branch));
    items
}

/// Without a serial number of its chassis a card stands in none, and its place means nothing (an H100 in a VM): -q says so,
/// while --query-gpu prints the raw values.
fn platform(gpu: &NvmlGpu) -> Item {
    let board = &gpu.board;
    let stands = of(board, |b| &b.chassis_serial).get().is_some_and(|serial| !serial.is_empty());
    let place = |text: String| if stands { text } else { none() };
    group(
        "Platform Info",
        "platformInfo",
        vec![
            leaf("Chassis Serial Number", "chassis_serial_number", place(na(&of(board, |b| &b.chassis_serial)))),
            leaf("Slot Number", "slot_number", place(na(&of(board, |b| &b.slot)))),
            leaf("Tray Index", "tray_index", place(na(&of(board, |b| &b.tray)))),
            leaf("Host ID", "host_id", place(na(&of(board, |b| &b.host_id)))),
            leaf("Peer Type", "peer_type", place(na(&of(board, |b| &b.peer_type)))),
            leaf("Module Id", "module_id", na(&of(board, |b| &b.platform_module))),
            leaf("GPU Fabric GUID", "gpu_fabric_guid", none()),
        ],
    )
}

fn virtualization(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let board = &gpu.board;
    let gsp = || leaf("GSP Firmware Version", "gsp_firmware_version", na(&of(board, |b| &b.gsp_version)));
    let mut modes = vec![
        leaf("Virtualization Mode", "virtualization_mode", na(&gpu.virtualization)),
        leaf("Host VGPU Mode", "host_vgpu_mode", na(&of(board, |b| &b.host_vgpu_mode))),
    ];
    let mut items = Vec::new();
    if branch >= 545 {
        items.push(leaf("GPU C2C Mode", "c2c_mode", na(&enabled(&of(board, |b| &b.c2c)))));
        modes.push(leaf("vGPU Heterogeneous Mode", "vgpu_heterogeneous_mode", none()));
    } else {
        items.push(gsp());
    }
    items.push(group("GPU Virtualization Mode", "gpu_virtualization_mode", modes));
    if branch >= 570 {
        items.push(leaf("GPU Recovery Action", "gpu_recovery_action", na(&of(&gpu.health, |h| &h.recovery))));
    } else if branch >= 500 {
        items.push(group(
            "GPU Reset Status",
            "gpu_reset_status",
            vec![
                leaf("Reset Required", "reset_required", none()),
                leaf("Drain and Reset Recommended", "drain_and_reset_recommended", none()),
            ],
        ));
    }
    if branch >= 545 {
        items.push(gsp());
    }
    items.push(group("IBMNPU", "ibmnpu", vec![leaf("Relaxed Ordering Mode", "relaxed_ordering_mode", none())]));
    items
}

fn pci(gpu: &NvmlGpu, branch: u32) -> Item {
    // "00000000:1B:00.0"
    let part =
        |at: std::ops::Range<usize>| gpu.bus_id.as_ref().map(|id| id.get(at).unwrap_or_default().to_ascii_uppercase());
    let both = |text: &'static str, xml: &'static str, value: Seen<String>| {
        [leaf(text, "", na(&value.as_ref().map(|v| format!("0x{v}")))), leaf("", xml, na(&value))]
    };
    let id = |seen: &Seen<u32>| seen.as_ref().map(|id| format!("{id:08X}"));
    let mut items = Vec::new();
    items.extend(both("Bus", "pci_bus", part(9..11)));
    items.extend(both("Device", "pci_device", part(12..14)));
    items.extend(both("Domain", "pci_domain", part(4..8)));
    if branch >= 545 {
        let class = of(&gpu.board, |b| &b.pci_class);
        items.extend(both("Base Classcode", "pci_base_class", class.as_ref().map(|class| format!("{:x}", class.0))));
        items.extend(both("Sub Classcode", "pci_sub_class", class.map(|class| format!("{:x}", class.1))));
    }
    items.extend(both("Device Id", "pci_device_id", id(&gpu.pci_device_id)));
    items.push(leaf("Bus Id", "pci_bus_id", na(&gpu.bus_id)));
    items.extend(both("Sub System Id", "pci_sub_system_id", id(&gpu.pci_subsystem_id)));
    let mut generation = vec![
        leaf("Max", "max_link_gen", na(&gpu.pcie_gen_max)),
        leaf("Current", "current_link_gen", na(&gpu.pcie_gen_current)),
    ];
    if branch >= 515 {
        // the card's end of the link
        generation.push(leaf("Device Current", "device_current_link_gen", na(&gpu.pcie_gen_current)));
        generation.push(leaf("Device Max", "max_device_link_gen", na(&of(&gpu.health, |h| &h.pcie_gen_max_card))));
        generation.push(leaf("Host Max", "max_host_link_gen", na(&of(&gpu.pcie, |p| &p.host_gen_max))));
    }
    let lanes = |seen: &Seen<u32>| na(&seen.as_ref().map(|lanes| format!("{lanes}x")));
    items.push(group(
        "GPU Link Info",
        "pci_gpu_link_info",
        vec![
            group("PCIe Generation", "pcie_gen", generation),
            group(
                "Link Width",
                "link_widths",
                vec![
                    leaf("Max", "max_link_width", lanes(&gpu.pcie_width_max)),
                    leaf("Current", "current_link_width", lanes(&gpu.pcie_width_current)),
                ],
            ),
        ],
    ));
    items.push(group(
        "Bridge Chip",
        "pci_bridge_chip",
        vec![leaf("Type", "bridge_chip_type", none()), leaf("Firmware", "bridge_chip_fw", none())],
    ));
    items.push(leaf("Replays Since Reset", "replay_counter", na(&of(&gpu.pcie, |p| &p.replays))));
    items.push(leaf("Replay Number Rollovers", "replay_rollover_counter", na(&of(&gpu.pcie, |p| &p.replay_rollovers))));
    items.push(leaf("Tx Throughput", "tx_util", unit(&of(&gpu.pcie, |p| &p.sent), "KB/s")));
    items.push(leaf("Rx Throughput", "rx_util", unit(&of(&gpu.pcie, |p| &p.received), "KB/s")));
    let inbound = || leaf("Atomic Caps Inbound", "atomic_caps_inbound", none());
    let outbound = || leaf("Atomic Caps Outbound", "atomic_caps_outbound", none());
    match branch {
        570.. => items.extend([outbound(), inbound()]),
        530..570 => items.extend([inbound(), outbound()]),
        _ => {}
    }
    group("PCI", "pci", items)
}

fn state(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let pstate = na(&gpu.pstate.as_ref().map(|p| format!("P{p}")));
    let mut items = vec![
        leaf("Fan Speed", "fan_speed", unit(&gpu.fan, "%")),
        leaf("Performance State", "performance_state", pstate),
    ];
    let bits = of(&gpu.health, |h| &h.event_reasons);
    let now = |bit| na(&active(&bits, bit));
    if branch >= 530 {
        items.push(group(
            "Clocks Event Reasons",
            "clocks_event_reasons",
            vec![
                leaf("Idle", "clocks_event_reason_gpu_idle", now(reasons::IDLE)),
                leaf(
                    "Applications Clocks Setting",
                    "clocks_event_reason_applications_clocks_setting",
                    now(reasons::APPLICATION),
                ),
                leaf("SW Power Cap", "clocks_event_reason_sw_power_cap", now(reasons::SW_POWER_CAP)),
                leaf("HW Slowdown", "clocks_event_reason_hw_slowdown", now(reasons::HW_SLOWDOWN)),
                leaf("    HW Thermal Slowdown", "clocks_event_reason_hw_thermal_slowdown", now(reasons::HW_THERMAL)),
                leaf(
                    "    HW Power Brake Slowdown",
                    "clocks_event_reason_hw_power_brake_slowdown",
                    now(reasons::HW_POWER_BRAKE),
                ),
                leaf("Sync Boost", "clocks_event_reason_sync_boost", now(reasons::SYNC_BOOST)),
                leaf("SW Thermal Slowdown", "clocks_event_reason_sw_thermal_slowdown", now(reasons::SW_THERMAL)),
                leaf("Display Clock Setting", "clocks_event_reason_display_clocks_setting", now(reasons::DISPLAY)),
            ],
        ));
    } else {
        items.push(group(
            "Clocks Throttle Reasons",
            "clocks_throttle_reasons",
            vec![
                leaf("Idle", "clocks_throttle_reason_gpu_idle", now(reasons::IDLE)),
                leaf(
                    "Applications Clocks Setting",
                    "clocks_throttle_reason_applications_clocks_setting",
                    now(reasons::APPLICATION),
                ),
                leaf("SW Power Cap", "clocks_throttle_reason_sw_power_cap", now(reasons::SW_POWER_CAP)),
                leaf("HW Slowdown", "clocks_throttle_reason_hw_slowdown", now(reasons::HW_SLOWDOWN)),
                leaf("    HW Thermal Slowdown", "clocks_throttle_reason_hw_thermal_slowdown", now(reasons::HW_THERMAL)),
                leaf(
                    "    HW Power Brake Slowdown",
                    "clocks_throttle_reason_hw_power_brake_slowdown",
                    now(reasons::HW_POWER_BRAKE),
                ),
                leaf("Sync Boost", "clocks_throttle_reason_sync_boost", now(reasons::SYNC_BOOST)),
                leaf("SW Thermal Slowdown", "clocks_throttle_reason_sw_thermal_slowdown", now(reasons::SW_THERMAL)),
                leaf("Display Clock Setting", "clocks_throttle_reason_display_clocks_setting", now(reasons::DISPLAY)),
            ],
        ));
    }
    if branch >= 570 {
        let held = |xml, text, seen: Seen<u64>| leaf(text, xml, unit(&seen, "us"));
        let clocks = &gpu.clocks;
        items.push(group(
            "Clocks Event Reasons Counters",
            "clocks_event_reasons_counters",
            vec![
                held(
                    "clocks_event_reasons_counters_sw_power_cap",
                    "SW Power Capping",
                    of(clocks, |c| &c.held_sw_power_cap),
                ),
                held("clocks_event_reasons_counters_sync_boost", "Sync Boost", of(clocks, |c| &c.held_sync_boost)),
                held(
                    "clocks_event_reasons_counters_sw_therm_slowdown",
                    "SW Thermal Slowdown",
                    of(clocks, |c| &c.held_sw_thermal),
                ),
                held(
                    "clocks_event_reasons_counters_hw_therm_slowdown",
                    "HW Thermal Slowdown",
                    of(clocks, |c| &c.held_hw_thermal),
                ),
                held(
                    "clocks_event_reasons_counters_hw_power_brake",
                    "HW Power Braking",
                    of(clocks, |c| &c.held_hw_power_brake),
                ),
            ],
        ));
    }
    if branch >= 530 {
        let sparse = na(&enabled(&of(&gpu.board, |b| &b.sparse_operation)));
        items.push(leaf("Sparse Operation Mode", "sparse_operation_mode", sparse));
    }
    items
}

fn memory_of(total: &Seen<u64>, reserved: Option<&Seen<u64>>, used: &Seen<u64>, free: &Seen<u64>) -> Vec<Item> {
    let size = |seen: &Seen<u64>| unit(&mib(seen), "MiB");
    let mut items = vec![leaf("Total", "total", size(total))];
    items.extend(reserved.map(|reserved| leaf("Reserved", "reserved", size(reserved))));
    items.push(leaf("Used", "used", size(used)));
    items.push(leaf("Free", "free", size(free)));
    items
}
