//! Simulated samples for tests and the bench: cards as `simcards` has them, processes as an ordinary machine would.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gpu::Holder;
use gpu::attribution::{Attribution, Engine, OwnedBy};
use machine::nvml::{
    NvmlClocks, NvmlEngines, NvmlGpu, NvmlHealth, NvmlHeat, NvmlLink, NvmlLinks, NvmlMig, NvmlMigDevice, NvmlPcie,
    NvmlPower, NvmlProcess, NvmlSession,
};
use model::{About, Bdf, CheckId, Finding, Fix, Layer, Presence, Seen, Source, Trouble, Verdict};

use super::chain::{Chain, Floor, Promise, State};
use crate::{Away, CardNow, ProcessNow, Sample};

fn is<T>(value: T) -> Seen<T> {
    Seen::Is(value)
}

fn topic<T>(value: T) -> Seen<Box<T>> {
    Seen::Is(Box::new(value))
}

/// 2026-01-01 00:00:00 UTC.
const TIME: u64 = 1_767_225_600;

fn sample(driver: &str, cards: Vec<CardNow>, away: Vec<Away>) -> Sample {
    let time = UNIX_EPOCH + Duration::from_secs(TIME);
    Sample { time, simulated: true, driver: is(driver.into()), cards, away, blind: false }
}

fn process(pid: u32, command: &str, mib: u64, owner: OwnedBy, app: Option<&str>) -> ProcessNow {
    let process = NvmlProcess {
        memory: is(mib << 20),
        name: is(format!("/usr/bin/{command}")),
        sm: is(pid % 7),
        memory_use: is(pid % 5),
        encoder: is(0),
        decoder: is(0),
        ..NvmlProcess::blank(pid, "C")
    };
    let whose = Attribution {
        pid,
        command: is(command.into()),
        program: Seen::Absent,
        user: is(1000),
        owner,
        app: app.map(str::to_owned),
        outer: None,
    };
    ProcessNow { process, whose }
}

fn pod(namespace: &str, pod: &str, container: &str, n: u32) -> OwnedBy {
    OwnedBy::Pod {
        uid: format!("51a51a51-0000-4000-8000-{n:012x}"),
        namespace: Some(namespace.into()),
        pod: Some(pod.into()),
        container: Some(container.into()),
        id: Some(format!("{n:064x}")),
    }
}

/// The seed's machine: Jellyfin decodes on a GT 1030, whose sister is a VM's.
pub fn gt1030() -> Sample {
    let mut jellyfin =
        process(4711, "jellyfin-ffmpeg", 949, pod("media", "jellyfin-0", "jellyfin", 1), Some("jellyfin"));
    (jellyfin.process.sm, jellyfin.process.decoder) = (is(36), is(41));
    let gpu = NvmlGpu {
        bus_id: is("00000000:26:00.0".into()),
        pci_device_id: is(0x1d01_10de),
        pci_subsystem_id: is(0x85f4_1043),
        name: is("NVIDIA GeForce GT 1030".into()),
        uuid: is("GPU-51a51a51-1d01-4000-8000-000000000000".into()),
        minor: is(0),
        vbios: is("86.08.0C.00.1A (simulated)".into()),
        architecture: is("Pascal".into()),
        brand: is("GeForce".into()),
        compute_capability: is((6, 1)),
        virtualization: is("None".into()),
        memory_total: is(2048 << 20),
        memory_used: is(951 << 20),
        memory_free: is(1038 << 20),
        memory_reserved: is(59 << 20),
        bar1_total: is(256 << 20),
        utilization_gpu: is(36),
        utilization_memory: is(12),
        utilization_encoder: is(0),
        utilization_decoder: is(41),
        temperature: is(48),
        fan: is(35),
        power_limit: is(30_000),
        pstate: is(0),
        persistence: is(false),
        display_active: is(false),
        compute_mode: is("Default".into()),
        clock_graphics: is(1468),
        clock_sm: is(1468),
        clock_memory: is(3004),
        clock_video: is(1303),
        pcie_gen_current: is(3),
        pcie_gen_max: is(3),
        pcie_width_current: is(4),
        pcie_width_max: is(4),
        health: topic(NvmlHealth { event_reasons: is(0), pcie_gen_max_card: is(3), ..Default::default() }),
        clocks: topic(NvmlClocks {
            max_graphics: is(1911),
            max_sm: is(1911),
            max_memory: is(3004),
            max_video: is(1708),
            reasons_supported: is(0x1ff),
            ..Default::default()
        }),
        power: topic(NvmlPower { enforced: is(30_000), default: is(30_000), ..Default::default() }),
        heat: topic(NvmlHeat { slowdown: is(99), shutdown: is(102), gpu_max: is(97), ..Default::default() }),
        pcie: topic(NvmlPcie { replays: is(0), ..Default::default() }),
        engines: topic(NvmlEngines::default()),
        nvlink: topic(NvmlLinks::default()),
        ..NvmlGpu::blank(0)
    };
    let card =
        CardNow { bdf: Some(Bdf::new(0, 0x26, 0, 0)), gpu, processes: is(vec![jellyfin]), xids: BTreeMap::new() };
    let away = Away {
        bdf: Bdf::new(0, 0x27, 0, 0),
        name: "GeForce GT 1030".into(),
        driver: is("vfio-pci".into()),
        holder: Holder::Vm(vec!["100 (media)".into()]),
    };
    sample("580.159.04", vec![card], vec![away])
}

