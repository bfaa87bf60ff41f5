//! `thruway gpus -v`: what NVML tells of a card beyond its state of now. Only what the card has is shown.

use machine::nvml::{NvmlBoard, NvmlGpu, NvmlHealth};
use model::Seen;

use crate::paint::{Page, Tone};

const COLUMN: usize = 10;

/// "a 1, b 2" of what was seen.
fn list(parts: &[(&str, Option<String>)]) -> Option<String> {
    let shown: Vec<String> = parts
        .iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?).trim().to_owned()))
        .collect();
    if shown.is_empty() { None } else { Some(shown.join(", ")) }
}

fn number<T: std::fmt::Display>(seen: &Seen<T>, unit: &str) -> Option<String> {
    match seen {
        Seen::Is(value) => Some(format!("{value}{unit}")),
        Seen::Absent => None,
        Seen::Unreadable(reason) => Some(format!("unknown ({reason})")),
    }
}

fn watts(seen: &Seen<u32>) -> Option<String> {
    number(&seen.as_ref().map(|mw| format!("{:.1}", f64::from(*mw) / 1000.0)), " W")
}

fn yes(seen: &Seen<bool>) -> Option<String> {
    number(&seen.as_ref().map(|on| if *on { "yes" } else { "no" }), "")
}

pub fn lines(page: &mut Page, gpu: &NvmlGpu) {
    let mut say = |label: &str, text: Option<String>| {
        if let Some(text) = text {
            page.hang(4, label, COLUMN, Tone::Plain, &text);
        }
    };
    if let Seen::Is(health) = &gpu.health {
        say("health", self::health(gpu, health));
    }
    say("held", crate::watch::held(gpu).map(|by| format!("clocks are held down by {by}")));
    if let Seen::Is(errors) = &gpu.errors {
        let banks = errors.histogram.get().map(|[max, high, partial, low, none]| {
            format!("max {max}, high {high}, partial {partial}, low {low}, none {none}")
        });
        say("banks", banks);
        let repair = [("channel", &errors.channel_repair_pending), ("TPC", &errors.tpc_repair_pending)];
        let waiting: Vec<&str> =
            repair.iter().filter(|(_, seen)| seen.get() == Some(&true)).map(|(name, _)| *name).collect();
        say("repair", (!waiting.is_empty()).then(|| format!("pending: {}", waiting.join(", "))));
        say("memory", (errors.unrepairable_memory.get() == Some(&true)).then(|| "cannot be repaired".into()));
    }
    if let Seen::Is(power) = &gpu.power {
        say(
            "power",
            list(&[
                ("average", watts(&power.average)),
                ("instant", watts(&power.instant)),
                ("memory", watts(&power.memory_average)),
                ("limit enforced", watts(&power.enforced)),
                ("default", watts(&power.default)),
                ("min", watts(&power.min)),
                ("max", watts(&power.max)),
                ("energy", number(&power.energy.as_ref().map(|mj| mj / 1000), " J")),
            ]),
        );
    }
    if let Seen::Is(heat) = &gpu.heat {
        say(
            "heat",
            list(&[
                ("memory", number(&heat.memory, " °C")),
                ("degrees left", number(&heat.margin, "")),
                ("slowdown at", number(&heat.slowdown, " °C")),
                ("shutdown at", number(&heat.shutdown, " °C")),
                ("fans", heat.fans.get().filter(|fans| fans.len() > 1).map(|fans| format!("{fans:?} %"))),
            ]),
        );
    }
    if let Seen::Is(clocks) = &gpu.clocks {
        say(
            "clocks",
            list(&[
                ("graphics at most", number(&clocks.max_graphics, " MHz")),
                ("memory", number(&clocks.max_memory, " MHz")),
                ("applications", number(&clocks.application_graphics, " MHz")),
            ]),
        );
        let seconds =
            |seen: &Seen<u64>| seen.get().filter(|us| **us > 0).map(|us| format!("{:.1} s", *us as f64 / 1e6));
        say(
            "held for",
            list(&[
                ("power limit", seconds(&clocks.held_sw_power_cap)),
                ("heat (driver)", seconds(&clocks.held_sw_thermal)),
                ("heat (hardware)", seconds(&clocks.held_hw_thermal)),
                ("power brake", seconds(&clocks.held_hw_power_brake)),
                ("sync boost", seconds(&clocks.held_sync_boost)),
            ]),
        );
    }
    if let Seen::Is(pcie) = &gpu.pcie {
        say(
            "PCIe",
            list(&[
                ("replays", number(&pcie.replays, "")),
                ("sends", number(&pcie.sent, " KB/s")),
                ("receives", number(&pcie.received, " KB/s")),
            ]),
        );
    }
    if let Seen::Is(board) = &gpu.board {
        say("identity", identity(board));
    }
    engines(&mut say, gpu);
    links(&mut say, gpu);
    mig(&mut say, gpu);
}

