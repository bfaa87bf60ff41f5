//! A machine behind a directory descriptor: `/` (live) or any tree (`--root DIR`).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use formats::elfso::{self, SharedObject};
use model::{Reason, Seen};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::nvml::Depth;
use crate::{
    Answer, FileKind, Kind, Machine, MachineExt as _, Question, READ_LIMIT, Stat, codecs_live, command, nvml_live,
};

/// Where a simulated tree keeps the answers to closed questions: `SIM_DIR/answers/KEY.json`. A tree that has this
/// directory was made by the simulator, and everything shown of it says so.
pub const SIM_DIR: &str = "/.thruway-sim";

/// The live machine or a directory tree. Every path is opened below `root` with openat2 and RESOLVE_IN_ROOT, so that
/// a link in a tree cannot lead out of it.
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
    kind: Kind,
    /// Names are opened below the root whatever their links say: anything but `/` itself.
    confined: bool,
    /// Of a machine that runs: where NVML's library is tried, in place of this process's own search.
    libraries: Option<Vec<String>>,
    /// A simulated machine's device nodes, by path: they are recorded in `SIM_DIR/devices.json`, since nobody but
    /// root can make real ones. Read once: a tree that a simulated boot has changed is opened again.
    devices: OnceLock<BTreeMap<String, Stat>>,
    /// The root's own path as the kernel has it; `None` where /proc does not tell.
    real_path: OnceLock<Option<String>>,
}

/// An open file's path, links resolved: proc(5), /proc/PID/fd.
fn named(fd: &OwnedFd) -> Option<String> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let name = rustix::fs::readlink(path, Vec::new()).ok()?;
    name.into_string().ok().filter(|name| name.starts_with('/'))
}

impl Root {
    /// This machine.
    pub fn live() -> std::io::Result<Self> {
        Self::open("/".as_ref(), Kind::Live)
    }

    /// This machine, as it runs, with its root file system mounted here ("/host" in a pod). NVML is asked by the library that
    /// is found below it, in `driver` first ("/run/nvidia/driver", as the machine has it); no command of it is run.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn mounted(path: &Path, driver: &str) -> std::io::Result<Self> {
        let mut root = Self::open(path, Kind::Live)?;
        root.confined = true;
        root.libraries = Some(root.nvml_below(driver));
        Ok(root)
    }

    /// The machine by its root, and a driver with a root of its own.
    fn nvml_below(&self, driver: &str) -> Vec<String> {
        let driver = driver.trim_end_matches('/');
        let roots = if driver.is_empty() { vec![""] } else { vec![driver, ""] };
        let names = cuda::places(nvml_live::LIBRARY);
        let mut found = Vec::new();
        for root in roots {
            for name in names.iter().filter(|name| name.starts_with('/')) {
                // a link that is absolute there is not so here
                if let Seen::Is(real) = self.resolve(&format!("{root}{name}")) {
                    let real = self.path.join(real.trim_start_matches('/')).to_string_lossy().into_owned();
                    if !found.contains(&real) {
                        found.push(real);
                    }
                }
            }
        }
        found
    }

    /// The machine whose root file system is this directory. One that the simulator made is known by its mark.
    pub fn tree(path: &Path) -> std::io::Result<Self> {
        let mut root = Self::open(path, Kind::Tree)?;
        if root.is_dir(SIM_DIR) {
            root.kind = Kind::Simulated;
        }
        Ok(root)
    }

    fn open(path: &Path, kind: Kind) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Root {
            dir,
            path: path.to_owned(),
            kind,
            confined: kind != Kind::Live,
            libraries: None,
            devices: OnceLock::new(),
            real_path: OnceLock::new(),
        })
    }

    /// The directory that is this machine's `/`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let inside = inside(path);
        let flags = flags | OFlags::CLOEXEC;
        if !self.confined {
            // Nothing to be confined to, and openat2 is refused by some old container sandboxes.
            return rustix::fs::openat(&self.dir, inside, flags, Mode::empty());
        }
        // EAGAIN: a concurrent rename below the root; the kernel asks to try again.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.dir, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
                Err(Errno::AGAIN) => continue,
                done => return done,
            }
        }
        Err(Errno::AGAIN)
    }

    fn meta(&self, path: &str, flags: OFlags) -> Seen<Stat> {
        if !self.confined {
            let nofollow = flags.contains(OFlags::NOFOLLOW);
            let flags = if nofollow { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
            return match rustix::fs::statat(&self.dir, inside(path), flags) {
                Ok(stat) => Seen::Is(from_stat(&stat)),
                Err(errno) => from_errno(errno),
            };
        }
        let fd = match self.at(path, OFlags::PATH | flags) {
            Ok(fd) => fd,
            Err(errno) => return from_errno(errno),
        };
        match rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH) {
            Ok(stat) => Seen::Is(from_stat(&stat)),
            Err(errno) => from_errno(errno),
        }
    }

    /// A regular file's bytes, where they are no more than `limit`.
    pub(crate) fn read_at_most(&self, path: &str, limit: usize) -> Seen<Vec<u8>> {
        // NONBLOCK: a pipe in the place of a file must not hang us; NOCTTY: nor a terminal become ours.
        let fd = match self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(fd) => fd,
            Err(Errno::NXIO) => return Seen::Unreadable(Reason::Other("is no regular file".into())),
            Err(Errno::NOENT) if self.device(path).is_some() => {
                return Seen::Unreadable(Reason::Other("is no regular file".into()));
            }
            // What is no file is not to be read, by whomever: the same answer as for the owner, and as in a capture.
            Err(Errno::ACCESS | Errno::PERM)
                if self.meta(path, OFlags::empty()).is().is_some_and(|stat| stat.kind != FileKind::File) =>
            {
                return Seen::Unreadable(Reason::Other("is no regular file".into()));
            }
            Err(errno) => return from_errno(errno),
        };
        let size = match rustix::fs::fstat(&fd) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => stat.st_size,
            Ok(_) => return Seen::Unreadable(Reason::Other("is no regular file".into())),
            Err(errno) => return from_errno(errno),
        };
        // procfs and sysfs tell no size: room for most of their files, so that one read is enough.
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).min(limit).max(2048) + 1);
        let read = std::fs::File::from(fd).take(limit as u64 + 1).read_to_end(&mut bytes);
        match read {
            Ok(_) if bytes.len() > limit => Seen::Unreadable(Reason::TooLarge),
            Ok(_) => Seen::Is(bytes),
            Err(error) => match Errno::from_io_error(&error) {
                // sysfs attributes answer so where the device does not have the thing (e.g. no reset method).
                Some(errno) => from_errno(errno),
                None => Seen::Unreadable(Reason::Other(error.to_string())),
            },
        }
    }

    fn devices(&self) -> &BTreeMap<String, Stat> {
        self.devices.get_or_init(|| match self.kind {
            Kind::Simulated => {
                let bytes = self.read(&format!("{SIM_DIR}/devices.json")).is().unwrap_or_default();
                serde_json::from_slice(&bytes).unwrap_or_default()
            }
            _ => BTreeMap::new(),
        })
    }

    /// A simulated device node of this name.
    fn device(&self, path: &str) -> Option<Stat> {
        // the list of devices is itself read by way of here, and may be missing
        if self.kind != Kind::Simulated || path.starts_with(SIM_DIR) || self.devices().is_empty() {
            return None;
        }
        let path = self.resolve(path).is()?;
        self.devices().get(&path).cloned()
    }
}

