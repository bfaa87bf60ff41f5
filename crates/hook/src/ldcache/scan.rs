//! One directory's libraries, as ldconfig finds them (glibc, elf/ldconfig.c: `search_dir`).

use std::collections::{BTreeMap, HashSet};

use formats::ldsocache::{Arch, Entry, EntryView, compare_names};
use rustix::fs::FileType;

use super::Asked;
use crate::Link;
use crate::elf::{self, Family, Library};
use crate::links::Listed;
use crate::root::{Dir, Listing, Result, Root, split};

/// Subdirectories of glibc-hwcaps.
const HWCAPS: usize = 32;

/// What a cache knows of a directory: names of libraries there.
#[derive(Default)]
pub struct Known<'a> {
    names: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    pub fn add(&mut self, entry: &'a EntryView<'_>) {
        let name = entry.path.rsplit('/').next().unwrap_or_default();
        self.names.insert(name);
        if name != entry.soname {
            self.names.insert(&entry.soname);
        }
    }

    /// "libz.so.1.2.13" is the file of a known "libz.so.1".
    fn covers(&self, name: &str) -> bool {
        if self.names.contains(name) {
            return true;
        }
        let Some(at) = name.find(".so.") else { return false };
        let dots = name.bytes().enumerate().skip(at + 4).filter(|(_, byte)| *byte == b'.');
        dots.map(|(end, _)| &name[..end]).any(|front| self.names.contains(front))
    }
}

pub struct Found {
    pub entry: Entry,
    /// The driver's own: its file ends in the driver's version.
    pub drivers: bool,
    /// What the cache knew of that name in this directory is not so any more.
    pub replaces: bool,
}

/// One SONAME's file.
struct Chosen {
    name: String,
    library: Library,
    is_link: bool,
    drivers: bool,
}

/// Reads what of a directory is not known, and its glibc-hwcaps. In the driver's folders the links by SONAME are made where
/// they are missing. `listing`: what it holds, if that has been looked at.
pub fn folder(
    asked: &Asked<'_, '_>,
    listed: &Listed,
    dir: &Dir,
    known: &Known<'_>,
    folder: Option<&str>,
    listing: Option<Listing>,
    reads: &mut usize,
) -> Result<Vec<Found>> {
    let Asked { root, options, .. } = *asked;
    let listing = listing.map_or_else(|| root.listing(dir), Ok)?;
    let mut found = linked(asked, listed, dir, folder);
    let told: HashSet<&str> = asked
        .options
        .links
        .iter()
        .filter(|link| listed.stands(&link.link))
        .filter_map(|link| {
            let (parent, name) = split(&link.link)?;
            (Some(parent) == folder && found.iter().any(|found| found.entry.soname == name))
                .then_some([name, &link.target])
        })
        .flatten()
        .collect();
    let suffix = options.driver.as_ref().map(|version| format!(".so.{version}"));
    let is_drivers = |name: &str| suffix.as_deref().is_some_and(|suffix| name.ends_with(suffix));
    let wanted = listing.iter().filter(|(name, _)| {
        let fresh = || is_drivers(name) || !known.covers(name);
        !told.contains(name.as_str()) && is_library(name) && fresh()
    });
    for (soname, chosen) in libraries(asked, dir, wanted, &is_drivers, reads) {
        if told.contains(soname.as_str()) || !chosen.drivers && known.names.contains(soname.as_str()) {
            continue;
        }
        let name = by_soname(root, dir, &soname, &chosen, &listing, folder.is_some())?;
        let entry = entry(soname, dir.join(&name), &chosen.library);
        found.push(Found { entry, drivers: chosen.drivers, replaces: chosen.drivers });
    }
    if listing.get("glibc-hwcaps").is_some_and(|kind| is_directory(*kind)) {
        hwcaps(asked, dir, reads, &mut found);
    }
    Ok(found)
}

