//! What is asked of a card only where it is shown.

use cuda::nvml::{Device, Platform};
use model::{Reason, Seen};

use super::plain::{field, newest};
use super::{mig, said};
use crate::nvml::{
    NvmlBoard, NvmlClocks, NvmlCounts, NvmlEngines, NvmlErrors, NvmlGpu, NvmlHeat, NvmlLink, NvmlLinks,
    NvmlModulePower, NvmlPcie, NvmlPlaces, NvmlPower, NvmlSession,
};

/// How far back the driver is asked for processes' samples: it keeps some seconds.
const SAMPLES: std::time::Duration = std::time::Duration::from_secs(1);

/// All topics of a card. Without `throughput` the link is not measured, which takes 20 ms a direction.
pub(super) fn add(gpu: &mut NvmlGpu, own: &Device<'_>, driver: Option<&String>, throughput: bool) {
    let is = |cut: &Seen<bool>| cut.get() == Some(&true);
    gpu.board = Seen::Is(Box::new(board(own)));
    gpu.errors = Seen::Is(Box::new(errors(own)));
    let (clocks, power, heat, mut pcie) = measured(own, driver);
    if throughput {
        pcie.sent = said(own.pcie_throughput(0));
        pcie.received = said(own.pcie_throughput(1));
    }
    gpu.clocks = Seen::Is(Box::new(clocks));
    gpu.power = Seen::Is(Box::new(power));
    gpu.heat = Seen::Is(Box::new(heat));
    gpu.pcie = Seen::Is(Box::new(pcie));
    gpu.engines = Seen::Is(Box::new(engines(own)));
    gpu.nvlink = Seen::Is(Box::new(links(own)));
    gpu.mig = Seen::Is(Box::new(mig::mig(own, is(&gpu.mig_enabled))));
    uses(gpu, own);
}

/// What of them the table shows.
pub(super) fn table(gpu: &mut NvmlGpu, own: &Device<'_>) {
    let average = field(&own.fields(&[AVERAGE]), 0).map(|number| u32::try_from(number).unwrap_or(0));
    gpu.power = Seen::Is(Box::new(NvmlPower { average, ..NvmlPower::default() }));
    if gpu.mig_enabled.get() == Some(&true) {
        gpu.mig = Seen::Is(Box::new(mig::parts(own)));
    }
}

/// What of the topics changes from second to second, in one call for most of it; the rest stays as it was.
pub(super) fn again(gpu: &mut NvmlGpu, own: &Device<'_>, driver: Option<&String>) {
    let fields = fields(own, driver);
    if let Seen::Is(clocks) = &mut gpu.clocks {
        fields.held(clocks);
    }
    if let Seen::Is(power) = &mut gpu.power {
        fields.drawn(power);
        power.energy = said(own.energy());
    }
    if let Seen::Is(heat) = &mut gpu.heat {
        fields.degrees(heat);
        heat.margin = said(own.margin());
        heat.fans = said(own.fans()).map(|count| (0..count.min(16)).filter_map(|fan| own.fan(fan).ok()).collect());
    }
    if let Seen::Is(pcie) = &mut gpu.pcie {
        pcie.replays = newest(said(own.pcie_replays()), || fields.small(1));
        pcie.replay_rollovers = fields.small(2);
    }
    gpu.engines = Seen::Is(Box::new(engines(own)));
    if gpu.mig_enabled.get() == Some(&true) {
        gpu.mig = Seen::Is(Box::new(mig::mig(own, true)));
    }
    uses(gpu, own);
}

/// nvmlConfComputeSystemState_t: environment, feature, developer tools' mode.
pub(super) fn confidential((_, feature, tools): (u32, u32, u32)) -> String {
    match (feature, tools) {
        (0, _) => "off",
        (_, 0) => "on",
        _ => "developer tools",
    }
    .into()
}