/// `/etc/x` → `etc/x`; the root itself is `.`.
fn inside(path: &str) -> &str {
    let inside = path.trim_start_matches('/');
    if inside.is_empty() { "." } else { inside }
}

fn from_stat(stat: &rustix::fs::Stat) -> Stat {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Link,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        _ => FileKind::File,
    };
    let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    Stat {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size.max(0) as u64,
        mtime: stat.st_mtime,
        rdev: device.then(|| (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))),
    }
}

/// ENOENT and ENOTDIR say "not there"; everything else says "could not look".
pub(crate) fn from_errno<T>(errno: Errno) -> Seen<T> {
    match errno {
        Errno::NOENT | Errno::NOTDIR => Seen::Absent,
        Errno::ACCESS | Errno::PERM => Seen::Unreadable(Reason::PermissionDenied),
        Errno::LOOP | Errno::XDEV => Seen::Unreadable(Reason::BadLink),
        Errno::NAMETOOLONG | Errno::INVAL => Seen::Absent,
        other => Seen::Unreadable(Reason::Other(std::io::Error::from(other).to_string())),
    }
}

impl Machine for Root {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn name(&self) -> String {
        match self.kind {
            Kind::Live => "this machine".into(),
            Kind::Simulated => format!("the simulated machine at {}", self.path.display()),
            _ => format!("the tree at {}", self.path.display()),
        }
    }

    fn read(&self, path: &str) -> Seen<Vec<u8>> {
        self.read_at_most(path, READ_LIMIT)
    }

