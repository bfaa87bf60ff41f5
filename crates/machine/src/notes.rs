//! notes
use std::path::Path;

use crate::Memory;
use crate::capture::{CaptureError, Problem};

pub fn from_dir(dir: &Path) -> Result<Memory, CaptureError> {
    Err(CaptureError::new(dir, None, Problem::NotACapture("it holds no manifest.json".into())))
}
