//! `thruway gpus --watch`: NVML asked again and again in one conversation, and Xids as they come.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use machine::nvml::{self, Depth, NvmlGpu, NvmlReport, Watch, Xid, reasons};
use machine::{Kind, Machine};
use model::{Bdf, Seen};
use serde_json::json;

use crate::cli::{Global, GpusArgs};
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::{BLIND, DONE, FOUND, say, warn};

const SCHEMA: u32 = 1;
/// Xids that stay on the screen.
const KEPT: usize = 8;
/// So soon is ctrl-C noticed.
const STEP: Duration = Duration::from_millis(50);

pub fn watch(global: &Global, args: &GpusArgs) -> anyhow::Result<u8> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch for ctrl-C")?;
    }
    let target = Target::open(global)?;
    let machine = target.machine();
    if let Some(reason) = gpu::awake(machine).unreadable() {
        return warn(&format!("NVML is {reason}")).map(|()| BLIND);
    }
    let mut source = match Source::open(machine) {
        Seen::Is(source) => source,
        Seen::Absent => {
            return warn("no NVIDIA driver runs here: thruway gpus lists the cards all the same").map(|()| FOUND);
        }
        Seen::Unreadable(reason) => return warn(&format!("NVML could not be asked: {reason}")).map(|()| BLIND),
    };
    let redraw = !global.json && std::io::stdout().is_terminal();
    let start = Instant::now();
    let over = || stop.load(Ordering::Relaxed) || args.span.is_some_and(|span| start.elapsed() >= span);
    let mut xids: Vec<Told> = Vec::new();
    let mut next = start;
    while !over() {
        let report = source.report(machine);
        let mut screen = String::new();
        if redraw {
            screen.push_str("\x1b[H\x1b[J");
        }
        if global.json {
            screen.push_str(&(line(&report, machine.kind(), args.card).to_string() + "\n"));
        } else {
            screen.push_str(&block(&report, machine.kind(), args.card));
            if redraw {
                xids.iter().rev().take(KEPT).rev().for_each(|told| screen.push_str(&told.words()));
            } else {
                screen.push('\n');
            }
        }
        say(&screen)?;
        // A look that took longer than the time between two is not made up for.
        next = (next + args.every).max(Instant::now());
        while !over() && Instant::now() < next {
            let Some(xid) = source.xid(STEP.min(next.saturating_duration_since(Instant::now()))) else { continue };
            let told = Told::new(&xid, report.get());
            say(&if global.json { told.json().to_string() + "\n" } else { told.words() })?;
            xids.push(told);
        }
    }
    Ok(DONE)
}

/// Where the reports are from: the live library, or what a capture or a simulated machine answers each time.
enum Source {
    Live(Watch),
    Told,
}

impl Source {
    fn open(machine: &dyn Machine) -> Seen<Source> {
        if machine.kind() == Kind::Live {
            return Watch::open(machine).map(Source::Live);
        }
        nvml::ask(machine, Depth::All).map(|_| Source::Told)
    }

    fn report(&mut self, machine: &dyn Machine) -> Seen<NvmlReport> {
        match self {
            Source::Live(watch) => watch.report(machine),
            Source::Told => nvml::ask(machine, Depth::All),
        }
    }

    fn xid(&self, wait: Duration) -> Option<Xid> {
        match self {
            Source::Live(watch) => watch.xid(wait),
            Source::Told => {
                std::thread::sleep(wait);
                None
            }
        }
    }
}

/// An Xid with what is known of it.
struct Told {
    time: jiff::Zoned,
    gpu: Option<u32>,
    bus: Option<String>,
    number: u64,
}

impl Told {
    fn new(xid: &Xid, report: Option<&NvmlReport>) -> Told {
        let gpu = report.and_then(|report| report.gpus.iter().find(|gpu| Some(gpu.index) == xid.gpu));
        let bus = gpu.and_then(|gpu| gpu.bus_id.get().cloned());
        Told { time: jiff::Zoned::now(), gpu: xid.gpu, bus, number: xid.number }
    }

    fn words(&self) -> String {
        let of = self.gpu.map_or_else(|| "a GPU".into(), |gpu| format!("GPU {gpu}"));
        let bus = self.bus.as_ref().map(|bus| format!(" ({bus})")).unwrap_or_default();
        let says = match gpu::xid::meaning(self.number) {
            Some(xid) => format!("{}; {}", xid.says, xid.action),
            None => "not in thruway's table: NVIDIA's Xid catalogue may say more".into(),
        };
        let mut page = Page::new();
        let label = format!("Xid {} ", self.number);
        page.hang(
            0,
            &label,
            label.len(),
            Tone::Bad,
            &format!("{of}{bus} at {}: {says}", self.time.strftime("%H:%M:%S")),
        );
        page.text()
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "schema": SCHEMA, "time": self.time.timestamp().to_string(),
            "xid": { "number": self.number, "gpu": self.gpu, "bus_id": self.bus, "meaning": gpu::xid::meaning(self.number) },
        })
    }
}

