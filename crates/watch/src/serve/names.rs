//! Metrics under thruway's own names: base units, counters end in `_total`, and what is not known has no series.

use machine::nvml::{NvmlGpu, reasons};
use model::Seen;

use super::chain::{State, word};
use super::keep::Told;
use super::picture::{Card, Picture};
use super::text::{Series, Text};
use super::whose::holder;

/// A reader of one number of a card.
type Read = fn(&NvmlGpu) -> Option<f64>;

fn number<T: Copy + Into<f64>>(seen: &Seen<T>) -> Option<f64> {
    seen.get().map(|value| (*value).into())
}

#[allow(clippy::cast_precision_loss, reason = "counts of bytes stay below 2^53")]
pub(super) fn large(seen: &Seen<u64>) -> Option<f64> {
    seen.get().map(|value| *value as f64)
}

fn percent(seen: &Seen<u32>) -> Option<f64> {
    number(seen).map(|value| value / 100.0)
}

fn thousandth(seen: &Seen<u32>) -> Option<f64> {
    number(seen).map(|value| value / 1e3)
}

fn flag(seen: &Seen<bool>) -> Option<f64> {
    seen.get().map(|value| f64::from(u8::from(*value)))
}

#[rustfmt::skip]
const GAUGES: &[(&str, &str, Read)] = &[
    ("thruway_gpu_sm_ratio", "Share of time in which a kernel ran, since the driver's last sample", |g| percent(&g.utilization_gpu)),
    ("thruway_gpu_memory_busy_ratio", "Share of time in which device memory was read or written", |g| percent(&g.utilization_memory)),
    ("thruway_gpu_encoder_ratio", "Use of the video encoders (NVENC), all of the card's together", |g| percent(&g.utilization_encoder)),
    ("thruway_gpu_decoder_ratio", "Use of the video decoders (NVDEC), all of the card's together", |g| percent(&g.utilization_decoder)),
    ("thruway_gpu_jpeg_ratio", "Use of the JPEG decoders", |g| percent(&g.engines.get()?.jpeg)),
    ("thruway_gpu_ofa_ratio", "Use of the optical flow accelerator", |g| percent(&g.engines.get()?.ofa)),
    ("thruway_gpu_memory_size_bytes", "Device memory, all of it", |g| large(&g.memory_total)),
    ("thruway_gpu_memory_used_bytes", "Device memory that is taken", |g| large(&g.memory_used)),
    ("thruway_gpu_memory_free_bytes", "Device memory that can be had", |g| large(&g.memory_free)),
    ("thruway_gpu_memory_reserved_bytes", "Device memory that driver and firmware keep", |g| large(&g.memory_reserved)),
    ("thruway_gpu_bar1_size_bytes", "The window through which the CPU reaches device memory", |g| large(&g.bar1_total)),
    ("thruway_gpu_bar1_used_bytes", "What of that window is mapped", |g| large(&g.bar1_used)),
    ("thruway_gpu_temperature_celsius", "The chip's temperature", |g| number(&g.temperature)),
    ("thruway_gpu_memory_temperature_celsius", "The memory's temperature", |g| number(&g.heat.get()?.memory)),
    ("thruway_gpu_temperature_slowdown_celsius", "The temperature at which the card slows down", |g| number(&g.heat.get()?.slowdown)),
    ("thruway_gpu_temperature_margin_celsius", "Degrees left until the card slows down", |g| number(&g.heat.get()?.margin)),
    ("thruway_gpu_fan_ratio", "The fan's intended speed", |g| percent(&g.fan)),
    ("thruway_gpu_power_watts", "Power drawn; averaged over a second on newer cards", |g| thousandth(&g.power_draw)),
    ("thruway_gpu_power_limit_watts", "The limit that is set", |g| thousandth(&g.power_limit)),
    ("thruway_gpu_power_enforced_limit_watts", "The limit in force, of all that limit it", |g| thousandth(&g.power.get()?.enforced)),
    ("thruway_gpu_performance_state", "0 is fastest, 15 slowest", |g| number(&g.pstate)),
    ("thruway_gpu_persistence_enabled", "1: the driver keeps the card awake without clients", |g| flag(&g.persistence)),
    ("thruway_gpu_ecc_enabled", "1: device memory is checked", |g| flag(&g.ecc_enabled)),
    ("thruway_gpu_retired_pages_pending", "1: a bad page waits for a reboot", |g| flag(&g.health.get()?.retired_pending)),
    ("thruway_gpu_remapped_rows_pending", "1: a bad row waits for a reset", |g| flag(&g.health.get()?.remapped_pending)),
    ("thruway_gpu_remapped_rows_failed", "1: a bad row could not be replaced", |g| flag(&g.health.get()?.remapped_failed)),
    ("thruway_gpu_pcie_generation", "The link's generation now; an idle card lowers it", |g| number(&g.pcie_gen_current)),
    ("thruway_gpu_pcie_generation_max", "The most that card and slot can do together", |g| number(&g.pcie_gen_max)),
    ("thruway_gpu_pcie_lanes", "The link's lanes now", |g| number(&g.pcie_width_current)),
    ("thruway_gpu_pcie_lanes_max", "The most lanes that card and slot can do together", |g| number(&g.pcie_width_max)),
    ("thruway_gpu_pcie_sent_bytes_per_second", "What the card sends, over 20 ms", |g| number(&g.pcie.get()?.sent).map(|kb| kb * 1e3)),
    ("thruway_gpu_pcie_received_bytes_per_second", "What the card receives, over 20 ms", |g| number(&g.pcie.get()?.received).map(|kb| kb * 1e3)),
    ("thruway_gpu_encoder_sessions", "NVENC sessions that are open", |g| number(&g.encoder_sessions)),
    ("thruway_gpu_encoder_frames_per_second", "Frames a second of all NVENC sessions", |g| number(&g.engines.get()?.encoder_fps)),
    ("thruway_gpu_encoder_latency_seconds", "How long a frame is in the encoder", |g| number(&g.engines.get()?.encoder_latency).map(|us| us / 1e6)),
    ("thruway_gpu_mig_enabled", "1: the card is cut into MIG instances", |g| flag(&g.mig_enabled)),
];

