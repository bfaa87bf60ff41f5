//! A container of busybox with the hook in its config.json, and a canary outside of its root.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::inotify;
use serde_json::{Value, json};

use super::{link, program, put, scratch};

pub const HOOK: &str = env!("CARGO_BIN_EXE_thruway-hook");

/// Numbers for containers' names.
static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Bundle {
    pub dir: tempfile::TempDir,
    pub root: PathBuf,
    /// The canary's directory, beside the root: absolute on the machine.
    pub canary: PathBuf,
    /// Environment of the container.
    pub env: Vec<String>,
    pub hook: Value,
    pub command: Vec<String>,
    pub readonly: bool,
}

impl Bundle {
    /// An image with a shell, the driver's libraries, and nothing hostile yet.
    pub fn new(options: &[&str]) -> Bundle {
        let dir = scratch();
        let root = dir.path().join("rootfs");
        let canary = dir.path().join("canary");
        for (path, bytes) in [
            ("secret", &b"canary"[..]),
            ("etc/ld.so.cache", b"the host's cache"),
            ("etc/ld.so.conf", b"/canary\n"),
            ("compat/libcuda.so.590.44.01", b"\x7fELF not for you"),
            ("lib/libevil.so.1", b"\x7fELF nor this"),
            ("params", b"ModifyDeviceFiles: 1\n"),
        ] {
            put(&canary, path, bytes);
        }
        std::fs::create_dir_all(canary.join("empty")).expect("a directory");
        if let Some(busybox) = program("busybox") {
            put(&root, "/bin/busybox", std::fs::read(busybox).expect("busybox"));
            std::fs::set_permissions(root.join("bin/busybox"), PermissionsExt::from_mode(0o755)).expect("its mode");
        }
        link(&root, "/bin/sh", "busybox");
        for dir in ["proc", "dev", "etc", "usr/lib/x86_64-linux-gnu"] {
            std::fs::create_dir_all(root.join(dir)).expect("a directory");
        }
        for (at, name) in ["cuda", "nvidia-ml"].iter().enumerate() {
            let soname = format!("lib{name}.so.1");
            let path = format!("/usr/lib/x86_64-linux-gnu/lib{name}.so.580.1.{at}");
            put(&root, &path, super::Elf::x86_64(&soname).bytes());
        }
        let mut args = vec!["thruway-hook".to_owned(), "create-container".to_owned()];
        args.extend(options.iter().map(|word| (*word).to_owned()));
        Bundle {
            hook: json!({ "path": HOOK, "args": args, "env": ["THRUWAY_HOOK=1"] }),
            env: vec!["PATH=/bin".to_owned()],
            command: vec!["/bin/busybox".to_owned(), "true".to_owned()],
            readonly: false,
            dir,
            root,
            canary,
        }
    }

    /// What all attacks ask for: every part of the hook.
    pub fn whole() -> Bundle {
        Bundle::new(&[
            "--link",
            "libcuda.so.580.1.0::/usr/lib/x86_64-linux-gnu/libcuda.so.1",
            "--link",
            "libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so",
            "--folder",
            "/usr/lib/x86_64-linux-gnu",
            "--folder",
            "/usr/lib/i386-linux-gnu",
            "--driver",
            "580.1.0",
            "--cuda",
            "13.0",
            "--guard-params",
            "--application-profile",
        ])
    }

