//! Engines, heat, power, clocks, the fabric, MIG devices, processes.

use machine::nvml::{NvmlGpu, NvmlMigDevice, NvmlModulePower};
use model::Seen;

use super::super::tree::{Item, group, leaf};
use super::super::{clean, either, enabled, mib, na, of, program, unit, watts};
use super::{fabric, memory_of, none};

pub(super) fn mig_devices(gpu: &NvmlGpu) -> Vec<Item> {
    let devices = gpu.mig.get().and_then(|mig| mig.devices.get()).map_or(&[][..], Vec::as_slice);
    if devices.is_empty() {
        return vec![group("", "mig_devices", vec![Item::Word("None")])];
    }
    let one = |device: &NvmlMigDevice| {
        let shared = vec![
            leaf("Multiprocessor count", "multiprocessor_count", na(&device.multiprocessors)),
            leaf("Copy Engine count", "copy_engine_count", na(&device.copy_engines)),
            leaf("Encoder count", "encoder_count", na(&device.encoders)),
            leaf("Decoder count", "decoder_count", na(&device.decoders)),
            leaf("OFA count", "ofa_count", na(&device.ofas)),
            leaf("JPG count", "jpg_count", na(&device.jpegs)),
        ];
        // a driver that does not tell an instance's errors has the tool print none
        let errors = either(device.sram_uncorrected.clone(), || Seen::Is(0));
        let bar1 = || memory_of(&device.bar1_total, None, &device.bar1_used, &device.bar1_free);
        vec![
            leaf("Index", "index", device.index.to_string()),
            leaf("GPU Instance ID", "gpu_instance_id", na(&device.gpu_instance)),
            leaf("Compute Instance ID", "compute_instance_id", na(&device.compute_instance)),
            group("Device Attributes", "device_attributes", vec![group("Shared", "shared", shared)]),
            group("ECC Errors", "", vec![group("Volatile", "", vec![leaf("SRAM Uncorrectable", "", na(&errors))])]),
            group(
                "",
                "ecc_error_count",
                vec![group("", "volatile_count", vec![leaf("", "sram_uncorrectable", na(&errors))])],
            ),
            group(
                "FB Memory Usage",
                "fb_memory_usage",
                memory_of(
                    &device.memory_total,
                    Some(&device.memory_reserved),
                    &device.memory_used,
                    &device.memory_free,
                ),
            ),
            group("BAR1 Memory", "", bar1()),
            group("", "bar1_memory_usage", bar1()),
        ]
    };
    let mut items: Vec<Item> = devices.iter().map(|device| group("MIG Device", "", one(device))).collect();
    let elements = devices.iter().map(|device| group("", "mig_device", one(device))).collect();
    items.push(Item::Level { xml: "mig_devices", items: elements });
    items
}

pub(super) fn engines(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let engines = &gpu.engines;
    let mut use_of = vec![
        leaf(if branch >= 570 { "GPU" } else { "Gpu" }, "gpu_util", unit(&gpu.utilization_gpu, "%")),
        leaf("Memory", "memory_util", unit(&gpu.utilization_memory, "%")),
        leaf("Encoder", "encoder_util", unit(&gpu.utilization_encoder, "%")),
        leaf("Decoder", "decoder_util", unit(&gpu.utilization_decoder, "%")),
    ];
    if branch >= 530 {
        use_of.push(leaf("JPEG", "jpeg_util", unit(&of(engines, |e| &e.jpeg), "%")));
        use_of.push(leaf("OFA", "ofa_util", unit(&of(engines, |e| &e.ofa), "%")));
    }
    let sessions = |count: String, fps: String, latency: String| {
        vec![
            leaf("Active Sessions", "session_count", count),
            leaf("Average FPS", "average_fps", fps),
            leaf("Average Latency", "average_latency", latency),
        ]
    };
    let capture = of(engines, |e| &e.capture);
    vec![
        group("Utilization", "utilization", use_of),
        group(
            "Encoder Stats",
            "encoder_stats",
            sessions(
                na(&gpu.encoder_sessions),
                na(&of(engines, |e| &e.encoder_fps)),
                na(&of(engines, |e| &e.encoder_latency)),
            ),
        ),
        group(
            "FBC Stats",
            "fbc_stats",
            sessions(
                na(&capture.as_ref().map(|it| it.0)),
                na(&capture.as_ref().map(|it| it.1)),
                na(&capture.as_ref().map(|it| it.2)),
            ),
        ),
    ]
}

