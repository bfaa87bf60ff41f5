//! The prestart hook, `nvidia-container-runtime-hook prestart`.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod lasting;

/// Not yet.
pub fn main(_args: &[OsString]) -> ExitCode {
    ExitCode::FAILURE
}
