//! A driver's files as edits of a container: mounts, and the hook that makes what is no file.

use std::cell::RefCell;
use std::collections::HashMap;

use formats::cdispec::{DeviceNode, Edits, Hook, Mount};
use machine::{Machine, MachineExt as _};
use model::Capability;

use crate::files::{Library, MULTIARCH, NARROW_DIR};
use crate::options::{HookWish, Options, Wanted};
use crate::{DriverFiles, HOOK};

/// A container writes to no file of the host's driver.
const FILE: [&str; 5] = ["ro", "nosuid", "nodev", "rbind", "rprivate"];
/// A socket must be writable to be spoken to.
const SOCKET: [&str; 5] = ["nosuid", "nodev", "rbind", "rprivate", "noexec"];

/// Where it all goes, and how names come about.
pub(crate) struct Place<'o> {
    options: &'o Options,
    /// The host path of a path in the driver's root.
    root: &'o str,
    hook: Option<String>,
    arm: bool,
    groups: RefCell<HashMap<String, Option<u32>>>,
}

/// What is handed to the hook.
#[derive(Default)]
pub(crate) struct HookWork {
    /// (target, link).
    pub(crate) links: Vec<(String, String)>,
    pub(crate) folders: Vec<String>,
    pub(crate) driver: Option<String>,
    pub(crate) guard: bool,
    pub(crate) profile: bool,
}

impl<'o> Place<'o> {
    pub(crate) fn new(machine: &dyn Machine, options: &'o Options) -> Self {
        let hook = match &options.hook {
            HookWish::None => None,
            HookWish::Path(path) => Some(path.clone()),
            HookWish::Installed => machine.exists(HOOK).then(|| HOOK.to_owned()),
        };
        let root = options.driver_root.as_deref().unwrap_or_default().trim_end_matches('/');
        Place { options, root, hook, arm: machine.exists("/lib/ld-linux-aarch64.so.1"), groups: RefCell::default() }
    }

    pub(crate) fn has_hook(&self) -> bool {
        self.hook.is_some()
    }