fn board(own: &Device<'_>) -> NvmlBoard {
    let on = |number: u32| number != 0;
    let module = said(own.module_id());
    let platform = said(own.platform());
    let id = platform.as_ref().map(|it| u32::from(it.module));
    let part = |get: fn(&Platform) -> u8| platform.as_ref().map(|it| u32::from(get(it)));
    let gsp = said(own.gsp_mode());
    let operation = said(own.operation_mode());
    let protected = said(own.protected_memory());
    NvmlBoard {
        part_number: said(own.part_number()),
        gpu_part_number: Seen::Absent,
        board_id: said(own.board_id()),
        multi_gpu: said(own.multi_gpu_board()).map(on),
        pdi: said(own.pdi()).map(|number| format!("0x{number:016x}")),
        inforom_image: said(own.inforom_image()),
        inforom_oem: said(own.inforom(0)),
        inforom_ecc: said(own.inforom(1)),
        inforom_power: said(own.inforom(2)),
        gsp_version: said(own.gsp_version()),
        gsp_enabled: gsp.as_ref().map(|(now, _)| on(*now)),
        gsp_default: gsp.map(|(_, default)| on(default)),
        addressing: said(own.addressing())
            .map(|mode| ["None", "HMM", "ATS"].get(mode as usize).map_or("Unknown", |it| it).into()),
        display_attached: said(own.display_mode()).map(on),
        accounting: said(own.accounting()).map(on),
        accounting_buffer: said(own.accounting_buffer()),
        operation_mode: operation.as_ref().map(|(now, _)| operation_mode(*now).into()),
        operation_mode_pending: operation.map(|(_, pending)| operation_mode(pending).into()),
        c2c: said(own.c2c()).map(|mode| mode.isC2cEnabled != 0),
        host_vgpu_mode: said(own.host_vgpu_mode()).map(|mode| if on(mode) { "SR-IOV" } else { "Non SR-IOV" }.into()),
        pci_class: said(own.pci_class()),
        platform_module: newest(id, || module.clone()),
        module_id: module,
        chassis_serial: platform.as_ref().map(|it| it.chassis_serial.clone()),
        slot: part(|it| it.slot),
        tray: part(|it| it.tray),
        host_id: part(|it| it.host),
        peer_type: platform
            .as_ref()
            .map(|it| if it.peer == 0 { "Direct Connected" } else { "Switch Connected" }.into()),
        sparse_operation: Seen::Absent,
        egm: said(own.capabilities()).map(|mask| if mask & 1 != 0 { "enabled" } else { "disabled" }.into()),
        protected_total: protected.as_ref().map(|memory| memory.total),
        protected_used: protected.as_ref().map(|memory| memory.used),
        protected_free: protected.map(|memory| memory.free),
    }
}

fn operation_mode(mode: u32) -> &'static str {
    match mode {
        0 => "All On",
        1 => "Compute",
        2 => "Low Double Precision",
        _ => "Unknown",
    }
}

/// NVML_FI_DEV_REMAPPED_ROWS_COR_INACTIVE and _UNC_INACTIVE, since branch 580.
const INACTIVE: [(u32, u32); 2] = [(301, 0), (302, 0)];

