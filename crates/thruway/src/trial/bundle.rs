//! This very program with its loader and libraries, as a directory to mount or as an image: no registry is needed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;

/// A file of the bundle: where it lies here, and which names it has in the image.
struct Part {
    from: PathBuf,
    to: Vec<String>,
}

pub struct Bundle {
    parts: Vec<Part>,
    /// As the program names it (PT_INTERP).
    loader: String,
}

/// The program's own path in the image.
pub const PROGRAM: &str = "/usr/bin/thruway";

/// What NVIDIA's libraries need beside what thruway itself does.
const BESIDE: [&str; 6] = ["libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "libc.so.6"];

impl Bundle {
    /// What this process runs by: the files that its loader has mapped are the ones that it needs, whatever the layout of
    /// this system.
    pub fn of_this_process() -> anyhow::Result<Bundle> {
        let program = std::env::current_exe().context("where does this program lie?")?;
        let bytes = std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
        let Some(loader) = interpreter(&bytes) else {
            bail!("{} names no loader: it cannot be carried into a container", program.display());
        };
        let mut parts = vec![Part { from: program, to: vec![PROGRAM.into()] }];
        let real = std::fs::canonicalize(&loader).with_context(|| format!("cannot find {loader}"))?;
        parts.push(Part { to: vec![loader.clone(), text(&real)?], from: real });
        let maps = std::fs::read_to_string("/proc/self/maps").context("cannot read this process's maps")?;
        let mut dirs: Vec<PathBuf> = Vec::new();
        for path in
            maps.lines().filter_map(|line| line.split_once('/').map(|(_, path)| PathBuf::from(format!("/{path}"))))
        {
            let is_library = path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"));
            let dir = path.parent().map(Path::to_owned).unwrap_or_default();
            if !is_library || dirs.contains(&dir) {
                continue;
            }
            dirs.push(dir);
        }
        for name in BESIDE {
            let Some(place) = dirs.iter().map(|dir| dir.join(name)).find(|path| path.exists()) else { continue };
            let to = vec![text(&place)?];
            let from = std::fs::canonicalize(&place).with_context(|| format!("cannot find {}", place.display()))?;
            parts.push(Part { from, to });
        }
        Ok(Bundle { parts, loader })
    }

    /// Copied flat into a directory, to be mounted into somebody's image: `ld.so`, `thruway` and the libraries.
    pub fn copy_to(&self, dir: &Path) -> anyhow::Result<()> {
        for part in &self.parts {
            let name = match part.to.first().map(String::as_str) {
                Some(PROGRAM) => "thruway",
                Some(path) if path == self.loader => "ld.so",
                Some(path) => path.rsplit('/').next().unwrap_or(path),
                None => continue,
            };
            let to = dir.join(name);
            std::fs::copy(&part.from, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }

    /// Each file here, and its path in a root with a merged /usr.
    pub fn mounts(&self) -> Vec<(PathBuf, String)> {
        let mut all: Vec<(PathBuf, String)> = Vec::new();
        for (from, to) in self.parts.iter().flat_map(|part| part.to.iter().map(move |to| (&part.from, to))) {
            let inside = format!("/{}", merged(to));
            if all.iter().all(|(_, known)| *known != inside) {
                all.push((from.clone(), inside));
            }
        }
        all
    }

    /// An image archive that docker load, podman load and ctr images import read (the docker-save form), of one layer.
    pub fn image(&self, tag: &str) -> anyhow::Result<Vec<u8>> {
        let layer = self.layer().context("cannot make the image")?;
        let diff = format!("sha256:{}", sha256(&layer));
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": [PROGRAM, "smi"]},
            "rootfs": {"type": "layers", "diff_ids": [diff]},
            "history": [{"created_by": "thruway container test"}],
        });
        let config = serde_json::to_vec(&config)?;
        let name = format!("{}.json", sha256(&config));
        let manifest = json!([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]);
        let mut archive = tar::Builder::new(Vec::new());
        put(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?, 0o644)?;
        put(&mut archive, &name, &config, 0o644)?;
        put(&mut archive, "layer.tar", &layer, 0o644)?;
        Ok(archive.into_inner()?)
    }

    fn layer(&self) -> std::io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        // Merged /usr, as the loader's built-in directories want it; a /tmp and places for what engines mount.
        for dir in ["usr", "usr/bin", "usr/lib", "usr/lib64", "tmp", "etc", "dev", "proc", "sys", "run"] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(if dir == "tmp" { 0o1777 } else { 0o755 });
            header.set_size(0);
            archive.append_data(&mut header, format!("{dir}/"), std::io::empty())?;
        }
        for name in ["bin", "lib", "lib64"] {
            link(&mut archive, name, &format!("usr/{name}"))?;
        }
        let mut there: Vec<String> = Vec::new();
        for part in &self.parts {
            let bytes = std::fs::read(&part.from)?;
            for path in &part.to {
                let inside = merged(path);
                if !there.contains(&inside) {
                    put(&mut archive, &inside, &bytes, 0o755)?;
                    there.push(inside);
                }
            }
        }
        archive.into_inner()
    }
}

/// The path below a merged /usr, without its leading slash.
fn merged(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let split = ["bin/", "lib/", "lib64/"].iter().any(|front| path.starts_with(front));
    if split { format!("usr/{path}") } else { path.to_owned() }
}

fn put(archive: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, path, bytes)
}

fn link(archive: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_mode(0o777);
    header.set_size(0);
    archive.append_link(&mut header, path, target)
}

fn sha256(bytes: &[u8]) -> String {
    model::Digest::of(bytes).0.trim_start_matches("sha256:").to_owned()
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is no UTF-8", path.display()))
}

/// PT_INTERP of a 64-bit little-endian ELF file (System V ABI, program header).
fn interpreter(elf: &[u8]) -> Option<String> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| {
        let mut bytes = [0; 8];
        bytes.get_mut(..size)?.copy_from_slice(elf.get(at..at.checked_add(size)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for index in 0..count {
        let at = usize::try_from(table.checked_add(index.checked_mul(size)?)?).ok()?;
        if number(at, 4)? == PT_INTERP {
            let start = usize::try_from(number(at.checked_add(8)?, 8)?).ok()?;
            let length = usize::try_from(number(at.checked_add(32)?, 8)?).ok()?;
            let bytes = elf.get(start..start.checked_add(length)?)?;
            return std::str::from_utf8(bytes).ok().map(|path| path.trim_end_matches('\0').to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_names_its_loader_and_the_image_holds_both() {
        let bundle = Bundle::of_this_process().unwrap();
        assert!(bundle.loader.contains("ld-linux"), "{}", bundle.loader);
        let archive = bundle.image("thruway-test:1").unwrap();
        let mut names = Vec::new();
        let mut layer = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().display().to_string());
            if names.last().is_some_and(|name| name == "layer.tar") {
                std::io::Read::read_to_end(&mut entry, &mut layer).unwrap();
            }
        }
        assert_eq!(names.len(), 3);
        let inside: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(inside.iter().any(|name| name == "usr/bin/thruway"), "{inside:?}");
        assert!(inside.iter().any(|name| name.ends_with("/libc.so.6")), "{inside:?}");
        assert!(inside.contains(&merged(&bundle.loader)), "{inside:?}");
    }

    #[test]
    fn what_is_no_elf_has_no_loader() {
        assert_eq!(interpreter(b""), None);
        assert_eq!(interpreter(b"\x7fELF\x02\x01"), None);
        let mut cut = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        cut.truncate(0x50);
        assert_eq!(interpreter(&cut), None);
    }
}
