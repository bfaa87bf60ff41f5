//! The CDI specs of this machine.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use formats::cdispec::{self, Edits, Form};
use oci::apply::Live;
use oci::request::{Gpus, Request, qualified};
use oci::resolve::SpecAt;
use oci::settings::Settings;

use crate::{files, host};

/// The file that `thruway cdi refresh` writes, and its kind.
const OURS: (&str, &str) = ("nvidia.com-gpu.json", "nvidia.com/gpu");

/// Our own file, of the directory that wins, where it can be all that a request is about: most of the time one file
/// then is all that is read.
pub fn ours(request: &Request, settings: &Settings) -> Option<SpecAt> {
    let fits = settings.default_kind == OURS.1
        && match &request.gpus {
            Gpus::All | Gpus::None => true,
            Gpus::Named(names) => names.iter().all(|name| qualified(name).is_none_or(|(kind, _)| kind == OURS.1)),
        };
    if !fits {
        return None;
    }
    let dir = settings.spec_dirs.last()?;
    read(&Path::new(dir).join(OURS.0), settings.spec_dirs.len() - 1)?.ok()
}

/// All specs, in rising priority and by name within a directory; what cannot be read becomes a warning.
pub fn all(settings: &Settings, warnings: &mut Vec<String>) -> Vec<SpecAt> {
    let mut found = Vec::new();
    for (priority, dir) in settings.spec_dirs.iter().enumerate() {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            match read(&path, priority) {
                Some(Ok(spec)) => found.push(spec),
                Some(Err(says)) => warnings.push(says),
                None => {}
            }
        }
    }
    found
}

fn read(path: &Path, priority: usize) -> Option<Result<SpecAt, String>> {
    let name = path.to_str()?;
    let form = Form::of_path(name)?;
    let text = match files::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(format!("the CDI spec {name} was passed over: {error}"))),
    };
    let spec = match cdispec::parse(text.as_bytes(), form) {
        Ok(spec) => spec,
        Err(error) => return Some(Err(format!("the CDI spec {name} was passed over: {error}"))),
    };
    if let Some(problem) = spec.problems().first() {
        return Some(Err(format!("the CDI spec {name} was passed over, as engines do: {problem}")));
    }
    Some(Ok(SpecAt { path: name.to_owned(), priority, spec }))
}

/// The driver that edits were written for: what its hook is told, else the version in the libraries' names.
pub fn driver_of<'e>(edits: &'e [Cow<'static, Edits>]) -> Option<&'e str> {
    for hook in edits.iter().flat_map(|edits| &edits.hooks) {
        let mut args = hook.args.iter();
        while let Some(arg) = args.next() {
            if arg == "--driver" {
                return args.next().map(String::as_str);
            }
            for name in ["--driver=", "--host-driver-version="] {
                if let Some(version) = arg.strip_prefix(name) {
                    return Some(version);
                }
            }
        }
    }
    edits.iter().flat_map(|edits| &edits.mounts).find_map(|mount| {
        let name = mount.host_path.rsplit('/').next()?;
        let version = name.strip_prefix("libcuda.so.").or_else(|| name.strip_prefix("libnvidia-ml.so."))?;
        version.contains('.').then_some(version)
    })
}

/// What of edits is not as it was when they were written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// The driver that they are for, and the one that is loaded.
    pub driver: Option<(String, String)>,
    /// Host paths that are to be mounted, and nodes, that are not there.
    pub gone: Vec<String>,
}

impl Stale {
    pub fn is_stale(&self) -> bool {
        self.driver.is_some() || !self.gone.is_empty()
    }
}

/// Whether a path comes and goes with a daemon, a display, a monitor: a container can do without.
pub fn is_optional(path: &str) -> bool {
    ["/run/", "/var/run/", "/tmp/"].iter().any(|folder| path.starts_with(folder)) || path.contains("/dri/")
}

/// Holds edits against the machine; the nodes that are there are kept with their numbers. Sockets of daemons come and go and make nothing stale.
pub fn stale(
    edits: &[Cow<'static, Edits>],
    wanted: impl Fn(&str) -> bool,
    settings: &Settings,
    nodes: &mut HashMap<String, Live>,
) -> Stale {
    let mut stale = Stale::default();
    if let (Some(written), Some(loaded)) = (driver_of(edits), host::module(settings))
        && written != loaded
    {
        stale.driver = Some((written.to_owned(), loaded));
    }
    let mut looked = Looked::default();
    for edit in edits {
        for mount in edit.mounts.iter().filter(|mount| wanted(&mount.container_path)) {
            let virtual_one = mount.kind.as_deref().is_some_and(|kind| !matches!(kind, "" | "bind" | "none"));
            if !virtual_one && !looked.is_there(&mount.host_path) {
                stale.gone.push(mount.host_path.clone());
            }
        }
        for node in &edit.device_nodes {
            let path = node.host();
            match host::node(path) {
                Some(live) => {
                    nodes.insert(path.to_owned(), live);
                }
                None => stale.gone.push(path.to_owned()),
            }
        }
    }
    stale
}

/// Most of a driver's files are in one directory: it is walked to once.
#[derive(Default)]
struct Looked {
    folder: Option<(String, OwnedFd)>,
}

impl Looked {
    fn is_there(&mut self, path: &str) -> bool {
        use rustix::fs::{AtFlags, CWD, Mode, OFlags, open, statat};
        let Some((folder, name)) =
            path.rsplit_once('/').filter(|(folder, name)| !folder.is_empty() && !name.is_empty())
        else {
            return statat(CWD, path, AtFlags::empty()).is_ok();
        };
        if self.folder.as_ref().is_none_or(|(known, _)| known != folder) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            self.folder = open(folder, flags, Mode::empty()).ok().map(|fd| (folder.to_owned(), fd));
        }
        self.folder.as_ref().is_some_and(|(_, fd)| statat(fd, name, AtFlags::empty()).is_ok())
    }
}