pub(super) fn heat_and_power(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let heat = &gpu.heat;
    let c = |seen: Seen<u32>| unit(&seen, "C");
    let margin = |seen: Seen<i32>| unit(&seen, "C");
    let mut items = vec![leaf("GPU Current Temp", "gpu_temp", unit(&gpu.temperature, "C"))];
    if branch >= 530 {
        items.push(leaf("GPU T.Limit Temp", "gpu_temp_tlimit", margin(of(heat, |h| &h.margin))));
    }
    let margins = branch >= 560 && of(heat, |h| &h.margin_shutdown).is_there();
    let target = leaf("GPU Target Temperature", "gpu_target_temperature", none());
    let memory = leaf("Memory Current Temp", "memory_temp", c(of(heat, |h| &h.memory)));
    if margins {
        items.extend([
            leaf(
                "GPU Shutdown T.Limit Temp",
                "gpu_temp_max_tlimit_threshold",
                margin(of(heat, |h| &h.margin_shutdown)),
            ),
            leaf(
                "GPU Slowdown T.Limit Temp",
                "gpu_temp_slow_tlimit_threshold",
                margin(of(heat, |h| &h.margin_slowdown)),
            ),
            leaf(
                "GPU Max Operating T.Limit Temp",
                "gpu_temp_max_gpu_tlimit_threshold",
                margin(of(heat, |h| &h.margin_gpu_max)),
            ),
            target,
            memory,
            leaf(
                "Memory Max Operating T.Limit Temp",
                "gpu_temp_max_mem_tlimit_threshold",
                margin(of(heat, |h| &h.margin_memory_max)),
            ),
        ]);
    } else {
        items.extend([
            leaf("GPU Shutdown Temp", "gpu_temp_max_threshold", c(of(heat, |h| &h.shutdown))),
            leaf("GPU Slowdown Temp", "gpu_temp_slow_threshold", c(of(heat, |h| &h.slowdown))),
            leaf("GPU Max Operating Temp", "gpu_temp_max_gpu_threshold", c(of(heat, |h| &h.gpu_max))),
            target,
            memory,
            leaf("Memory Max Operating Temp", "gpu_temp_max_mem_threshold", c(of(heat, |h| &h.memory_max))),
        ]);
    }
    let mut all = vec![
        group("Temperature", "temperature", items),
        group(
            "",
            "supported_gpu_target_temp",
            vec![leaf("", "gpu_target_temp_min", none()), leaf("", "gpu_target_temp_max", none())],
        ),
    ];
    all.extend(power(gpu, branch));
    all
}