fn h100(index: u32, at: u8) -> NvmlGpu {
    let busy = 12 + index * 11;
    NvmlGpu {
        bus_id: is(format!("00000000:{at:02X}:00.0")),
        pci_device_id: is(0x2330_10de),
        pci_subsystem_id: is(0x16c1_10de),
        name: is("NVIDIA H100 80GB HBM3".into()),
        uuid: is(format!("GPU-51a51a51-2330-4000-8000-{index:012x}")),
        serial: is(format!("SIM1650{index}")),
        minor: is(index),
        vbios: is("96.00.CF.00.01 (simulated)".into()),
        architecture: is("Hopper".into()),
        brand: is("NVIDIA".into()),
        compute_capability: is((9, 0)),
        memory_total: is(81_559 << 20),
        memory_used: is((4096 + u64::from(index) * 7000) << 20),
        memory_free: is((76_983 - u64::from(index) * 7000) << 20),
        memory_reserved: is(480 << 20),
        bar1_total: is(131_072 << 20),
        bar1_used: is(1 << 20),
        utilization_gpu: is(busy),
        utilization_memory: is(busy / 2),
        utilization_encoder: is(0),
        utilization_decoder: is(index % 3),
        temperature: is(34 + index * 3),
        power_draw: is(73_610 + index * 61_000),
        power_limit: is(700_000),
        pstate: is(0),
        persistence: is(true),
        display_active: is(false),
        compute_mode: is("Default".into()),
        ecc_enabled: is(true),
        ecc_uncorrected_volatile: is(0),
        mig_enabled: is(false),
        clock_graphics: is(1980),
        clock_sm: is(1980),
        clock_memory: is(2619),
        clock_video: is(1545),
        pcie_gen_current: is(5),
        pcie_gen_max: is(5),
        pcie_width_current: is(16),
        pcie_width_max: is(16),
        encoder_sessions: is(0),
        health: topic(NvmlHealth {
            ecc_pending: is(true),
            corrected_volatile: is(u64::from(index)),
            corrected_aggregate: is(u64::from(index) * 2),
            uncorrected_aggregate: is(0),
            remapped_corrected: is(0),
            remapped_uncorrected: is(0),
            remapped_pending: is(false),
            remapped_failed: is(false),
            event_reasons: is(if index == 7 { 0x4 } else { 0 }),
            mig_pending: is(false),
            recovery: is("None".into()),
            pcie_gen_max_card: is(5),
            ..Default::default()
        }),
        clocks: topic(NvmlClocks {
            max_graphics: is(1980),
            max_sm: is(1980),
            max_memory: is(2619),
            max_video: is(1545),
            reasons_supported: is(0x1ff),
            held_sw_power_cap: is(u64::from(index) * 1_250_000),
            held_sync_boost: is(0),
            held_sw_thermal: is(0),
            held_hw_thermal: is(0),
            held_hw_power_brake: is(0),
            ..Default::default()
        }),
        power: topic(NvmlPower {
            managed: is(true),
            average: is(73_610 + index * 61_000),
            instant: is(74_430 + index * 61_000),
            enforced: is(700_000),
            default: is(700_000),
            min: is(200_000),
            max: is(700_000),
            energy: is(88_120_000 + u64::from(index)),
            ..Default::default()
        }),
        heat: topic(NvmlHeat { memory: is(40 + index), margin: is(53), ..Default::default() }),
        pcie: topic(NvmlPcie { replays: is(0), sent: is(952), received: is(542), ..Default::default() }),
        engines: topic(NvmlEngines {
            jpeg: is(0),
            ofa: is(0),
            encoder_fps: is(0),
            encoder_latency: is(0),
            sessions: is(Vec::new()),
            ..Default::default()
        }),
        nvlink: topic(NvmlLinks {
            links: (0..18)
                .map(|link| NvmlLink {
                    link,
                    active: is(true),
                    version: is(5),
                    remote: Seen::Absent,
                    remote_kind: is("switch".into()),
                    errors: is([0; 4]),
                })
                .collect(),
            state: is("Completed".into()),
            clique: is(0),
            ..Default::default()
        }),
        ..NvmlGpu::blank(index)
    }
}