#[rustfmt::skip]
const COUNTERS: &[(&str, &str, Read)] = &[
    ("thruway_gpu_energy_joules_total", "Energy since the driver was loaded", |g| large(&g.power.get()?.energy).map(|mj| mj / 1e3)),
    ("thruway_gpu_pcie_replays_total", "Packets that had to be sent again over the link", |g| number(&g.pcie.get()?.replays)),
];

const REASONS: &[(&str, u64)] = &[
    ("idle", reasons::IDLE),
    ("application", reasons::APPLICATION),
    ("sw_power_cap", reasons::SW_POWER_CAP),
    ("hw_slowdown", reasons::HW_SLOWDOWN),
    ("sync_boost", reasons::SYNC_BOOST),
    ("sw_thermal", reasons::SW_THERMAL),
    ("hw_thermal", reasons::HW_THERMAL),
    ("hw_power_brake", reasons::HW_POWER_BRAKE),
    ("display", reasons::DISPLAY),
];

/// All but what changes from scrape to scrape.
pub fn write(text: &mut Text, picture: &Picture<'_>) {
    identity(text, picture);
    for (name, help, read) in GAUGES {
        text.gauge(name, help, |series| each(series, picture, *read));
    }
    for (name, help, read) in COUNTERS {
        text.counter(name, help, |series| each(series, picture, *read));
    }
    clocks(text, picture);
    memory_errors(text, picture);
    links(text, picture);
    mig(text, picture);
    xids(text, picture);
    owners(text, picture);
    doctor(text, picture);
}

fn each(series: &mut Series<'_>, picture: &Picture<'_>, read: Read) {
    for card in &picture.cards {
        series.some(&card.labels(), read(&card.now.gpu));
    }
}

