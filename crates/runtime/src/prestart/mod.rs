//! The prestart hook, `nvidia-container-runtime-hook prestart`: what docker starts for `--gpus`, after the container's
//! namespaces and mounts are made and before its root is entered. The same request, policy and spec as the shim's; then,
//! since the configuration can no longer be changed, what the edits would have brought is done to the container itself:
//! mounts and nodes in its mount namespace, the spec's hooks there, its device cgroup.
//!
//! What cannot be done so late, and is done without: the environment (NVIDIA_VISIBLE_DEVICES stays what it was),
//! additional groups, network devices.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use oci::config::Look;
use oci::settings::{Settings, Written};
use serde::Deserialize;

use crate::grant::{self, Answer, Grant};
use crate::say::Say;
use crate::{files, setup};

pub mod bpf;
mod cgroup;
mod enter;
pub mod lasting;

const HELP: &str = "\
Usage: nvidia-container-runtime-hook [-config FILE] [-debug] prestart | poststart | poststop
       (also thruway-runtime prestart)

prestart gives a container, whose OCI state it reads on standard input, the GPUs that its configuration asks for. It
is started by a container runtime; the two others do nothing.

Exit status: 0 done, or nothing was asked for; 1 the container must not start.
";

/// runtime-spec, \"State\"; docker before 1.13 said bundlePath.
#[derive(Deserialize)]
struct State {
    pid: i32,
    #[serde(alias = "bundlePath")]
    bundle: PathBuf,
}

/// Reads NVIDIA's command line and does it.
pub fn main(args: &[OsString]) -> i32 {
    let mut say = Say { name: "nvidia-container-runtime-hook", ..Say::default() };
    let mut config = None;
    let mut words = args.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        let option = word.trim_start_matches('-');
        match (word.starts_with('-'), option.split_once('=').unwrap_or((option, ""))) {
            (true, ("config", "")) => config = words.next().map(|path| PathBuf::from(path.as_ref())),
            (true, ("config", path)) => config = Some(PathBuf::from(path)),
            (true, ("version", _)) => {
                let _ = writeln!(std::io::stdout(), "thruway-runtime version {}", env!("CARGO_PKG_VERSION"));
                return 0;
            }
            (true, ("help" | "h", _)) => {
                let _ = write!(std::io::stdout(), "{HELP}");
                return 0;
            }
            (true, _) => {}
            (false, ("prestart", _)) => {
                return match prestart(config.as_deref(), &mut say) {
                    Ok(()) => 0,
                    Err(says) => {
                        say.error(&says);
                        1
                    }
                };
            }
            // a stage that is none of ours stops no container
            (false, _) => return 0,
        }
    }
    let _ = write!(std::io::stderr(), "{HELP}");
    2
}

fn prestart(config: Option<&Path>, say: &mut Say) -> Result<(), String> {
    let settings = match config {
        Some(path) => setup::read(path, Written::Nvidia).unwrap_or_else(|| Ok(Settings::default())),
        None => setup::settings(),
    };
    let text = files::text(std::io::stdin().lock())
        .map_err(|error| format!("no OCI state came on standard input: {error}"))?;
    let state: State = serde_json::from_str(&text).map_err(|error| {
        format!("standard input is no OCI state ({error}); this program is started by a container runtime, see -help")
    })?;
    if state.pid <= 0 || !state.bundle.is_absolute() {
        return Err(format!(
            "the OCI state names no process and bundle: pid {}, bundle {}",
            state.pid,
            state.bundle.display()
        ));
    }
    let path = state.bundle.join("config.json");
    let container = files::read(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let look = Look::at(&container)
        .map_err(|error| format!("{} is not what the runtime specification describes: {error}", path.display()))?;
    let (settings, broken) = match settings {
        Ok(settings) => (settings, None),
        Err(says) => (Settings::default(), Some(says)),
    };
    say.debug = settings.debug.as_ref().map(PathBuf::from);
    let given = match (grant::answer(&look, &settings), broken) {
        (Ok(Answer::Nothing), _) => return Ok(()),
        (_, Some(broken)) => return Err(broken),
        (Err(says), None) => return Err(says),
        (Ok(Answer::Ignored(says)), None) => {
            say.warning(&says);
            return Ok(());
        }
        (Ok(Answer::Given(given)), None) => given,
    };
    if !settings.skip_mode_detection && !matches!(settings.mode.as_str(), "auto" | "legacy") {
        return Err(format!(
            "this hook (docker run --gpus with the plain runtime) is turned off by mode = \"{}\" in the settings: start the \
             container with --runtime nvidia, or set mode = \"auto\" under [nvidia-container-runtime]",
            settings.mode
        ));
    }
    let root = look.root.as_deref().ok_or_else(|| format!("{} has no root.path", path.display()))?;
    say.info(&format!("{}: {}", path.display(), given.what));
    let root = state.bundle.join(root);
    let cgroup = !settings.no_cgroups;
    give(&given, &root, state.pid, &text, cgroup, say)
}

fn give(given: &Grant, root: &Path, pid: i32, state: &str, with_cgroup: bool, say: &Say) -> Result<(), String> {
    given.warnings.iter().for_each(|says| say.warning(says));
    // everything of the host is opened here, before the namespace is the container's
    let nodes = enter::nodes(given)?;
    for (node, live) in &nodes {
        if let Some(says) = oci::apply::stale_numbers(node, *live) {
            say.warning(&says);
        }
    }
    let sources = enter::sources(given, &nodes)?;
    let cgroup = if with_cgroup { cgroup::of(pid)? } else { None };
    let mut entered = enter::Container::enter(pid, root)?;
    let done = entered.fill(&sources).and_then(|()| entered.hooks(given, state, say));
    let done = entered.leave().and(done);
    let done = done.and_then(|()| match &cgroup {
        Some(cgroup) => cgroup.allow(&nodes, say),
        None => Ok(()),
    });
    match done {
        Ok(()) => {
            lasting::links(&given.edits);
            if let Some(cgroup) = &cgroup {
                lasting::scope(cgroup.path(), &nodes, say);
            }
            Ok(())
        }
        Err(says) => {
            entered.take_back();
            Err(says)
        }
    }
}
