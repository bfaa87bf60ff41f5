//! The driver's limit of encoding sessions on GeForce cards: over all cards, processes and containers of a machine.
//!
//! Counted by locks on files beside the library, one a session. A lock ends with its process, however that ends.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "its own files beside the library, where several processes meet"
)]

use std::fs::File;

use simcards::place;

/// A session that counts, until it is dropped.
pub struct Slot(#[allow(dead_code, reason = "held for its lock")] File);

/// Takes one of so many; None: all are taken. Where no file can be made (a read-only folder), nothing is counted.
pub fn take(limit: usize) -> Option<Option<Slot>> {
    let folder = place::variable("THRUWAY_SIM_SESSIONS").map(Into::into);
    let folder = folder.or_else(|| place::own_folder().map(|folder| folder.join("thruway-sim/sessions")));
    let Some(folder) = folder.filter(|folder: &std::path::PathBuf| std::fs::create_dir_all(folder).is_ok()) else {
        return Some(None);
    };
    for number in 0..limit {
        let Ok(file) = File::create(folder.join(number.to_string())) else { return Some(None) };
        if file.try_lock().is_ok() {
            return Some(Some(Slot(file)));
        }
    }
    None
}