fn errors(own: &Device<'_>) -> NvmlErrors {
    let sram = said(own.sram());
    let of = |get: fn(&cuda::nvml::nvmlEccSramErrorStatus_v1_t) -> u64| sram.as_ref().map(get);
    let counts = |counter: u32, corrected: Seen<u64>, parity: Seen<u64>, secded: Seen<u64>| {
        let places = |kind: u32| {
            let at = |place| said(own.ecc_at(kind, counter, place));
            NvmlPlaces {
                l1: at(0),
                l2: at(1),
                device_memory: at(2),
                registers: at(3),
                texture: at(4),
                cbu: at(6),
                sram: at(7),
            }
        };
        let (all, lost) = (places(0), places(1));
        NvmlCounts {
            sram_corrected: corrected,
            sram_uncorrected_parity: parity,
            sram_uncorrected_secded: secded,
            dram_corrected: all.device_memory.clone(),
            dram_uncorrected: lost.device_memory.clone(),
            corrected: all,
            uncorrected: lost,
        }
    };
    let repair = said(own.repair());
    let inactive = own.fields(&INACTIVE);
    let small = |number: Seen<i64>| number.map(|number| u32::try_from(number).unwrap_or(0));
    NvmlErrors {
        volatile: counts(0, of(|it| it.volatileCor), of(|it| it.volatileUncParity), of(|it| it.volatileUncSecDed)),
        aggregate: counts(1, of(|it| it.aggregateCor), of(|it| it.aggregateUncParity), of(|it| it.aggregateUncSecDed)),
        sram_threshold_exceeded: sram.as_ref().map(|it| it.bThresholdExceeded != 0),
        sram_l2: of(|it| it.aggregateUncBucketL2),
        sram_sm: of(|it| it.aggregateUncBucketSm),
        sram_microcontroller: of(|it| it.aggregateUncBucketMcu),
        sram_pcie: of(|it| it.aggregateUncBucketPcie),
        sram_other: of(|it| it.aggregateUncBucketOther),
        channel_repair_pending: repair.as_ref().map(|it| it.0),
        tpc_repair_pending: repair.map(|it| it.1),
        unrepairable_memory: said(own.unrepairable()).map(|flag| flag != 0),
        remapped_corrected_inactive: small(field(&inactive, 0)),
        remapped_uncorrected_inactive: small(field(&inactive, 1)),
        histogram: said(own.histogram()).map(|banks| [banks.max, banks.high, banks.partial, banks.low, banks.none]),
        retired_single_pages: said(own.retired_pages(0)),
        retired_double_pages: said(own.retired_pages(1)),
    }
}

/// NVML_FI_DEV_POWER_AVERAGE of the GPU.
const AVERAGE: (u32, u32) = (185, 0);

/// NVML_FI_DEV_*: energy, memory temperature, replay counter and its rollovers; power average and instant of the GPU (0), the
/// module (1) and the memory (2); margins of shutdown, slowdown, memory and GPU; times of two event reasons in ns.
const FIELDS: [(u32, u32); 21] = [
    (82, 0),
    (94, 0),
    (95, 0),
    AVERAGE,
    (186, 0),
    (185, 2),
    (186, 2),
    (193, 0),
    (194, 0),
    (195, 0),
    (196, 0),
    (74, 0),
    (76, 0),
    (185, 1),
    (186, 1),
    (190, 1),
    (192, 1),
    (189, 1),
    (187, 1),
    (188, 1),
    (192, 0),
];

/// SW thermal, HW thermal, HW power brake: numbered anew within branch 580 (NVML's change log).
fn reason_fields(driver: Option<&String>) -> [(u32, u32); 3] {
    let mut parts =
        driver.map(String::as_str).unwrap_or_default().split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let first = if version >= (580, 82) { 269 } else { 251 };
    [first, first + 1, first + 2].map(|id| (id, 0))
}

struct Fields(Result<Vec<Result<i64, cuda::nvml::NvmlCode>>, cuda::nvml::NvmlCode>);

fn fields(own: &Device<'_>, driver: Option<&String>) -> Fields {
    let mut ids = FIELDS.to_vec();
    ids.extend(reason_fields(driver));
    Fields(own.fields(&ids))
}

impl Fields {
    fn small(&self, n: usize) -> Seen<u32> {
        field(&self.0, n).map(|number| u32::try_from(number).unwrap_or(0))
    }

    fn signed(&self, n: usize) -> Seen<i32> {
        field(&self.0, n).map(|number| i32::try_from(number).unwrap_or(0))
    }

    fn microseconds(&self, n: usize) -> Seen<u64> {
        field(&self.0, n).map(|ns| u64::try_from(ns).unwrap_or(0) / 1000)
    }

    fn held(&self, clocks: &mut NvmlClocks) {
        clocks.held_sw_power_cap = self.microseconds(11);
        clocks.held_sync_boost = self.microseconds(12);
        clocks.held_sw_thermal = self.microseconds(21);
        clocks.held_hw_thermal = self.microseconds(22);
        clocks.held_hw_power_brake = self.microseconds(23);
    }

    fn drawn(&self, power: &mut NvmlPower) {
        power.average = self.small(3);
        power.instant = self.small(4);
        power.memory_average = self.small(5);
        power.memory_instant = self.small(6);
        power.module.average = self.small(13);
        power.module.instant = self.small(14);
    }

