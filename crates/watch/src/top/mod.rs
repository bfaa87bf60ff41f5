//! `thruway top`: cards, their history, and whose the processes on them are, on a terminal.
//!
//! [`View`] is what is shown and what keys do to it, [`draw`] how, [`run`] the loop around them; none of them looks at the machine but by
//! the [`Sampler`]. It changes nothing: there is no key that ends a process.

mod draw;
mod rows;
mod table;
mod terminal;
mod view;

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use machine::Machine;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::{Sample, Sampler};
pub use draw::draw;
pub use rows::{Row, whose};
pub use table::{json, once};
use terminal::{Heard, Screen, Signal};
pub use view::{Act, Key, Sort, View};

/// How it is shown.
#[derive(Clone, Debug)]
pub struct Options {
    /// "this machine", "simulated machine seed-guest".
    pub name: String,
    /// Between two looks.
    pub every: Duration,
    /// Without it only bold, dim and reversed text.
    pub colour: bool,
    /// Plots of blocks and dots; else of ASCII.
    pub unicode: bool,
    /// The card that is shown alone at the start, by its address.
    pub card: Option<model::Bdf>,
}

/// So long a key or a signal may wait.
const STEP: Duration = Duration::from_millis(200);

/// Draws until somebody asks it to end. The terminal is as it was then, after a panic and a signal too.
///
/// # Errors
/// The terminal could not be read or written.
pub fn run(machine: &dyn Machine, options: &Options) -> io::Result<()> {
    let mut view = View::new(options, users(machine));
    std::thread::scope(|scope| {
        let (ticks, wanted) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel::<Sample>();
        // A driver that hangs must not hang the keys.
        let looker = scope.spawn(move || {
            let mut sampler = Sampler::open(machine);
            while wanted.recv().is_ok() && tell.send(sampler.sample(machine)).is_ok() {}
        });
        let mut screen = Screen::open()?;
        let end = looped(&mut view, &mut screen, options.every, &ticks, &told);
        drop(screen);
        drop((ticks, told));
        // Its panic has been told; it is an error here and no second panic.
        looker.join().map_err(|_| io::Error::other("a look at the machine failed"))?;
        end
    })
}

fn looped(
    view: &mut View,
    screen: &mut Screen,
    every: Duration,
    ticks: &mpsc::Sender<()>,
    told: &mpsc::Receiver<Sample>,
) -> io::Result<()> {
    let failed = || io::Error::other("the sampler ended");
    let mut next = Instant::now();
    let mut asked = false;
    let mut changed = true;
    loop {
        if !asked && Instant::now() >= next {
            ticks.send(()).map_err(|_| failed())?;
            asked = true;
            // A look that took longer than the time between two is not made up for.
            next = (next + every).max(Instant::now());
        }
        match told.try_recv() {
            Ok(sample) => {
                asked = false;
                view.take(sample);
                changed = true;
            }
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => return Err(failed()),
        }
        if std::mem::take(&mut changed) {
            screen.draw(|frame| draw(frame, view))?;
        }
        match screen.signal()? {
            Signal::None => {}
            Signal::End => return Ok(()),
            Signal::Resumed => changed = true,
        }
        // The first sample comes within some milliseconds; after that the time is the keys'.
        let wait = match asked {
            true => Duration::from_millis(20),
            false => next.saturating_duration_since(Instant::now()).min(STEP),
        };
        match screen.wait(wait)? {
            Heard::Gone => return Ok(()),
            Heard::Nothing => {}
            // Nothing is waited for in here: all keys that are there, and no more.
            Heard::Keys => {
                while event::poll(Duration::ZERO)? {
                    let Event::Key(key) = event::read()? else { continue };
                    if key.kind == KeyEventKind::Release {
                        continue;
                    }
                    match view.key(Key::of(&key)) {
                        Act::Nothing => {}
                        Act::Draw => changed = true,
                        Act::Suspend => {
                            screen.suspend()?;
                            changed = true;
                        }
                        Act::Quit => return Ok(()),
                    }
                }
            }
        }
        changed |= screen.resized()?;
    }
}

/// The names of this machine's users, by their numbers.
pub fn users(machine: &dyn Machine) -> std::collections::HashMap<u32, String> {
    use machine::MachineExt as _;
    let text = machine.text("/etc/passwd").is().unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split(':');
        let (name, user) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        Some((user, name.to_owned()))
    };
    text.lines().filter_map(of).collect()
}
