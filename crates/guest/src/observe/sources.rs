//! apt's sources: which archives and components are asked.

use formats::aptsources::{self, Entry};
use machine::{Machine, MachineExt};
use model::Seen;
use serde::Serialize;

const LIST: &str = "/etc/apt/sources.list";
const DIR: &str = "/etc/apt/sources.list.d";

/// The components a package manager asks, of the distribution's own archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sources {
    /// The distribution's archives: those of its code name, with main.
    pub archives: Vec<Archive>,
    /// A file that could not be read.
    pub unread: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Archive {
    pub uri: String,
    pub suite: String,
    pub components: Vec<String>,
    pub signed_by: Option<String>,
}

impl Archive {
    pub(crate) fn entry(&self) -> Entry {
        Entry {
            uri: self.uri.clone(),
            suite: self.suite.clone(),
            components: self.components.clone(),
            signed_by: self.signed_by.clone(),
            line: 0,
        }
    }
}

impl Sources {
    /// The components of these that no archive of the main suite is asked for.
    pub fn lacks<'c>(&self, components: &[&'c str]) -> Vec<&'c str> {
        let asked = |one: &str| self.archives.iter().any(|archive| archive.components.iter().any(|c| c == one));
        components.iter().filter(|one| !asked(one)).copied().collect()
    }
}

pub(super) fn read(machine: &dyn Machine, codename: &str) -> Sources {
    let mut sources = Sources::default();
    let mut all: Vec<Entry> = Vec::new();
    let mut take = |path: String, read: fn(&str) -> Vec<Entry>| match machine.text(&path) {
        Seen::Is(text) => all.extend(read(&text)),
        Seen::Absent => {}
        Seen::Unreadable(reason) => sources.unread = Some(format!("{path}: {reason}")),
    };
    take(LIST.into(), aptsources::one_line);
    for name in machine.names(DIR) {
        if name.ends_with(".list") {
            take(format!("{DIR}/{name}"), aptsources::one_line);
        } else if name.ends_with(".sources") {
            take(format!("{DIR}/{name}"), aptsources::deb822);
        }
    }
    // A third party's archive has suites of its own ("bookworm-pgdg"), or no main.
    let suites = ["", "-updates", "-security", "/updates"].map(|end| format!("{codename}{end}"));
    let ours = |entry: &Entry| !codename.is_empty() && suites.contains(&entry.suite);
    for entry in all.into_iter().filter(ours) {
        let Entry { uri, suite, components, signed_by, .. } = entry;
        match sources.archives.iter_mut().find(|known| known.uri == uri && known.suite == suite) {
            Some(known) => known.components.extend(components),
            None => sources.archives.push(Archive { uri, suite, components, signed_by }),
        }
    }
    sources.archives.retain(|archive| archive.components.iter().any(|component| component == "main"));
    sources
}

#[cfg(test)]
mod tests {
    use machine::Memory;

    use super::*;

    #[test]
    fn the_distribution_s_own_archives_are_told_from_others() {
        let mut machine = Memory::new("test");
        machine.insert_file(
            LIST,
            b"deb http://deb.debian.org/debian bookworm main\ndeb http://deb.debian.org/debian bookworm contrib\n\
              deb http://apt.postgresql.org/pub bookworm-pgdg main\ndeb http://download.docker.com/linux/debian bookworm stable\n",
        );
        let stat =
            machine::Stat { kind: machine::FileKind::Dir, mode: 0o755, uid: 0, gid: 0, size: 0, mtime: 0, rdev: None };
        let names = Seen::Is(vec!["s.sources".into()]);
        machine.insert(DIR, machine::Node { stat, kind: machine::NodeKind::Dir(names) });
        machine.insert_file(
            "/etc/apt/sources.list.d/s.sources",
            b"Types: deb\nURIs: http://deb.debian.org/debian-security\nSuites: bookworm-security\nComponents: main\n",
        );
        let sources = read(&machine, "bookworm");
        let found: Vec<String> =
            sources.archives.iter().map(|a| format!("{} {} {}", a.uri, a.suite, a.components.join(","))).collect();
        assert_eq!(
            found,
            [
                "http://deb.debian.org/debian bookworm main,contrib",
                "http://deb.debian.org/debian-security bookworm-security main"
            ]
        );
        assert_eq!(sources.lacks(&["contrib", "non-free"]), ["non-free"]);
    }
}
