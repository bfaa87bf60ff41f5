//! What happens to a simulated machine when it is booted, when a VM is started on it, when a driver is installed.
//!
//! The rules here are the kernel's, initramfs-tools', GRUB's, Proxmox VE's and the NVIDIA installer's, read on their
//! own and with parsers of their own: a planner that is wrong about them is not confirmed by its own mistake.

mod boot;
mod disks;
mod driver;
mod film;
pub(crate) mod handover;
mod initrd;
pub(crate) mod loader;
mod modprobe;
mod udev;
mod vm;

pub use boot::{Boot, boot};
pub use driver::{install_driver, install_packages};
pub use film::{play_film, stop_film};
pub use handover::{Trouble, set_trouble};
pub use vm::{Vm, plug_into, start_vm, stop_vm};

pub(crate) use boot::bind;
pub(crate) use driver::{driver_paths, load_listed, settle, unpack_driver, unpack_packages};
pub(crate) use initrd::snapshot;

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub enum PhysicsError {
    /// What the program in question says when it refuses, in its own words.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Box(#[from] crate::BoxError),
    #[error("{path}")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
}
