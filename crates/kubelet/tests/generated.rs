//! The generated code that is checked in is what the .proto files give.
#![allow(clippy::disallowed_methods, reason = "a test reads its own crate")]

use std::path::Path;

#[test]
fn what_is_checked_in_is_what_the_files_give() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a directory");
    let files =
        protox::compile(["deviceplugin.proto", "podresources.proto"], [here.join("proto")]).expect("they compile");
    tonic_prost_build::configure().out_dir(out.path()).compile_fds(files).expect("code");
    for name in ["v1beta1.rs", "v1.rs"] {
        let made = std::fs::read_to_string(out.path().join(name)).expect("made");
        let kept = std::fs::read_to_string(here.join("src/generated").join(name)).expect("kept");
        assert!(made == kept, "{name} is old: cargo run -p thruway-kubelet --example generate");
    }
}
