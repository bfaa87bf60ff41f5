//! A machine with a real engine in it: an overlay over this machine's root, or over a tree of another suite's packages, in
//! namespaces of its own. The driver and the card are simulated; dockerd, containerd and runc are Debian's.
//!
//! There is no systemd in it. What stands for systemctl is a few lines of shell (simulated), which do to the engines what
//! their units' ExecStart, ExecReload and stop do, and refuse units that are not there, as the real one does.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, dead_code, reason = "tests; each uses a part of it")]
#![allow(clippy::print_stdout, reason = "says what it skips")]

#[path = "../../../simnvml/tests/common/debian.rs"]
mod debian;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use debian::{Apt, unpack_all};
use simcards::view::View;
use simdriver::{Built, Layout, lay};

/// Whoever has it kills all that runs in it by dropping it.
pub struct Engines {
    holder: Child,
    pid: u32,
    folder: tempfile::TempDir,
}

const SYSTEMCTL: &str = r#"#!/usr/bin/busybox sh
# simulated: what docker.service and containerd.service do
verb=$1; shift; [ "$1" = -- ] && shift; unit=$1
echo "$verb $unit" >> /var/log/systemctl.log
refresh=/run/refresh.pid
case "$verb $unit" in
  "daemon-reload ") exit 0 ;;
  "start thruway-cdi-refresh.service"|"restart thruway-cdi-refresh.service")
    [ -f /etc/systemd/system/thruway-cdi-refresh.service ] || { echo "Failed to $verb $unit: Unit $unit not found." >&2; exit 5; }
    thruway cdi refresh --watch >> /var/log/refresh.log 2>&1 & echo $! > $refresh
    for i in $(busybox seq 100); do [ -f /run/cdi/nvidia.com-gpu.json ] && exit 0; busybox sleep 0.05; done
    busybox cat /var/log/refresh.log >&2; exit 1 ;;
  "stop thruway-cdi-refresh.service") [ -s $refresh ] && kill $(busybox cat $refresh); exit 0 ;;
  "is-active thruway-cdi-refresh.service")
    if [ -s $refresh ] && kill -0 $(busybox cat $refresh) 2>/dev/null; then echo active; exit 0; fi; echo inactive; exit 3 ;;
esac
case "$unit" in
  docker.service|docker) program=dockerd; pid=/run/docker.pid; socket=/run/docker.sock ;;
  containerd.service|containerd) program=containerd; pid=/run/containerd.pid; socket=/run/containerd/containerd.sock ;;
  *) echo "Failed to $verb $unit: Unit $unit not loaded." >&2; exit 5 ;;
esac
start() {
  busybox rm -f $socket
  case $program in
    dockerd) dockerd --iptables=false --bridge=none --storage-driver=vfs -p $pid >> /var/log/dockerd.log 2>&1 & ;;
    containerd) containerd >> /var/log/containerd.log 2>&1 & echo $! > $pid ;;
  esac
  job=$!
  for i in $(busybox seq 200); do
    [ -S $socket ] && [ -s $pid ] && exit 0
    kill -0 $job 2>/dev/null || { busybox tail -1 /var/log/$program.log >&2; exit 1; }
    busybox sleep 0.05
  done
  exit 1
}
stop() {
  [ -s $pid ] || return
  kill $(busybox cat $pid); for i in $(busybox seq 200); do kill -0 $(busybox cat $pid) 2>/dev/null || break; busybox sleep 0.05; done; busybox rm -f $pid
}
case $verb in
  start) start ;;
  stop) stop ;;
  restart) stop; start ;;
  reload) [ $program = dockerd ] || { echo "Job type reload is not applicable for unit $unit." >&2; exit 1; }
    kill -HUP $(busybox cat $pid); busybox sleep 0.3 ;;
  *) exit 1 ;;
esac
"#;