    fn degrees(&self, heat: &mut NvmlHeat) {
        heat.memory = self.small(0);
        heat.margin_shutdown = self.signed(7);
        heat.margin_slowdown = self.signed(8);
        heat.margin_memory_max = self.signed(9);
        heat.margin_gpu_max = self.signed(10);
    }
}

fn measured(own: &Device<'_>, driver: Option<&String>) -> (NvmlClocks, NvmlPower, NvmlHeat, NvmlPcie) {
    let fields = fields(own, driver);
    let small = |n: usize| fields.small(n);
    let boost = said(own.auto_boost());
    let mut clocks = NvmlClocks {
        max_graphics: said(own.clock_max(0)),
        max_sm: said(own.clock_max(1)),
        max_memory: said(own.clock_max(2)),
        max_video: said(own.clock_max(3)),
        application_graphics: said(own.clock_application(0)),
        application_memory: said(own.clock_application(2)),
        default_graphics: said(own.clock_application_default(0)),
        default_memory: said(own.clock_application_default(2)),
        boost_max_graphics: said(own.clock_boost_max(0)),
        auto_boost: boost.map(|(now, default)| (now != 0, default != 0)),
        reasons_supported: newest(said(own.supported_event_reasons()), || said(own.supported_throttle_reasons())),
        supported: said(own.supported_memory_clocks()).map(|memory| {
            let with = |clock: u32| Some((clock, own.supported_graphics_clocks(clock).ok()?));
            memory.into_iter().filter_map(with).collect()
        }),
        ..NvmlClocks::default()
    };
    fields.held(&mut clocks);
    let range = said(own.power_limit_range());
    let mut power = NvmlPower {
        managed: said(own.power_mode()).map(|mode| mode != 0),
        enforced: said(own.power_limit_enforced()),
        requested: newest(small(20), || said(own.power_limit())),
        default: said(own.power_limit_default()),
        min: range.as_ref().map(|it| it.0),
        max: range.map(|it| it.1),
        module: NvmlModulePower {
            enforced: small(15),
            requested: small(16),
            default: small(17),
            min: small(18),
            max: small(19),
            ..NvmlModulePower::default()
        },
        energy: said(own.energy()),
        ..NvmlPower::default()
    };
    fields.drawn(&mut power);
    let mut heat = NvmlHeat {
        margin: said(own.margin()),
        shutdown: said(own.threshold(0)),
        slowdown: said(own.threshold(1)),
        memory_max: said(own.threshold(2)),
        gpu_max: said(own.threshold(3)),
        fans: said(own.fans()).map(|count| (0..count.min(16)).filter_map(|fan| own.fan(fan).ok()).collect()),
        ..NvmlHeat::default()
    };
    fields.degrees(&mut heat);
    let not_asked = || Seen::Unreadable(Reason::Other("not asked".into()));
    let pcie = NvmlPcie {
        replays: newest(said(own.pcie_replays()), || small(1)),
        replay_rollovers: small(2),
        sent: not_asked(),
        received: not_asked(),
        host_gen_max: Seen::Absent,
    };
    (clocks, power, heat, pcie)
}

fn engines(own: &Device<'_>) -> NvmlEngines {
    let sessions = said(own.encoder_sessions());
    let stats = said(own.encoder_stats());
    NvmlEngines {
        jpeg: said(own.jpeg()).map(|it| it.0),
        ofa: said(own.ofa()).map(|it| it.0),
        encoder_fps: stats.as_ref().map(|it| it.1),
        encoder_latency: stats.map(|it| it.2),
        capture: said(own.fbc_stats()).map(|it| (it.sessionsCount, it.averageFPS, it.averageLatency)),
        sessions: sessions.map(|list| list.iter().map(session).collect()),
    }
}

fn session(it: &cuda::nvml::EncoderSession) -> NvmlSession {
    let codec = match it.codec {
        0 => "H.264".into(),
        1 => "HEVC".into(),
        2 => "AV1".into(),
        other => format!("codec {other}"),
    };
    let cuda::nvml::EncoderSession { id, pid, width, height, fps, latency, .. } = *it;
    NvmlSession { id, pid, codec, width, height, fps, latency }
}

