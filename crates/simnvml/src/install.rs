//! Puts the built library where a driver's would lie: real soname, versioned file name, its box beside it.
#![allow(
    clippy::disallowed_methods,
    reason = "writes the folder that it is given, for tests and labs; no machine of anyone's"
)]

use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use crate::view::View;
use crate::{elf, symbols};

/// What lies in the folder afterwards.
#[derive(Debug)]
pub struct Installed {
    /// libnvidia-ml.so.VERSION
    pub library: PathBuf,
    /// libnvidia-ml.so.1, a link to it
    pub soname: PathBuf,
    /// The control file's place; it is not made.
    pub control: PathBuf,
}

/// Copies `built` (this crate's cdylib) into `folder` for a box's text. What the box's driver is too old for, and what
/// `lacks` names, dlsym will not find.
pub fn install(built: &Path, folder: &Path, text: &str, lacks: &[&str]) -> Result<Installed> {
    let view = View::new(text, "").map_err(Error::other)?;
    let mut names: Vec<&str> = symbols::missing(view.branch()).collect();
    names.extend(lacks);
    let bytes = elf::without(&std::fs::read(built)?, names).map_err(Error::other)?;
    let beside = folder.join("thruway-sim");
    std::fs::create_dir_all(&beside)?;
    let name = format!("libnvidia-ml.so.{}", view.driver.version);
    let (library, soname) = (folder.join(&name), folder.join("libnvidia-ml.so.1"));
    std::fs::write(&library, bytes)?;
    if let Err(error) = std::fs::remove_file(&soname)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    std::os::unix::fs::symlink(&name, &soname)?;
    std::fs::write(beside.join("nvml.toml"), text)?;
    Ok(Installed { library, soname, control: beside.join("control.toml") })
}
