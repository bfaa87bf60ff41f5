//! The built libraries in a folder of their own, for a box.
#![allow(clippy::disallowed_methods, dead_code, reason = "tests; each uses a part of it")]

use std::path::PathBuf;

use simcards::install::install;
use simcards::view::View;

/// A cdylib, which cargo puts beside the tests' programs.
pub fn built(name: &str) -> PathBuf {
    let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
    let path = deps.join(format!("lib{name}.so"));
    assert!(path.is_file(), "{} is not built", path.display());
    path
}

pub fn driver(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    let text = View::named(name).expect("a box");
    for (library, stem) in
        [("simcuda", "libcuda.so"), ("simcuvid", "libnvcuvid.so"), ("simnvenc", "libnvidia-encode.so")]
    {
        install(&built(library), stem, folder.path(), text, &[]).expect("installs");
    }
    folder
}
