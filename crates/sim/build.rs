//! Lists boxes/*.toml and boxes/answers/* into a table, so that a new box is one new file and nothing else.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a build script: it runs on the builder's machine only"
)]

use std::fmt::Write as _;
use std::path::Path;

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let out = std::env::var("OUT_DIR").unwrap();
    let boxes = Path::new(&here).join("boxes");
    println!("cargo:rerun-if-changed={}", boxes.display());
    let mut text = String::new();
    table(&mut text, "BOXES", &boxes, Some("toml"));
    table(&mut text, "ANSWERS", &boxes.join("answers"), None);
    std::fs::write(Path::new(&out).join("boxes.rs"), text).unwrap();
}

/// `static NAME: &[(&str, &str)]`: the file's name (without the suffix asked for) and its text, sorted.
fn table(text: &mut String, name: &str, dir: &Path, suffix: Option<&str>) {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file() && suffix.is_none_or(|s| path.extension().is_some_and(|e| e == s)));
    files.sort();
    writeln!(text, "static {name}: &[(&str, &str)] = &[").unwrap();
    for path in files {
        let key = if suffix.is_some() { path.file_stem() } else { path.file_name() };
        writeln!(text, "    ({:?}, include_str!({:?})),", key.unwrap().to_str().unwrap(), path).unwrap();
    }
    writeln!(text, "];").unwrap();
}
