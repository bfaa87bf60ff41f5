//! Where this library lies and which files tell it what to simulate. The one room here that reads the system.
//!
//! The box: `THRUWAY_SIM_NVML` (a built-in box's name, or a path), else `thruway-sim/nvml.toml` in the library's own
//! folder, so that it works where no environment is passed on (a container). The control file:
//! `THRUWAY_SIM_NVML_CONTROL`, else `thruway-sim/control.toml` there. What clients change (MIG) is kept in a state file,
//! `THRUWAY_SIM_NVML_STATE`, else `thruway-sim/state.toml`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a library that strangers load: its environment and its own folder are all the arguments that it has"
)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::card::Error;
use crate::view::View;

/// The folder of the library, from the mapping in which its own code lies. None: it is no library of its own (a test).
pub fn own_folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
            folder_of(&maps, own_folder as fn() -> Option<&'static Path> as usize as u64)
        })
        .as_deref()
}

/// The folder of the file that is mapped at an address, out of the text of /proc/PID/maps.
fn folder_of(maps: &str, address: u64) -> Option<PathBuf> {
    let line = maps.lines().find(|line| {
        let range = line.split_ascii_whitespace().next().and_then(|range| range.split_once('-'));
        range.is_some_and(|(from, to)| {
            let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
            (number(from)..number(to)).contains(&address)
        })
    })?;
    let path = &line[line.find('/')?..];
    Some(Path::new(path.strip_suffix(" (deleted)").unwrap_or(path)).parent()?.to_owned())
}

/// The box's text. `Ok(None)`: nobody chose one, which is a machine without a driver.
pub fn box_text() -> Result<Option<String>, Error> {
    match std::env::var("THRUWAY_SIM_NVML") {
        Ok(path) if path.contains('/') => read(Path::new(&path)),
        Ok(name) => View::named(&name).map(|text| Some(text.to_owned())),
        Err(_) => own_folder().map_or(Ok(None), |folder| read(&folder.join("thruway-sim/nvml.toml"))),
    }
}

/// The control file's text; empty where there is none.
pub fn control_text() -> Result<String, Error> {
    let path = match std::env::var_os("THRUWAY_SIM_NVML_CONTROL") {
        Some(path) => Some(PathBuf::from(path)),
        None => own_folder().map(|folder| folder.join("thruway-sim/control.toml")),
    };
    path.map_or(Ok(None), |path| read(&path)).map(Option::unwrap_or_default)
}

/// What clients have changed, as of now; empty where nothing is.
pub fn state_text() -> Result<String, Error> {
    state_path().map_or(Ok(None), |path| read(&path)).map(Option::unwrap_or_default)
}

/// Written whole or not at all, since others read it at each call.
pub fn write_state(text: &str) -> Result<(), Error> {
    let path = state_path().ok_or_else(|| Error::Wrong("there is no folder to keep a state in".into()))?;
    let new = path.with_extension(format!("new{}", std::process::id()));
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
    written.map_err(|error| Error::Wrong(format!("{}: {error}", path.display())))
}

/// `THRUWAY_SIM_NVML_STATE`, else `thruway-sim/state.toml` beside the library.
fn state_path() -> Option<PathBuf> {
    match std::env::var_os("THRUWAY_SIM_NVML_STATE") {
        Some(path) => Some(PathBuf::from(path)),
        None => own_folder().map(|folder| folder.join("thruway-sim/state.toml")),
    }
}

/// The effective user is root.
pub fn root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.is_some_and(|uids| uids.split_ascii_whitespace().nth(1) == Some("0"))
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Wrong(format!("{}: {error}", path.display()))),
    }
}

/// A line to stderr, unless THRUWAY_SIM_QUIET.
pub fn say(library: &str, text: &str) {
    if std::env::var_os("THRUWAY_SIM_QUIET").is_none() {
        // a closed stderr must not become a panic
        let _ =
            std::io::Write::write_all(&mut std::io::stderr(), format!("{library} (simulated): {text}\n").as_bytes());
    }
}

/// Each call and its code to stderr, where THRUWAY_SIM_TRACE is set: what does this client ask for?
pub fn trace(name: &str, code: u32) {
    static WANTED: OnceLock<bool> = OnceLock::new();
    if *WANTED.get_or_init(|| std::env::var_os("THRUWAY_SIM_TRACE").is_some()) {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{name} {code}\n").as_bytes());
    }
}

/// An environment variable's text.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A process's name by /proc, as nvmlSystemGetProcessName finds it.
pub fn process_name(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    text.split('\0').next().filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_that_of_the_mapping() {
        let maps = "7f00-7f10 r--p 0 00:1 5  /usr/lib/x/libnvidia-ml.so.1\n7f10-7fff r-xp 0 00:1 5   /opt/a b/l.so (deleted)\n8000-9000 rw-p 0 0:0 0\n";
        assert_eq!(folder_of(maps, 0x7f0f), Some("/usr/lib/x".into()));
        assert_eq!(folder_of(maps, 0x7f10), Some("/opt/a b".into()));
        assert_eq!(folder_of(maps, 0x8000), None);
        assert_eq!(folder_of(maps, 0x1), None);
        assert!(own_folder().is_some(), "this test's own file");
    }
}
