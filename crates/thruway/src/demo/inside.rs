//! The demo's one piece that is not simulated: a container of runc on this very machine, started through thruway-runtime with
//! the CDI spec that `apply` wrote. What it is given is the simulated machine's: nodes that are nodes of /dev/null, files of
//! the simulated driver, and as libnvidia-ml.so.1 the simulated library that is built beside this program. Where that is not
//! there, the container that asks is shown the simulated machine's tree.

#![allow(
    clippy::disallowed_types,
    reason = "starts the container runtimes of this machine on a bundle of the demo's own"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cdi::transform::{self, Side};
use formats::cdispec::{self, Form, Mount, Spec};
use machine::scratch::Scratch;
use machine::{MachineExt as _, Root};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};

use crate::trial::bundle::{Bundle, PROGRAM};

const LIMIT: Duration = Duration::from_secs(15);
/// Where `thruway cdi refresh` writes it.
const SPEC: &str = "/var/run/cdi/nvidia.com-gpu.json";
/// Where the simulated machine's tree is, in a container without the simulated library.
const TREE: &str = "/machine";
const LIBRARY: &str = "libnvidia-ml.so";

/// What a container said, and its exit status.
pub struct Said {
    pub out: String,
    pub status: i32,
}

/// All that is needed, found before anything is made. The answer is why it cannot be had.
pub struct Inside {
    runtime: PathBuf,
    hook: Option<PathBuf>,
    runc: PathBuf,
    /// The simulated NVML.
    pub library: Option<PathBuf>,
}

/// A program beside this one, or where packages put it.
fn beside(name: &str) -> Option<PathBuf> {
    let here = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    here.into_iter().chain([Path::new("/usr/bin").join(name)]).find(|path| path.is_file())
}

