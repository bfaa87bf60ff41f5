//! What a GPU is: PCI identity, IOMMU group, NVML, who has it, what its chip can do.

mod arch;
pub mod attribution;
pub mod branch;
mod cgroup;
pub mod chips;
pub mod codecs;
mod driver;
pub mod engines;
pub mod hint;
mod holder;
mod inventory;
pub mod mig;
mod names;
mod naming;
mod observe;
mod processes;
pub mod promises;
pub mod smi;
pub mod topo;
mod users;
mod vms;
pub mod xid;

pub use driver::driver_version;
pub use inventory::{Arch, Bar, Card, DriverFacts, Function, Group, Holder, Inventory, Link, ModuleKind, Speed};
pub use names::name_of;
pub use observe::{awake, functions, observe, observe_all, observe_rest, observe_with};
pub use users::{KernelUse, User, Users, Who, users};
