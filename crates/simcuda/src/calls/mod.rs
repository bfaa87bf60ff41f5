//! The exported functions, by what they are about.

mod address;
mod context;
mod copies;
mod device;
mod launch;
mod memory;
mod module;
mod peer;
mod refused;
mod stream;
