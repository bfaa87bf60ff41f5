//! What a GPU is: PCI identity, IOMMU group, NVML, who has it, what its chip can do.

pub mod branch;
pub mod codecs;
mod inventory;

pub use inventory::{
    Arch, Bar, Card, DriverFacts, Function, Group, Holder, Inventory, Link, ModuleKind, Speed,
};