const SETUP: &str = r#"set -e
mount -t tmpfs -o size=3g tmpfs "$FOLDER"
mkdir -p "$FOLDER/upper" "$FOLDER/work" "$FOLDER/root"
mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$FOLDER/root"
R="$FOLDER/root"
mkdir -p "$R/proc" "$R/sys" "$R/dev" "$R/run" "$R/tmp" "$R/etc" "$R/root"
# what this machine itself has of these is not the test's
rm -rf "$R/etc/docker" "$R/etc/cdi" "$R/var/lib/docker" "$R/var/lib/containerd" "$R/var/lib/containers" "$R/var/lib/thruway"
rm -rf "$R/etc/containers/containers.conf.d"
# an overlay in an overlay on tmpfs is more than podman's own driver takes
[ ! -d "$R/etc/containers" ] || printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' > "$R/etc/containers/storage.conf"
# crun does not take this kernel's hybrid cgroups; runc does
[ ! -d "$R/etc/containers" ] || printf '[engine]\nruntime = "runc"\n' > "$R/etc/containers/containers.conf"
cp -a "$LAID/usr/." "$R/usr/"; mkdir -p "$R/lib/firmware"
mount -t proc proc "$R/proc"
mount -t tmpfs tmpfs "$R/proc/driver"; cp -a "$LAID/proc/driver/." "$R/proc/driver/"
cat /proc/devices "$LAID/proc/devices" > "$FOLDER/devices"; mount --bind "$FOLDER/devices" "$R/proc/devices"
mount --rbind "$LAID/sys" "$R/sys"; mkdir -p "$R/sys/fs/cgroup" "$R/sys/kernel"; mount --rbind /sys/fs/cgroup "$R/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$R/dev"
for one in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "$R/dev/${one%:*}" c 1 "${one#*:}"; done
mknod -m 666 "$R/dev/tty" c 5 0; mkdir "$R/dev/pts" "$R/dev/mqueue"; mkdir -m 1777 "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$R/dev/pts"; ln -s pts/ptmx "$R/dev/ptmx"
ln -s /proc/self/fd "$R/dev/fd"; ln -s /proc/self/fd/1 "$R/dev/stdout"; ln -s /proc/self/fd/2 "$R/dev/stderr"
# The simulated nodes are other devices of the misc driver, which can be opened and are in no engine's own list.
for one in nvidia0:229 nvidiactl:257 nvidia-uvm:237 nvidia-uvm-tools:259; do
  mknod -m 666 "$R/dev/${one%:*}" c 10 "${one#*:}"
done
mount -t tmpfs tmpfs "$R/run"; mount -t tmpfs tmpfs "$R/tmp"; mkdir "$R/run/lock"
cp /bin/busybox "$R/usr/bin/busybox"
# one copy a run of the tests: without its debug information it is a tenth
strip -o "$R/usr/bin/thruway" "$THRUWAY" 2>/dev/null || cp "$THRUWAY" "$R/usr/bin/thruway"
[ -z "$RUNTIME" ] || cp "$RUNTIME" "$R/usr/bin/thruway-runtime"
[ -z "$HOOK" ] || cp "$HOOK" "$R/usr/bin/thruway-hook"
printf '%s' "$SYSTEMCTL" > "$R/usr/bin/systemctl.new"; chmod 755 "$R/usr/bin/systemctl.new"
mv "$R/usr/bin/systemctl.new" "$R/usr/bin/systemctl"
[ -e "$R/bin/sh" ] || ln -s busybox "$R/usr/bin/sh"
[ -L "$R/var/run" ] || { rm -rf "$R/var/run"; ln -s /run "$R/var/run"; }
# A root of the mount namespace and no chroot: who enters the namespace comes out here, and users may make namespaces.
cd "$R"; mkdir -p .old; pivot_root . .old; /usr/bin/busybox umount -l /.old; /usr/bin/busybox rmdir /.old
/usr/bin/busybox mount --make-rshared /
exec /usr/bin/busybox sleep 3600
"#;

/// Why no engine can be run here, if so.
pub fn cannot(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root: mounts and device nodes are needed".into());
    }
    let here = |name: &str| ["/usr/sbin", "/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
    let missing: Vec<&str> = programs.iter().copied().filter(|name| !here(name)).collect();
    (!missing.is_empty()).then(|| format!("{} not installed (./test.sh installs it)", missing.join(", ")))
}

/// What the workspace's build has put beside the tests: thruway-runtime, thruway-hook.
pub fn built(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_thruway")).with_file_name(name);
    path.exists().then_some(path)
}

