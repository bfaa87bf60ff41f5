//! A walk on a terminal: a line a step, with what was run and how long it took.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;

use up::{Ended, Event, Report, What};

use crate::paint::{Page, Tone, paint, plural};
use crate::say;

/// What of a walk is written, and where.
pub struct Screen {
    json: bool,
    verbose: bool,
    /// Many ways at once: each line says whose it is.
    fleet: bool,
    /// A line that is written over, on a terminal.
    live: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    machine: String,
    /// A live line stands there.
    stands: bool,
    broken: bool,
}

const COLUMN: usize = 18;

impl Screen {
    pub fn new(json: bool, verbose: bool, fleet: bool) -> Self {
        let live = !json && !fleet && std::io::stderr().is_terminal();
        Screen { json, verbose, fleet, live, state: Mutex::default() }
    }

    pub fn tell(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.broken {
            return;
        }
        // a reader that went away stops no walk: the log beside the state has all of it
        let written = if self.json {
            serde_json::to_string(event).map_err(Into::into).and_then(|line| say(&(line + "\n")))
        } else {
            self.show(event, &mut state)
        };
        state.broken = written.is_err();
    }

    fn show(&self, event: &Event, state: &mut State) -> anyhow::Result<()> {
        if let What::Progress { done, of, unit } = &event.what {
            return self.progress(event, *done, *of, unit, state);
        }
        if state.stands {
            write!(anstream::stderr(), "\r\u{1b}[K")?;
            state.stands = false;
        }
        if self.fleet { self.fleet_line(event) } else { self.step(event, state) }
    }

    fn progress(&self, event: &Event, done: u64, of: u64, unit: &str, state: &mut State) -> anyhow::Result<()> {
        if !self.live {
            return Ok(());
        }
        const BAR: u64 = 24;
        let says = if unit == "bytes" {
            let filled = (done * BAR).checked_div(of).unwrap_or(BAR).min(BAR);
            let bar: String = (0..BAR).map(|n| if n < filled { '━' } else { '┈' }).collect();
            format!("{bar} {:.1} of {:.1} MB", done as f64 / 1e6, of as f64 / 1e6)
        } else {
            format!("waiting: {done} of at most {of} s")
        };
        let line = format!("  … {:<COLUMN$}{says}", event.step);
        write!(anstream::stderr(), "\r\u{1b}[K{}", paint(Tone::Faint, &line))?;
        std::io::stderr().flush()?;
        state.stands = true;
        Ok(())
    }

    fn step(&self, event: &Event, state: &mut State) -> anyhow::Result<()> {
        let mut page = Page::new();
        if state.machine != event.machine && !matches!(event.what, What::End { .. }) {
            page.gap();
            page.line(paint(Tone::Strong, &event.machine));
            state.machine.clone_from(&event.machine);
        }
        match &event.what {
            What::Begin { says } => {
                if self.live {
                    say(&page.text())?;
                    write!(
                        anstream::stderr(),
                        "{}",
                        paint(Tone::Faint, &format!("  … {:<COLUMN$}{says}", event.step))
                    )?;
                    std::io::stderr().flush()?;
                    state.stands = true;
                    return Ok(());
                }
            }
            What::Command { text } => page.whole(4, "$", 2, Tone::Code, text),
            What::Line { text } => page.whole(4, "", 0, Tone::Faint, text),
            What::Plan { text } => {
                page.gap();
                for line in text.lines() {
                    page.whole(4, "", 0, Tone::Plain, line);
                }
                page.gap();
            }
            What::Done { says, seconds, did } => {
                let (mark, tone) = if *did { ("●", Tone::Good) } else { ("○", Tone::Faint) };
                page.hang(2, &format!("{mark} {}", event.step), COLUMN + 2, tone, &format!("{says}{}", time(*seconds)));
            }
            What::Failed { says, words, seconds } => {
                page.hang(2, &format!("✗ {}", event.step), COLUMN + 2, Tone::Bad, &format!("{says}{}", time(*seconds)));
                for line in words.lines() {
                    page.whole(6, "", 0, Tone::Plain, line);
                }
            }
            What::End { .. } | What::Progress { .. } => {}
        }
        say(&page.text())
    }

    fn fleet_line(&self, event: &Event) -> anyhow::Result<()> {
        let host = event.way.rsplit('/').next().unwrap_or(&event.way);
        let head = |mark: &str| format!("{mark} {host:<14} {}", event.step);
        let column = COLUMN + 17;
        let mut page = Page::new();
        match &event.what {
            What::Done { says, seconds, did } if *did || self.verbose => {
                let tone = if *did { Tone::Good } else { Tone::Faint };
                page.hang(0, &head("●"), column, tone, &format!("{says}{}", time(*seconds)));
            }
            What::Command { text } if self.verbose => page.whole(2, "$", 2, Tone::Code, &format!("{host}: {text}")),
            What::Line { text } if self.verbose => page.whole(2, "", 0, Tone::Faint, &format!("{host}: {text}")),
            What::Plan { text } if self.verbose => {
                for line in text.lines() {
                    page.whole(4, "", 0, Tone::Plain, line);
                }
            }
            What::Failed { says, words, seconds } => {
                page.hang(0, &head("✗"), column, Tone::Bad, &format!("{says}{}", time(*seconds)));
                let words = words.lines().take(if self.verbose { usize::MAX } else { 12 });
                for line in words {
                    page.whole(4, "", 0, Tone::Plain, line);
                }
            }
            _ => return Ok(()),
        }
        say(&page.text())
    }

    /// Ends a live line, before a question.
    pub fn settle(&self) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.stands {
            let _ = write!(anstream::stderr(), "\r\u{1b}[K");
            state.stands = false;
        }
    }
}

fn time(seconds: f64) -> String {
    if seconds < 0.05 { String::new() } else { format!("  ({seconds:.1} s)") }
}

/// A fleet's end: counts, then who needs somebody.
pub fn report(report: &Report, seconds: f64) -> String {
    let mut page = Page::new();
    page.gap();
    for (host, ended, took) in &report.hosts {
        let (mark, tone, says) = match ended {
            Ended::Well(says) => ("●", Tone::Good, says.clone()),
            Ended::Failed(says) => ("✗", Tone::Bad, says.clone()),
            Ended::Yours(says) => ("!", Tone::Warn, says.clone()),
            Ended::Interrupted(says) => ("…", Tone::Warn, says.clone()),
            Ended::NotBegun(says) => ("-", Tone::Faint, says.clone()),
        };
        page.hang(0, &format!("{mark} {host}"), 17, tone, &format!("{says}{}", time(*took)));
    }
    page.gap();
    let well = report.count(|ended| matches!(ended, Ended::Well(_)));
    let failed = report.count(|ended| matches!(ended, Ended::Failed(_)));
    let not = report.count(|ended| matches!(ended, Ended::NotBegun(_)));
    let others = report.hosts.len() - well - failed - not;
    let mut says = format!("{well} of {} well", plural(report.hosts.len(), "host", "hosts"));
    for (count, word) in [(failed, "failed"), (others, "waiting or stopped"), (not, "not begun")] {
        if count > 0 {
            says.push_str(&format!(", {count} {word}"));
        }
    }
    page.line(paint(if report.well() { Tone::Good } else { Tone::Bad }, &format!("{says}, in {seconds:.1} s.")));
    page.text()
}