    fn library_dir(&self) -> &'static str {
        if self.arm { MULTIARCH[1] } else { MULTIARCH[0] }
    }

    /// Every name by which a library may be asked for without a hook: the multiarch directory, and lib64 of Red Hat's family.
    pub(crate) fn dirs(&self) -> Vec<String> {
        if !self.options.library_dirs.is_empty() {
            return self.options.library_dirs.clone();
        }
        vec![self.library_dir().to_owned(), "/usr/lib64".to_owned()]
    }

    pub(crate) fn mount(&self, host: &str, container: &str) -> Mount {
        let options = FILE.map(str::to_owned).to_vec();
        let host_path = format!("{}{host}", self.root);
        Mount { host_path, container_path: container.to_owned(), kind: None, options }
    }

    /// All of a driver's files.
    pub(crate) fn driver(&self, files: &DriverFiles, work: &mut HookWork) -> Vec<Mount> {
        let mut mounts = Vec::new();
        for (libraries, narrow) in [(&files.libraries, false), (&files.twins, true)] {
            for library in libraries {
                self.library(library, narrow, &mut mounts, work);
            }
        }
        for binary in &files.binaries {
            mounts.push(self.mount(&binary.path, &format!("/usr/bin/{}", binary.name)));
        }
        for file in files.firmware.iter().chain(&files.loader_files) {
            mounts.push(self.mount(&file.host, &file.container));
        }
        for socket in &files.sockets {
            let options = SOCKET.map(str::to_owned).to_vec();
            mounts.push(Mount { host_path: socket.clone(), container_path: socket.clone(), kind: None, options });
        }
        if let Some(wanted) = self.options.capabilities {
            mounts.retain(|mount| wanted.want(&mount.container_path));
            work.links.retain(|(_, link)| link.starts_with("/dev/") || wanted.want(link));
        }
        let there = |dir: &str| mounts.iter().any(|mount| mount.container_path.starts_with(&format!("{dir}/")));
        for dir in [self.library_dir(), NARROW_DIR].into_iter().filter(|dir| there(dir)) {
            work.folders.push(dir.to_owned());
        }
        mounts
    }

    fn library(&self, library: &Library, narrow: bool, mounts: &mut Vec<Mount>, work: &mut HookWork) {
        let Some(file) = library.names.first() else { return };
        let dir = |base: &str| library.below.map_or_else(|| base.to_owned(), |below| format!("{base}/{below}"));
        if !self.has_hook() {
            let bases = if narrow { vec![NARROW_DIR.to_owned()] } else { self.dirs() };
            for base in &bases {
                // The same file at each of its names. The loader knows a file by device and inode, so it loads it once.
                for name in &library.names {
                    mounts.push(self.mount(&library.path, &format!("{}/{name}", dir(base))));
                }
                mounts.extend(library.also.map(|also| self.mount(&library.path, &format!("{base}/{also}"))));
            }
            return;
        }
        let base = if narrow { NARROW_DIR } else { self.library_dir() };
        let dir = dir(base);
        mounts.push(self.mount(&library.path, &format!("{dir}/{file}")));
        let soname = library.names.get(1);
        for name in library.names.iter().skip(1).chain(&library.bare) {
            // the developer's link leads to the SONAME, as on the host
            let target = soname.filter(|soname| *soname != name && !name.starts_with(soname.as_str()));
            let target = target.filter(|_| name.ends_with(".so")).unwrap_or(file);
            work.links.push((target.clone(), format!("{dir}/{name}")));
        }
        if let Some(also) = library.also {
            let name = soname.unwrap_or(file);
            work.links.push((format!("../{name}"), format!("{base}/{also}")));
        }
    }

    /// The hook; none where it would have nothing to do.
    pub(crate) fn hook(&self, work: &HookWork) -> Vec<Hook> {
        let Some(path) = &self.hook else { return Vec::new() };
        let wants = |name: &str| !self.options.without.iter().any(|off| off == name || off == "all");
        let mut args = vec!["thruway-hook".to_owned(), "create-container".to_owned()];
        let bare = args.len();
        let mut add = |words: [&str; 2]| args.extend(words.map(str::to_owned));
        if wants("create-symlinks") {
            for (target, link) in &work.links {
                add(["--link", &format!("{target}::{link}")]);
            }
        }
        if wants("update-ldcache") {
            for folder in &work.folders {
                add(["--folder", folder]);
            }
        }
        if let Some(version) = &work.driver
            && wants("enable-cuda-compat")
        {
            add(["--driver", version]);
            if let Some(cuda) = oci::require::cuda_of(version) {
                add(["--cuda", cuda]);
            }
        }
        if work.guard && wants("disable-device-node-modification") {
            args.push("--guard-params".to_owned());
        }
        if work.profile && wants("update-application-profile") {
            args.push("--application-profile".to_owned());
        }
        if args.len() == bare {
            return Vec::new();
        }
        let env = vec!["THRUWAY_HOOK=1".to_owned()];
        let hook_name = "createContainer".to_owned();
        vec![Hook { hook_name, path: path.clone(), args, env, timeout: None }]
    }

    /// Whether the set of files has what draws.
    pub(crate) fn draws(&self) -> bool {
        match self.options.capabilities {
            None => true,
            Some(Wanted::Twins) => false,
            Some(Wanted::Sets(sets)) => sets.has(Capability::Graphics) || sets.has(Capability::Display),
        }
    }

    /// The group that may open a node, where not everybody may.
    fn group(&self, machine: &dyn Machine, host: &str) -> Option<u32> {
        if self.options.no_gids {
            return None;
        }
        let stat = machine.stat(host).is()?;
        (stat.mode & 0o006 != 0o006 && stat.mode & 0o060 != 0 && stat.gid != 0).then_some(stat.gid)
    }

    /// Nodes by path alone, and the groups that may open those that not everybody may.
    pub(crate) fn nodes(&self, machine: &dyn Machine, paths: &[String]) -> Edits {
        let root = self.options.dev_root.as_deref().unwrap_or_default().trim_end_matches('/');
        let mut nodes = Vec::new();
        let mut gids = Vec::new();
        for path in paths {
            let host = format!("{root}{path}");
            // each node stands under several names
            let known = self.groups.borrow().get(&host).copied();
            let group = known.unwrap_or_else(|| {
                let group = self.group(machine, &host);
                self.groups.borrow_mut().insert(host.clone(), group);
                group
            });
            gids.extend(group);
            let host_path = (!root.is_empty()).then_some(host);
            nodes.push(DeviceNode { path: path.clone(), host_path, ..DeviceNode::default() });
        }
        nodes.sort_by(|a, b| depth(&a.path).cmp(&depth(&b.path)).then_with(|| a.path.cmp(&b.path)));
        nodes.dedup();
        gids.sort_unstable();
        gids.dedup();
        Edits { device_nodes: nodes, additional_gids: gids, ..Edits::default() }
    }
}

/// Shallow first, so that no mount hides an earlier one.
pub(crate) fn in_order(mut mounts: Vec<Mount>) -> Vec<Mount> {
    mounts.sort_by(|a, b| {
        depth(&a.container_path)
            .cmp(&depth(&b.container_path))
            .then_with(|| a.container_path.cmp(&b.container_path))
            .then_with(|| a.host_path.cmp(&b.host_path))
    });
    mounts.dedup_by(|a, b| a.container_path == b.container_path);
    mounts
}

fn depth(path: &str) -> usize {
    path.matches('/').count()
}
