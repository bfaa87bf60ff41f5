//! The runtime that makes the container: found, and become.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Names the process that has passed here: exec keeps its number, so whoever comes by again goes in a circle.
const PASSED: &str = "THRUWAY_RUNTIME_PASSED";

/// The first of the names that is a program, and not this one.
///
/// # Errors
/// A sentence: what was looked for, and where.
pub fn find(names: &[String]) -> Result<PathBuf, String> {
    let own = std::fs::metadata("/proc/self/exe").ok().map(|own| (own.dev(), own.ino()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut ourselves = None;
    for name in names {
        let places: Vec<PathBuf> = if name.contains('/') {
            vec![PathBuf::from(name)]
        } else {
            std::env::split_paths(&path)
                .filter(|folder| folder.is_absolute())
                .chain(FOLDERS.iter().map(PathBuf::from))
                .map(|folder| folder.join(name))
                .collect()
        };
        for place in places {
            let Ok(there) = std::fs::metadata(&place) else { continue };
            if !there.is_file() || there.permissions().mode() & 0o111 == 0 {
                continue;
            }
            if own == Some((there.dev(), there.ino())) {
                ourselves = Some(place);
                continue;
            }
            return Ok(place);
        }
    }
    let names = names.join(", ");
    Err(match ourselves {
        Some(place) => format!(
            "no low-level runtime was found: {} is this program itself, and {names} leads to no other: name runc or crun under \
             runtimes in [nvidia-container-runtime] of the settings",
            place.display()
        ),
        None => format!(
            "no low-level runtime was found: none of {names} is a program on PATH or in {}: install runc, or name it under \
             runtimes in [nvidia-container-runtime] of the settings",
            FOLDERS.join(", ")
        ),
    })
}

/// Becomes the runtime, with the same arguments and environment. Comes back only where it cannot.
pub fn become_it(runtime: &Path, args: &[OsString]) -> String {
    let own = std::process::id().to_string();
    if std::env::var_os(PASSED).as_deref() == Some(OsStr::new(&own)) {
        return format!(
            "{} leads back to this program: name runc or crun under runtimes in [nvidia-container-runtime] of the settings, \
             not a wrapper of this one",
            runtime.display()
        );
    }
    let error = Command::new(runtime).args(args).env(PASSED, own).exec();
    format!("{} could not be started: {error}", runtime.display())
}
