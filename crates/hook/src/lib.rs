//! What is done inside a container's root before its first process: links, the loader's cache, compatibility, guards.
//! The root is hostile: it is opened once, and every name in it is resolved by the kernel below that descriptor.
//!
//! [`carry_out`] is the whole of it, for the hook (`thruway-hook`, one start for all) and for the runtime's prestart hook.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "acts in a container's way, by descriptors")]

use std::os::fd::BorrowedFd;

/// Where NVIDIA's CUDA images keep their forward compatibility libraries.
pub const COMPAT_ROOT: &str = "/usr/local/cuda/compat";

/// What is to be done in one container. The order of work is fixed, whatever the order of the options: the guard, links,
/// compatibility, the cache, the application profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub links: Vec<Link>,
    /// Directories of driver libraries, absolute in the container.
    pub folders: Vec<String>,
    /// The running driver: "580.159.04". With it or `cuda`, forward compatibility is decided.
    pub driver: Option<String>,
    /// The running driver's CUDA version, (13, 0).
    pub cuda: Option<(u32, u32)>,
    /// Absolute in the container.
    pub compat_root: String,
    /// Cover /proc/driver/nvidia/params with a copy that says `ModifyDeviceFiles: 0`.
    pub guard_params: bool,
    /// Tell EGL which of the cards are this container's.
    pub application_profile: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            links: Vec::new(),
            folders: Vec::new(),
            driver: None,
            cuda: None,
            compat_root: COMPAT_ROOT.to_owned(),
            guard_params: false,
            application_profile: false,
        }
    }
}

/// One link to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Written as it is, never resolved outside of the root.
    pub target: String,
    /// Absolute in the container.
    pub link: String,
    /// Make it although its target is not there (NVIDIA's `create-symlinks` does).
    pub dangling: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One sentence each: what was left as it is, and why. No reason to stop a container.
    pub warnings: Vec<String>,
    /// Paths in the container that were written, linked or covered.
    pub changed: Vec<String>,
}

/// Why it could not be carried out: the container must not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the params guard could not be set: {0}")]
    Guard(String),
}

/// Does all of `options` in the root. `root`: a directory descriptor (O_PATH will do) of the container's root file
/// system, in a mount namespace in which the container will see what is mounted.
///
/// # Errors
/// What is left undone for a reason that is not the user's own mount or a read-only file system.
pub fn carry_out(root: BorrowedFd<'_>, options: &Options) -> Result<Report, Error> {
    let _ = (root, options);
    Err(Error::Guard("not built yet".to_owned()))
}
