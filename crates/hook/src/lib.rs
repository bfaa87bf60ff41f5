//! What is done inside a container's root before its first process: links, the loader's cache, compatibility, guards.
//! The root is hostile: it is opened once, and every name in it is resolved by the kernel below that descriptor.
//!
//! [`carry_out`] is the whole of it, for the hook (`thruway-hook`, one start for all) and for the runtime's prestart hook.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "acts in a container's way, by descriptors")]

pub mod args;
mod compat;
mod elf;
mod guard;
mod ldcache;
mod ldconf;
mod links;
mod privileges;
mod profile;
mod root;
mod state;
mod writable;

use std::os::fd::BorrowedFd;

pub use compat::{Compat, Host, Note, decide};
pub use root::{Root, RootError, open_below};
pub use state::{State, StateError, open_root};

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
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("the params guard could not be set: {0}")]
    Guard(String),
}

/// Does all of `options` in the root. `root`: a directory descriptor (O_PATH will do) of the container's root file
/// system, in a mount namespace in which the container will see what is mounted.
///
/// # Errors
/// What is left undone for a reason that is not the user's own mount or a read-only file system.
pub fn carry_out(root: BorrowedFd<'_>, options: &Options) -> Result<Report, Error> {
    let root = Root::at(root)?;
    let mut report = Report::default();
    if options.guard_params {
        guard::cover(&root, &mut report)?;
    }
    write_all(&root, options, &mut report)?;
    Ok(report)
}

/// As [`carry_out`], for a process that does nothing else afterwards: once the guard is set, it keeps CAP_DAC_OVERRIDE alone
/// and those system calls that the rest needs.
///
/// # Errors
/// As [`carry_out`].
pub fn carry_out_confined(root: BorrowedFd<'_>, options: &Options) -> Result<Report, Error> {
    let root = Root::at(root)?;
    let mut report = Report::default();
    if options.guard_params {
        guard::cover(&root, &mut report)?;
    }
    privileges::drop_capabilities();
    privileges::confine();
    write_all(&root, options, &mut report)?;
    Ok(report)
}

/// The cache that ldconfig would make for this root, every library read: what the cache is where an image has none.
///
/// # Errors
/// A root that cannot be opened.
pub fn fresh_cache(root: BorrowedFd<'_>) -> Result<Vec<u8>, Error> {
    Ok(ldcache::fresh(&Root::at(root)?, elf::Family::here()))
}

/// All but the guard: what needs no right to mount.
fn write_all(root: &Root, options: &Options, report: &mut Report) -> Result<(), Error> {
    let unlisted = |folder: &&String| !ldcache::is_told(root, options, folder);
    let folders: Vec<String> = options.folders.iter().filter(unlisted).cloned().collect();
    let mut listed = links::Listed::of(root, &folders);
    links::make(root, &options.links, &mut listed, report)?;
    let compat = compat::apply(root, options, report)?;
    if !options.folders.is_empty() || compat.is_some() {
        ldcache::update(root, options, compat.as_deref(), &mut listed, report)?;
    }
    if options.application_profile {
        profile::write(root, report)?;
    }
    Ok(())
}
