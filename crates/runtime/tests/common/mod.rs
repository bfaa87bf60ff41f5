//! Bundles of busybox, a simulated driver (nodes and files in a tree), a spec for it, and the real runc and crun.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "shared by several tests, each of which uses a part; makes trees and runs runtimes"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// The program under test.
pub const SHIM: &str = env!("CARGO_BIN_EXE_thruway-runtime");

/// Two simulated cards: nodes of NVIDIA's major, which no driver answers to here. Opening one gives ENXIO where the
/// device cgroup allows it, and EPERM where it does not.
pub const CARDS: usize = 2;

pub struct Machine {
    /// Gone with it.
    pub tree: tempfile::TempDir,
}

/// What is missing for a test with real containers, if anything.
pub fn lacks(runtime: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("making device nodes and containers needs root".into());
    }
    for program in [runtime, "busybox"] {
        if find(program).is_none() {
            return Some(format!("{program} is not installed"));
        }
    }
    None
}

pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders.map(|folder| folder.join(program)).find(|place| place.is_file())
}

/// `SKIP` and why, and leave the test.
#[macro_export]
macro_rules! need {
    ($runtime:expr) => {
        if let Some(why) = common::lacks($runtime) {
            println!("SKIP: {why}");
            return;
        }
    };
}

pub fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

pub fn mknod(path: &Path, major: u32, minor: u32) {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor)).unwrap();
    // whatever the umask is
    rustix::fs::chmod(path, Mode::from_raw_mode(0o666)).unwrap();
}

impl Machine {
    /// A machine with a simulated driver 580.1 and its spec.
    pub fn new() -> Machine {
        let tree = tempfile::Builder::new().prefix("thruway-runtime-").tempdir().unwrap();
        let machine = Machine { tree };
        if rustix::process::geteuid().is_root() {
            for card in 0..CARDS {
                mknod(&machine.path(&format!("dev/nvidia{card}")), 195, card as u32);
            }
            mknod(&machine.path("dev/nvidiactl"), 195, 255);
            mknod(&machine.path("dev/nvidia-uvm"), 238, 0);
        }
        for name in ["libcuda.so.580.1", "libnvidia-ml.so.580.1", "libnvcuvid.so.580.1", "nvidia-smi"] {
            write(&machine.path(&format!("driver/{name}")), &format!("simulated {name}\n"));
        }
        write(&machine.path("facts/sys/module/nvidia/version"), "580.1\n");
        machine.spec(&machine.default_spec());
        machine.settings("");
        machine
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.tree.path().join(path)
    }