fn identity(text: &mut Text, picture: &Picture<'_>) {
    let sample = picture.sample;
    let driver = sample.driver.get().map_or("", String::as_str);
    let word = |on: bool| if on { "true" } else { "false" };
    text.info("thruway_build_info", "The version of this program", |series| {
        series.one(&[("version", env!("CARGO_PKG_VERSION"))]);
    });
    text.info("thruway_machine_info", "This machine, its driver, and whether processes can be told here", |series| {
        series.one(&[
            ("name", &picture.chain.machine),
            ("driver", driver),
            ("simulated", word(sample.simulated)),
            ("blind", word(sample.blind)),
        ]);
    });
    text.info("thruway_gpu_info", "What each card is", |series| {
        for card in &picture.cards {
            let gpu = &card.now.gpu;
            let said = |seen: &Seen<String>| seen.get().cloned().unwrap_or_default();
            let (major, minor) = gpu.compute_capability.get().copied().unwrap_or_default();
            let capability = if major == 0 { String::new() } else { format!("{major}.{minor}") };
            let minor = gpu.minor.get().map(u32::to_string).unwrap_or_default();
            series.one(&[
                ("gpu", &card.index),
                ("uuid", &card.uuid),
                ("bdf", &card.bdf),
                ("name", &said(&gpu.name)),
                ("architecture", &said(&gpu.architecture)),
                ("compute_capability", &capability),
                ("vbios", &said(&gpu.vbios)),
                ("minor", &minor),
                ("driver", driver),
            ]);
        }
    });
    text.info(
        "thruway_gpu_holder_info",
        "Who has each card now: also a VM's, another driver's and nobody's",
        |series| {
            for card in &picture.cards {
                let name = card.now.gpu.name.get().map_or("", String::as_str);
                let mut put = |kind: &str, holder: &str| {
                    let uuid = card.uuid.as_str();
                    series.one(&[
                        ("bdf", &card.bdf),
                        ("uuid", uuid),
                        ("name", name),
                        ("driver", "nvidia"),
                        ("kind", kind),
                        ("holder", holder),
                    ]);
                };
                let mut told: Vec<(&str, &str)> =
                    card.shares.iter().map(|share| (share.kind, share.owner.as_str())).collect();
                told.sort_unstable();
                told.dedup();
                match card.now.processes {
                    Seen::Unreadable(_) => put("unknown", ""),
                    _ if told.is_empty() => put("nobody", ""),
                    _ => told.into_iter().for_each(|(kind, holder)| put(kind, holder)),
                }
            }
            for away in &sample.away {
                let (kind, names) = holder(&away.holder);
                let driver = away.driver.get().map_or("", String::as_str);
                let bdf = away.bdf.to_string();
                let uuid = "";
                series.one(&[
                    ("bdf", &bdf),
                    ("uuid", uuid),
                    ("name", &away.name),
                    ("driver", driver),
                    ("kind", kind),
                    ("holder", &names),
                ]);
            }
        },
    );
    text.info("thruway_gpu_promise_info", "To whom each card is promised (thruway assign)", |series| {
        for promise in &picture.chain.promises {
            series.one(&[("bdf", &promise.bdf.to_string()), ("to", &promise.to)]);
        }
    });
}

fn clocks(text: &mut Text, picture: &Picture<'_>) {
    text.gauge("thruway_gpu_clock_hertz", "Clocks now", |series| {
        for card in &picture.cards {
            let g = &card.now.gpu;
            let all = [("graphics", &g.clock_graphics), ("sm", &g.clock_sm), ("memory", &g.clock_memory)];
            for (clock, seen) in all.into_iter().chain([("video", &g.clock_video)]) {
                series.some(&card.and("clock", clock), number(seen).map(|mhz| mhz * 1e6));
            }
        }
    });
    text.gauge("thruway_gpu_clock_max_hertz", "The most that each clock can be", |series| {
        for card in &picture.cards {
            let Some(c) = card.now.gpu.clocks.get() else { continue };
            let all = [("graphics", &c.max_graphics), ("sm", &c.max_sm), ("memory", &c.max_memory)];
            for (clock, seen) in all.into_iter().chain([("video", &c.max_video)]) {
                series.some(&card.and("clock", clock), number(seen).map(|mhz| mhz * 1e6));
            }
        }
    });
    text.gauge("thruway_gpu_throttle_active", "1: this reason keeps the clocks down now", |series| {
        for card in &picture.cards {
            let Some(bits) = card.now.gpu.health.get().and_then(|health| health.event_reasons.get()) else { continue };
            for (reason, bit) in REASONS {
                series.put(&card.and("reason", reason), f64::from(u8::from(bits & bit != 0)));
            }
        }
    });
    text.counter("thruway_gpu_throttle_seconds_total", "How long each reason kept the clocks down", |series| {
        for card in &picture.cards {
            let Some(c) = card.now.gpu.clocks.get() else { continue };
            let all = [
                ("sw_power_cap", &c.held_sw_power_cap),
                ("sync_boost", &c.held_sync_boost),
                ("sw_thermal", &c.held_sw_thermal),
                ("hw_thermal", &c.held_hw_thermal),
                ("hw_power_brake", &c.held_hw_power_brake),
            ];
            for (reason, seen) in all {
                series.some(&card.and("reason", reason), large(seen).map(|us| us / 1e6));
            }
        }
    });
}

