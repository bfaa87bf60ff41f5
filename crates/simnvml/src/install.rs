//! Puts the built library where a driver's would lie: real soname, versioned file name, its box beside it.

use std::io::{Error, Result};
use std::path::Path;

pub use simcards::install::Installed;

use crate::symbols;
use crate::view::View;

/// Copies `built` (this crate's cdylib) into `folder` for a box's text. What the box's driver is too old for, and what
/// `lacks` names, dlsym will not find.
pub fn install(built: &Path, folder: &Path, text: &str, lacks: &[&str]) -> Result<Installed> {
    let view = View::new(text, "").map_err(Error::other)?;
    let mut names: Vec<&str> = symbols::missing(view.branch()).collect();
    names.extend(lacks);
    simcards::install::install(built, "libnvidia-ml.so", folder, text, &names)
}
