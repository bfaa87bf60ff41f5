//! One directory's libraries, as ldconfig finds them (glibc, elf/ldconfig.c: `search_dir`).

use std::collections::{BTreeMap, BTreeSet};

use formats::ldsocache::{Arch, Entry, compare_names};
use rustix::fs::FileType;

use crate::elf::{self, Family, Library};
use crate::root::{Dir, Name, Result, Root};

/// Subdirectories of glibc-hwcaps.
const HWCAPS: usize = 32;

/// What a cache knows of a directory: names of libraries there.
#[derive(Clone, Default)]
pub struct Known {
    names: BTreeSet<String>,
}

impl Known {
    pub fn add(&mut self, entry: &Entry) {
        if let Some((_, name)) = entry.path.rsplit_once('/') {
            self.names.insert(name.to_owned());
        }
        self.names.insert(entry.soname.clone());
    }

    /// "libz.so.1.2.13" is the file of a known "libz.so.1".
    fn covers(&self, name: &str) -> bool {
        let mut rest = Some(name);
        while let Some(part) = rest {
            if self.names.contains(part) {
                return true;
            }
            rest = part.rsplit_once('.').map(|(front, _)| front).filter(|front| front.contains(".so."));
        }
        false
    }
}

pub struct Found {
    pub entry: Entry,
    /// The driver's own: its file ends in the driver's version.
    pub drivers: bool,
}

/// One SONAME's file.
struct Chosen {
    name: String,
    library: Library,
    is_link: bool,
    drivers: bool,
}

/// Reads what of a directory is not known, and its glibc-hwcaps. In the driver's folders the
/// links by SONAME are made where they are missing.
pub fn folder(
    root: &Root,
    family: Family,
    dir: &Dir,
    known: &Known,
    driver: Option<&str>,
    make_links: bool,
    reads: &mut usize,
) -> Result<Vec<Found>> {
    let names = root.list(dir)?;
    if make_links {
        root.sweep_of(&dir.path, &names);
    }
    let suffix = driver.map(|version| format!(".so.{version}"));
    let is_drivers = |name: &str| suffix.as_deref().is_some_and(|suffix| name.ends_with(suffix));
    let wanted = names.iter().filter(|name| is_drivers(&name.name) || !known.covers(&name.name));
    let chosen = libraries(root, family, dir, wanted, &is_drivers, reads);
    let kinds: BTreeMap<&str, FileType> = names.iter().map(|name| (name.name.as_str(), name.kind)).collect();
    let mut found = Vec::with_capacity(chosen.len());
    for (soname, chosen) in chosen {
        if !chosen.drivers && known.names.contains(&soname) {
            continue;
        }
        let name = by_soname(root, dir, &soname, &chosen, &kinds, make_links)?;
        let entry = entry(soname, dir.join(&name), &chosen.library);
        found.push(Found { entry, drivers: chosen.drivers });
    }
    if kinds.get("glibc-hwcaps").is_some_and(|kind| is_directory(*kind)) {
        hwcaps(root, family, dir, reads, &mut found);
    }
    Ok(found)
}

fn entry(soname: String, path: String, library: &Library) -> Entry {
    let mut entry = Entry::new(soname, path, library.arch);
    if library.arch == Arch::I386 && !library.libc {
        // FLAG_ELF: ldconfig knows by libc.so.6 alone that a 32-bit library is for glibc, and the loader prefers those
        entry.flags = 1;
    }
    entry
}

fn is_directory(kind: FileType) -> bool {
    matches!(kind, FileType::Directory | FileType::Symlink)
}

/// The name in the directory by which the cache has a library: its SONAME where that leads to the file, else the file's.
fn by_soname(
    root: &Root,
    dir: &Dir,
    soname: &str,
    chosen: &Chosen,
    kinds: &BTreeMap<&str, FileType>,
    make_links: bool,
) -> Result<String> {
    if chosen.is_link || chosen.name == soname {
        return Ok(chosen.name.clone());
    }
    let leads = match kinds.get(soname) {
        Some(FileType::RegularFile) => true,
        Some(FileType::Symlink) => leads_to(root, dir, soname, &chosen.name),
        Some(_) => false,
        None => false,
    };
    if leads {
        return Ok(soname.to_owned());
    }
    let free = kinds.get(soname).is_none_or(|kind| chosen.drivers && *kind == FileType::Symlink);
    if make_links && free {
        // on a mount of the user's nothing is made: the cache names the file itself
        let own =
            root.make_dir(&dir.path, false).and_then(|own| Ok((own.identity()? == dir.identity()?).then_some(own)));
        if let Ok(Some(own)) = own {
            return match root.link(&own, soname, &chosen.name) {
                Ok(_) => Ok(soname.to_owned()),
                Err(error) if error.left_alone() => Ok(chosen.name.clone()),
                Err(error) => Err(error),
            };
        }
    }
    Ok(chosen.name.clone())
}

