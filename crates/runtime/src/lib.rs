//! The OCI runtime shim and the prestart hook: a container's request in, its configuration or its namespaces changed.
//!
//! One static program under several names. As a runtime it edits the configuration of a container that asks for a GPU
//! and then becomes the low-level runtime, by exec; whatever does not create a container it passes on at once. As
//! `nvidia-container-runtime-hook` it does to a container that was made without it what the edits would have done.
//! What is asked, granted and edited is decided in `oci`, without a look at this machine; here is the looking and doing.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "stands in a container's way: it reads that container's configuration, its own settings and the CDI specs, \
              and changes that container alone"
)]

use std::ffi::OsString;
use std::os::fd::{AsFd, IntoRawFd};

pub mod argv;
mod create;
mod extras;
mod files;
mod grant;

mod host;
mod lowlevel;
pub mod prestart;
mod refresh;
mod say;
mod setup;
mod specs;

/// Chooses by the name under which it was called. The answer is the exit status.
pub fn main() -> i32 {
    standard();
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = called.rsplit('/').next().unwrap_or_default();
    // the hook's form with a subcommand is for those who install no links
    if oci::config::is_nvidia_hook(name) || args.get(1).is_some_and(|verb| verb == "prestart") {
        return prestart::main(&args);
    }
    create::main(&args)
}

/// Whoever starts us with a standard stream closed must not have the next file that is opened taken for it.
fn standard() {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for stream in [input.as_fd(), output.as_fd(), error.as_fd()] {
        if rustix::io::fcntl_getfd(stream).is_err()
            && let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")
        {
            // the lowest number that is free is the one that was closed; it stays open
            let _ = null.into_raw_fd();
        }
    }
}
