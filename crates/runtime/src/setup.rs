//! Where the settings are read.

use std::io;
use std::path::{Path, PathBuf};

use oci::settings::{Settings, Written};

use crate::files;

const OURS: &str = "/etc/thruway/container.toml";
const THEIRS: &str = "nvidia-container-runtime/config.toml";

/// The settings, of the first file that is there: the one that NVIDIA_CTK_CONFIG_FILE_PATH names, ours, NVIDIA's below
/// XDG_CONFIG_HOME or /etc. None is there: the defaults.
///
/// # Errors
/// The file that is there cannot be read, or is wrong: a sentence.
pub fn settings() -> Result<Settings, String> {
    if let Some(path) = std::env::var_os("NVIDIA_CTK_CONFIG_FILE_PATH").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return read(&path, Written::Nvidia)
            .unwrap_or_else(|| Err(format!("{} of NVIDIA_CTK_CONFIG_FILE_PATH is not there", path.display())));
    }
    if let Some(settings) = read(Path::new(OURS), Written::Ours) {
        return settings;
    }
    let folder = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("/etc"), PathBuf::from);
    read(&folder.join(THEIRS), Written::Nvidia).unwrap_or_else(|| Ok(Settings::default()))
}

/// One file; `None` where it is not there. Also for a hook that is given its file.
pub fn read(path: &Path, written: Written) -> Option<Result<Settings, String>> {
    let fix = |says: String| format!("the settings in {} cannot be used: {says}", path.display());
    match files::read(path) {
        Ok(text) => Some(Settings::read(&text, written).map_err(fix)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(fix(error.to_string()))),
    }
}
