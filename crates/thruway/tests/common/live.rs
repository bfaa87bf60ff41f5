//! The program on a live machine whose NVML is the simulated library: root and mount namespaces.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, dead_code, reason = "tests; each uses a part of it")]
#![allow(clippy::print_stdout, reason = "says what it skips")]

use std::process::{Command, Output, Stdio};

use machine::scratch::Scratch;
use serde_json::Value;
use simnvml::install::{Installed, install};
use simnvml::view::View;

/// A box's tree as sysfs, a /dev of its own, and a simulated library. What the program writes below /etc, /var/lib,
/// /var/log and /usr stays in `folder`, from call to call.
pub struct Live {
    pub tree: Scratch,
    pub folder: tempfile::TempDir,
    pub library: Installed,
}

pub const SCRIPT: &str = "set -e
for dir in etc var/lib var/log usr; do
  mkdir -p \"$FOLDER/upper/$dir\" \"$FOLDER/work/$dir\"
  mount -t overlay overlay -o \"lowerdir=/$dir,upperdir=$FOLDER/upper/$dir,workdir=$FOLDER/work/$dir\" \"/$dir\"
done
mount --bind \"$TREE/sys\" /sys
mount -t tmpfs none /dev
mknod -m 666 /dev/null c 1 3
touch /dev/nvidiactl /dev/nvidia0 /dev/nvidia-uvm
exec \"$@\"";

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

    /// With all of the driver's simulated libraries, and the box's card at the tree's address.
    pub fn whole(tree: &str, name: &str) -> Live {
        let live = Live::new(tree, name);
        let text = View::named(name).expect("a box");
        // the card at the address is the box's, by its number
        let device = View::new(text, "").expect("a view").gpus.first().map(|gpu| gpu.card.device);
        let device = device.expect("a card");
        let place = live.tree.path().join("sys/bus/pci/devices/0000:01:00.0");
        std::fs::write(place.join("device"), format!("{device:#06x}\n")).expect("the tree has a card there");
        let event = std::fs::read_to_string(place.join("uevent")).expect("the tree has a card there");
        let other =
            |line: &str| if line.starts_with("PCI_ID=") { format!("PCI_ID=10DE:{device:04X}") } else { line.into() };
        let event: Vec<String> = event.lines().map(other).collect();
        std::fs::write(place.join("uevent"), event.join("\n") + "\n").expect("writes");
        live.compute(text);
        live
    }

    /// Of a tree that has the box's cards at their addresses, with all of the driver's simulated libraries.
    pub fn several(tree: &str, name: &str) -> Live {
        let text = View::named(name).expect("a box");
        let live = Live::of(tree, text);
        live.compute(text);
        live
    }

    /// The libraries beside NVML's.
    fn compute(&self, text: &str) {
        let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
        for (built, stem) in
            [("simcuda", "libcuda.so"), ("simcuvid", "libnvcuvid.so"), ("simnvenc", "libnvidia-encode.so")]
        {
            let built = deps.join(format!("lib{built}.so"));
            simcards::install::install(&built, stem, self.folder.path(), text, &[]).expect("installs");
        }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", SCRIPT, "sh", env!("CARGO_BIN_EXE_thruway")]).args(args);
        command.env("TREE", self.tree.path()).env("FOLDER", self.folder.path());
        command.env("LD_LIBRARY_PATH", self.folder.path()).env("NO_COLOR", "1").stdin(Stdio::null());
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

    /// What the simulated driver keeps of a cut until its next start.
    pub fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("thruway-sim/state.toml")
    }

    /// A file as the program left it, below its own /etc or /var/lib.
    pub fn left(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join("upper").join(path.trim_start_matches('/'))).ok()
    }

    /// Lays a file over the machine's own, for the calls to come.
    pub fn lay(&self, path: &str, text: &[u8]) {
        let at = self.folder.path().join("upper").join(path.trim_start_matches('/'));
        std::fs::create_dir_all(at.parent().expect("below a directory")).expect("makes it");
        std::fs::write(at, text).expect("writes");
    }

    /// The whole report of `thruway gpus`.
    pub fn gpus(&self) -> Value {
        let output = self.thruway(&["gpus", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// What NVML said of each card that it said anything of.
    pub fn nvml(&self) -> Vec<Value> {
        let report = self.gpus();
        let cards = report["cards"].as_array().expect("cards");
        cards.iter().map(|card| card["nvml"].clone()).filter(|nvml| !nvml.is_null()).collect()
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
