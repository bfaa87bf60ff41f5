//! NVML's functions, by topic. Each says its C name; units and errors are NVML's.

mod ecc;
mod events;
mod export;
mod fields;
mod identity;
mod load;
mod memory;
mod mig;
mod migset;
mod nvlink;
mod pci;
mod power;
mod process;
mod refused;
mod system;