const SLOTS: [u8; 8] = [0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf];

/// Eight H100 with eight processes each: pods, containers of four engines, units, a system container.
pub fn h100x8() -> Sample {
    let cards = (0u32..8).zip(SLOTS).map(|(index, at)| {
        let processes = (0..8).map(|n| {
            let pid = 20_000 + index * 100 + n;
            let container = |engine, name: &str| OwnedBy::Container {
                engine,
                id: format!("{pid:064x}"),
                name: Some(format!("{name}-{index}")),
                image: None,
                user: None,
            };
            let (command, owner, app) = match n {
                0 | 1 => ("python3", pod("train", &format!("llama-{index}"), "worker", pid / 2), None),
                2 => ("ollama", container(Engine::Docker, "ollama"), Some("ollama")),
                3 => ("ffmpeg", container(Engine::Podman, "frigate"), Some("frigate")),
                4 => ("vllm", pod("serve", &format!("vllm-{index}"), "server", pid), Some("vllm")),
                5 => {
                    ("jellyfin-ffmpeg", OwnedBy::Unit { unit: "jellyfin.service".into(), user: None }, Some("jellyfin"))
                }
                6 => ("python", OwnedBy::System { name: "101".into(), title: Some("lab".into()) }, None),
                _ => ("nvtop", OwnedBy::Process, None),
            };
            process(pid, command, 100 + u64::from(n) * 150, owner, app)
        });
        let (bdf, gpu) = (Some(Bdf::new(0, at, 0, 0)), h100(index, at));
        CardNow { bdf, gpu, processes: is(processes.collect()), xids: BTreeMap::new() }
    });
    let mut sample = sample("580.159.04", cards.collect(), Vec::new());
    if let Some(card) = sample.cards.get_mut(3) {
        card.xids.insert(31, 2);
    }
    sample
}

/// An H100 cut into three MIG devices: no use is told of the card as a whole.
pub fn mig() -> Sample {
    let device = |index: u32, profile: &str, gib: u64| NvmlMigDevice {
        index,
        uuid: is(format!("MIG-51a51a51-2330-5000-8000-{index:012x}")),
        profile: is(profile.into()),
        gpu_instance: is(index + 7),
        compute_instance: is(0),
        memory_total: is(gib << 30),
        memory_used: is(((u64::from(index) + 1) * 100) << 20),
        memory_free: is((gib << 30) - (((u64::from(index) + 1) * 100) << 20)),
        memory_reserved: is(0),
        bar1_total: is(16 << 30),
        bar1_used: is(0),
        bar1_free: is(16 << 30),
        multiprocessors: is(16),
        copy_engines: is(1),
        decoders: is(1),
        encoders: is(0),
        jpegs: is(1),
        ofas: is(0),
        sram_uncorrected: is(0),
    };
    let mut gpu = h100(0, 0x1b);
    gpu.mig_enabled = is(true);
    gpu.mig = topic(NvmlMig {
        max: is(7),
        devices: is(vec![device(0, "1g.10gb", 9), device(1, "1g.10gb", 9), device(2, "3g.40gb", 39)]),
        ..Default::default()
    });
    for use_of in [
        &mut gpu.utilization_gpu,
        &mut gpu.utilization_memory,
        &mut gpu.utilization_encoder,
        &mut gpu.utilization_decoder,
        &mut gpu.encoder_sessions,
    ] {
        *use_of = Seen::Absent;
    }
    gpu.engines = topic(NvmlEngines::default());
    let mut worker = process(31_000, "python3", 88, pod("train", "cut-0", "worker", 9), None);
    worker.process.gpu_instance = is(9);
    (worker.process.sm, worker.process.encoder, worker.process.decoder) = (Seen::Absent, Seen::Absent, Seen::Absent);
    let bdf = Some(Bdf::new(0, 0x1b, 0, 0));
    let card = CardNow { bdf, gpu, processes: is(vec![worker]), xids: BTreeMap::new() };
    sample("580.159.04", vec![card], Vec::new())
}

