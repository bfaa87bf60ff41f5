//! A live machine whose NVML is the simulated library: a mount namespace with a box's sysfs where the kernel's would be.

use std::process::{Command, Output, Stdio};

use machine::scratch::Scratch;
use simnvml::install::{Installed, install};
use simnvml::view::View;

/// A box's tree as sysfs, a /dev of its own, and a simulated library.
pub struct Live {
    pub tree: Scratch,
    pub folder: tempfile::TempDir,
    pub library: Installed,
}

pub const SCRIPT: &str = "set -e; mount --bind \"$TREE/sys\" /sys; mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; \
                      touch /dev/nvidiactl /dev/nvidia0; exec \"$@\"";

impl Live {
    pub fn new(tree: &str, nvml: &str) -> Live {
        Live::of(tree, View::named(nvml).expect("a box"))
    }

    /// Of a box's text.
    pub fn of(tree: &str, text: &str) -> Live {
        let scratch = Scratch::temporary().expect("a directory");
        sim::build_named(tree, &scratch).expect("the box");
        let folder = tempfile::tempdir().expect("a directory");
        let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
        let library = install(&deps.join("libsimnvml.so"), folder.path(), text, &[]).expect("installs");
        Live { tree: scratch, folder, library }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", SCRIPT, "sh", env!("CARGO_BIN_EXE_thruway")]).args(args);
        command.env("TREE", self.tree.path()).env("LD_LIBRARY_PATH", self.folder.path()).env("NO_COLOR", "1");
        command.stdin(Stdio::null());
        command
    }

    pub fn thruway(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("unshare, of util-linux")
    }

    /// Written whole or not at all: the library may read at any time.
    pub fn control(&self, text: &str) {
        let new = self.folder.path().join("control.new");
        std::fs::write(&new, text).expect("writes");
        std::fs::rename(new, &self.library.control).expect("renames");
    }
}

pub fn namespaces() -> bool {
    let tried = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/dev"]).output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        println!("SKIP: no mount namespace for this user");
    }
    may
}
