//! The terminal: taken, and given back as it was whatever happens.

use std::io::{self, Stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::layout::Size;
use ratatui::{Frame, Terminal};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use signal_hook::low_level;

/// What a signal asks for.
pub(super) enum Signal {
    None,
    End,
    /// It was stopped and runs again.
    Resumed,
}

pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    end: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    registered: Vec<signal_hook::SigId>,
    size: Size,
    /// A panic gave the terminal back already, on whichever thread: what stands there now is its message.
    lost: Arc<AtomicBool>,
}

/// What came of waiting.
pub(super) enum Heard {
    Nothing,
    Keys,
    /// The terminal is no more: its window was closed, the connection broke.
    Gone,
}

type Hook = Box<dyn Fn(&std::panic::PanicHookInfo<'_>) + Sync + Send + 'static>;

impl Screen {
    pub(super) fn open() -> io::Result<Screen> {
        let (end, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut registered = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // The second one ends it at once, whatever it is doing; so it stands before the flag that the first one sets.
            registered.push(signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&end))?);
            registered.push(signal_hook::flag::register(signal, Arc::clone(&end))?);
        }
        registered.push(signal_hook::flag::register(SIGTSTP, Arc::clone(&stop))?);
        // The message of a panic is to be read: on the screen that was there before.
        let lost = Arc::new(AtomicBool::new(false));
        let before: Hook = std::panic::take_hook();
        let told = Arc::clone(&lost);
        std::panic::set_hook(Box::new(move |info| {
            if !told.swap(true, Ordering::SeqCst) {
                let _ = restore();
            }
            before(info);
        }));
        take()?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout())).inspect_err(|_| {
            let _ = restore();
        })?;
        Ok(Screen { terminal, end, stop, registered, size: Size::default(), lost })
    }

    pub(super) fn draw(&mut self, frame: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(io::Error::other("a look at the machine failed"));
        }
        self.terminal.draw(frame).map(|_| ())
    }

    /// Waits so long for a key, a new size or a signal.
    ///
    /// The descriptor is asked here, since crossterm's own wait turns in circles for ever once the terminal is gone.
    pub(super) fn wait(&mut self, time: Duration) -> io::Result<Heard> {
        let stdin = io::stdin();
        let mut asked = [PollFd::new(&stdin, PollFlags::IN)];
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        match rustix::event::poll(&mut asked, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [heard] = asked.map(|one| one.revents());
        if heard.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Ok(Heard::Gone);
        }
        Ok(if heard.contains(PollFlags::IN) { Heard::Keys } else { Heard::Nothing })
    }

    /// Whether the terminal has another size than when this was asked last.
    pub(super) fn resized(&mut self) -> io::Result<bool> {
        let size = self.terminal.size()?;
        Ok(std::mem::replace(&mut self.size, size) != size)
    }

    pub(super) fn signal(&mut self) -> io::Result<Signal> {
        if self.end.load(Ordering::Relaxed) {
            return Ok(Signal::End);
        }
        if self.stop.swap(false, Ordering::Relaxed) {
            self.suspend()?;
            return Ok(Signal::Resumed);
        }
        Ok(Signal::None)
    }

    /// Stops this program as ctrl-Z does, with the terminal as it was, and takes it again when it goes on.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        restore()?;
        low_level::emulate_default_handler(SIGTSTP)?;
        take()?;
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if !self.lost.swap(true, Ordering::SeqCst) {
            let _ = restore();
        }
        for id in self.registered.drain(..) {
            low_level::unregister(id);
        }
        if !std::thread::panicking() {
            drop(std::panic::take_hook());
        }
    }
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)
}

fn restore() -> io::Result<()> {
    let left = execute!(io::stdout(), LeaveAlternateScreen, Show);
    disable_raw_mode().and(left)
}
