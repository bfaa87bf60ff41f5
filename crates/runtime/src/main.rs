//! Started by C's own `main`. Rust's runtime would first read /proc/self/maps, make a stack for signals and set handlers,
//! which every container of a node would pay for, and which nothing here needs.
#![no_main]
#![allow(unsafe_code, reason = "`main` is C's name for the entry")]

use std::ffi::{c_char, c_int};

/// The C library calls it once, with its own arguments, which std reads from there by itself.
// SAFETY: no other `main` is in this program (no_main), and it has the type that C gives it.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _words: *const *const c_char) -> c_int {
    // a panic must not unwind into C
    std::panic::catch_unwind(runtime::main).unwrap_or(101)
}
