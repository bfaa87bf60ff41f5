//! The soname of the real library, so that a loader that reads it (ldconfig, dlopen's cache) finds this one alike.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvidia-encode.so.1");
}