impl Inside {
    pub fn find() -> Result<Inside, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a container of runc's needs root, and this is a user's run".into());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
        let runc = dirs.map(|dir| dir.join("runc")).find(|path| path.is_file());
        let runc = runc.ok_or("runc is not installed on this machine (apt-get install runc)")?;
        let runtime = beside("thruway-runtime").ok_or("thruway-runtime is not beside this program or in /usr/bin")?;
        // cargo puts a library beside the programs, and those that only tests need below deps
        let library = std::env::current_exe().ok().and_then(|exe| {
            let dir = exe.parent()?.to_owned();
            let places = [dir.join("libsimnvml.so"), dir.join("deps/libsimnvml.so")];
            places.into_iter().find(|path| path.is_file())
        });
        Ok(Inside { runtime, hook: beside("thruway-hook"), runc, library })
    }

    /// `thruway smi` in a container of the machine at `tree`: of one that asks for the card, or of one that does not.
    pub fn smi(&self, tree: &Path, asks: bool) -> anyhow::Result<Said> {
        let place = Scratch::temporary()?;
        let dir = place.path();
        self.spec(tree, dir)?;
        let quoted = |path: &Path| path.display().to_string().replace(['\\', '"'], "");
        let config = format!(
            "[nvidia-container-runtime]\nruntimes = [\"{}\"]\n[nvidia-container-runtime.modes.cdi]\nspec-dirs = [\"{}\"]\n\
             [thruway]\nfacts-root = \"{}\"\n",
            quoted(&self.runc),
            quoted(&dir.join("cdi")),
            quoted(tree),
        );
        std::fs::write(dir.join("config.toml"), config)?;
        self.bundle(tree, dir, asks)?;
        let id = format!("thruway-demo-{}", std::process::id());
        let output = self.run(dir, &id);
        // whatever became of it: nothing of it stays
        let state = dir.join("state");
        let _ = Command::new(&self.runc)
            .arg("--root")
            .arg(&state)
            .args(["delete", "--force", &id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        output
    }

    /// The spec that was applied on the simulated machine, its host paths below that machine's tree.
    fn spec(&self, tree: &Path, dir: &Path) -> anyhow::Result<()> {
        let machine = Root::tree(tree)?;
        let text = machine.text(SPEC).is().with_context(|| format!("{SPEC} is not on that machine"))?;
        let mut spec = cdispec::parse(text.as_bytes(), Form::Json)?;
        transform::root(&mut spec, "/", &tree.to_string_lossy(), Side::Host);
        self.stand_in(&mut spec, tree, dir)?;
        std::fs::create_dir_all(dir.join("cdi"))?;
        std::fs::write(dir.join("cdi/nvidia.com-gpu.json"), cdispec::to_json(&spec))?;
        Ok(())
    }

    fn stand_in(&self, spec: &mut Spec, tree: &Path, dir: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir.join("dev"))?;
        let mut made = BTreeSet::new();
        let all = spec.devices.iter_mut().map(|device| &mut device.container_edits);
        for edits in all.chain([&mut spec.container_edits]) {
            for node in &mut edits.device_nodes {
                let name = node.path.trim_start_matches("/dev/").replace('/', "-");
                let path = dir.join("dev").join(&name);
                // /dev/null's numbers: on a machine with a card NVIDIA's would be that card
                if made.insert(name) {
                    let mode = Mode::from_raw_mode(0o666);
                    mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(1, 3))?;
                }
                node.host_path = Some(path.to_string_lossy().into_owned());
                node.major = None;
                node.minor = None;
            }
            // links of the loader's names are made by the hook; what is not there would make the runtime have specs made anew
            edits.hooks.retain_mut(|hook| match &self.hook {
                Some(path) => {
                    hook.path = path.to_string_lossy().into_owned();
                    true
                }
                None => false,
            });
            edits.mounts.retain(|mount| Path::new(&mount.host_path).exists());
            if let Some(library) = &self.library {
                let ours = edits.mounts.iter_mut().find(|mount| is_library(&mount.container_path));
                let Some(ours) = ours else { continue };
                ours.host_path = library.to_string_lossy().into_owned();
                let folder = Path::new(&ours.container_path).parent().unwrap_or(Path::new("/"));
                let card = dir.join("thruway-sim");
                std::fs::create_dir_all(&card)?;
                std::fs::write(card.join("nvml.toml"), card_of(tree)?)?;
                let mount = Mount {
                    host_path: card.to_string_lossy().into_owned(),
                    container_path: folder.join("thruway-sim").to_string_lossy().into_owned(),
                    kind: None,
                    options: vec!["ro".into(), "rbind".into()],
                };
                edits.mounts.push(mount);
            }
        }
        Ok(())
    }

    fn bundle(&self, tree: &Path, dir: &Path, asks: bool) -> anyhow::Result<()> {
        let root = dir.join("rootfs");
        for part in ["usr/bin", "usr/lib", "usr/lib64", "proc", "dev", "sys", "etc", "tmp", "run", "machine"] {
            std::fs::create_dir_all(root.join(part))?;
        }
        for name in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name))?;
        }
        let bind = |from: &Path, to: &str| json!({"destination": to, "type": "bind", "source": from, "options": ["bind", "ro"]});
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=4m"]}),
        ];
        mounts.extend(Bundle::of_this_process()?.mounts().iter().map(|(from, to)| bind(from, to)));
        let mut words = vec![PROGRAM.to_owned()];
        if self.library.is_none() && asks {
            mounts.push(bind(tree, TREE));
            words.extend(["--root".to_owned(), TREE.to_owned()]);
        }
        words.push("smi".to_owned());
        let mut env = vec!["PATH=/usr/bin", "NO_COLOR=1", "THRUWAY_SIM_QUIET=1"];
        if asks {
            env.extend(["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility"]);
        }
        let id = format!("/thruway-demo-{}", std::process::id());
        let namespaces: Vec<Value> =
            ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({"type": kind})).to_vec();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": words, "env": env, "cwd": "/", "noNewPrivileges": true},
            "root": {"path": "rootfs", "readonly": false},
            "mounts": mounts,
            "linux": {
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "cgroupsPath": id,
                "namespaces": namespaces,
            }
        });
        std::fs::write(dir.join("config.json"), serde_json::to_string(&config)?)?;
        Ok(())
    }

    fn run(&self, dir: &Path, id: &str) -> anyhow::Result<Said> {
        // files and not pipes: what they hold has no bound that could stop the container
        let (out, err) = (dir.join("out"), dir.join("err"));
        let mut child = Command::new(&self.runtime)
            .arg("--root")
            .arg(dir.join("state"))
            .args(["run", "--bundle"])
            .arg(dir)
            .arg(id)
            .env("NVIDIA_CTK_CONFIG_FILE_PATH", dir.join("config.toml"))
            .env_remove("NVIDIA_VISIBLE_DEVICES")
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out)?)
            .stderr(std::fs::File::create(&err)?)
            .spawn()
            .with_context(|| format!("cannot start {}", self.runtime.display()))?;
        let start = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if start.elapsed() > LIMIT => {
                    let _ = child.kill();
                    let _ = child.wait();
                    bail!("the container has not ended within {} s", LIMIT.as_secs());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let out = std::fs::read_to_string(&out)?;
        let err = std::fs::read_to_string(&err)?;
        // what the program in it said on its standard error is its word too; runc's own is why nothing ran
        let never = err.lines().rev().find(|line| line.contains("runc") || line.contains("level=error"));
        match (out.trim().is_empty(), never) {
            (true, Some(line)) => bail!("runc did not start it: {}", line.trim()),
            _ => Ok(Said { out: if out.trim().is_empty() { err } else { out }, status: status.code().unwrap_or(-1) }),
        }
    }
}

fn is_library(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(LIBRARY))
}

/// The simulated library's card: the one that is in the machine at `tree`, under its driver.
fn card_of(tree: &Path) -> anyhow::Result<String> {
    let machine = Root::tree(tree)?;
    let version = machine.value("/sys/module/nvidia/version").is().context("no driver runs on that machine")?;
    let inventory = gpu::observe(&machine);
    let (major, minor) = inventory.nvml.get().and_then(|nvml| nvml.cuda_version.get().copied()).unwrap_or((12, 2));
    // The scene's own card. What it measures is of the simulated library, which no film keeps busy.
    Ok(format!(
        "[driver]\nversion = \"{version}\"\ncuda = {}\n\n[[gpus]]\ncard = \"gt1030\"\n",
        major * 1000 + minor * 10
    ))
}
