//! `thruway stress`: the card computes for a while, and says whether it computed right.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use app::stress::{Peak, Tally, Wanted, run};
use cuda::Cuda;
use machine::Machine;
use machine::nvml::NvmlGpu;
use model::{Bdf, Seen};
use serde_json::json;

use crate::cli::{Global, StressArgs};
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::{DONE, FOUND, say};

const SCHEMA: u32 = 1;
const COLUMN: usize = 10;

/// What NVML told while it ran.
#[derive(Default)]
struct Watch {
    hottest: Option<u32>,
    most_power: Option<u32>,
    slowest_sm: Option<u32>,
    readings: Vec<u32>,
}

/// 0 every result was right, 1 one was not or the card was lost, 2 it could not run.
pub fn stress(global: &Global, args: &StressArgs) -> anyhow::Result<u8> {
    if global.root.is_some() || global.from.is_some() || global.sim.is_some() {
        bail!("stress works on this machine's own cards: --root, --from and --sim choose none");
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch for ctrl-C")?;
    }
    let target = Target::open(global)?;
    let machine = target.machine();
    let cuda = Cuda::open().context("the card cannot be worked on")?;
    let devices = cuda.devices().context("the card cannot be worked on")?;
    let wanted = args.gpu.as_deref();
    let chosen = devices.iter().enumerate().find(|(index, device)| match wanted {
        None => true,
        Some(text) => {
            let bus_id = device.bus_id().unwrap_or_default();
            text.parse() == Ok(*index)
                || text.parse::<Bdf>().is_ok_and(|bdf| bus_id.parse::<Bdf>() == Ok(bdf))
                || nvml_of(machine, &bus_id).is_some_and(|gpu| gpu.uuid.get().is_some_and(|uuid| uuid == text))
        }
    });
    let Some((_, device)) = chosen else {
        let known: Vec<String> = devices.iter().filter_map(|device| device.bus_id().ok()).collect();
        bail!("no card is \"{}\"; CUDA shows: {}", wanted.unwrap_or_default(), known.join(", "));
    };
    let bus_id = device.bus_id()?;
    let name = device.name()?;
    let before = nvml_of(machine, &bus_id);
    if !global.json {
        say(&format!("{}  {}\n", paint(Tone::Strong, &bus_id), paint(Tone::Strong, &name)))?;
    }
    let live = !global.json && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let mut watch = Watch::default();
    let mut looked = Instant::now();
    let asked = Wanted { time: Duration::from_secs(args.time), memory: args.mem, broken: args.break_kernel };
    let mut tell = |tally: &Tally, _: &Peak| {
        if looked.elapsed() >= Duration::from_secs(1) {
            looked = Instant::now();
            watch.look(nvml_of(machine, &bus_id).as_ref());
        }
        if live {
            let _ = write!(anstream::stderr(), "\r{}\x1b[K", progress(tally, args.time, &watch));
        }
    };
    let done = run(device, asked, &stop, &mut tell);
    if live {
        let _ = write!(anstream::stderr(), "\r\x1b[K");
    }
    let (tally, peak) = done.with_context(|| format!("{bus_id} ({name}) could not go on"))?;
    let after = nvml_of(machine, &bus_id);
    let ecc = |gpu: &Option<NvmlGpu>| gpu.as_ref().and_then(|gpu| gpu.ecc_uncorrected_volatile.get().copied());
    let new_ecc = ecc(&after).zip(ecc(&before)).map(|(after, before)| after.saturating_sub(before));
    let wrong = tally.errors() > 0 || new_ecc.is_some_and(|new| new > 0);
    let status = if wrong || tally.lost.is_some() { FOUND } else { DONE };
    let verdict = match (&tally.lost, wrong) {
        (Some(_), _) => "lost",
        (None, true) => "wrong",
        (None, false) => "right",
    };
    if global.json {
        let report = json!({
            "schema": SCHEMA, "thruway": env!("CARGO_PKG_VERSION"), "bdf": bus_id, "name": name,
            "verdict": verdict, "tally": tally, "peak": peak,
            "bandwidth": tally.bandwidth(), "integers": tally.integers(), "floats": tally.floats(),
            "hottest": watch.hottest, "most_power_mw": watch.most_power, "slowest_sm_mhz": watch.slowest_sm,
            "new_ecc_uncorrected": new_ecc,
        });
        return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| status);
    }
    say(&report(&tally, &peak, &watch, new_ecc, wrong))?;
    Ok(status)
}

impl Watch {
    fn look(&mut self, gpu: Option<&NvmlGpu>) {
        let Some(gpu) = gpu else { return };
        let most = |old: Option<u32>, new: &Seen<u32>| old.max(new.get().copied());
        self.hottest = most(self.hottest, &gpu.temperature);
        self.most_power = most(self.most_power, &gpu.power_draw);
        self.readings.extend(gpu.temperature.get());
        if let Some(clock) = gpu.clock_sm.get() {
            self.slowest_sm = Some(self.slowest_sm.map_or(*clock, |old| old.min(*clock)));
        }
    }
}

