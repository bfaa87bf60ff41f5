//! The only door to the operating system: one view over a live, a captured, a tree and a simulated machine.
//!
//! Observers read files and ask closed questions through [`Machine`], and nothing else. So everything that was seen
//! can be recorded ([`Recorder`]), carried away as a capture and judged again elsewhere by the same code.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this crate is the door that the bans point to"
)]

pub mod capture;
pub mod codecs;
mod codecs_live;
mod command;
pub mod events;
mod ext;
pub mod lean;
mod live;
mod memory;
mod notes;
pub mod nvml;
mod nvml_live;
mod question;
mod record;
pub mod redact;
pub mod scratch;
mod walk;

use formats::elfso::{self, SharedObject};
use model::{Reason, Seen};
use serde::{Deserialize, Serialize};

pub use ext::MachineExt;
pub use live::{Mark, Root, SIM_DIR};
pub use memory::{Memory, Missing, Node, NodeKind};
pub use question::{Answer, ContainerdSays, Engine, KubeList, Question};
pub use record::Recorder;

/// The most that is read of one file. sysfs and configuration files are far smaller; what is larger is hostile,
/// or not ours to read whole.
pub const READ_LIMIT: usize = 8 << 20;

/// SMBIOS's structure table. Serial numbers and other programs' secrets stand in it too, so a recording keeps of it only
/// what is ours ([`Recorder`]).
pub const DMI_TABLE: &str = "/sys/firmware/dmi/tables/DMI";

/// What kind of machine stands behind the view. Everything shown of a simulated one says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// This machine, as it runs.
    Live,
    /// A directory tree, e.g. a mounted disk or a chroot: files, no running system.
    Tree,
    /// A recording.
    Captured,
    /// What an API tells of a machine, and by which alone it is changed.
    Remote,
    /// Made by thruway's own simulator.
    Simulated,
}

/// A file's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    pub kind: FileKind,
    /// Permission bits, 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds since the epoch; 0 where not recorded.
    pub mtime: i64,
    /// Major and minor number of a device node.
    pub rdev: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    File,
    Dir,
    Link,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// One machine, read-only. Paths are absolute inside the machine's root, `/`-separated; symbolic links are resolved
/// inside that root and never leave it.
pub trait Machine: Sync {
    fn kind(&self) -> Kind;

    /// For the report's first line: "this machine", "the tree at /mnt".
    fn name(&self) -> String;

    /// A regular file's bytes, at most [`READ_LIMIT`]. Devices, pipes and sockets are never opened.
    fn read(&self, path: &str) -> Seen<Vec<u8>>;

    /// The first bytes of a disk image, at most [`READ_LIMIT`]: a file's, or on the live machine a block device's. They are
    /// a guest's, so a recording keeps only what a variable store says of Secure Boot.
    fn image(&self, path: &str) -> Seen<Vec<u8>>;

    /// The names in a directory, sorted.
    fn list(&self, path: &str) -> Seen<Vec<String>>;

    /// Metadata of what the path leads to, links followed.
    fn stat(&self, path: &str) -> Seen<Stat>;

    /// Metadata of the name itself: a link is a link.
    fn lstat(&self, path: &str) -> Seen<Stat>;

    /// A symbolic link's text.
    fn link(&self, path: &str) -> Seen<String>;

    /// The path of what is there with every link resolved, where the machine can say it at once; `None`: ask for each part
    /// ([`MachineExt::resolve`] does).
    fn real(&self, _path: &str) -> Option<String> {
        None
    }

    /// Where NVML's library is tried, where that is not this process's own search: of a root that is mounted elsewhere.
    fn nvml_libraries(&self) -> Option<Vec<String>> {
        None
    }

    /// What a shared library says of itself, from a few hundred of its bytes: a driver's are far larger than [`READ_LIMIT`].
    /// Of a name that is itself a link: `Unreadable`, [`Reason::BadLink`].
    fn library(&self, path: &str) -> Seen<SharedObject> {
        if self.link(path).is_there() {
            return Seen::Unreadable(Reason::BadLink);
        }
        self.read(path).and_then(|bytes| described(elfso::parse(&bytes)))
    }

    /// A closed question that is no file: NVML, a command's or an API's answer.
    fn ask(&self, question: &Question) -> Seen<Answer>;
}

pub(crate) fn described(object: Option<SharedObject>) -> Seen<SharedObject> {
    object.map_or_else(|| Seen::Unreadable(Reason::Other("is no shared library".into())), Seen::Is)
}
