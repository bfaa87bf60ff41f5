//! `thruway-node`: what speaks the cluster's protocols, the kubelet's and the API's. `thruway node` is this program.
#![allow(clippy::disallowed_methods, reason = "a program reads its own arguments and environment, once")]

use std::process::ExitCode;

fn main() -> ExitCode {
    node::cli::main(std::env::args_os(), std::env::vars().collect())
}
