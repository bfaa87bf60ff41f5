//! Who walks a way over this machine right now: one `thruway up` at a time, told by name to another.
//!
//! A hold is no lock on changes (the journal has its own): it says for how long a controller means to come back. It lapses
//! [`LEASE`] after its holder was last heard of, so that a controller that died holds nothing for ever.

use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{Error, Files, STATE_DIR};

/// Seconds after which a holder that was not heard of is gone.
pub const LEASE: i64 = 900;

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The way's id.
    pub id: String,
    /// One run of the controller.
    pub session: String,
    /// user@host, for people.
    pub who: String,
    /// The user of a machine, as no other has it: who walks the same way from there again has its own lock there.
    pub controller: String,
    /// Seconds since the epoch, by this machine's clock.
    pub since: i64,
    pub seen: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    #[error(
        "another thruway up is at work on this machine: that of {who}, since {since}, last heard of {ago} s ago. Wait for its end; if it is dead, say --take-over"
    )]
    Held { who: String, since: String, ago: i64 },
    #[error(transparent)]
    Journal(#[from] Error),
}

/// Takes the machine for this controller, or says who has it. `now`: seconds since the epoch.
pub fn take(root: &Path, wish: &Hold, take_over: bool, now: i64) -> Result<(), HoldError> {
    let mut file = open(root)?;
    let path = path();
    let mut text = String::new();
    // what cannot be read is what a power cut left of a hold: nobody's
    let _ = (&mut file).take(64 << 10).read_to_string(&mut text);
    let there: Option<Hold> = serde_json::from_str(&text).ok();
    let mut new = Hold { since: now, seen: now, ..wish.clone() };
    if let Some(there) = there {
        let ours = there.id == wish.id && (there.session == wish.session || there.controller == wish.controller);
        let alive = (0..=LEASE).contains(&(now - there.seen));
        if !ours && alive && !take_over {
            let since = crate::utc(there.since);
            return Err(HoldError::Held { who: there.who, since, ago: now - there.seen });
        }
        if there.session == wish.session {
            new.since = there.since;
        }
    }
    // plain data: serde_json cannot fail on it
    let text = serde_json::to_string(&new).unwrap_or_default();
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
    written.map_err(|source| Error::io(path, source))?;
    Ok(())
}

/// Lets the machine go, where this way holds it.
pub fn release(root: &Path, id: &str) -> Result<(), HoldError> {
    let mut file = open(root)?;
    let mut text = String::new();
    let _ = (&mut file).take(64 << 10).read_to_string(&mut text);
    let ours = serde_json::from_str::<Hold>(&text).is_ok_and(|hold| hold.id == id);
    if ours {
        // not removed: another may wait for the lock on this very file
        file.set_len(0).map_err(|source| Error::io(path(), source))?;
    }
    Ok(())
}

fn path() -> String {
    format!("{STATE_DIR}/up.json")
}

/// The hold's file, locked until it is dropped.
fn open(root: &Path) -> Result<std::fs::File, Error> {
    let files = Files::open(root)?;
    let real = format!("{}/up.json", files.real(STATE_DIR)?);
    files.make_dirs(&files.missing_dirs(&real)?)?;
    let (dir, name) = files.place(&real)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600));
    let file = std::fs::File::from(fd.map_err(|errno| Error::io(path(), errno))?);
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|errno| Error::io(path(), errno))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(id: &str, session: &str, controller: &str) -> Hold {
        let (id, session, controller) = (id.into(), session.into(), controller.into());
        Hold { id, session, who: "julia@laptop".into(), controller, since: 0, seen: 0 }
    }

    #[test]
    fn one_up_at_a_time_and_a_dead_one_for_no_longer_than_its_lease() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let first = hold("a", "1", "laptop");
        take(root, &first, false, 1000).unwrap();
        take(root, &first, false, 1100).unwrap();
        let other = hold("b", "2", "desk");
        let refused = take(root, &other, false, 1105).unwrap_err().to_string();
        for word in ["julia@laptop", "1970-01-01 00:16:40Z", "5 s ago", "--take-over"] {
            assert!(refused.contains(word), "{word}: {refused}");
        }
        // the same way from elsewhere is another up, too; from the same desk it is the one that died
        assert!(take(root, &hold("a", "3", "desk"), false, 1105).is_err());
        take(root, &hold("a", "3", "laptop"), false, 1105).unwrap();
        // nobody releases another's
        release(root, "b").unwrap();
        assert!(take(root, &other, false, 1106).is_err());
        assert!(take(root, &other, false, 1105 + LEASE).is_err());
        take(root, &other, false, 1106 + LEASE).unwrap();
        assert!(take(root, &first, false, 1107 + LEASE).is_err());
        take(root, &first, true, 1107 + LEASE).unwrap();
        release(root, "a").unwrap();
        take(root, &other, false, 1108 + LEASE).unwrap();
    }

    #[test]
    fn what_is_no_hold_holds_nothing() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join(&STATE_DIR[1..]);
        std::fs::create_dir_all(&state).unwrap();
        for text in ["", "{\"id\": ", "[]", "\u{0}\u{0}"] {
            std::fs::write(state.join("up.json"), text).unwrap();
            take(root.path(), &hold("a", "1", "laptop"), false, 5).unwrap();
        }
        // a clock that went back does not hold it for years
        take(root.path(), &hold("b", "2", "desk"), false, -5000).unwrap();
    }
}