    pub fn args(&self) -> Vec<String> {
        let args = self.hook["args"].as_array().expect("arguments");
        args.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    pub fn push(&mut self, words: &[&str]) {
        let args = self.hook["args"].as_array_mut().expect("arguments");
        args.extend(words.iter().map(|word| json!(word)));
    }

    pub fn config(&self, user: bool) -> Value {
        let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "ipc"}), json!({"type": "mount"})];
        if user {
            namespaces.push(json!({"type": "user"}));
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": self.command,
                "env": self.env,
                "cwd": "/",
            },
            "root": { "path": "rootfs", "readonly": self.readonly },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            ],
            "hooks": { "createContainer": [self.hook] },
            "linux": { "namespaces": namespaces },
        })
    }

    pub fn write(&self) {
        put(self.dir.path(), "config.json", self.config(false).to_string());
    }

    /// The hook alone, as a runtime would start it: with the container's environment and its root as working directory.
    pub fn direct(&self) -> Command {
        self.write();
        let state =
            json!({ "ociVersion": "1.0.2", "id": "x", "status": "creating", "pid": 1, "bundle": self.dir.path() });
        put(self.dir.path(), "state", state.to_string());
        let mut command = Command::new(HOOK);
        std::os::unix::process::CommandExt::arg0(&mut command, &self.args()[0]);
        command.args(&self.args()[1..]).env_clear().current_dir(&self.root);
        command.envs(self.env.iter().filter_map(|pair| pair.split_once('=')));
        command.stdin(std::fs::File::open(self.dir.path().join("state")).expect("the state"));
        command
    }

    /// The whole hook once more, whatever the bundle's own hook is.
    pub fn direct_again(&self) -> Command {
        let mut again = Bundle::whole().direct();
        let state = json!({ "bundle": self.dir.path() });
        put(self.dir.path(), "state", state.to_string());
        again.stdin(std::fs::File::open(self.dir.path().join("state")).expect("the state"));
        again.current_dir("/");
        again
    }

    /// A whole container by runc or crun. None: it is not installed.
    pub fn container(&self, engine: &str) -> Option<Output> {
        program(engine)?;
        self.write();
        let id = format!("thruway-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut command = engine_command(engine);
        command.args(["run", "--bundle"]).arg(self.dir.path()).arg(id).stdin(Stdio::null());
        Some(command.output().expect("the runtime starts"))
    }
}

/// In a mount namespace of its own: crun 1.8 refuses a machine with both kinds of cgroups.
pub fn engine_command(engine: &str) -> Command {
    let flags = if engine == "crun" { "--cgroup-manager=disabled" } else { "" };
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg(format!("umount /sys/fs/cgroup/unified 2>/dev/null; exec {engine} {flags} \"$@\""));
    command.arg("sh");
    command
}

/// All that can be seen of a tree without touching it.
pub fn snapshot(tree: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![tree.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = path.symlink_metadata().expect("a canary does not vanish");
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        let mut seen = format!("{:o} {} {} {} {times:?}", meta.mode(), meta.uid(), meta.size(), meta.nlink());
        let mut names = vec![0_u8; 1024];
        let count = rustix::fs::llistxattr(&path, &mut names[..]).unwrap_or(0);
        seen.push_str(&format!(" {:?}", &names[..count]));
        if meta.is_file() {
            seen.push_str(&format!(" {:?}", std::fs::read(&path).expect("a canary's bytes")));
        } else if meta.is_dir() {
            waiting.extend(std::fs::read_dir(&path).expect("a canary").map(|entry| entry.expect("an entry").path()));
        }
        found.insert(path, seen);
    }
    found
}

/// Sees every look at a tree: what is opened, read, listed, made, renamed.
pub struct Watch {
    fd: rustix::fd::OwnedFd,
    tree: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Watch {
    pub fn on(tree: &Path) -> Watch {
        let before = snapshot(tree);
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).expect("inotify");
        for path in before.keys().filter(|path| path.is_dir()) {
            inotify::add_watch(&fd, path, inotify::WatchFlags::ALL_EVENTS).expect("a watch");
        }
        Watch { fd, tree: tree.to_owned(), before }
    }

    /// Nothing was looked at, and nothing has changed.
    #[track_caller]
    pub fn untouched(self, what: &str) {
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        let mut events = Vec::new();
        while let Ok(event) = reader.next() {
            // a descriptor of our own setting up, held a moment longer by a child of another test between fork and exec: who
            // looks from now on opens first
            let closes = inotify::ReadFlags::CLOSE_NOWRITE | inotify::ReadFlags::CLOSE_WRITE;
            if closes.contains(event.events() - inotify::ReadFlags::ISDIR) {
                continue;
            }
            events.push(format!("{:?} {:?}", event.events(), event.file_name()));
        }
        assert_eq!(events, Vec::<String>::new(), "{what}: the canary was looked at");
        assert_eq!(snapshot(&self.tree), self.before, "{what}: the canary was changed");
    }
}
