//! `cargo run -p thruway-simdriver --example install -- FOLDER BOX [LAYOUT]`: a whole simulated driver root. BOX is a built-in
//! box or a path; LAYOUT is debian, ubuntu (the default), fedora, arch, gke, guest, nixos or container.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a tool's arguments")]

use std::path::Path;

use simcards::view::View;
use simdriver::{Built, Layout, lay};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, name, layout) = match arguments.as_slice() {
        [folder, name] => (folder, name, Layout::Ubuntu),
        [folder, name, layout] => (folder, name, layout.parse()?),
        _ => return Err("arguments: FOLDER BOX [LAYOUT]".into()),
    };
    let text = if name.contains('/') { std::fs::read_to_string(name)? } else { View::named(name)?.to_owned() };
    // target/PROFILE/examples/install is beside target/PROFILE/deps
    let program = std::env::current_exe()?;
    let profile = program.parent().and_then(Path::parent).ok_or("no folder of this program")?;
    let laid = lay(Path::new(folder), &text, layout, &Built(profile.join("deps")))?;
    let root = laid.root.display();
    println!("simulated: thruway --root {root} gpus");
    println!("libraries: LD_LIBRARY_PATH={root}{}", laid.libraries);
    println!("faults go to {}", laid.control.display());
    if !laid.missing_nodes.is_empty() {
        println!("not made, for want of root: {}", laid.missing_nodes.join(", "));
    }
    Ok(())
}
