//! `thruway stress`: cards compute for a while, all at once, and say whether they computed right; then whether what goes from one to
//! the other arrives, and how fast.

mod links;

use std::io::Write as _;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use app::stress::{Peak, Tally, Wanted, run};
use cuda::{Cuda, Device, WorkError};
use machine::Machine;
use machine::nvml::NvmlGpu;
use model::{Bdf, Seen};
use serde_json::{Value, json};

use crate::cli::{Global, StressArgs};
use crate::paint::{Page, Tone, paint, plural};
use crate::target::Target;
use crate::{BLIND, DONE, FOUND, say};
use links::Ways;

const SCHEMA: u32 = 1;
const COLUMN: usize = 10;
/// How often it is looked whether all are done, and how it goes.
const TICK: Duration = Duration::from_millis(100);

/// What NVML told while it ran.
#[derive(Default)]
struct Watch {
    hottest: Option<u32>,
    most_power: Option<u32>,
    slowest_sm: Option<u32>,
    readings: Vec<u32>,
}

/// A card that is worked on.
struct Card<'a> {
    device: Device<'a>,
    bus_id: String,
    name: String,
    watch: Watch,
    /// Uncorrectable errors before and since.
    ecc_before: Option<u64>,
    new_ecc: Option<u64>,
}

/// What came of it.
type Done = anyhow::Result<(Tally, Peak)>;

/// 0 every result was right, 1 one was not, a card was lost or a way is slow, 2 it could not run.
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
    let mut cards = chosen(&devices, &args.gpu, &nvml(machine))?;
    let alone = cards.len() == 1;
    if let ([card], false) = (cards.as_slice(), global.json) {
        say(&title(card))?;
    }
    let live = !global.json && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let mut done = work(machine, &mut cards, args, &stop, live);
    if alone && let Some(Err(error)) = done.pop_if(|done| done.is_err()) {
        let card = cards.first().map(|card| format!("{} ({})", card.bus_id, card.name)).unwrap_or_default();
        return Err(error.context(format!("{card} could not go on")));
    }
    let ways = if alone || args.no_links {
        None
    } else {
        let fit: Vec<(&Card<'_>, &Peak)> = cards.iter().zip(&done).filter_map(|(card, done)| fit(card, done)).collect();
        (fit.len() > 1).then(|| Ways::measure(machine, &cuda, &fit, args.break_kernel, &stop, live))
    };
    let after = nvml(machine);
    for card in &mut cards {
        let ecc = of(&after, &card.bus_id).and_then(|gpu| gpu.ecc_uncorrected_volatile.get().copied());
        card.new_ecc = ecc.zip(card.ecc_before).map(|(after, before)| after.saturating_sub(before));
    }
    let verdicts: Vec<&str> = cards.iter().zip(&done).map(|(card, done)| verdict(card, done)).collect();
    // the worst first
    let words = ["lost", "wrong", "slow", "failed"];
    let of_ways = ways.as_ref().map(Ways::verdict);
    let worst = words.into_iter().find(|word| verdicts.contains(word) || of_ways == Some(word)).unwrap_or("right");
    let status = match worst {
        "right" => DONE,
        "failed" => BLIND,
        _ => FOUND,
    };
    if global.json {
        let rows = cards.iter().zip(&done).zip(&verdicts).map(|((card, done), verdict)| row(card, done, verdict));
        let mut report = if alone {
            rows.into_iter().next().unwrap_or_default()
        } else {
            let ways = ways.as_ref().map(Ways::json);
            json!({ "verdict": worst, "cards": rows.collect::<Vec<_>>(), "links": ways })
        };
        report["schema"] = SCHEMA.into();
        report["thruway"] = env!("CARGO_PKG_VERSION").into();
        return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| status);
    }
    for (card, done) in cards.iter().zip(&done) {
        if !alone {
            say(&title(card))?;
        }
        match done {
            Ok((tally, peak)) => say(&report(tally, peak, card))?,
            Err(error) => {
                let mut page = Page::new();
                page.hang(4, "failed", COLUMN, Tone::Bad, &format!("could not go on: {error:#}"));
                say(&page.text())?;
            }
        }
    }
    if let Some(ways) = &ways {
        say(&ways.text())?;
    }
    Ok(status)
}

fn title(card: &Card<'_>) -> String {
    format!("{}  {}\n", paint(Tone::Strong, &card.bus_id), paint(Tone::Strong, &card.name))
}

/// Those that are asked for, in CUDA's order; all where none is.
fn chosen<'a>(devices: &[Device<'a>], wanted: &[String], before: &[NvmlGpu]) -> anyhow::Result<Vec<Card<'a>>> {
    let mut all = Vec::new();
    for device in devices {
        all.push((*device, device.bus_id()?));
    }
    let is = |text: &str, index: usize, bus_id: &str| {
        text.parse() == Ok(index)
            || text.parse::<Bdf>().is_ok_and(|bdf| bus_id.parse::<Bdf>() == Ok(bdf))
            || of(before, bus_id).is_some_and(|gpu| gpu.uuid.get().is_some_and(|uuid| uuid == text))
    };
    for text in wanted {
        if !all.iter().enumerate().any(|(index, (_, bus_id))| is(text, index, bus_id)) {
            let known: Vec<&str> = all.iter().map(|(_, bus_id)| bus_id.as_str()).collect();
            bail!("no card is \"{text}\"; CUDA shows: {}", known.join(", "));
        }
    }
    let mut cards = Vec::new();
    for (index, (device, bus_id)) in all.into_iter().enumerate() {
        if wanted.is_empty() || wanted.iter().any(|text| is(text, index, &bus_id)) {
            let ecc_before = of(before, &bus_id).and_then(|gpu| gpu.ecc_uncorrected_volatile.get().copied());
            let (name, watch) = (device.name()?, Watch::default());
            cards.push(Card { device, bus_id, name, watch, ecc_before, new_ecc: None });
        }
    }
    Ok(cards)
}

