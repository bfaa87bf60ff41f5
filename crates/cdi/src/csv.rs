//! Tegra: NVIDIA's lists of what a container gets, one "kind, path" a line.

use std::collections::BTreeSet;

use formats::cdispec::{Edits, Spec};
use machine::{FileKind, Machine, MachineExt as _};
use model::Seen;

use crate::NoSpec;
use crate::edits::{HookWork, Place, in_order};
use crate::generate::{device, sealed};
use crate::modes::common;
use crate::options::Options;

const DIR: &str = "/etc/nvidia-container-runtime/host-files-for-container.d";
const NAMES: [&str; 3] = ["devices.csv", "drivers.csv", "l4t.csv"];

/// The lists: those given, else NVIDIA's that are there.
pub(crate) fn files(machine: &dyn Machine, given: &[String]) -> Vec<String> {
    if !given.is_empty() {
        return given.to_vec();
    }
    NAMES.iter().map(|name| format!("{DIR}/{name}")).filter(|path| machine.exists(path)).collect()
}

pub(crate) fn generate(machine: &dyn Machine, options: &Options) -> Result<(Spec, Vec<String>), NoSpec> {
    let lists = files(machine, &options.csv_files);
    if lists.is_empty() {
        return Err(NoSpec::NotHere(format!("no list is in {DIR}: NVIDIA's package for Tegra brings them")));
    }
    let place = Place::new(machine, options);
    let mut notes = Vec::new();
    let (mut nodes, mut mounts, mut work) = (Vec::new(), Vec::new(), HookWork::default());
    let mut folders = BTreeSet::new();
    for list in &lists {
        let text = match machine.text(list) {
            Seen::Is(text) => text,
            Seen::Absent => return Err(NoSpec::NotHere(format!("{list} is not there"))),
            Seen::Unreadable(reason) => return Err(NoSpec::Unknown(reason)),
        };
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = line.split_once(',').map(|(kind, path)| (kind.trim(), path.trim()));
            let Some((kind, path)) = entry.filter(|(_, path)| path.starts_with('/')) else {
                notes.push(format!("{list}:{}: \"{}\" is not \"kind, /path\"", at + 1, clip(line)));
                continue;
            };
            if options.csv_ignore.iter().any(|pattern| matches(pattern, path)) {
                continue;
            }
            let found = expand(machine, path);
            if found.is_empty() {
                notes.push(format!("{list}:{}: {path} is not there and is left out", at + 1));
            }
            for path in found {
                match kind {
                    "dev" => nodes.push(path),
                    "dir" | "lib" => {
                        let host = machine.resolve(&path).is().unwrap_or_else(|| path.clone());
                        mounts.push(place.mount(&host, &path));
                        if kind == "lib"
                            && let Some((dir, _)) = path.rsplit_once('/')
                        {
                            folders.insert(dir.to_owned());
                        }
                    }
                    "sym" => match machine.link(&path) {
                        Seen::Is(target) => work.links.push((target, path)),
                        _ => notes.push(format!("{list}:{}: {path} is no link and is left out", at + 1)),
                    },
                    _ => notes.push(format!(
                        "{list}:{}: \"{}\" is no kind of entry: dev, dir, lib, sym",
                        at + 1,
                        clip(kind)
                    )),
                }
            }
        }
    }
    if nodes.is_empty() {
        return Err(NoSpec::NotHere(format!("no device of {} is there", lists.join(", "))));
    }
    if !place.has_hook() && !work.links.is_empty() {
        // what a link leads to is mounted at the link's own name
        for (_, link) in std::mem::take(&mut work.links) {
            if let Some(host) = machine.resolve(&link).is().filter(|host| machine.exists(host)) {
                mounts.push(place.mount(&host, &link));
            }
        }
    }
    work.folders.extend(folders);
    let names = ["0", "all"].into_iter().filter(|name| *name != "all" || !options.no_all);
    let devices = names.map(|name| device(machine, &place, name.to_owned(), &nodes)).collect();
    let edits = Edits { hooks: place.hook(&work), ..common(in_order(mounts)) };
    Ok((sealed(options.kind.as_deref().unwrap_or(crate::KIND), devices, edits), notes))
}

/// The names that a path with `*` in its last part stands for; without one, the path itself where something is there.
fn expand(machine: &dyn Machine, path: &str) -> Vec<String> {
    let there = |path: &String| !machine.lstat(path).is_absent();
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    if !name.contains('*') {
        return Some(path.to_owned()).into_iter().filter(there).collect();
    }
    let is_plain = |path: &String| !matches!(machine.stat(path), Seen::Is(stat) if stat.kind == FileKind::Dir);
    let names = machine.names(if dir.is_empty() { "/" } else { dir });
    let paths = names.iter().filter(|one| matches(name, one)).map(|one| format!("{dir}/{one}"));
    paths.filter(is_plain).collect()
}

/// `*` is any run of characters but the slash.
fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // where to go on after the newest star: what follows it, and what it has not taken yet
    let mut back: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([], []) => return true,
            ([b'*', rest @ ..], _) => {
                back = Some((rest, text));
                pattern = rest;
            }
            ([p, rest @ ..], [t, more @ ..]) if p == t => (pattern, text) = (rest, more),
            _ => match back {
                Some((after, [taken, more @ ..])) if *taken != b'/' => {
                    back = Some((after, more));
                    (pattern, text) = (after, more);
                }
                _ => return false,
            },
        }
    }
}

fn clip(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stops_at_a_slash() {
        assert!(matches("/dev/nvhost-*", "/dev/nvhost-as-gpu"));
        assert!(matches("/usr/lib/*/libcuda.so*", "/usr/lib/aarch64-linux-gnu/libcuda.so.1"));
        assert!(!matches("/usr/lib/*", "/usr/lib/tegra/libcuda.so"));
        assert!(!matches("/dev/a*b", "/dev/aXbc"));
        assert!(matches("*", ""));
    }
}
