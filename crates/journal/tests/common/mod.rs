//! What the journal's tests share: a tree looked at from outside.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Everything below the root but the journal's own state and a disk's filling: path → (mode, owner, bytes or link).
pub fn snapshot(root: &Path) -> BTreeMap<String, (u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if name == "var" || name == "fill" {
                continue;
            }
            let meta = path.symlink_metadata().unwrap();
            let bytes = if meta.is_symlink() {
                std::fs::read_link(&path).unwrap().display().to_string().into_bytes()
            } else if meta.is_dir() {
                todo.push(path);
                Vec::new()
            } else {
                std::fs::read(&path).unwrap()
            };
            found.insert(name, (meta.mode(), meta.uid(), bytes));
        }
    }
    found
}
