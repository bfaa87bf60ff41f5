//! `thruway-node`: what speaks the cluster's protocols, the kubelet'"'"'s and the API'"'"'s. `thruway node` is this program.

fn main() {}