    pub fn text(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    pub fn spec(&self, spec: &Value) {
        write(&self.path("cdi/nvidia.com-gpu.json"), &serde_json::to_string(spec).unwrap());
    }

    pub fn default_spec(&self) -> Value {
        let node = |name: &str| json!({"path": format!("/dev/{name}"), "hostPath": self.text(&format!("dev/{name}"))});
        let card = |name: &str, cards: &[&str]| {
            let nodes: Vec<Value> = cards.iter().map(|card| node(card)).collect();
            json!({"name": name, "containerEdits": {"deviceNodes": nodes}})
        };
        let file = |name: &str, at: &str| {
            json!({"hostPath": self.text(&format!("driver/{name}")), "containerPath": at,
                   "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]})
        };
        let lib = "/usr/lib/x86_64-linux-gnu";
        json!({
            "cdiVersion": "0.5.0",
            "kind": "nvidia.com/gpu",
            "devices": [
                card("0", &["nvidia0"]),
                card("1", &["nvidia1"]),
                card("GPU-11111111-0000-0000-0000-000000000000", &["nvidia0"]),
                card("GPU-22222222-0000-0000-0000-000000000000", &["nvidia1"]),
                card("1:0", &["nvidia1"]),
                card("all", &["nvidia0", "nvidia1"]),
            ],
            "containerEdits": {
                "env": ["NVIDIA_VISIBLE_DEVICES=void"],
                "deviceNodes": [node("nvidiactl"), node("nvidia-uvm")],
                "mounts": [
                    file("libcuda.so.580.1", &format!("{lib}/libcuda.so.1")),
                    file("libnvidia-ml.so.580.1", &format!("{lib}/libnvidia-ml.so.1")),
                    file("libnvcuvid.so.580.1", &format!("{lib}/libnvcuvid.so.1")),
                    file("nvidia-smi", "/usr/bin/nvidia-smi"),
                ]
            }
        })
    }

    /// Settings: what is given, then where this machine's parts are.
    pub fn settings(&self, top: &str) {
        self.settings_with(top, "runc", "");
    }

    pub fn settings_with(&self, top: &str, runtime: &str, more: &str) {
        let low = find(runtime).unwrap_or_else(|| PathBuf::from(runtime));
        let text = format!(
            "{top}\n[nvidia-container-runtime]\nruntimes = [{:?}]\n[nvidia-container-runtime.modes.cdi]\nspec-dirs = [{:?}]\n\
             [thruway]\nfacts-root = {:?}\n{more}\n",
            low.to_str().unwrap(),
            self.text("cdi"),
            self.text("facts"),
        );
        write(&self.path("config.toml"), &text);
    }

    /// A bundle of busybox that runs `script`, with `env`.
    pub fn bundle(&self, name: &str, env: &[&str], script: &str) -> Bundle {
        let folder = self.path(&format!("bundles/{name}"));
        let rootfs = folder.join("rootfs");
        for part in ["bin", "proc", "dev", "sys", "tmp", "usr/bin", "etc"] {
            std::fs::create_dir_all(rootfs.join(part)).unwrap();
        }
        let busybox = rootfs.join("bin/busybox");
        if std::fs::hard_link(self.path("busybox"), &busybox).is_err() {
            std::fs::copy(find("busybox").unwrap(), self.path("busybox")).unwrap();
            std::fs::hard_link(self.path("busybox"), &busybox).unwrap();
        }
        for applet in ["sh", "cat", "ls", "mknod", "stat", "sleep", "true", "head"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let mut vars: Vec<&str> = vec!["PATH=/bin:/usr/bin"];
        vars.extend(env);
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": vars,
                "cwd": "/",
                "capabilities": {"bounding": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"]},
                "noNewPrivileges": true
            },
            "root": {"path": "rootfs", "readonly": false},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}
            ],
            "linux": {
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "cgroupsPath": format!("/thruway-test/{}-{name}", self.tag()),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]
            }
        });
        let bundle = Bundle { id: format!("{}-{name}", self.tag()), folder };
        bundle.set(&config);
        bundle
    }

    /// The prestart hook under NVIDIA's name, as an entry of `hooks.prestart`, with what docker would give it.
    pub fn hook(&self) -> Value {
        let link = self.path("nvidia-container-runtime-hook");
        // many threads ask at once
        match std::os::unix::fs::symlink(SHIM, &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{}: {error}", link.display()),
            _ => {}
        }
        json!({
            "path": link.to_str().unwrap(),
            "args": ["nvidia-container-runtime-hook", "prestart"],
            "env": [format!("NVIDIA_CTK_CONFIG_FILE_PATH={}", self.text("config.toml")), "PATH=/usr/bin:/bin"]
        })
    }

    /// `run` by the low-level runtime alone, with the hook in the configuration: docker's `--gpus`.
    pub fn run_with_hook(&self, bundle: &Bundle, runtime: &str) -> Output {
        bundle.edit(|config| config["hooks"] = json!({"prestart": [self.hook()]}));
        let mut command = self.program("unshare");
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" \"$@\"";
        command.args(["-m", "sh", "-c", script]).arg(find(runtime).unwrap());
        command.args(["--root", &self.text("state"), "run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id);
        command.output().unwrap()
    }

    /// Part of every container's id, so that tests of several processes do not meet.
    pub fn tag(&self) -> String {
        let name = self.tree.path().file_name().unwrap().to_string_lossy().into_owned();
        name.replace("thruway-runtime-", "tr").replace('.', "")
    }

    /// The shim, with this machine's settings.
    pub fn shim(&self) -> Command {
        self.program(SHIM)
    }

    pub fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("NVIDIA_CTK_CONFIG_FILE_PATH", self.path("config.toml")).env_remove("NVIDIA_VISIBLE_DEVICES");
        command
    }

    /// The shim in a mount namespace without the unified hierarchy: crun refuses a machine that has both kinds in use.
    pub fn shim_apart(&self) -> Command {
        let mut command = self.program("unshare");
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" \"$@\"";
        command.args(["-m", "sh", "-c", script, SHIM]);
        command
    }

    /// `run` through the shim: what the container said.
    pub fn run(&self, bundle: &Bundle) -> Output {
        self.shim_apart()
            .args(["--root", &self.text("state"), "run", "--bundle"])
            .args([bundle.folder.as_os_str()])
            .arg(&bundle.id)
            .output()
            .unwrap()
    }
}

pub struct Bundle {
    pub id: String,
    pub folder: PathBuf,
}

impl Bundle {
    pub fn config(&self) -> Value {
        serde_json::from_str(&self.config_text()).unwrap()
    }

    pub fn config_text(&self) -> String {
        std::fs::read_to_string(self.folder.join("config.json")).unwrap()
    }

    pub fn set(&self, config: &Value) {
        std::fs::write(self.folder.join("config.json"), serde_json::to_string(config).unwrap()).unwrap();
    }

    pub fn edit(&self, with: impl FnOnce(&mut Value)) {
        let mut config = self.config();
        with(&mut config);
        self.set(&config);
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
