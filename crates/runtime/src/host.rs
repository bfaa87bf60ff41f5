//! What is looked up of this machine: device nodes, the running driver.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci::apply::Live;
use oci::require::Driver;
use oci::settings::Settings;

use crate::files;

/// A node as it is now; `None` where there is none, or something else.
pub fn node(path: &str) -> Option<Live> {
    let there = std::fs::metadata(path).ok()?;
    let kind = match there.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    let number = there.rdev();
    Some(Live { kind, major: rustix::fs::major(number), minor: rustix::fs::minor(number) })
}

fn fact(settings: &Settings, path: &str) -> PathBuf {
    Path::new(if settings.facts_root.is_empty() { "/" } else { &settings.facts_root }).join(path)
}

/// The version of the loaded kernel module; `None` where none is loaded, or where it does not say (WSL).
pub fn module(settings: &Settings) -> Option<String> {
    if let Ok(version) = files::read(&fact(settings, "sys/module/nvidia/version")) {
        return Some(version.trim().to_owned()).filter(|version| !version.is_empty());
    }
    // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr …"
    let says = files::read(&fact(settings, "proc/driver/nvidia/version")).ok()?;
    let version = |word: &&str| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    says.lines().next()?.split_whitespace().find(version).map(str::to_owned)
}

/// What is known of the driver and its cards: what `thruway cdi refresh` wrote, where it is of the loaded module.
pub fn driver(settings: &Settings) -> Driver {
    let module = module(settings);
    let written = files::read(&fact(settings, "run/thruway/driver.json")).ok();
    if let Some(driver) = written.and_then(|text| serde_json::from_str::<Driver>(&text).ok())
        && (module.is_none() || driver.driver == module)
    {
        return driver;
    }
    module.map(|version| Driver::of_version(&version)).unwrap_or_default()
}
