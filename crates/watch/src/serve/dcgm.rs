//! dcgm-exporter's names, so that dashboards made for it live on: its default counters as far as NVML tells them.
//!
//! Names, types, units and labels as its default-counters.csv and its text have them (4.x). What needs DCGM's profiling module
//! (DCGM_FI_PROF_* but for the link's bytes) and what a card does not report has no series.

use machine::nvml::{NvmlGpu, NvmlMigDevice};
use model::Seen;

use super::names::large;
use super::picture::{Card, Picture};
use super::text::{Kind, Text};

type Read = fn(&NvmlGpu) -> Option<f64>;

fn n(seen: &Seen<u32>) -> Option<f64> {
    seen.get().map(|value| f64::from(*value))
}

fn mib(seen: &Seen<u64>) -> Option<f64> {
    large(seen).map(|bytes| (bytes / f64::from(1 << 20)).floor())
}

use Kind::{Counter, Gauge};

#[rustfmt::skip]
const FIELDS: &[(&str, Kind, &str, Read)] = &[
    ("DCGM_FI_DEV_SM_CLOCK", Gauge, "SM clock, MHz", |g| n(&g.clock_sm)),
    ("DCGM_FI_DEV_MEM_CLOCK", Gauge, "Memory clock, MHz", |g| n(&g.clock_memory)),
    ("DCGM_FI_DEV_MEMORY_TEMP", Gauge, "Memory temperature, degrees Celsius", |g| n(&g.heat.get()?.memory)),
    ("DCGM_FI_DEV_GPU_TEMP", Gauge, "GPU temperature, degrees Celsius", |g| n(&g.temperature)),
    ("DCGM_FI_DEV_POWER_USAGE", Gauge, "Power draw, W", |g| n(&g.power_draw).map(|mw| mw / 1e3)),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", Counter, "Energy since the driver was loaded, mJ", |g| large(&g.power.get()?.energy)),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", Counter, "PCIe retries", |g| n(&g.pcie.get()?.replays)),
    ("DCGM_FI_DEV_GPU_UTIL", Gauge, "GPU use, %", |g| n(&g.utilization_gpu)),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", Gauge, "Memory use, %", |g| n(&g.utilization_memory)),
    ("DCGM_FI_DEV_ENC_UTIL", Gauge, "Encoder use, %", |g| n(&g.utilization_encoder)),
    ("DCGM_FI_DEV_DEC_UTIL", Gauge, "Decoder use, %", |g| n(&g.utilization_decoder)),
    ("DCGM_FI_DEV_FB_FREE", Gauge, "Free memory, MiB", |g| mib(&g.memory_free)),
    ("DCGM_FI_DEV_FB_USED", Gauge, "Used memory, MiB", |g| mib(&g.memory_used)),
    ("DCGM_FI_DEV_FB_RESERVED", Gauge, "Reserved memory, MiB", |g| mib(&g.memory_reserved)),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", Counter, "Rows remapped for uncorrectable errors", |g| n(&g.health.get()?.remapped_uncorrected)),
    ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", Counter, "Rows remapped for correctable errors", |g| n(&g.health.get()?.remapped_corrected)),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", Gauge, "Whether remapping of rows failed", |g| g.health.get()?.remapped_failed.get().map(|b| f64::from(u8::from(*b)))),
    ("DCGM_FI_PROF_PCIE_TX_BYTES", Gauge, "Bytes a second sent over PCIe", |g| n(&g.pcie.get()?.sent).map(|kb| kb * 1e3)),
    ("DCGM_FI_PROF_PCIE_RX_BYTES", Gauge, "Bytes a second received over PCIe", |g| n(&g.pcie.get()?.received).map(|kb| kb * 1e3)),
];

type ReadPart = fn(&NvmlMigDevice) -> Option<f64>;

/// What a MIG device tells of itself.
const PARTS: &[(&str, ReadPart)] = &[
    ("DCGM_FI_DEV_FB_FREE", |device| mib(&device.memory_free)),
    ("DCGM_FI_DEV_FB_USED", |device| mib(&device.memory_used)),
    ("DCGM_FI_DEV_FB_RESERVED", |device| mib(&device.memory_reserved)),
];

/// `host_label`: "Hostname" as every release has it, or "hostname" as its newest code does.
pub fn write(text: &mut Text, picture: &Picture<'_>, host_label: &str) {
    for (name, kind, help, read) in FIELDS {
        text.family(*kind, name, help, |series| {
            for card in &picture.cards {
                let known = Labels::of(card, picture);
                let part = PARTS.iter().find(|(part, _)| part == name);
                let devices = card.now.gpu.mig.get().and_then(|mig| mig.devices.get());
                match (part, devices) {
                    // of a card that is cut each GPU instance's memory is told, as it is what can be had
                    (Some((_, read)), Some(devices)) if !devices.is_empty() => {
                        for device in devices {
                            let profile = device.profile.get().map_or("", String::as_str);
                            let instance = device.gpu_instance.get().map(u32::to_string).unwrap_or_default();
                            series.some(&known.of_instance(profile, &instance, host_label), read(device));
                        }
                    }
                    _ => series.some(&known.list(host_label), read(&card.now.gpu)),
                }
            }
        });
    }
    text.family(Gauge, "DCGM_FI_DEV_XID_ERRORS", "The newest Xid, 0: none", |series| {
        for card in &picture.cards {
            let newest =
                picture.xids.iter().filter(|xid| xid.gpu == card.index).max_by(|a, b| a.last.total_cmp(&b.last));
            let known = Labels::of(card, picture);
            series.some(&known.list(host_label), Some(newest.map_or(0.0, |xid| xid.number as f64)));
        }
    });
}

struct Labels<'p> {
    card: &'p Card<'p>,
    driver: &'p str,
    host: &'p str,
    name: &'p str,
    bus: String,
    device: String,
    /// Where one pod alone has the card, as dcgm-exporter labels it without sharing.
    pod: Option<(&'p str, &'p str, &'p str)>,
}

impl<'p> Labels<'p> {
    fn of(card: &'p Card<'p>, picture: &'p Picture<'_>) -> Labels<'p> {
        let mut pods = card.shares.iter().filter(|share| share.kind == "pod");
        let pod = match (pods.next(), pods.next()) {
            (Some(one), None) => Some((one.container.as_str(), one.namespace.as_str(), one.pod.as_str())),
            _ => None,
        };
        Labels {
            card,
            driver: picture.sample.driver.get().map_or("", String::as_str),
            host: picture.host,
            name: card.now.gpu.name.get().map_or("", String::as_str),
            bus: card.now.gpu.bus_id.get().cloned().unwrap_or_default(),
            device: card.now.gpu.minor.get().map(|minor| format!("nvidia{minor}")).unwrap_or_default(),
            pod,
        }
    }

    fn of_instance<'a>(&'a self, profile: &'a str, id: &'a str, host_label: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut all = self.list(host_label);
        let after = all.len().min(5);
        all.splice(after..after, [("GPU_I_PROFILE", profile), ("GPU_I_ID", id)]);
        all
    }

    fn list<'a>(&'a self, host_label: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut all = vec![
            ("gpu", self.card.index.as_str()),
            ("UUID", self.card.uuid.as_str()),
            ("pci_bus_id", self.bus.as_str()),
            ("device", self.device.as_str()),
            ("modelName", self.name),
            (host_label, self.host),
            ("DCGM_FI_DRIVER_VERSION", self.driver),
        ];
        if let Some((container, namespace, pod)) = self.pod {
            all.extend([("container", container), ("namespace", namespace), ("pod", pod)]);
        }
        all
    }
}