/// Each card by a thread of its own, watched from this one.
fn work(machine: &dyn Machine, cards: &mut [Card<'_>], args: &StressArgs, stop: &AtomicBool, live: bool) -> Vec<Done> {
    let asked = Wanted { time: Duration::from_secs(args.time), memory: args.mem, broken: args.break_kernel };
    let told: Vec<Mutex<Tally>> = cards.iter().map(|_| Mutex::default()).collect();
    let devices: Vec<Device<'_>> = cards.iter().map(|card| card.device).collect();
    let one = |(device, told): (Device<'_>, &Mutex<Tally>)| {
        let mut tell = |tally: &Tally, _: &Peak| {
            if let Ok(mut told) = told.lock() {
                told.clone_from(tally);
            }
        };
        run(&device, asked, stop, &mut tell)
    };
    let one = &one;
    let done = std::thread::scope(|scope| {
        let workers: Vec<_> = devices.into_iter().zip(&told).map(|card| scope.spawn(move || one(card))).collect();
        let mut looked = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(TICK);
            if looked.elapsed() >= Duration::from_secs(1) {
                looked = Instant::now();
                let now = nvml(machine);
                cards.iter_mut().for_each(|card| card.watch.look(of(&now, &card.bus_id)));
            }
            if live {
                let tallies: Vec<Tally> = told.iter().filter_map(|told| Some(told.lock().ok()?.clone())).collect();
                let _ = write!(anstream::stderr(), "\r{}\x1b[K", progress(&tallies, args.time, cards));
            }
        }
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        let end = |ended: std::thread::Result<Result<(Tally, Peak), WorkError>>| match ended {
            Ok(done) => Ok(done?),
            Err(_) => Err(anyhow!("the thread of this card ended by a panic")),
        };
        ended.into_iter().map(end).collect()
    });
    if live {
        let _ = write!(anstream::stderr(), "\r\x1b[K");
    }
    done
}

/// What can still copy.
fn fit<'a, 'b>(card: &'a Card<'b>, done: &'a Done) -> Option<(&'a Card<'b>, &'a Peak)> {
    let (tally, peak) = done.as_ref().ok()?;
    tally.lost.is_none().then_some((card, peak))
}

fn verdict(card: &Card<'_>, done: &Done) -> &'static str {
    match done {
        Err(_) => "failed",
        Ok((tally, _)) if tally.lost.is_some() => "lost",
        Ok((tally, _)) if tally.errors() > 0 || card.new_ecc.is_some_and(|new| new > 0) => "wrong",
        Ok(_) => "right",
    }
}

fn row(card: &Card<'_>, done: &Done, verdict: &str) -> Value {
    match done {
        Ok((tally, peak)) => json!({
            "bdf": card.bus_id, "name": card.name, "verdict": verdict, "tally": tally, "peak": peak,
            "bandwidth": tally.bandwidth(), "integers": tally.integers(), "floats": tally.floats(),
            "hottest": card.watch.hottest, "most_power_mw": card.watch.most_power,
            "slowest_sm_mhz": card.watch.slowest_sm, "new_ecc_uncorrected": card.new_ecc,
        }),
        Err(error) => {
            json!({ "bdf": card.bus_id, "name": card.name, "verdict": verdict, "error": format!("{error:#}") })
        }
    }
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

/// Every card as NVML says it is now; none where it says nothing.
fn nvml(machine: &dyn Machine) -> Vec<NvmlGpu> {
    match machine.ask(&machine::Question::Nvml) {
        Seen::Is(machine::Answer::Nvml(report)) => report.gpus,
        _ => Vec::new(),
    }
}

fn of<'a>(gpus: &'a [NvmlGpu], bus_id: &str) -> Option<&'a NvmlGpu> {
    let bdf: Bdf = bus_id.parse().ok()?;
    gpus.iter().find(|gpu| gpu.bus_id.get().is_some_and(|id| id.parse::<Bdf>() == Ok(bdf)))
}

fn progress(tallies: &[Tally], time: u64, cards: &[Card<'_>]) -> String {
    // the one that is behind
    let seconds = tallies.iter().map(|tally| tally.seconds).fold(f64::INFINITY, f64::min);
    let errors: u64 = tallies.iter().map(Tally::errors).sum();
    let bandwidth: f64 = tallies.iter().map(Tally::bandwidth).sum();
    let errors = paint(if errors == 0 { Tone::Good } else { Tone::Bad }, &format!("{errors} wrong"));
    let heat = cards.iter().filter_map(|card| card.watch.hottest).max();
    let heat = heat.map(|heat| format!(", {heat} °C")).unwrap_or_default();
    let many = if cards.len() > 1 { format!("{}, ", plural(cards.len(), "card", "cards")) } else { String::new() };
    let bar = bar(seconds / time.max(1) as f64);
    format!("{bar} {seconds:3.0} s  {many}{:.0} GB/s, {errors}{heat}", bandwidth / 1e9)
}

fn bar(share: f64) -> String {
    const WIDTH: usize = 24;
    let full = (share.clamp(0.0, 1.0) * WIDTH as f64).round() as usize;
    (0..WIDTH).map(|at| if at < full { '█' } else { '░' }).collect()
}

fn report(tally: &Tally, peak: &Peak, card: &Card<'_>) -> String {
    let (watch, ecc) = (&card.watch, card.new_ecc);
    let wrong = tally.errors() > 0 || ecc.is_some_and(|new| new > 0);
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
