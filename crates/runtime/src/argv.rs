//! The command lines of runc and crun, as far as one must read them to find the verb, the bundle and the log.
//!
//! runc (urfave/cli v1 over Go's flag): options before and after the verb, with one dash or two, `--x value` or
//! `--x=value`; switches take `=true`. crun (argp): the same with two dashes, short ones with their value attached.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What is read of a command line. Nothing of it is changed: the low-level runtime gets it whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub verb: Option<String>,
    /// `--bundle`, `-b`; the current directory where it is not given.
    pub bundle: Option<PathBuf>,
    /// crun's `--config`, `-f`: another file than config.json of the bundle.
    pub config: Option<PathBuf>,
    pub log: Option<PathBuf>,
    pub log_json: bool,
    pub debug: bool,
    pub systemd_cgroup: bool,
    /// `--version` or `-v` before any verb.
    pub version: bool,
}

/// Global options with a value.
const GLOBAL: [&str; 6] = ["log", "log-format", "root", "criu", "rootless", "cgroup-manager"];
const SWITCHES: [&str; 10] = ["debug", "systemd-cgroup", "help", "h", "version", "v", "V", "usage", "?", "systemd-log"];
/// Options of `create` and `run` with a value.
const AFTER: [&str; 8] = ["bundle", "b", "console-socket", "pid-file", "preserve-fds", "config", "f", "user"];
const VERBS: [&str; 22] = [
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "help",
    "init",
    "kill",
    "list",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
    "mounts",
    "exec-into",
    "completion",
];

/// Reads a command line without its first word.
pub fn read(args: &[OsString]) -> Line {
    let mut line = Line::default();
    let mut at = 0;
    while let Some(word) = args.get(at) {
        at += 1;
        let bytes = word.as_bytes();
        if bytes == b"--" {
            // what follows are no options: before the verb the verb, after it the container's id
            if line.verb.is_none() {
                line.verb = args.get(at).map(|verb| verb.to_string_lossy().into_owned());
                at += 1;
                continue;
            }
            break;
        }
        let Some(option) = option(bytes, line.verb.is_some()) else {
            if line.verb.is_none() {
                line.verb = Some(word.to_string_lossy().into_owned());
            }
            continue;
        };
        let (name, attached) = option;
        let name = String::from_utf8_lossy(name).into_owned();
        let name = name.as_str();
        let takes = match line.verb {
            None => {
                GLOBAL.contains(&name)
                    // an option of a later version: what follows is its value, unless it is a verb
                    || (!SWITCHES.contains(&name)
                        && args.get(at).is_some_and(|next| {
                            !next.as_bytes().starts_with(b"-") && !VERBS.iter().any(|verb| *verb == next)
                        }))
            }
            Some(_) => AFTER.contains(&name),
        };
        let value = match attached {
            Some(value) => Some(OsStr::from_bytes(value)),
            None if takes => {
                at += 1;
                args.get(at - 1).map(OsString::as_os_str)
            }
            None => None,
        };
        line.take(name, value);
    }
    line
}

/// The name and the attached value of an option; `None` of a bare word.
fn option(word: &[u8], after_verb: bool) -> Option<(&[u8], Option<&[u8]>)> {
    let long = word.strip_prefix(b"--");
    let name = long.or_else(|| word.strip_prefix(b"-")).filter(|name| !name.is_empty())?;
    if let Some(at) = name.iter().position(|byte| *byte == b'=') {
        return Some((name.get(..at)?, Some(name.get(at + 1..)?)));
    }
    // argp's -bDIR; Go has -bundle, and nothing else that begins so
    if after_verb && long.is_none() && name.len() > 1 && matches!(name.first(), Some(b'b' | b'f')) && name != b"bundle"
    {
        return Some((name.get(..1)?, name.get(1..)));
    }
    Some((name, None))
}

impl Line {
    fn take(&mut self, name: &str, value: Option<&OsStr>) {
        let on =
            value.is_none_or(|value| !matches!(value.as_bytes(), b"false" | b"0" | b"f" | b"F" | b"FALSE" | b"False"));
        let path = || value.map(PathBuf::from);
        match (self.verb.is_some(), name) {
            (false, "log") => self.log = path().filter(|path| !path.as_os_str().is_empty()),
            (false, "log-format") => self.log_json = value.is_some_and(|value| value == "json"),
            (false, "debug") => self.debug = on,
            (false, "systemd-cgroup") => self.systemd_cgroup = on,
            (false, "cgroup-manager") => self.systemd_cgroup = value.is_some_and(|value| value == "systemd"),
            (false, "version" | "v" | "V") => self.version = on,
            (true, "bundle" | "b") => self.bundle = path(),
            (true, "config" | "f") => self.config = path(),
            _ => {}
        }
    }

    /// Whether this makes a container.
    pub fn creates(&self) -> bool {
        matches!(self.verb.as_deref(), Some("create" | "run"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> Line {
        read(&words.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_verb_and_the_bundle_are_found_wherever_they_stand() {
        for words in [
            "create --bundle /b id",
            "create -b /b id",
            "create --bundle=/b id",
            "create -bundle /b id",
            "create -b=/b id",
            "create -b/b id",
            "create id --bundle /b",
            "--root /create --log /x/run --log-format json --systemd-cgroup create --pid-file /run --bundle /b id",
            "-root create --debug=true create --console-socket create --bundle /b -- --bundle",
            "--future value create --bundle /b id",
            "--future create --bundle /b id",
            "--cgroup-manager systemd --rootless true create --no-pivot -b /b create",
            "-- create --bundle /b id",
        ] {
            let line = line(words);
            assert_eq!(line.verb.as_deref(), Some("create"), "{words}");
            assert_eq!(line.bundle.as_deref(), Some("/b".as_ref()), "{words}");
            assert!(line.creates() && !line.version, "{words}");
        }
    }

    #[test]
    fn other_verbs_are_not_taken_for_it() {
        for words in [
            "state create",
            "kill --all create",
            "--root create state x",
            "exec id create",
            "",
            "--version",
            "delete run",
        ] {
            assert!(!line(words).creates(), "{words}");
        }
        assert!(line("--version").version && line("-v").version && !line("create -v").version);
        assert!(line("run -d --bundle /b id").creates());
        assert_eq!(line("create -f /c.json id").config.as_deref(), Some("/c.json".as_ref()));
    }

    #[test]
    fn the_log_is_the_global_option() {
        let read = line("--log /l.json --log-format=json --debug --systemd-cgroup create --log /no id");
        assert_eq!(read.log.as_deref(), Some("/l.json".as_ref()));
        assert!(read.log_json && read.debug && read.systemd_cgroup);
        assert!(!line("--systemd-cgroup=false create").systemd_cgroup);
    }
}