/// What the spec's own links tell of the driver's libraries in a multiarch directory, whose name says what they are built
/// for: those files need not be read. They are large, and lie on a disk that may be cold.
pub fn linked(asked: &Asked<'_, '_>, listed: &Listed, dir: &Dir, folder: Option<&str>) -> Vec<Found> {
    let options = asked.options;
    let (Some(folder), Some(version)) = (folder, &options.driver) else { return Vec::new() };
    let arch = match (asked.family, folder.rsplit('/').next().unwrap_or_default()) {
        (Family::X86, "x86_64-linux-gnu") => Arch::X86_64,
        (Family::X86, "i386-linux-gnu") => Arch::I386,
        (Family::Arm, "aarch64-linux-gnu") => Arch::Aarch64,
        _ => return Vec::new(),
    };
    let suffix = format!(".so.{version}");
    let mut drivers: HashSet<&str> = HashSet::new();
    let mut found = Vec::new();
    // a bare name's link is to another link, which may come after it
    for _ in 0..2 {
        for Link { target, link, .. } in &options.links {
            let Some((parent, name)) = split(link) else { continue };
            let ours = !target.contains('/') && (target.ends_with(&suffix) || drivers.contains(target.as_str()));
            if ours && parent == folder && is_library(name) && listed.stands(link) && drivers.insert(name) {
                let entry = Entry::new(name, dir.join(name), arch);
                found.push(Found { entry, drivers: true, replaces: true });
            }
        }
    }
    found
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
    listing: &Listing,
    make_links: bool,
) -> Result<String> {
    if chosen.is_link || chosen.name == soname {
        return Ok(chosen.name.clone());
    }
    let leads = match listing.get(soname) {
        Some(FileType::RegularFile) => true,
        Some(FileType::Symlink) => leads_to(root, dir, soname, &chosen.name),
        Some(_) => false,
        None => false,
    };
    if leads {
        return Ok(soname.to_owned());
    }
    let free = listing.get(soname).is_none_or(|kind| chosen.drivers && *kind == FileType::Symlink);
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
    asked: &Asked<'_, '_>,
    dir: &Dir,
    names: impl Iterator<Item = (&'a String, &'a FileType)>,
    is_drivers: &dyn Fn(&str) -> bool,
    reads: &mut usize,
) -> BTreeMap<String, Chosen> {
    let mut chosen: BTreeMap<String, Chosen> = BTreeMap::new();
    for (name, kind) in names {
        if !matches!(kind, FileType::RegularFile | FileType::Symlink) || *reads == 0 {
            continue;
        }
        *reads -= 1;
        let Ok(Some(file)) = asked.root.open_in(dir, name, *kind) else { continue };
        let Some(library) = elf::library(&file, asked.family) else { continue };
        let mut soname = library.soname.clone().unwrap_or_else(|| name.clone());
        let is_link = *kind == FileType::Symlink && is_plain_link(name, &soname);
        if is_link {
            soname = name.clone();
        }
        let new = Chosen { name: name.clone(), library, is_link, drivers: is_drivers(name) };
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
    let mut odd = name.bytes().filter(|byte| matches!(byte, b'#' | b';' | b'p'));
    dso && (odd.next().is_none() || ![".#prelink#", ".dpkg-", ";"].iter().any(|part| name.contains(part)))
}

fn hwcaps(asked: &Asked<'_, '_>, dir: &Dir, reads: &mut usize, found: &mut Vec<Found>) {
    let root = asked.root;
    let path = dir.join("glibc-hwcaps");
    let Ok(levels) = root.open_dir(&path).and_then(|dir| root.list(&dir)) else { return };
    for level in levels.iter().filter(|level| is_directory(level.kind)).take(HWCAPS) {
        let Ok(below) = root.open_dir(&format!("{path}/{}", level.name)) else { continue };
        let Ok(names) = root.listing(&below) else { continue };
        let names = names.iter().filter(|(name, _)| is_library(name));
        for (soname, chosen) in libraries(asked, &below, names, &|_| false, reads) {
            let mut entry = entry(soname, below.join(&chosen.name), &chosen.library);
            entry.hwcaps = Some(level.name.clone());
            entry.isa_level = chosen.library.isa_level;
            found.push(Found { entry, drivers: false, replaces: false });
        }
    }
}
