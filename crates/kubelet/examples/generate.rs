//! Compiles proto/*.proto to src/generated/*.rs (no protoc): `cargo run -p thruway-kubelet --example generate`.
//! The output is checked in; the test `generated` holds it to the .proto files.
#![allow(clippy::disallowed_methods, reason = "a generator run by hand, not a part of thruway")]

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = std::env::args_os().nth(1).map_or_else(|| here.join("src/generated"), Into::into);
    std::fs::create_dir_all(&out)?;
    let files = protox::compile(["deviceplugin.proto", "podresources.proto"], [here.join("proto")])?;
    tonic_prost_build::configure().out_dir(&out).compile_fds(files)?;
    Ok(())
}
