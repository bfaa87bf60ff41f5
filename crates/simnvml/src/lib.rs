//! A simulated `libnvidia-ml.so.1`: NVML's C interface, answered from a card model, with faults at run time.
//!
//! Nothing of it is real and it says so: a line on stderr at the first start (unless `THRUWAY_SIM_QUIET`), "(simulated)" in
//! the VBIOS version and the board's part number, `SIM…` serial numbers, and the symbol `thruway_simulated`. Names of cards
//! and the driver's version are left as they are, since clients key and parse by them.
//!
//! Interfaces are those of NVML's public documentation; the structures are nvml-wrapper-sys's.

use simcards::place;
pub use simcards::{card, elf, symbols, view};

pub mod abi;
mod calls;
pub mod install;
mod state;

/// Who wants to know whether this is a simulation looks for this symbol: a C string.
#[unsafe(export_name = "thruway_simulated")]
#[allow(unsafe_code, reason = "exported by its name")]
pub static THRUWAY_SIMULATED: [u8; 32] = *b"thruway: simulated libnvidia-ml\0";
