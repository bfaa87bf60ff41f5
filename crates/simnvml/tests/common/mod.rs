//! The built library in a folder of its own, for a box.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, dead_code, reason = "tests; each uses a part of it")]

use std::path::{Path, PathBuf};

use simnvml::install::{Installed, install};
use simnvml::view::View;
use tempfile::TempDir;

/// A simulated driver's folder; gone on drop.
pub struct Sim {
    pub dir: TempDir,
    pub installed: Installed,
}

impl Sim {
    pub fn new(name: &str) -> Sim {
        Sim::without(name, &[])
    }

    /// With symbols that dlsym will not find.
    pub fn without(name: &str, lacks: &[&str]) -> Sim {
        Sim::of(View::named(name).expect("a box"), lacks)
    }

    /// Of a box's text.
    pub fn of(text: &str, lacks: &[&str]) -> Sim {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let installed = install(&built(), dir.path(), text, lacks).expect("installs");
        Sim { dir, installed }
    }

    /// From the next call on.
    pub fn control(&self, text: &str) {
        // written whole or not at all: a client may read at any time
        let new = self.dir.path().join("control.new");
        std::fs::write(&new, text).expect("writes");
        std::fs::rename(new, &self.installed.control).expect("renames");
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}

/// The cdylib, which cargo puts beside the tests' programs.
pub fn built() -> PathBuf {
    let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
    let path = deps.join("libsimnvml.so");
    assert!(path.is_file(), "{} is not built", path.display());
    path
}
