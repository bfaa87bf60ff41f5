//! A simulated `libcuda.so.1`: the CUDA driver API over a card model, with faults at run time. Kernels are PTX, and run:
//! each instruction is carried out on the CPU as the PTX ISA defines it, 32 lanes at a time.
//!
//! Nothing of it is real and it says so: a line on stderr at cuInit (unless `THRUWAY_SIM_QUIET`) and the symbol
//! `thruway_simulated`. What a real H100 answered to `tests/probe.py` is `tests/fixtures/h100/probe.txt`, and this library
//! answers the same. Interfaces are those of the CUDA Driver API reference; the kernels' language is that of the PTX ISA.

mod calls;
mod device;
mod errors;
pub mod memory;
pub mod ptx;
mod state;

/// Who wants to know whether this is a simulation looks for this symbol: a C string.
#[unsafe(export_name = "thruway_simulated")]
#[allow(unsafe_code, reason = "exported by its name")]
pub static THRUWAY_SIMULATED: [u8; 27] = *b"thruway: simulated libcuda\0";