    fn image(&self, path: &str) -> Seen<Vec<u8>> {
        // A tree's device nodes are this machine's devices, and not the tree's.
        let blocks = self.kind == Kind::Live;
        let fd = match self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(fd) => fd,
            Err(errno) => return from_errno(errno),
        };
        match rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::RegularFile) => {}
            Ok(FileType::BlockDevice) if blocks => {}
            Ok(_) => return Seen::Unreadable(Reason::Other("is no disk image".into())),
            Err(errno) => return from_errno(errno),
        }
        let mut bytes = Vec::new();
        match std::fs::File::from(fd).take(READ_LIMIT as u64).read_to_end(&mut bytes) {
            Ok(_) => Seen::Is(bytes),
            Err(error) => match Errno::from_io_error(&error) {
                Some(errno) => from_errno(errno),
                None => Seen::Unreadable(Reason::Other(error.to_string())),
            },
        }
    }

    fn list(&self, path: &str) -> Seen<Vec<String>> {
        let fd = match self.at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(errno) => return from_errno(errno),
        };
        let dir = match Dir::new(fd) {
            Ok(dir) => dir,
            Err(errno) => return from_errno(errno),
        };
        let mut names = Vec::new();
        for entry in dir {
            let Ok(entry) = entry else { break };
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        if self.kind == Kind::Simulated && !self.devices().is_empty() {
            let dir = self.resolve(path).is().unwrap_or_default();
            let below = format!("{}/", dir.trim_end_matches('/'));
            let here = self.devices().keys().filter_map(|device| device.strip_prefix(&below));
            names.extend(here.filter(|name| !name.contains('/')).map(str::to_owned));
        }
        names.sort_unstable();
        names.dedup();
        Seen::Is(names)
    }

    fn stat(&self, path: &str) -> Seen<Stat> {
        match self.meta(path, OFlags::empty()) {
            Seen::Absent => self.device(path).into(),
            seen => seen,
        }
    }

    fn lstat(&self, path: &str) -> Seen<Stat> {
        match self.meta(path, OFlags::NOFOLLOW) {
            Seen::Absent => self.device(path).into(),
            seen => seen,
        }
    }

    fn link(&self, path: &str) -> Seen<String> {
        if !self.confined {
            return match rustix::fs::readlinkat(&self.dir, inside(path), Vec::new()) {
                Ok(target) => Seen::Is(target.to_string_lossy().into_owned()),
                Err(Errno::INVAL) => Seen::Absent,
                Err(errno) => from_errno(errno),
            };
        }
        let fd = match self.at(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => fd,
            Err(errno) => return from_errno(errno),
        };
        match rustix::fs::readlinkat(&fd, "", Vec::new()) {
            Ok(target) => Seen::Is(target.to_string_lossy().into_owned()),
            // The descriptor is there and no link: EINVAL for files, ENOENT by the empty-path rule.
            Err(Errno::INVAL | Errno::NOENT) => Seen::Absent,
            Err(errno) => from_errno(errno),
        }
    }

    fn nvml_libraries(&self) -> Option<Vec<String>> {
        self.libraries.clone()
    }

    fn real(&self, path: &str) -> Option<String> {
        // "..": text and links may mean different places by it, and the parts are walked as text has it
        if path.contains("..") {
            return None;
        }
        let fd = self.at(path, OFlags::PATH).ok()?;
        let root = self.real_path.get_or_init(|| named(&self.dir)).as_deref()?;
        let name = named(&fd)?;
        let inside = if root == "/" { name } else { name.strip_prefix(root)?.to_owned() };
        match inside.as_str() {
            "" => Some("/".to_owned()),
            // unlinked since, or of another mount namespace
            path if !path.starts_with('/') || path.ends_with(" (deleted)") => None,
            _ => Some(inside),
        }
    }

    fn library(&self, path: &str) -> Seen<SharedObject> {
        let fd = match self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW) {
            Ok(fd) => fd,
            Err(errno) => return from_errno(errno),
        };
        match rustix::fs::fstat(&fd) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
            Ok(_) => return Seen::Unreadable(Reason::Other("is no regular file".into())),
            Err(errno) => return from_errno(errno),
        }
        let mut head: Option<(usize, Vec<u8>)> = None;
        crate::described(elfso::read(&mut |offset, most| {
            // a file that ends in its head was read whole
            if let Some((_, bytes)) = head.as_ref().filter(|(asked, bytes)| bytes.len() < *asked) {
                let start = usize::try_from(offset).ok()?;
                return bytes.get(start..(start + most).min(bytes.len())).map(<[u8]>::to_vec);
            }
            let mut bytes = vec![0; most];
            let read = rustix::io::pread(&fd, bytes.as_mut_slice(), offset).ok()?;
            bytes.truncate(read);
            head.get_or_insert_with(|| (most, bytes.clone()));
            Some(bytes)
        }))
    }

    fn ask(&self, question: &Question) -> Seen<Answer> {
        match self.kind {
            // the programs of a root that is mounted here would run as this pod's
            Kind::Live if self.confined && !matches!(question, Question::Nvml | Question::NvmlAll) => Seen::Absent,
            Kind::Live => match question {
                Question::Nvml => nvml_live::ask(self, Depth::Plain),
                Question::NvmlAll => nvml_live::ask(self, Depth::All),
                Question::Codecs => codecs_live::ask(self),
                other => command::ask(self, *other),
            },
            Kind::Simulated => {
                let path = format!("{SIM_DIR}/answers/{}.json", question.key());
                self.read(&path).and_then(|bytes| match serde_json::from_slice(&bytes) {
                    Ok(answer) => Seen::Is(answer),
                    Err(error) => Seen::Unreadable(Reason::Malformed(format!("{path}: {error}"))),
                })
            }
            // A tree does not run: nobody is there to answer.
            _ => Seen::Absent,
        }
    }
}
