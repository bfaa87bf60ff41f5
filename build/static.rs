//! Links a program statically, so that no loader, no LD_* variable and no library of an image has a part in it.
//!
//! `+crt-static` would do it, but stable cargo sets it for a whole build only, and `thruway` itself must load NVML with
//! dlopen. So the libraries that std asks for by name are given here as linker scripts, found first, that name the
//! static ones; `-static-pie` has the linker put the self-relocating start file in.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "a build script")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// What std links by name on Linux with glibc, and the static library for it.
const LIBRARIES: [(&str, &str); 7] = [
    ("gcc_s", "libgcc_eh.a"),
    ("c", "libc.a"),
    ("m", "libm.a"),
    ("pthread", "libpthread.a"),
    ("dl", "libdl.a"),
    ("rt", "librt.a"),
    ("util", "libutil.a"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../build/static.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo gives OUT_DIR")?);
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    for (name, library) in LIBRARIES {
        let said = Command::new(&compiler).arg(format!("-print-file-name={library}")).output()?;
        let path = String::from_utf8(said.stdout)?;
        let path = path.trim();
        // a compiler that does not have it gives the name back
        if !Path::new(path).is_absolute() {
            return Err(format!(
                "{library} is not there: install the C library's static part (libc6-dev, glibc-static)"
            )
            .into());
        }
        std::fs::write(out.join(format!("lib{name}.so")), format!("INPUT({path})\n"))?;
    }
    println!("cargo:rustc-link-arg-bins=-L{}", out.display());
    println!("cargo:rustc-link-arg-bins=-static-pie");
    Ok(())
}
