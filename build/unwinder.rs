//! Links the unwinder statically: the loader then opens, maps and relocates one library less at each start, and the program
//! runs where no libgcc_s.so.1 is (a container's image of the C library alone).
//!
//! std asks for gcc_s by name on Linux with glibc; a linker script of that name, found first, names the static part.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "a build script")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../build/unwinder.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo gives OUT_DIR")?);
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let said = Command::new(&compiler).arg("-print-file-name=libgcc_eh.a").output()?;
    let path = String::from_utf8(said.stdout)?;
    // a compiler that does not have it gives the name back: then the shared one does
    if Path::new(path.trim()).is_absolute() {
        std::fs::write(out.join("libgcc_s.so"), format!("INPUT({})\n", path.trim()))?;
        println!("cargo:rustc-link-arg-bins=-L{}", out.display());
    }
    Ok(())
}