fn nvml_of(machine: &dyn Machine, bus_id: &str) -> Option<NvmlGpu> {
    let bdf: Bdf = bus_id.parse().ok()?;
    let Seen::Is(machine::Answer::Nvml(report)) = machine.ask(&machine::Question::Nvml) else { return None };
    report.gpus.into_iter().find(|gpu| gpu.bus_id.get().is_some_and(|id| id.parse::<Bdf>() == Ok(bdf)))
}

fn progress(tally: &Tally, time: u64, watch: &Watch) -> String {
    const WIDTH: usize = 24;
    let share = (tally.seconds / time.max(1) as f64).min(1.0);
    let full = (share * WIDTH as f64).round() as usize;
    let bar: String = (0..WIDTH).map(|at| if at < full { '█' } else { '░' }).collect();
    let errors = tally.errors();
    let errors = paint(if errors == 0 { Tone::Good } else { Tone::Bad }, &format!("{errors} wrong"));
    let heat = watch.hottest.map(|heat| format!(", {heat} °C")).unwrap_or_default();
    format!("{bar} {:3.0} s  {:.0} GB/s, {errors}{heat}", tally.seconds, tally.bandwidth() / 1e9)
}

fn report(tally: &Tally, peak: &Peak, watch: &Watch, ecc: Option<u64>, wrong: bool) -> String {
    let mut page = Page::new();
    let mut line = |label: &str, tone: Tone, text: &str| page.hang(4, label, COLUMN, tone, text);
    let share = |rate: f64, peak: Option<f64>| {
        peak.map(|peak| format!(", {:.0} % of the card's {:.1}", rate / peak * 100.0, peak / 1e12)).unwrap_or_default()
    };
    let stopped = if tally.stopped { ", stopped early" } else { "" };
    line(
        "ran",
        Tone::Plain,
        &format!("{:.0} s over {:.1} GiB{stopped}", tally.seconds, tally.memory as f64 / (1u64 << 30) as f64),
    );
    let bandwidth = share(tally.bandwidth(), peak.bandwidth).trim_end().to_owned();
    let bandwidth = if bandwidth.is_empty() { bandwidth } else { format!("{bandwidth} TB/s") };
    line("memory", Tone::Plain, &format!("{:.2} TB/s{bandwidth}", tally.bandwidth() / 1e12));
    let floats = share(tally.floats(), peak.floats);
    let floats = if floats.is_empty() { floats } else { format!("{floats} Top/s") };
    line("floats", Tone::Plain, &format!("{:.1} Top/s{floats}", tally.floats() / 1e12));
    line("integers", Tone::Plain, &format!("{:.1} Top/s", tally.integers() / 1e12));
    let mut state = Vec::new();
    state.extend(watch.hottest.map(|heat| format!("{heat} °C at most")));
    state.extend(watch.most_power.map(|power| format!("{:.0} W at most", f64::from(power) / 1e3)));
    state.extend(watch.slowest_sm.map(|clock| format!("SM clock {clock} MHz at least")));
    if !state.is_empty() {
        line("state", Tone::Plain, &state.join(", "));
    }
    if watch.readings.len() > 1 {
        line("heat", Tone::Faint, &plot(&watch.readings));
    }
    if wrong {
        let place = tally.first_memory_error.map(|at| format!(", the first at byte {at} of what was tested"));
        let parts = [
            ("memory", tally.memory_errors),
            ("integers", tally.integer_errors),
            ("floats", tally.float_errors),
            ("uncorrectable ECC errors", ecc.unwrap_or(0)),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} of {what}")).collect();
        let text = format!("WRONG: {}{}", parts.join(", "), place.unwrap_or_default());
        line("results", Tone::Bad, &text);
    } else if tally.lost.is_none() {
        line("results", Tone::Good, "every one right, bit by bit");
    }
    if let Some(lost) = &tally.lost {
        let text = format!("LOST after {:.0} s: the card stopped working ({lost})", tally.seconds);
        line("card", Tone::Bad, &text);
        line("why", Tone::Plain, "journalctl -k -g 'NVRM|pcieport' | thruway explain");
    }
    page.text()
}

/// One character a reading, between the least and the most; at most a line of them.
fn plot(readings: &[u32]) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const WIDTH: usize = 60;
    let (Some(least), Some(most)) = (readings.iter().min(), readings.iter().max()) else { return String::new() };
    let span = (most - least).max(1);
    let step = readings.len().div_ceil(WIDTH).max(1);
    let line: String =
        readings.iter().step_by(step).filter_map(|one| STEPS.get(((one - least) * 7 / span) as usize)).collect();
    format!("{line}  {least} to {most} °C")
}
