//! `cargo run -p thruway-simnvml --example library -- FOLDER BOX [SYMBOL…]`: the simulated library in a folder, as a driver's
//! would lie there. BOX is a built-in box or a path; SYMBOLs are left out beside those that the box's driver is too old for.
//! Then: `LD_LIBRARY_PATH=FOLDER nvtop`.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a tool's arguments")]

use std::path::{Path, PathBuf};

use simnvml::install::install;
use simnvml::view::View;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, name, lacks @ ..] = arguments.as_slice() else {
        return Err("arguments: FOLDER BOX [SYMBOL…]".into());
    };
    let text = if name.contains('/') { std::fs::read_to_string(name)? } else { View::named(name)?.to_owned() };
    let lacks: Vec<&str> = lacks.iter().map(String::as_str).collect();
    let built = built().ok_or("the library is not built: cargo build -p thruway-simnvml")?;
    let installed = install(&built, Path::new(folder), &text, &lacks)?;
    println!("simulated: {}", installed.library.display());
    println!("faults go to {}", installed.control.display());
    Ok(())
}

/// target/PROFILE/examples/install is beside target/PROFILE/deps.
fn built() -> Option<PathBuf> {
    let profile = std::env::current_exe().ok()?.parent()?.parent()?.to_owned();
    // not target/PROFILE/libsimnvml.so: cargo renews that one only where the library itself is what is built
    Some(profile.join("deps/libsimnvml.so")).filter(|path| path.is_file())
}
