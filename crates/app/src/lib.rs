//! The application floor: Jellyfin. What its settings ask of the card, what the card can do, and the settings that fit.

pub mod advice;
pub mod checks;
pub mod forms;
pub mod observe;
mod plan;
pub mod prove;
pub mod server;
pub mod settings;
pub mod stress;
mod verify;

pub use checks::CHECKS;
pub use observe::{Facts, ask, observe};
pub use plan::plan;
pub use server::Server;
pub use settings::Settings;
pub use verify::verify;

use model::{Presence, Seen};

/// Whether Jellyfin is here: its settings, or a container or Deployment of it.
pub fn presence(facts: &Facts) -> Presence {
    let places: Vec<&str> = facts.configs.iter().map(|config| config.path.as_str()).collect();
    if !places.is_empty() {
        return Presence::Here(format!("Jellyfin, settings in {}", places.join(", ")));
    }
    let runs: Vec<&str> = facts.runs.iter().map(|run| run.name.as_str()).collect();
    if !runs.is_empty() {
        return Presence::Here(format!("Jellyfin in {}, its settings are not on this machine", runs.join(", ")));
    }
    if let Seen::Unreadable(reason) = &facts.looked {
        return Presence::Unknown(format!("Jellyfin's settings could not be looked for: {reason}"));
    }
    Presence::NotHere("no Jellyfin on this machine".into())
}
