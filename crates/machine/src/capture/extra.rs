//! extra
use crate::Machine;
pub fn extra(_machine: &dyn Machine) {}