/// Names as an attacker would have them, on an RTX 4090 that encodes.
pub fn hostile() -> Sample {
    let mut sample = gt1030();
    let evil = "<script>document.title='owned'</script>\"'} 1\nevil 1\u{202e}";
    let owner = OwnedBy::Container {
        engine: Engine::Docker,
        id: "f".repeat(64),
        name: Some(evil.into()),
        image: Some(evil.into()),
        user: None,
    };
    let mut process = process(666, evil, 1, owner, Some(evil));
    process.process.encoder = is(50);
    if let Some(card) = sample.cards.first_mut() {
        card.gpu.name = is("NVIDIA <img src=x onerror=alert(1)>".into());
        card.gpu.engines = topic(NvmlEngines {
            sessions: is(vec![NvmlSession {
                id: 1,
                pid: 666,
                codec: "HEVC".into(),
                width: 1920,
                height: 1080,
                fps: 60,
                latency: 900,
            }]),
            ..Default::default()
        });
        card.processes = is(vec![process]);
    }
    if let Some(away) = sample.away.first_mut() {
        away.holder = Holder::Vm(vec![evil.into()]);
    }
    sample
}

/// The seed's machine as the doctor sees it: the container floor is broken.
pub fn chain() -> Chain {
    let here = |says: &str| Presence::Here(says.into());
    let floor = |layer, presence, state, findings| Floor { layer, presence, state, findings };
    let about = |id: &'static str, layer, title: &'static str| About {
        id: CheckId(id),
        layer,
        title,
        why: "what people see when it is wrong",
        source: "simulated",
    };
    let broken = Trouble::new("Docker gives containers no GPU: its runtime is not registered")
        .seen(Source::line("/etc/docker/daemon.json", 3), "\"runtimes\" is not there")
        .fix(
            Fix::planned("register thruway-runtime with Docker", "thruway container apply")
                .costs("dockerd reads its configuration again; containers go on"),
        );
    let warned = Trouble::new("Jellyfin encodes by software: this card has no NVENC")
        .seen(Source::file("/etc/jellyfin/encoding.xml"), "EnableHardwareEncoding is true")
        .fix(Fix::planned("let it decode on the card and encode on the CPU", "thruway app jellyfin apply"));
    Chain {
        machine: "pve1".into(),
        floors: vec![
            floor(Layer::Host, here("Proxmox VE 8.4, IOMMU on, 2 cards"), State::Well, Vec::new()),
            floor(Layer::Vm, here("2 VMs; 100 (media) has 27:00.0"), State::Well, Vec::new()),
            floor(Layer::Guest, here("driver 580.159.04, proprietary modules"), State::Well, Vec::new()),
            floor(
                Layer::Container,
                here("Docker 28, containerd 2.1"),
                State::Broken,
                vec![Finding {
                    about: about("container/runtime-missing", Layer::Container, "Docker knows the runtime"),
                    verdict: Verdict::Fail(broken),
                }],
            ),
            floor(
                Layer::Cluster,
                Presence::Unknown("the API did not answer".into()),
                State::Unknown,
                vec![Finding {
                    about: about("cluster/node-label", Layer::Cluster, "the node says what it has"),
                    verdict: Verdict::Unknown { reason: model::Reason::TimedOut, what: "the API server".into() },
                }],
            ),
            floor(
                Layer::App,
                here("Jellyfin 10.11"),
                State::Warned,
                vec![Finding {
                    about: about("app/jellyfin-encode", Layer::App, "Jellyfin encodes where the card can"),
                    verdict: Verdict::Warn(warned),
                }],
            ),
        ],
        promises: vec![Promise { bdf: Bdf::new(0, 0x27, 0, 0), to: "vm:100".into() }],
    }
}

/// The sample as it would be so many seconds after the beginning: its load goes up and down, the same way each time.
pub fn moving(mut sample: Sample, begun: SystemTime, seconds: f64) -> Sample {
    sample.time = begun + Duration::from_secs_f64(seconds);
    for (n, card) in (0u32..).zip(&mut sample.cards) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "per cent")]
        let wave = |period: f64, low: f64, high: f64| {
            let phase = (seconds / period + f64::from(n) / 5.0) * std::f64::consts::TAU;
            (low + (high - low) * (0.5 + 0.35 * phase.sin() + 0.15 * (phase * 3.7).sin())) as u32
        };
        let set = |seen: &mut Seen<u32>, value: u32| {
            if seen.is_there() {
                *seen = is(value);
            }
        };
        set(&mut card.gpu.utilization_gpu, wave(120.0, 20.0, 80.0));
        set(&mut card.gpu.utilization_decoder, wave(75.0, 15.0, 60.0));
        set(&mut card.gpu.temperature, wave(400.0, 41.0, 58.0));
        set(&mut card.gpu.power_draw, wave(120.0, 90_000.0, 520_000.0));
    }
    sample
}
