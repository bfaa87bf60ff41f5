//! What a controller keeps of a way: its id, what it has begun to touch, and the log. Nothing of it says what is done:
//! that is looked at. No secret is kept.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// The version of the state's JSON form. A reader refuses a newer one.
const FORM: u32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    form: u32,
    /// What the changes of this way bear in each machine's journal.
    pub id: String,
    /// Machines on which something may have been changed (`host`, `guest`, `here`): written before the first change.
    #[serde(default)]
    pub touched: Vec<String>,
    /// Programs that were put on a machine, by path with their SHA-256: written before the first byte of them.
    #[serde(default)]
    pub placed: std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>>,
    /// The VM was started, and was not running before.
    #[serde(default)]
    pub started: bool,
    /// On the way back: this boot of the machine (its boot id) still has what was taken back.
    #[serde(default)]
    pub stale_boot: std::collections::BTreeMap<String, String>,
}

/// The state of one way, locked for as long as this value lives.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    pub kept: Kept,
    log: File,
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error(
        "this way is being walked already, by process {0} of this machine: wait for it, or stop it with ctrl-C there"
    )]
    Busy(String),
    #[error("{path}: {says}")]
    Unread { path: String, says: String },
}

impl State {
    /// Opens (and makes, 0700 and 0600) what is kept of the way `name` (`way` or `fleet/host`) below `base`.
    pub fn open(base: &Path, name: &str) -> Result<Self, StateError> {
        let dir = base.join(name);
        let io = |path: &Path| {
            let path = path.display().to_string();
            move |source| StateError::Io { path, source }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io(&dir))?;
        let private = |path: &Path| {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o600);
            options.open(path).map_err(io(path))
        };
        let mut lock = private(&dir.join("lock"))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = std::io::Seek::rewind(&mut lock).and_then(|()| lock.read_to_string(&mut pid));
            return Err(StateError::Busy(pid.trim().to_owned()));
        }
        // only for the other's message
        let _ = lock.set_len(0).and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()));
        let log = private(&dir.join("log"))?;
        let path = dir.join("state.json");
        let kept = match std::fs::read(&path) {
            Ok(bytes) => {
                let unread = |says: String| StateError::Unread { path: path.display().to_string(), says };
                let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| unread(error.to_string()))?;
                if kept.form > FORM {
                    return Err(unread(format!("written by a newer thruway (form {}): update thruway", kept.form)));
                }
                if kept.id.len() != 16 || !kept.id.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(unread("its id is no id".into()));
                }
                kept
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Kept { form: FORM, id: random().map_err(io(Path::new("/dev/urandom")))?, ..Kept::default() }
            }
            Err(error) => return Err(io(&path)(error)),
        };
        let state = State { dir, kept, log, _lock: lock };
        state.keep()?;
        Ok(state)
    }

    /// Written beside and renamed, and on the disk before this returns: what follows may end this program.
    pub fn keep(&self) -> Result<(), StateError> {
        let path = self.dir.join("state.json");
        let new = self.dir.join("state.json.new");
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            // plain data: serde_json cannot fail on it
            file.write_all(serde_json::to_string_pretty(&self.kept).unwrap_or_default().as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source: std::io::Error| StateError::Io { path: path.display().to_string(), source })
    }

    pub fn touch(&mut self, machine: &str) -> Result<(), StateError> {
        if !self.kept.touched.iter().any(|name| name == machine) {
            self.kept.touched.push(machine.to_owned());
            self.keep()?;
        }
        Ok(())
    }

    pub fn touched(&self, machine: &str) -> bool {
        self.kept.touched.iter().any(|name| name == machine)
    }

    /// A line of the log that is kept beside. Not worth failing for.
    pub fn note(&mut self, line: &str) {
        let _ = writeln!(self.log, "{line}");
    }

    /// All is taken back: the state goes, the log stays.
    pub fn forget(&mut self) -> Result<(), StateError> {
        let path = self.dir.join("state.json");
        std::fs::remove_file(&path).map_err(|source| StateError::Io { path: path.display().to_string(), source })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Sixteen hex digits.
pub fn random() -> std::io::Result<String> {
    let mut bytes = [0u8; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_private_kept_and_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::open(dir.path(), "rack/node1").unwrap();
        state.touch("host").unwrap();
        state.note("a line");
        let id = state.kept.id.clone();
        assert!(
            matches!(State::open(dir.path(), "rack/node1"), Err(StateError::Busy(pid)) if pid == std::process::id().to_string())
        );
        for file in ["state.json", "log", "lock"] {
            let mode = std::fs::metadata(dir.path().join("rack/node1").join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        drop(state);
        let mut state = State::open(dir.path(), "rack/node1").unwrap();
        assert_eq!((state.kept.id.clone(), state.touched("host"), state.touched("guest")), (id.clone(), true, false));
        state.forget().unwrap();
        drop(state);
        assert_ne!(State::open(dir.path(), "rack/node1").unwrap().kept.id, id);
    }

    #[test]
    fn what_is_no_state_is_said_with_its_file() {
        for (text, says) in [
            ("{", "state.json"),
            (r#"{"form": 9, "id": "0123456789abcdef"}"#, "newer thruway"),
            (r#"{"form": 1, "id": "../../../etc"}"#, "no id"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("w")).unwrap();
            std::fs::write(dir.path().join("w/state.json"), text).unwrap();
            let error = State::open(dir.path(), "w").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
