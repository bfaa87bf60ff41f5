//! What the tests of the whole program share: running it, and looking at a tree from outside.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// thruway with these arguments, no terminal, no colour.
pub fn thruway(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thruway"));
    command.args(args).env("NO_COLOR", "1").stdin(std::process::Stdio::null());
    command.output().expect("thruway starts")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// As [`thruway`], on the machine at `root`.
pub fn on(root: &Path, args: &[&str]) -> Output {
    let root = root.to_str().expect("a path in UTF-8");
    thruway(&[&["--root", root], args].concat())
}

/// (mode, uid, gid, modification time in ns, digest or link target) of every name below the root, but the journal's
/// own directory and what `skip` names.
pub fn snapshot(root: &Path, skip: &dyn Fn(&str) -> bool) -> BTreeMap<String, (u32, u32, u32, i64, String)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory of the tree") {
            let path = entry.expect("an entry").path();
            let name = format!("/{}", path.strip_prefix(root).expect("below the root").display());
            if name == "/var/lib/thruway" || skip(&name) {
                continue;
            }
            let meta = path.symlink_metadata().expect("its metadata");
            let (time, what) = if meta.is_symlink() {
                (0, std::fs::read_link(&path).expect("a link").display().to_string())
            } else if meta.is_dir() {
                // A directory's time tells that something was made and removed in it, which undo may do.
                todo.push(path.clone());
                (0, String::new())
            } else if meta.is_file() {
                let digest = model::Digest::of(&std::fs::read(&path).expect("a file")).0;
                (meta.mtime() * 1_000_000_000 + meta.mtime_nsec(), digest)
            } else {
                (0, String::new())
            };
            found.insert(name, (meta.mode(), meta.uid(), meta.gid(), time, what));
        }
    }
    found
}

/// The names that differ between two snapshots.
pub fn differ<V: PartialEq>(a: &BTreeMap<String, V>, b: &BTreeMap<String, V>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}