/// NVML_NVLINK_MAX_LINKS of the newest driver known.
const LINKS: u32 = 36;

fn links(own: &Device<'_>) -> NvmlLinks {
    let mut links = Vec::new();
    for link in 0..LINKS {
        let active = own.nvlink_state(link);
        // Above a card's own number of links the call is refused, on a card without any it is not supported.
        let active = match said(active) {
            Seen::Is(state) => Seen::Is(state != 0),
            Seen::Absent => break,
            Seen::Unreadable(_) if active == Err(cuda::nvml::NvmlCode::INVALID_ARGUMENT) => break,
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        };
        let errors: Result<Vec<u64>, _> = (0..4).map(|counter| own.nvlink_errors(link, counter)).collect();
        links.push(NvmlLink {
            link,
            active,
            version: said(own.nvlink_version(link)),
            remote: said(own.nvlink_remote(link)),
            remote_kind: said(own.nvlink_remote_type(link)).and_then(|kind| match kind {
                0 => Seen::Is("GPU".into()),
                1 => Seen::Is("IBM NPU".into()),
                2 => Seen::Is("switch".into()),
                _ => Seen::Absent,
            }),
            errors: said(errors).and_then(|list| list.try_into().ok().into()),
        });
    }
    let fabric = said(own.fabric()).and_then(|it| if it.state == 0 { Seen::Absent } else { Seen::Is(it) });
    let whole = fabric.clone().and_then(|it| if it.state == 3 { Seen::Is(it) } else { Seen::Absent });
    NvmlLinks {
        links,
        state: fabric.as_ref().map(|it| {
            ["N/A", "Not Started", "In Progress", "Completed"].get(it.state as usize).map_or("Unknown", |it| it).into()
        }),
        status: whole.as_ref().map(|it| if it.status == 0 { "Success".into() } else { format!("error {}", it.status) }),
        clique: whole.as_ref().map(|it| it.clique),
        cluster: whole.as_ref().map(|it| uuid(&it.cluster)),
        summary: whole.as_ref().and_then(|it| match it.summary {
            1 => Seen::Is("Healthy".into()),
            2 => Seen::Is("Unhealthy".into()),
            3 => Seen::Is("Limited Capacity".into()),
            _ => Seen::Absent,
        }),
        health: whole.map(|it| it.health),
    }
}

fn uuid(bytes: &[u8; 16]) -> String {
    let hex = |range: std::ops::Range<usize>| -> String {
        bytes.get(range).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    format!("{}-{}-{}-{}-{}", hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16))
}

/// What each process kept busy of late.
fn uses(gpu: &mut NvmlGpu, own: &Device<'_>) {
    let Seen::Is(processes) = &mut gpu.processes else { return };
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let since = u64::try_from(since.saturating_sub(SAMPLES).as_micros()).unwrap_or(0);
    // A card that is cut up does not tell, nor do old ones: the fields stay absent.
    let Ok(samples) = own.process_samples(since) else { return };
    for process in processes {
        let Some(newest) = samples.iter().filter(|it| it.pid == process.pid).max_by_key(|it| it.time) else { continue };
        process.sm = Seen::Is(newest.sm);
        process.memory_use = Seen::Is(newest.memory);
        process.encoder = Seen::Is(newest.encoder);
        process.decoder = Seen::Is(newest.decoder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_that_were_numbered_anew_are_asked_by_the_driver_that_runs() {
        let first = |version: &str| reason_fields(Some(&version.into()))[0].0;
        assert_eq!(
            (first("580.159.04"), first("580.65.06"), first("535.261.03"), first("610.1")),
            (269, 251, 251, 269)
        );
        assert_eq!(reason_fields(None)[2].0, 253);
    }

    #[test]
    fn a_cluster_is_written_as_a_uuid() {
        let bytes: Vec<u8> = (0..16).collect();
        assert_eq!(uuid(&bytes.try_into().expect("sixteen")), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