fn memory_errors(text: &mut Text, picture: &Picture<'_>) {
    text.counter("thruway_gpu_ecc_errors_total", "Memory errors since the driver was loaded", |series| {
        for card in &picture.cards {
            let health = card.now.gpu.health.get();
            let corrected = health.and_then(|health| large(&health.corrected_volatile));
            series.some(&card.and("kind", "corrected"), corrected);
            series.some(&card.and("kind", "uncorrected"), large(&card.now.gpu.ecc_uncorrected_volatile));
        }
    });
    text.counter("thruway_gpu_ecc_errors_lifetime_total", "Memory errors in the card's life", |series| {
        for card in &picture.cards {
            let Some(health) = card.now.gpu.health.get() else { continue };
            series.some(&card.and("kind", "corrected"), large(&health.corrected_aggregate));
            series.some(&card.and("kind", "uncorrected"), large(&health.uncorrected_aggregate));
        }
    });
    text.gauge("thruway_gpu_retired_pages", "Pages taken out of use, by cause (before Ampere)", |series| {
        for card in &picture.cards {
            let Some(health) = card.now.gpu.health.get() else { continue };
            series.some(&card.and("cause", "single_bit"), number(&health.retired_single));
            series.some(&card.and("cause", "double_bit"), number(&health.retired_double));
        }
    });
    text.gauge(
        "thruway_gpu_remapped_rows",
        "Rows of memory replaced by spare ones, by cause (Ampere and later)",
        |series| {
            for card in &picture.cards {
                let Some(health) = card.now.gpu.health.get() else { continue };
                series.some(&card.and("cause", "corrected"), number(&health.remapped_corrected));
                series.some(&card.and("cause", "uncorrected"), number(&health.remapped_uncorrected));
            }
        },
    );
    text.info(
        "thruway_gpu_recovery_info",
        "What the driver wants done with the card, where that is not nothing",
        |series| {
            for card in &picture.cards {
                let action = card.now.gpu.health.get().and_then(|health| health.recovery.get());
                if let Some(action) = action.filter(|action| *action != "None") {
                    series.one(&card.and("action", action));
                }
            }
        },
    );
}

fn links(text: &mut Text, picture: &Picture<'_>) {
    let all = || {
        picture.cards.iter().flat_map(|card| {
            let links = card.now.gpu.nvlink.get().map(|nvlink| nvlink.links.as_slice()).unwrap_or_default();
            links.iter().map(move |link| (card, link))
        })
    };
    text.gauge("thruway_gpu_nvlink_up", "1: this NVLink is up", |series| {
        for (card, link) in all() {
            series.some(&card.and("link", &link.link.to_string()), flag(&link.active));
        }
    });
    text.counter(
        "thruway_gpu_nvlink_errors_total",
        "An NVLink's replays, recoveries and CRC errors, together",
        |series| {
            for (card, link) in all() {
                let sum = link.errors.get().map(|errors| errors.iter().sum::<u64>());
                series.some(&card.and("link", &link.link.to_string()), large(&sum.into()));
            }
        },
    );
}

fn mig(text: &mut Text, picture: &Picture<'_>) {
    let all = || {
        picture.cards.iter().flat_map(|card| {
            let devices = card.now.gpu.mig.get().and_then(|mig| mig.devices.get());
            devices.into_iter().flatten().map(move |device| (card, device))
        })
    };
    text.info("thruway_mig_info", "Each MIG device", |series| {
        for (card, device) in all() {
            let [gpu, uuid] = card.labels();
            let said = |seen: &Seen<u32>| seen.get().map(u32::to_string).unwrap_or_default();
            series.one(&[
                gpu,
                uuid,
                ("mig_uuid", device.uuid.get().map_or("", String::as_str)),
                ("profile", device.profile.get().map_or("", String::as_str)),
                ("gpu_instance", &said(&device.gpu_instance)),
                ("compute_instance", &said(&device.compute_instance)),
            ]);
        }
    });
    type Of = fn(&machine::nvml::NvmlMigDevice) -> Option<f64>;
    let memory: [(&str, &str, Of); 2] = [
        ("thruway_mig_memory_size_bytes", "A MIG device's memory", |device| large(&device.memory_total)),
        ("thruway_mig_memory_used_bytes", "What of a MIG device's memory is taken", |device| {
            large(&device.memory_used)
        }),
    ];
    for (name, help, read) in memory {
        text.gauge(name, help, |series| {
            for (card, device) in all() {
                let [gpu, uuid] = card.labels();
                let mig = device.uuid.get().map_or("", String::as_str);
                series.some(&[gpu, uuid, ("mig_uuid", mig)], read(device));
            }
        });
    }
}