/// Whether a link of a directory leads to a file of it, over other links or not.
fn leads_to(root: &Root, dir: &Dir, link: &str, file: &str) -> bool {
    if root.link_text(dir, link).is_some_and(|text| text == file) {
        return true;
    }
    let identity = |name: &str| root.identity_of(&dir.join(name));
    matches!((identity(link), identity(file)), (Some(a), Some(b)) if a == b)
}

fn libraries<'a>(
    root: &Root,
    family: Family,
    dir: &Dir,
    names: impl Iterator<Item = &'a Name>,
    is_drivers: &dyn Fn(&str) -> bool,
    reads: &mut usize,
) -> BTreeMap<String, Chosen> {
    let mut chosen: BTreeMap<String, Chosen> = BTreeMap::new();
    for name in names {
        if !matches!(name.kind, FileType::RegularFile | FileType::Symlink) || !is_library(&name.name) || *reads == 0 {
            continue;
        }
        *reads -= 1;
        let Ok(Some(file)) = root.open_in(dir, name) else { continue };
        let Some(library) = elf::library(&file, family) else { continue };
        let mut soname = library.soname.clone().unwrap_or_else(|| name.name.clone());
        let is_link = name.kind == FileType::Symlink && is_plain_link(&name.name, &soname);
        if is_link {
            soname = name.name.clone();
        }
        let new = Chosen { name: name.name.clone(), library, is_link, drivers: is_drivers(&name.name) };
        match chosen.get_mut(&soname) {
            Some(old) if !is_better(&new, old) => {}
            Some(old) => *old = new,
            None => {
                chosen.insert(soname, new);
            }
        }
    }
    // a bare link to one of the driver's is the driver's too
    let drivers: Vec<String> = chosen.values().filter(|one| one.is_link).map(|one| one.name.clone()).collect();
    for name in drivers {
        let target = chosen.get(&name).and_then(|link| link.library.soname.clone());
        let is = target.and_then(|soname| chosen.get(&soname)).is_some_and(|file| file.drivers);
        if let Some(link) = chosen.get_mut(&name) {
            link.drivers |= is;
        }
    }
    chosen
}

/// A link that bears its library's SONAME, or that a developer's linker uses ("libz.so" of "libz.so.1").
fn is_plain_link(name: &str, soname: &str) -> bool {
    name == soname || name.ends_with(".so") && soname.starts_with(name)
}

/// A file before a link, then the newer name; what is the driver's before what is not.
fn is_better(new: &Chosen, old: &Chosen) -> bool {
    if new.drivers != old.drivers && !new.is_link && !old.is_link {
        return new.drivers;
    }
    !new.is_link && old.is_link
        || new.is_link == old.is_link && compare_names(&old.name, &new.name) == std::cmp::Ordering::Less
}

/// What ldconfig takes for a library's name (glibc, `_dl_is_dso`), without the temporary files of prelink, dpkg and rpm.
fn is_library(name: &str) -> bool {
    let dso = ["lib", "ld-", "ld.so.", "ld64.so."].iter().any(|start| name.starts_with(start)) && name.contains(".so");
    dso && ![".#prelink#", ".dpkg-", ";"].iter().any(|part| name.contains(part))
}

fn hwcaps(root: &Root, family: Family, dir: &Dir, reads: &mut usize, found: &mut Vec<Found>) {
    let path = dir.join("glibc-hwcaps");
    let Ok(levels) = root.open_dir(&path).and_then(|dir| root.list(&dir)) else { return };
    for level in levels.iter().filter(|level| is_directory(level.kind)).take(HWCAPS) {
        let Ok(below) = root.open_dir(&format!("{path}/{}", level.name)) else { continue };
        let Ok(names) = root.list(&below) else { continue };
        for (soname, chosen) in libraries(root, family, &below, names.iter(), &|_| false, reads) {
            let mut entry = entry(soname, below.join(&chosen.name), &chosen.library);
            entry.hwcaps = Some(level.name.clone());
            entry.isa_level = chosen.library.isa_level;
            found.push(Found { entry, drivers: false });
        }
    }
}
