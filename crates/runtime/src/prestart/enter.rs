//! In a container's mount namespace, before its root is entered: mounts, nodes, and the spec's hooks.
//!
//! Sources are the host's, opened as detached mounts before the namespace is changed; targets are the container's,
//! opened or made below the root's descriptor (openat2(2): RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS). So a link in the image
//! leads nowhere but into the image, and none of its paths is ever a source.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use formats::cdispec::{DeviceNode, Hook};
use oci::apply::Live;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::thread::LinkNameSpaceType;

use crate::grant::{self, Grant};
use crate::host;
use crate::say::Say;

/// A detached mount, and where it belongs in the container.
pub struct Source {
    mount: OwnedFd,
    folder: bool,
    target: String,
    /// Of a node, its number: where the container has it already, nothing is mounted.
    number: Option<u64>,
}

/// The nodes of a grant, each once, with their numbers now.
pub fn nodes(given: &Grant) -> Result<Vec<(&DeviceNode, Live)>, String> {
    let mut found: Vec<(&DeviceNode, Live)> = Vec::new();
    for node in given.edits.iter().flat_map(|edits| &edits.device_nodes) {
        let path = node.host();
        let live =
            host::node(path).ok_or_else(|| format!("{path}, which the CDI spec gives, is not on this machine"))?;
        found.retain(|(there, _)| there.path != node.path);
        found.push((node, live));
    }
    Ok(found)
}

/// Opens everything that is to be mounted, shallow targets first.
pub fn sources(given: &Grant, nodes: &[(&DeviceNode, Live)]) -> Result<Vec<Source>, String> {
    let mut found = Vec::new();
    for mount in grant::mounts(given) {
        let options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
        if mount.kind.as_deref().is_some_and(|kind| !matches!(kind, "" | "bind" | "none")) {
            return Err(format!(
                "the CDI spec mounts a {} at {}, which only a runtime can do: start the container with --runtime nvidia",
                mount.kind.as_deref().unwrap_or_default(),
                mount.container_path
            ));
        }
        let mut set = 0;
        for (option, attribute) in [("ro", RDONLY), ("nosuid", NOSUID), ("nodev", NODEV), ("noexec", NOEXEC)] {
            if options.contains(&option) {
                set |= attribute;
            }
        }
        let recursive = options.contains(&"rbind");
        found.push(open(&mount.host_path, &mount.container_path, set, recursive, None)?);
    }
    for (node, live) in nodes {
        let number = rustix::fs::makedev(live.major, live.minor);
        found.push(open(node.host(), &node.path, NOSUID | NOEXEC, false, Some(number))?);
    }
    found.sort_by_key(|source| source.target.matches('/').count());
    Ok(found)
}

fn open(path: &str, target: &str, set: u64, recursive: bool, number: Option<u64>) -> Result<Source, String> {
    let failed = |error: Errno| format!("{path} of the CDI spec cannot be mounted: {error}");
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let mount = rustix::mount::open_tree(rustix::fs::CWD, path, flags).map_err(failed)?;
    let stat = rustix::fs::fstat(&mount).map_err(failed)?;
    // between the look and this the node may have been made anew
    if number.is_some_and(|number| number != stat.st_rdev) {
        return Err(format!("{path} changed while it was looked at"));
    }
    set_attributes(&mount, set, recursive).map_err(|error| match error {
        Errno::NOSYS => {
            "this kernel is older than 5.12, and cannot mount the driver's files for this hook: start the container \
                         with --runtime nvidia, or --device nvidia.com/gpu=all"
                .to_owned()
        }
        error => failed(error),
    })?;
    let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(Source { mount, folder, target: target.to_owned(), number })
}

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;

/// mount_setattr(2) on a mount's own descriptor: attributes set, propagation private.
fn set_attributes(mount: &OwnedFd, set: u64, recursive: bool) -> Result<(), Errno> {
    /// struct mount_attr, linux/mount.h
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let wanted = Attributes { set, clear: 0, propagation: libc::MS_PRIVATE, user_namespace: 0 };
    let mut flags = libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: the descriptor is open for the call; the path is an empty C string and `wanted` a struct of the length that
    // is given, both only read. The call changes a mount that is attached nowhere.
    #[allow(unsafe_code, reason = "rustix has no mount_setattr")]
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const wanted,
            size_of::<Attributes>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)) }
}

/// A container that was entered.
pub struct Container {
    own: File,
    root: OwnedFd,
    /// Files and directories that were made to mount on: parent, name, directory or not.
    made: Vec<(OwnedFd, String, bool)>,
}