/// Which programs stand for thruway's runtime and hook.
#[derive(Default)]
pub struct Programs {
    pub runtime: Option<PathBuf>,
    pub hook: Option<PathBuf>,
}

impl Engines {
    /// Makes ann, number 4242, who may run containers of her own.
    pub fn user(&self) {
        for (path, line) in [
            ("/etc/passwd", "ann:x:4242:4242::/home/ann:/bin/sh\n"),
            ("/etc/group", "ann:x:4242:\n"),
            ("/etc/subuid", "ann:200000:65536\n"),
            ("/etc/subgid", "ann:200000:65536\n"),
        ] {
            let before = self.read(path).unwrap_or_default();
            self.write(path, &(before + line));
        }
        self.run(&["busybox", "mkdir", "-p", "/home/ann", "/run/user/4242"]);
        self.run(&["busybox", "chown", "4242:4242", "/home/ann", "/run/user/4242"]);
        // In a user namespace the kernel mounts no /proc and no /sys while parts of them are hidden, as the simulated driver's are.
        let bare = "umount /proc/driver /proc/devices; mkdir /run/cgroup; mount --rbind /sys/fs/cgroup /run/cgroup; mount -t sysfs sysfs \
                    /sys; mount --rbind /run/cgroup /sys/fs/cgroup";
        self.run(&["sh", "-c", bare]);
    }

    /// A machine over `base` with a simulated GT 1030.
    pub fn new(base: &Path, programs: &Programs) -> Engines {
        let folder = tempfile::Builder::new().prefix("engines-").tempdir().expect("a directory");
        let laid = folder.path().join("laid");
        let deps = std::env::current_exe().expect("this test").parent().expect("its folder").to_owned();
        lay(&laid, View::named("gt1030").expect("the box"), Layout::Ubuntu, &Built(deps)).expect("the driver");
        let work = folder.path().join("machine");
        std::fs::create_dir(&work).expect("a directory");
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let mut command = Command::new("unshare");
        command.args(["-m", "-p", "-f", "--kill-child", "--propagation", "private", "sh", "-c", SETUP]);
        command.env("BASE", base).env("FOLDER", &work).env("LAID", &laid).env("SYSTEMCTL", SYSTEMCTL);
        command.env("THRUWAY", env!("CARGO_BIN_EXE_thruway"));
        command.env("RUNTIME", path(&programs.runtime)).env("HOOK", path(&programs.hook));
        let errors = std::fs::File::create(folder.path().join("errors")).expect("a file");
        let mut holder = command.stdin(Stdio::null()).stderr(errors).spawn().expect("unshare, of util-linux");
        let start = Instant::now();
        let pid = loop {
            let children = format!("/proc/{0}/task/{0}/children", holder.id());
            let children = std::fs::read_to_string(children).unwrap_or_default();
            if let Some(pid) = children.split_whitespace().next().and_then(|pid| pid.parse::<u32>().ok())
                && std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == b"busybox\n")
            {
                break pid;
            }
            let dead = holder.try_wait().ok().flatten().is_some();
            if dead || start.elapsed() > Duration::from_secs(60) {
                let said = std::fs::read_to_string(folder.path().join("errors")).unwrap_or_default();
                panic!("the machine did not come up: {said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Engines { holder, pid, folder }
    }

    /// A command inside the machine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "-p", "-r", "-w", "--", program]);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").env("CONTAINERD_SNAPSHOTTER", "native").env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// A command that has the machine's files and this machine's own processes: as on a host, whose PID namespace is the first.
    pub fn outside(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "-r", "-w", "--", "unshare", "-m", "sh", "-c"]);
        command.args(["mount -t proc proc /proc; exec \"$@\"", "sh"]).args(argv);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/root").env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    pub fn output(&self, argv: &[&str]) -> Output {
        let (program, args) = argv.split_first().expect("a program");
        self.command(program).args(args).output().expect("nsenter, of util-linux")
    }

