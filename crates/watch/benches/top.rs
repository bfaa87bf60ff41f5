//! What `thruway top` costs: eight simulated GPUs, 64 processes, a look and a picture each second. Prints the share of a core that
//! this process used, by /proc/self/stat; wanted: below 1 %. `cargo bench -p thruway-watch --bench top`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a bench reads its own cost"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use common::Live;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use watch::Sampler;
use watch::top::{Options, View, draw};

const SECONDS: u64 = 20;

/// Ticks of 10 ms that this process has used.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("its own");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

fn main() {
    let live = Live::new("h100x8");
    let mut control = String::new();
    for card in 0..8 {
        let process = |n: u32| {
            let pid = 5000 + card * 8 + n;
            live.process(
                pid,
                "/usr/lib/jellyfin-ffmpeg/ffmpeg",
                &format!("0::/system.slice/docker-{:064x}.scope\n", pid / 4),
            );
            format!("{{ pid = {pid}, kind = 'C', memory_mib = 949, sm = {}, mem = 3, enc = 0, dec = 21 }}", 4 + n)
        };
        let list: Vec<String> = (0..8).map(process).collect();
        let _ = write!(control, "[[gpus]]\nindex = {card}\nset = {{ processes = [{}] }}\n", list.join(", "));
    }
    live.control(&control);
    let options =
        Options { name: "a bench".into(), every: Duration::from_secs(1), colour: true, unicode: true, card: None };
    let mut view = View::new(&options, std::collections::HashMap::new());
    let mut sampler = Sampler::open(&live.machine);
    let out = std::fs::File::create("/dev/null").expect("opens");
    let viewport = ratatui::Viewport::Fixed(Rect::new(0, 0, 120, 60));
    let made = Terminal::with_options(CrosstermBackend::new(out), ratatui::TerminalOptions { viewport });
    let mut terminal = made.expect("a terminal");
    // the first look asks what a card is
    view.take(sampler.sample(&live.machine));
    let (mut looked, mut drawn) = (Duration::ZERO, Duration::ZERO);
    let (before, start) = (ticks(), Instant::now());
    for second in 1..=SECONDS {
        let began = Instant::now();
        let sample = sampler.sample(&live.machine);
        looked += began.elapsed();
        let processes: usize = sample.cards.iter().filter_map(|card| card.processes.get()).map(Vec::len).sum();
        assert_eq!((sample.cards.len(), processes), (8, 64));
        let began = Instant::now();
        view.take(sample);
        terminal.draw(|frame| draw(frame, &mut view)).expect("draws");
        drawn += began.elapsed();
        std::thread::sleep((start + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
    }
    let used = (ticks() - before) as f64 / 100.0;
    let share = used * 100.0 / start.elapsed().as_secs_f64();
    let each = |time: Duration| time.as_secs_f64() * 1000.0 / SECONDS as f64;
    println!(
        "top: 8 GPUs, 64 processes, once a second for {SECONDS} s: {share:.2} % of a core; a look takes {:.1} ms, the simulated library \
         with it, and a picture {:.1} ms",
        each(looked),
        each(drawn)
    );
}
