//! Puts a built library where a driver's would lie: real soname, versioned file name, its box beside it.
#![allow(
    clippy::disallowed_methods,
    reason = "writes the folder that it is given, for tests and labs; no machine of anyone's"
)]

use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use crate::elf;
use crate::view::View;

/// What lies in the folder afterwards.
#[derive(Debug)]
pub struct Installed {
    /// libcuda.so.VERSION
    pub library: PathBuf,
    /// libcuda.so.1, a link to it
    pub soname: PathBuf,
    /// The control file's place; it is not made.
    pub control: PathBuf,
}

/// Copies `built` (a simulated library's cdylib) into `folder` as `stem` ("libcuda.so") of the version of a box's text.
/// The symbols `lacks` are struck out.
pub fn install(built: &Path, stem: &str, folder: &Path, text: &str, lacks: &[&str]) -> Result<Installed> {
    let view = View::new(text, "").map_err(Error::other)?;
    let bytes = elf::without(&std::fs::read(built)?, lacks.iter().copied()).map_err(Error::other)?;
    let beside = folder.join("thruway-sim");
    std::fs::create_dir_all(&beside)?;
    let name = format!("{stem}.{}", view.driver.version);
    let (library, soname) = (folder.join(&name), folder.join(format!("{stem}.1")));
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
