//! redact
use crate::Memory;
pub fn redact(memory: &Memory) -> Memory { memory.clone() }