fn xids(text: &mut Text, picture: &Picture<'_>) {
    let class = |xid: &Told| match gpu::xid::meaning(xid.number).map(|xid| xid.class) {
        Some(gpu::xid::Class::Program) => "program",
        Some(gpu::xid::Class::Note) => "note",
        Some(gpu::xid::Class::Hardware) => "hardware",
        None => "unknown",
    };
    let put = |series: &mut Series<'_>, xid: &Told, value: f64| {
        let number = xid.number.to_string();
        series.put(&[("gpu", &xid.gpu), ("uuid", &xid.uuid), ("xid", &number), ("class", class(xid))], value);
    };
    text.counter("thruway_gpu_xid_errors_total", "Xid messages of the driver since this program began", |series| {
        picture.xids.iter().for_each(|xid| put(series, xid, xid.count as f64));
    });
    text.gauge("thruway_gpu_xid_last_timestamp_seconds", "When the last one came", |series| {
        picture.xids.iter().for_each(|xid| put(series, xid, xid.last));
    });
}

type OfShare = fn(&super::whose::Share) -> Option<f64>;

fn owners(text: &mut Text, picture: &Picture<'_>) {
    fn ratio(value: Option<u32>) -> Option<f64> {
        value.map(|value| f64::from(value) / 100.0)
    }
    #[allow(clippy::cast_precision_loss, reason = "small counts, and bytes below 2^53")]
    fn count(value: Option<usize>) -> Option<f64> {
        value.map(|value| value as f64)
    }
    #[allow(clippy::cast_precision_loss, reason = "bytes below 2^53")]
    fn bytes(value: Option<u64>) -> Option<f64> {
        value.map(|value| value as f64)
    }
    let all: [(&str, &str, OfShare); 7] = [
        ("thruway_container_sm_ratio", "Share of time in which this owner's kernels ran on the card", |s| ratio(s.sm)),
        ("thruway_container_memory_busy_ratio", "Share of time in which it read or wrote device memory", |s| {
            ratio(s.memory_use)
        }),
        ("thruway_container_encoder_ratio", "Use of the video encoders by this owner", |s| ratio(s.encoder)),
        ("thruway_container_decoder_ratio", "Use of the video decoders by this owner", |s| ratio(s.decoder)),
        ("thruway_container_memory_bytes", "Device memory of this owner's processes", |s| bytes(s.memory)),
        ("thruway_container_processes", "Its processes on the card", |s| count(Some(s.processes))),
        ("thruway_container_encoder_sessions", "Its NVENC sessions", |s| count(s.sessions)),
    ];
    for (name, help, read) in all {
        text.gauge(name, help, |series| {
            for card in &picture.cards {
                for share in &card.shares {
                    series.some(&share.labels(&card.index, &card.uuid), read(share));
                }
            }
        });
    }
}

fn doctor(text: &mut Text, picture: &Picture<'_>) {
    text.gauge("thruway_floor_state", "1: the floor of the way is in this state, as the doctor saw it", |series| {
        for floor in &picture.chain.floors {
            for state in State::ALL {
                let is = f64::from(u8::from(floor.state == state));
                series.put(&[("layer", floor.layer.name()), ("state", state.name())], is);
            }
        }
    });
    text.gauge(
        "thruway_finding",
        "What the doctor found that is not well: fail, warn, or could not look (unknown)",
        |series| {
            for finding in picture.chain.findings() {
                if let Some(state) = word(&finding.verdict) {
                    let about = &finding.about;
                    series.put(&[("id", about.id.0), ("layer", about.layer.name()), ("state", state)], 1.0);
                }
            }
        },
    );
}

/// A card's index and UUID, and one label more.
impl Card<'_> {
    fn labels(&self) -> [(&str, &str); 2] {
        [("gpu", &self.index), ("uuid", &self.uuid)]
    }

    fn and<'a>(&'a self, name: &'a str, value: &'a str) -> [(&'a str, &'a str); 3] {
        [("gpu", &self.index), ("uuid", &self.uuid), (name, value)]
    }
}
