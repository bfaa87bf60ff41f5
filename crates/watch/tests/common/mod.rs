//! A machine whose NVML is the simulated library, in this very process: a directory that is mounted as a root.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, dead_code, reason = "makes a machine; each uses a part")]

use std::path::Path;

use machine::Root;
use simnvml::install::{Installed, install};
use simnvml::view::View;

pub struct Live {
    pub folder: tempfile::TempDir,
    pub library: Installed,
    pub machine: Root,
}

impl Live {
    pub fn new(nvml: &str) -> Live {
        Live::of(View::named(nvml).expect("a box"))
    }

    pub fn of(text: &str) -> Live {
        let folder = tempfile::tempdir().expect("a directory");
        let lib = folder.path().join("usr/lib/x86_64-linux-gnu");
        std::fs::create_dir_all(&lib).expect("makes it");
        let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
        let library = install(&deps.join("libsimnvml.so"), &lib, text, &[]).expect("installs");
        let live = Live { machine: Root::mounted(folder.path(), "/").expect("a root"), folder, library };
        live.write("dev/nvidiactl", "");
        live
    }

    pub fn write(&self, path: &str, text: &str) {
        let at = self.folder.path().join(path);
        std::fs::create_dir_all(at.parent().expect("below a directory")).expect("makes it");
        std::fs::write(at, text).expect("writes");
    }

    pub fn link(&self, path: &str, target: &str) {
        let at = self.folder.path().join(path);
        std::fs::create_dir_all(at.parent().expect("below a directory")).expect("makes it");
        std::os::unix::fs::symlink(target, at).expect("links");
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.folder.path().join(path)).expect("removes");
    }

    /// Written whole or not at all: the library may read at any time.
    pub fn control(&self, text: &str) {
        let new = self.folder.path().join("control.new");
        std::fs::write(&new, text).expect("writes");
        std::fs::rename(new, &self.library.control).expect("renames");
    }

    /// A process in this machine's /proc.
    pub fn process(&self, pid: u32, program: &str, cgroup: &str) {
        let name = Path::new(program).file_name().expect("a name").to_string_lossy();
        self.write(
            &format!("proc/{pid}/stat"),
            &format!("{pid} ({name}) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {pid} 0 0\n"),
        );
        self.write(&format!("proc/{pid}/comm"), &format!("{name}\n"));
        self.write(&format!("proc/{pid}/cmdline"), &format!("{program}\0"));
        self.write(&format!("proc/{pid}/status"), &format!("Name:\t{name}\nUid:\t1000\t1000\t1000\t1000\n"));
        self.write(&format!("proc/{pid}/cgroup"), cgroup);
    }
}