fn power(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let power = &gpu.power;
    let w = |seen: Seen<u32>| unit(&watts(&seen), "W");
    let pstate = na(&gpu.pstate.as_ref().map(|p| format!("P{p}")));
    let state = || leaf("", "power_state", pstate.clone());
    let average = either(of(power, |p| &p.average), || gpu.power_draw.clone());
    let enforced = either(of(power, |p| &p.enforced), || gpu.power_limit.clone());
    let managed = of(power, |p| &p.managed);
    if branch < 530 {
        let supported = managed.as_ref().map(|on| if *on { "Supported" } else { "N/A" });
        let requested = if managed.is_there() { of(power, |p| &p.requested) } else { Seen::Absent };
        return vec![group(
            "Power Readings",
            "power_readings",
            vec![
                state(),
                leaf("Power Management", "power_management", na(&supported)),
                leaf("Power Draw", "power_draw", w(average)),
                leaf("Power Limit", "power_limit", w(requested)),
                leaf("Default Power Limit", "default_power_limit", w(of(power, |p| &p.default))),
                leaf("Enforced Power Limit", "enforced_power_limit", w(enforced)),
                leaf("Min Power Limit", "min_power_limit", w(of(power, |p| &p.min))),
                leaf("Max Power Limit", "max_power_limit", w(of(power, |p| &p.max))),
            ],
        )];
    }
    let draws = |average: Seen<u32>, instant: Seen<u32>| {
        if branch < 545 {
            return vec![leaf("Power Draw", "power_draw", w(average))];
        }
        vec![
            leaf("Average Power Draw", "average_power_draw", w(average)),
            leaf("Instantaneous Power Draw", "instant_power_draw", w(instant)),
        ]
    };
    let limits = |limits: [Seen<u32>; 5]| {
        let [current, requested, default, min, max] = limits;
        [
            leaf("Current Power Limit", "current_power_limit", w(current)),
            leaf("Requested Power Limit", "requested_power_limit", w(requested)),
            leaf("Default Power Limit", "default_power_limit", w(default)),
            leaf("Min Power Limit", "min_power_limit", w(min)),
            leaf("Max Power Limit", "max_power_limit", w(max)),
        ]
    };
    let mut card = vec![state()];
    card.extend(draws(average, of(power, |p| &p.instant)));
    card.extend(limits([
        enforced,
        of(power, |p| &p.requested),
        of(power, |p| &p.default),
        of(power, |p| &p.min),
        of(power, |p| &p.max),
    ]));
    let mut items = vec![group("GPU Power Readings", "gpu_power_readings", card)];
    if branch >= 545 {
        // the tool's own space at the end
        items.push(group(
            "GPU Memory Power Readings ",
            "gpu_memory_power_readings",
            draws(of(power, |p| &p.memory_average), of(power, |p| &p.memory_instant)),
        ));
    }
    let blank = NvmlModulePower::default();
    let whole = power.get().map_or(&blank, |power| &power.module);
    let mut module = vec![state()];
    module.extend(draws(whole.average.clone(), whole.instant.clone()));
    module
        .extend(limits([&whole.enforced, &whole.requested, &whole.default, &whole.min, &whole.max].map(Clone::clone)));
    items.push(group("Module Power Readings", "module_power_readings", module));
    if branch >= 570 {
        items.push(leaf("Power Smoothing", "power_smoothing", none()));
        items.push(group(
            "Workload Power Profiles",
            "power_profiles",
            vec![
                leaf("Requested Profiles", "power_profile_requested_profiles", none()),
                leaf("Enforced Profiles", "power_profile_enforced_profiles", none()),
            ],
        ));
    }
    items
}

pub(super) fn clocks(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let clocks = &gpu.clocks;
    let mhz = |seen: &Seen<u32>| unit(seen, "MHz");
    let graphics = |value: String| leaf("Graphics", "graphics_clock", value);
    let memory = |value: String| leaf("Memory", "mem_clock", value);
    let mut items = vec![
        group(
            "Clocks",
            "clocks",
            vec![
                graphics(mhz(&gpu.clock_graphics)),
                leaf("SM", "sm_clock", mhz(&gpu.clock_sm)),
                memory(mhz(&gpu.clock_memory)),
                leaf("Video", "video_clock", mhz(&gpu.clock_video)),
            ],
        ),
        group(
            "Applications Clocks",
            "applications_clocks",
            vec![
                graphics(mhz(&of(clocks, |c| &c.application_graphics))),
                memory(mhz(&of(clocks, |c| &c.application_memory))),
            ],
        ),
        group(
            "Default Applications Clocks",
            "default_applications_clocks",
            vec![graphics(mhz(&of(clocks, |c| &c.default_graphics))), memory(mhz(&of(clocks, |c| &c.default_memory)))],
        ),
    ];
    if branch >= 530 {
        items.push(group("Deferred Clocks", "deferred_clocks", vec![memory(none())]));
    }
    let boost = of(clocks, |c| &c.auto_boost);
    let on = |seen: Seen<bool>| na(&enabled(&seen).map(|text| if text == "Enabled" { "On" } else { "Off" }));
    items.extend([
        group(
            "Max Clocks",
            "max_clocks",
            vec![
                graphics(mhz(&of(clocks, |c| &c.max_graphics))),
                leaf("SM", "sm_clock", mhz(&of(clocks, |c| &c.max_sm))),
                memory(mhz(&of(clocks, |c| &c.max_memory))),
                leaf("Video", "video_clock", mhz(&of(clocks, |c| &c.max_video))),
            ],
        ),
        group(
            "Max Customer Boost Clocks",
            "max_customer_boost_clocks",
            vec![graphics(mhz(&of(clocks, |c| &c.boost_max_graphics)))],
        ),
        group(
            "Clock Policy",
            "clock_policy",
            vec![
                leaf("Auto Boost", "auto_boost", on(boost.as_ref().map(|it| it.0))),
                leaf("Auto Boost Default", "auto_boost_default", on(boost.as_ref().map(|it| it.1))),
            ],
        ),
    ]);
    if branch < 570 {
        items.push(group("Voltage", "voltage", vec![leaf("Graphics", "graphics_volt", none())]));
    }
    items
}