    /// What it says on both streams; `Err` where its status is not 0.
    pub fn tried(&self, argv: &[&str]) -> Result<String, String> {
        let output = self.output(argv);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    /// What it says; it must end well.
    pub fn run(&self, argv: &[&str]) -> String {
        self.tried(argv).unwrap_or_else(|text| panic!("{argv:?}:\n{text}\n{}", self.logs()))
    }

    /// A path of the machine as this test sees it.
    pub fn at(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.pid)).join(path.trim_start_matches('/'))
    }

    pub fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.at(path)).ok()
    }

    pub fn write(&self, path: &str, text: &str) {
        let at = self.at(path);
        std::fs::create_dir_all(at.parent().expect("below a directory")).expect("makes it");
        std::fs::write(at, text).expect("writes");
    }

    /// The engines' last words.
    pub fn logs(&self) -> String {
        let last = |name: &str| {
            let text = self.read(&format!("/var/log/{name}.log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            lines.into_iter().rev().map(|line| format!("  {name}: {line}\n")).collect::<String>()
        };
        last("dockerd") + &last("containerd") + &last("systemctl")
    }

    /// Loads an image "IMAGE" of busybox alone into the started Docker.
    pub fn busybox_image(&self) {
        let script = "mkdir -p /tmp/i/bin && cp /usr/bin/busybox /tmp/i/bin/ && cd /tmp/i && for n in sh ls cat env id; do \
                      ln -sf busybox bin/$n; done && busybox tar -c . | docker import - img";
        self.run(&["busybox", "sh", "-c", script]);
    }

    /// An image "seed" of thruway, its loader and libraries as this machine has them, and a shell.
    pub fn seed_image(&self) {
        let script = "mkdir -p /tmp/s/usr/bin /tmp/s/usr/lib /tmp/s/usr/lib64 /tmp/s/etc /tmp/s/tmp && cd /tmp/s && for n in bin lib \
                      lib64; do ln -s usr/$n $n; done && cp /usr/bin/busybox /usr/bin/thruway bin/ && for n in sh ls cat env id; do \
                      ln -sf busybox bin/$n; done && for f in /lib64/ld-linux-x86-64.so.2 /lib/x86_64-linux-gnu/libc.so.6 \
                      /lib/x86_64-linux-gnu/libgcc_s.so.1 /lib/x86_64-linux-gnu/libm.so.6 /lib/x86_64-linux-gnu/libdl.so.2 \
                      /lib/x86_64-linux-gnu/libpthread.so.0 /lib/x86_64-linux-gnu/librt.so.1; do d=.${f%/*}; mkdir -p $d; cp -L $f \
                      $d/; done && busybox tar -c . | docker import - seed";
        self.run(&["busybox", "sh", "-c", script]);
    }

    pub fn docker_info(&self) -> serde_json::Value {
        serde_json::from_str(&self.run(&["docker", "info", "--format", "{{json .}}"])).expect("JSON")
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A tree of another suite's packages and all that they depend on, unpacked and not installed, from where this machine has
/// Debian 12's main; kept below target/ between runs.
pub fn tree(suite: &str, packages: &[&str]) -> Result<PathBuf, String> {
    // apt-get locks its lists
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let done = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("engines-{suite}"));
    if done.is_dir() {
        return Ok(done);
    }
    let io = |error: std::io::Error| error.to_string();
    let making = done.with_extension("making");
    let _ = std::fs::remove_dir_all(&making);
    let (apt, root) = (making.join("apt"), making.join("root"));
    for dir in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "etc",
        "root",
        "var/lib",
        "var/log",
    ] {
        std::fs::create_dir_all(root.join(dir)).map_err(io)?;
    }
    // merged /usr, which base-files' scripts would have made
    for name in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).map_err(io)?;
    }
    let get = Apt::of(&apt, suite, "main")?;
    std::fs::write(apt.join("status"), "").map_err(io)?;
    let status = format!("Dir::State::status={}", apt.join("status").display());
    let plain = ["-o", &status, "-o", "APT::Install-Recommends=false", "-o", "Debug::NoLocking=1"];
    get.get(&[&plain[..], &["-y", "--download-only", "install"], packages].concat())?;
    unpack_all(&apt.join("cache/archives"), &root)?;
    for (name, line) in [("passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("group", "root:x:0:\ndocker:x:999:\n")] {
        std::fs::write(root.join("etc").join(name), line).map_err(io)?;
    }
    std::fs::rename(&root, &done).map_err(io)?;
    std::fs::remove_dir_all(&making).map_err(io)?;
    Ok(done)
}
