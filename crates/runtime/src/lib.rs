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
use std::process::ExitCode;

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

/// Chooses by the name under which it was called.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = called.rsplit('/').next().unwrap_or_default();
    if oci::config::is_nvidia_hook(name) {
        return prestart::main(&args);
    }
    // the hook's form with a subcommand, for those who install no links
    if args.get(1).is_some_and(|verb| verb == "prestart") {
        return prestart::main(&args);
    }
    create::main(&args)
}
