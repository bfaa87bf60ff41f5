//! How a library looks at its box and its control file: again at each call, parsed only where a text changed. And the
//! faults that stand before every call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::card::Error;
use crate::place;
use crate::view::View;

/// One library's look.
pub struct Eye {
    /// "libcuda": for what is said on stderr.
    pub library: &'static str,
    state: Mutex<State>,
}

struct State {
    seen: Option<(String, String, Arc<View>)>,
    told: Option<String>,
}

/// Why there is no machine to speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// Nobody chose a box: a machine without a driver.
    NoBox,
    /// A text could not be used; it was said on stderr.
    Wrong,
}

impl Eye {
    pub const fn new(library: &'static str) -> Eye {
        Eye { library, state: Mutex::new(State { seen: None, told: None }) }
    }

    /// The machine as the files say it now.
    pub fn look(&self) -> Result<Arc<View>, Blind> {
        let texts = place::box_text().and_then(|text| Ok((text, place::control_text()?)));
        // no invariant spans two writes, so a panic in between spoils nothing
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let view = texts.and_then(|(text, control)| {
            let Some(text) = text else { return Ok(None) };
            if let Some((known, known_control, view)) = &state.seen
                && *known == text
                && *known_control == control
            {
                return Ok(Some(Arc::clone(view)));
            }
            let view = Arc::new(View::new(&text, &control)?);
            state.seen = Some((text, control, Arc::clone(&view)));
            Ok(Some(view))
        });
        drop(state);
        match view {
            Ok(Some(view)) => Ok(view),
            Ok(None) => {
                self.tell("no box: set THRUWAY_SIM_NVML or put thruway-sim/nvml.toml beside it");
                Err(Blind::NoBox)
            }
            Err(error) => {
                self.tell(&Error::to_string(&error));
                Err(Blind::Wrong)
            }
        }
    }

    /// Says it on stderr, once in a row.
    pub fn tell(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.told.as_deref() != Some(text) {
            place::say(self.library, text);
            state.told = Some(text.to_owned());
        }
    }
}

impl View {
    /// What the control file has for a call, which may have several names: it may hang first; then the code that it is to give.
    pub fn fault(&self, names: &[&str]) -> Option<u32> {
        if let Some(hang) = &self.control.hang
            && (hang.calls.is_empty() || hang.calls.iter().any(|call| names.contains(&call.as_str())))
        {
            std::thread::sleep(Duration::from_millis(hang.milliseconds));
        }
        names.iter().find_map(|name| self.control.fail.get(*name)).copied().filter(|code| *code != 0)
    }
}