impl Container {
    /// Enters the mount namespace of a process, and opens its root, which the runtime has mounted there at its own path.
    pub fn enter(pid: i32, root: &Path) -> Result<Container, String> {
        let open = |path: &str| File::open(path).map_err(|error| format!("{path} cannot be opened: {error}"));
        let own = open("/proc/self/ns/mnt")?;
        let its = open(&format!("/proc/{pid}/ns/mnt"))?;
        if rustix::fs::fstat(&own).ok().map(|stat| stat.st_ino) == rustix::fs::fstat(&its).ok().map(|stat| stat.st_ino)
        {
            return Err(
                "this container has no mount namespace of its own, so that nothing can be given to it alone".to_owned()
            );
        }
        rustix::thread::move_into_link_name_space(its.as_fd(), Some(LinkNameSpaceType::Mount)).map_err(|error| {
            format!("the container's mount namespace cannot be entered: {error} (this hook needs CAP_SYS_ADMIN; rootless engines use CDI)")
        })?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|error| format!("the container's root {} cannot be opened: {error}", root.display()))
            .and_then(|fd| if is_mount(&fd) { Ok(fd) } else { Err(not_mounted(root)) });
        match opened {
            Ok(root) => Ok(Container { own, root, made: Vec::new() }),
            Err(says) => {
                let _ = rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount));
                Err(says)
            }
        }
    }

    /// Back to the host's namespace.
    pub fn leave(&self) -> Result<(), String> {
        rustix::thread::move_into_link_name_space(self.own.as_fd(), Some(LinkNameSpaceType::Mount))
            .map_err(|error| format!("the container's mount namespace cannot be left: {error}"))
    }

    /// Mounts everything at its place.
    pub fn fill(&mut self, sources: &[Source]) -> Result<(), String> {
        for source in sources {
            let failed = |error: Errno| format!("{} cannot be mounted in the container: {error}", source.target);
            let target = self.target(&source.target, source.folder).map_err(failed)?;
            let there = rustix::fs::fstat(&target).map_err(failed)?;
            let is_node = FileType::from_raw_mode(there.st_mode) == FileType::CharacterDevice;
            if is_node && source.number == Some(there.st_rdev) {
                continue;
            }
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            rustix::mount::move_mount(&source.mount, "", &target, "", flags).map_err(failed)?;
        }
        Ok(())
    }

    fn open(&self, path: &str, more: OFlags) -> Result<OwnedFd, Errno> {
        hook::open_below(self.root.as_fd(), path, OFlags::PATH | more, ResolveFlags::empty())
    }

    /// The place for a mount; made where it is not there, its parents too.
    fn target(&mut self, path: &str, folder: bool) -> Result<OwnedFd, Errno> {
        match self.open(path, OFlags::empty()) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').ok_or(Errno::INVAL)?;
        if matches!(name, "" | "." | "..") {
            return Err(Errno::INVAL);
        }
        let parent = if parent.is_empty() { self.open("/", OFlags::DIRECTORY)? } else { self.target(parent, true)? };
        // O_EXCL and no following: a link that leads nowhere is an error, not a way out
        if folder {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        self.made.push((parent, name.to_owned(), folder));
        Ok(target)
    }

    /// The spec's hooks: our own in this process, others as they are, here where a runtime would start them.
    pub fn hooks(&self, given: &Grant, state: &str, say: &Say) -> Result<(), String> {
        for hook in given.edits.iter().flat_map(|edits| &edits.hooks) {
            if !matches!(hook.hook_name.as_str(), "prestart" | "createRuntime" | "createContainer") {
                say.warning(&format!(
                    "the CDI spec's {} hook comes too late for docker's --gpus, and was left out",
                    hook.hook_name
                ));
                continue;
            }
            if is_ours(&hook.path) {
                let parsed = hook::args::parse(&hook.args).map_err(|error| format!("the CDI spec's hook: {error}"))?;
                parsed.warnings.iter().for_each(|says| say.warning(says));
                if let hook::args::Command::Carry(options) = parsed.command {
                    let report = hook::carry_out(self.root.as_fd(), &options).map_err(|error| error.to_string())?;
                    report.warnings.iter().for_each(|says| say.warning(says));
                }
            } else {
                run(hook, state)?;
            }
        }
        Ok(())
    }

    /// Removes what was made to mount on. Called on the host's side: there a file that another namespace mounts on can
    /// be removed, and its mount goes with it.
    pub fn take_back(&mut self) {
        while let Some((parent, name, folder)) = self.made.pop() {
            let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(&parent, name, flags);
        }
    }
}

fn not_mounted(root: &Path) -> String {
    format!(
        "the runtime has not mounted the container's root at {} before its prestart hooks: start the container with --runtime nvidia",
        root.display()
    )
}

fn is_mount(fd: &OwnedFd) -> bool {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::BASIC_STATS)
        .is_ok_and(|stat| stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}

/// Programs whose hooks the library knows: ours, and NVIDIA's by whose names ours answers too.
fn is_ours(path: &str) -> bool {
    matches!(path.rsplit('/').next(), Some("thruway-hook" | "nvidia-cdi-hook" | "nvidia-ctk"))
}

fn run(hook: &Hook, state: &str) -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    let failed = |says: String| format!("the CDI spec's hook {}: {says}", hook.path);
    let mut command = Command::new(&hook.path);
    if let Some(name) = hook.args.first() {
        command.arg0(name);
    }
    command.args(hook.args.get(1..).unwrap_or_default()).env_clear().current_dir("/");
    command.envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    // a file and no pipe: a hook that does not read its state is free not to
    let input = rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|error| failed(error.to_string()))?;
    let mut input = File::from(input);
    let ready = input.write_all(state.as_bytes()).and_then(|()| input.rewind());
    ready.map_err(|error| failed(error.to_string()))?;
    command.stdin(input).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(format!("it ended with {status}"))) }
}