fn health(gpu: &NvmlGpu, health: &NvmlHealth) -> Option<String> {
    list(&[
        ("ECC uncorrected", number(&gpu.ecc_uncorrected_volatile, "")),
        ("ever", number(&health.uncorrected_aggregate, "")),
        ("corrected", number(&health.corrected_volatile, "")),
        ("ever", number(&health.corrected_aggregate, "")),
        ("pages retired", number(&health.retired_double, "")),
        ("pending", yes(&health.retired_pending)),
        ("rows remapped", number(&health.remapped_uncorrected, "")),
        ("pending", yes(&health.remapped_pending)),
        ("failed", yes(&health.remapped_failed)),
        ("recovery", number(&health.recovery, "")),
    ])
}

fn identity(board: &NvmlBoard) -> Option<String> {
    list(&[
        ("board", number(&board.part_number, "")),
        ("InfoROM", number(&board.inforom_image, "")),
        ("GSP firmware", number(&board.gsp_version, "")),
        ("addressing", number(&board.addressing, "")),
        ("accounting", yes(&board.accounting)),
    ])
}

fn engines(say: &mut impl FnMut(&str, Option<String>), gpu: &NvmlGpu) {
    let Seen::Is(engines) = &gpu.engines else { return };
    say("engines", list(&[("JPEG", number(&engines.jpeg, " %")), ("OFA", number(&engines.ofa, " %"))]));
    for session in engines.sessions.get().into_iter().flatten() {
        let text = format!(
            "of process {}: {} {}x{}, {} frames/s, {} µs a frame",
            session.pid, session.codec, session.width, session.height, session.fps, session.latency
        );
        say("encodes", Some(text));
    }
}

fn links(say: &mut impl FnMut(&str, Option<String>), gpu: &NvmlGpu) {
    let Seen::Is(nvlink) = &gpu.nvlink else { return };
    if !nvlink.links.is_empty() {
        let up = nvlink.links.iter().filter(|link| link.active.get() == Some(&true)).count();
        let down: Vec<String> = nvlink
            .links
            .iter()
            .filter(|link| link.active.get() == Some(&false))
            .map(|link| link.link.to_string())
            .collect();
        let version = nvlink.links.iter().find_map(|link| link.version.get());
        let version = version.map(|version| format!(", version {version}")).unwrap_or_default();
        let down = if down.is_empty() { String::new() } else { format!(", down: {}", down.join(", ")) };
        let errors: u64 = nvlink.links.iter().filter_map(|link| link.errors.get()).flatten().sum();
        let mut ends: Vec<&String> = nvlink.links.iter().filter_map(|link| link.remote.get()).collect();
        ends.sort_unstable();
        ends.dedup();
        let ends: Vec<&str> = ends.iter().map(|end| end.as_str()).collect();
        let to = if ends.is_empty() { String::new() } else { format!(", to {}", ends.join(" ")) };
        say("NVLink", Some(format!("{up} of {} links up{version}{down}, {errors} errors{to}", nvlink.links.len())));
    }
    say(
        "fabric",
        list(&[
            ("", number(&nvlink.state, "")),
            ("status", number(&nvlink.status, "")),
            ("health", number(&nvlink.summary, "")),
        ]),
    );
}

fn mig(say: &mut impl FnMut(&str, Option<String>), gpu: &NvmlGpu) {
    let Seen::Is(mig) = &gpu.mig else { return };
    for device in mig.devices.get().into_iter().flatten() {
        let mib = |seen: &Seen<u64>| number(&seen.as_ref().map(|bytes| bytes >> 20), "");
        let text = format!(
            "{} {}, GPU instance {}, compute instance {}, {} of {} MiB used, {} multiprocessors, {}",
            device.index,
            number(&device.profile, "").unwrap_or_default(),
            number(&device.gpu_instance, "").unwrap_or_default(),
            number(&device.compute_instance, "").unwrap_or_default(),
            mib(&device.memory_used).unwrap_or_default(),
            mib(&device.memory_total).unwrap_or_default(),
            number(&device.multiprocessors, "").unwrap_or_default(),
            number(&device.uuid, "").unwrap_or_default(),
        );
        say("MIG", Some(text));
    }
    if gpu.mig_enabled.get() == Some(&true) {
        let room: Vec<String> = mig
            .profiles
            .get()
            .into_iter()
            .flatten()
            .filter(|profile| profile.remaining.get().is_some_and(|left| *left > 0))
            .filter_map(|profile| Some(format!("{} ({})", profile.name.get()?, profile.remaining.get()?)))
            .collect();
        say("room for", (!room.is_empty()).then(|| room.join(", ")));
    }
}