pub(super) fn fabric_items(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    if branch < 520 {
        return Vec::new();
    }
    let links = &gpu.nvlink;
    let mut items = vec![
        leaf("State", "state", na(&of(links, |l| &l.state))),
        leaf("Status", "status", na(&of(links, |l| &l.status))),
    ];
    if branch >= 545 {
        items.push(leaf("CliqueId", "cliqueId", na(&of(links, |l| &l.clique))));
        items.push(leaf("ClusterUUID", "clusterUuid", na(&of(links, |l| &l.cluster))));
        let mut health = Vec::new();
        if branch >= 570 {
            health.push(leaf("Summary", "summary", na(&of(links, |l| &l.summary))));
        }
        health.push(leaf("Bandwidth", "bandwidth", na(&fabric::bandwidth(gpu))));
        if branch >= 570 {
            health.extend([
                leaf("Route Recovery in progress", "route_recovery_in_progress", na(&fabric::question(gpu, 2))),
                leaf("Route Unhealthy", "route_unhealthy", na(&fabric::question(gpu, 4))),
                leaf("Access Timeout Recovery", "access_timeout_recovery", na(&fabric::question(gpu, 6))),
                leaf("Incorrect Configuration", "incorrect_configuration", na(&fabric::configuration(gpu))),
                leaf("Partition Assigned", "partition_assigned", na(&fabric::question(gpu, 12))),
            ]);
        }
        items.push(group("Health", "health", health));
    }
    vec![group("Fabric", "fabric", items)]
}

/// The text form has it behind a switch of its own.
pub(super) fn supported_clocks(gpu: &NvmlGpu) -> Item {
    let Seen::Is(list) = of(&gpu.clocks, |c| &c.supported) else { return leaf("", "supported_clocks", none()) };
    if list.is_empty() {
        return leaf("", "supported_clocks", none());
    }
    let one = |(memory, graphics): &(u32, Vec<u32>)| {
        let mut items = vec![leaf("", "value", format!("{memory} MHz"))];
        items.extend(graphics.iter().map(|clock| leaf("", "supported_graphics_clock", format!("{clock} MHz"))));
        group("", "supported_mem_clock", items)
    };
    group("", "supported_clocks", list.iter().map(one).collect())
}

pub(super) fn processes(gpu: &NvmlGpu, branch: u32) -> Vec<Item> {
    let mut items = Vec::new();
    match &gpu.processes {
        Seen::Is(list) if !list.is_empty() => {
            let mut words = Vec::new();
            let mut elements = Vec::new();
            for process in list {
                let memory = unit(&mib(&process.memory), "MiB");
                let fields = || {
                    vec![
                        leaf("GPU instance ID", "", na(&process.gpu_instance)),
                        leaf("Compute instance ID", "", na(&process.compute_instance)),
                        leaf("Process ID", "", process.pid.to_string()),
                        leaf("    Type", "", clean(&process.kind)),
                        leaf("    Name", "", program(&process.name)),
                        leaf("    Used GPU Memory", "", memory.clone()),
                        leaf("", "gpu_instance_id", na(&process.gpu_instance)),
                        leaf("", "compute_instance_id", na(&process.compute_instance)),
                        leaf("", "pid", process.pid.to_string()),
                        leaf("", "type", clean(&process.kind)),
                        leaf("", "process_name", program(&process.name)),
                        leaf("", "used_memory", memory.clone()),
                    ]
                };
                words.extend(fields());
                elements.push(group("", "process_info", fields()));
            }
            items.push(group("Processes", "", words));
            items.push(group("", "processes", elements));
        }
        Seen::Is(_) => {
            items.push(leaf("Processes", "", "None".into()));
            items.push(group("", "processes", Vec::new()));
        }
        other => items.push(leaf("Processes", "processes", na(&other.as_ref().map(|_| "None")))),
    }
    items.push(group("", "accounted_processes", Vec::new()));
    if branch >= 570 {
        let egm = na(&of(&gpu.board, |b| &b.egm));
        items.push(group("Capabilities", "capabilities", vec![leaf("EGM", "egm", egm)]));
    }
    items
}