fn chosen(report: &NvmlReport, only: Option<Bdf>) -> impl Iterator<Item = &NvmlGpu> {
    let is = move |gpu: &&NvmlGpu| {
        only.is_none_or(|bdf| {
            gpu.bus_id.get().and_then(|id| id.parse::<Bdf>().ok()).is_some_and(|at| at.same_slot(&bdf))
        })
    };
    report.gpus.iter().filter(is)
}

fn line(report: &Seen<NvmlReport>, kind: Kind, only: Option<Bdf>) -> serde_json::Value {
    let gpus = report.as_ref().map(|report| chosen(report, only).collect::<Vec<_>>());
    json!({
        "schema": SCHEMA, "time": jiff::Timestamp::now().to_string(), "simulated": kind == Kind::Simulated,
        "driver": report.as_ref().map(|report| &report.driver_version), "gpus": gpus,
    })
}

fn block(report: &Seen<NvmlReport>, kind: Kind, only: Option<Bdf>) -> String {
    let mut page = Page::new();
    let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
    let simulated = if kind == Kind::Simulated { "  (simulated)" } else { "" };
    let report = match report {
        Seen::Is(report) => report,
        Seen::Absent => {
            page.line(format!("{time}  the driver is gone: nothing answers"));
            return page.text();
        }
        Seen::Unreadable(reason) => {
            page.line(format!("{time}  {}", paint(Tone::Bad, &format!("NVML could not be asked: {reason}"))));
            return page.text();
        }
    };
    let driver = report.driver_version.get().cloned().unwrap_or_default();
    page.line(format!("{time}  {}{simulated}", paint(Tone::Faint, &format!("driver {driver}"))));
    for gpu in chosen(report, only) {
        card(&mut page, gpu);
    }
    page.text()
}

fn card(page: &mut Page, gpu: &NvmlGpu) {
    let label = format!("GPU {:<3}", gpu.index);
    if let Some(reason) = gpu.name.unreadable() {
        page.line(format!("{label} {}", paint(Tone::Bad, &reason.to_string())));
        return;
    }
    let text = |seen: &Seen<String>| seen.get().cloned().unwrap_or_else(|| "N/A".into());
    page.line(format!("{label} {}  {}", paint(Tone::Strong, &text(&gpu.name)), paint(Tone::Faint, &text(&gpu.bus_id))));
    let number = |seen: &Seen<u32>, unit: &str| seen.get().map_or_else(|| "N/A".into(), |n| format!("{n}{unit}"));
    let watts = |seen: &Seen<u32>| seen.get().map_or_else(|| "N/A".into(), |mw| format!("{} W", mw / 1000));
    let mib = |seen: &Seen<u64>| seen.get().map_or_else(|| "N/A".into(), |bytes| (bytes >> 20).to_string());
    let pstate = gpu.pstate.get().map_or_else(|| "N/A".into(), |p| format!("P{p}"));
    let say = |page: &mut Page, text: String| page.hang(8, "", 0, Tone::Plain, &text);
    say(
        page,
        format!(
            "GPU {}, memory {} ({} of {} MiB), encoder {}, decoder {}",
            number(&gpu.utilization_gpu, " %"),
            number(&gpu.utilization_memory, " %"),
            mib(&gpu.memory_used),
            mib(&gpu.memory_total),
            number(&gpu.utilization_encoder, " %"),
            number(&gpu.utilization_decoder, " %"),
        ),
    );
    say(
        page,
        format!(
            "{}, fan {}, {} of {}, {pstate}, SM {}, memory {}",
            number(&gpu.temperature, " °C"),
            number(&gpu.fan, " %"),
            watts(&gpu.power_draw),
            watts(&gpu.power_limit),
            number(&gpu.clock_sm, " MHz"),
            number(&gpu.clock_memory, " MHz"),
        ),
    );
    if let Some(why) = held(gpu) {
        page.hang(8, "", 0, Tone::Warn, &format!("clocks held down by {why}"));
    }
    for process in gpu.processes.get().into_iter().flatten() {
        let name = process.name.get().map_or("?", String::as_str);
        let sm = process.sm.get().map(|sm| format!(", SM {sm} %")).unwrap_or_default();
        let video = match (process.encoder.get(), process.decoder.get()) {
            (Some(encoder), Some(decoder)) if encoder + decoder > 0 => {
                format!(", encoder {encoder} %, decoder {decoder} %")
            }
            _ => String::new(),
        };
        say(page, format!("process {} {} {name}, {} MiB{sm}{video}", process.pid, process.kind, mib(&process.memory)));
    }
}

/// What keeps the clocks low, beside idleness and settings.
pub fn held(gpu: &NvmlGpu) -> Option<String> {
    let bits = *gpu.health.get()?.event_reasons.get()?;
    let all = [
        (reasons::SW_POWER_CAP, "the power limit"),
        (reasons::HW_SLOWDOWN, "the hardware's slowdown"),
        (reasons::SW_THERMAL, "heat (driver)"),
        (reasons::HW_THERMAL, "heat (hardware)"),
        (reasons::HW_POWER_BRAKE, "the power brake"),
    ];
    let names: Vec<&str> = all.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { None } else { Some(names.join(", ")) }
}
