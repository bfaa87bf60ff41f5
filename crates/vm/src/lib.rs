//! The VM floor: what gives a card to a virtual machine. Proxmox VE's and libvirt's definitions, and the QEMU
//! processes that really run.
//!
//! Every hypervisor's definition becomes one form ([`Vm`]), so that a check or a planner is written once.

mod checks;
mod facts;
mod hint;
mod last_start;
mod observe;
mod one;
mod plan;
mod presence;
mod verify;

pub use checks::CHECKS;
pub(crate) use facts::numbers;
pub use facts::{
    Backup, Efidisk, Facts, Given, Host, HostMemory, HugePages, Mapping, MappingEntry, Pve, Running, Setting, Storage,
    Vars, Vm, VmKind,
};
pub use last_start::{Ended, LastStart, Upid, last_start};
pub use observe::observe;
pub use one::findings_of;
pub use plan::plan;
pub use presence::presence;
pub use verify::verify;
