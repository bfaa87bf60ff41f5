//! /etc/ld.so.cache, so that the loader finds the driver: made here, with no ldconfig of host or image.
//!
//! Reading every library of an image costs milliseconds, and its own ldconfig has done it. So what a sound cache says of a
//! directory is taken over where the directory is not newer than the cache: it is data for the container's own loader, and
//! what a lie in it does, the image could do in any other way. The driver's folders are listed, and what the cache does
//! not know there is read, but where the spec's links name the libraries and the image's loader searches the folder by
//! itself (Debian's multiarch directory): a library that no link names is found there by its file's name. Without a sound
//! cache every directory is read, in ldconfig's order.

mod scan;

use std::collections::HashSet;

use formats::ldsocache::{EntryView, View};

use crate::elf::Family;
use crate::ldconf::{self, CONF, Conf, DROP_INS, OWN, OWN_COMPAT};
use crate::links::Listed;
use crate::root::{CACHE_FILE, Dir, Result, Root, RootError, SMALL_FILE, split};
use crate::{Options, Report};
use scan::{Found, Known};

pub const CACHE: &str = "/etc/ld.so.cache";
/// Images with Debian's directories have it.
const DEBIAN: &str = "/etc/debian_version";
/// Entries of one cache.
const ENTRIES: usize = 1 << 16;
/// Libraries that are read in one run.
const READS: usize = 20_000;
/// Directories of a cache's entries.
const PARENTS: usize = 1024;

/// A directory of libraries in the container's order of search.
struct Place {
    dir: Dir,
    identity: (u64, u64),
    /// The driver's folder, as the options call it.
    folder: Option<String>,
}

/// What a cache is made for.
pub struct Asked<'a, 'b> {
    pub root: &'a Root<'b>,
    pub family: Family,
    pub options: &'a Options,
    /// The first place is that of compatibility libraries.
    pub compat: bool,
}

/// What is taken over of an image's cache for one directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// All of it; the directory is not looked at.
    Whole,
    /// All of it; what it does not know is read.
    Known,
    /// Nothing.
    None,
}

/// Whether a folder needs no listing where the image has a sound cache: see above.
pub fn is_told(root: &Root, options: &Options, folder: &str) -> bool {
    let target = Family::here().multiarch();
    let own = [format!("/usr/lib/{target}"), format!("/lib/{target}")].iter().any(|own| own == folder);
    let links = || options.links.iter().any(|link| split(&link.link).is_some_and(|(parent, _)| parent == folder));
    own && options.driver.is_some() && links() && root.is_there(DEBIAN).unwrap_or(false)
}

/// Brings cache, drop-in and musl's path up to date. `compat`: the directory of forward compatibility libraries, if they
/// are to be used; it comes first.
pub fn update(
    root: &Root,
    options: &Options,
    compat: Option<&str>,
    listed: &mut Listed,
    report: &mut Report,
) -> Result<()> {
    let family = Family::here();
    musl(root, family, options, report)?;
    if is_musl_alone(root, family)? {
        return Ok(());
    }
    let conf = ldconf::read(root);
    report.warnings.extend(conf.warnings.iter().cloned());
    let (places, new) = places(root, family, &conf, options, compat);
    drop_in(root, &conf, &new, report)?;
    let old = root.read(CACHE, CACHE_FILE)?;
    let (bytes, skipped) =
        build(&Asked { root, family, options, compat: compat.is_some() }, places, listed, old.as_ref());
    report.warnings.extend(skipped);
    if old.is_some_and(|(old, _)| old == bytes) {
        return Ok(());
    }
    let done = root.make_dir("/etc", false).and_then(|dir| root.write(&dir, "ld.so.cache", &bytes, 0o644));
    note(done.map(|()| true), CACHE, report)
}

/// What ldconfig itself would write for this root, as far as it resolves.
pub fn fresh(root: &Root, family: Family) -> Vec<u8> {
    let conf = ldconf::read(root);
    let (places, _) = places(root, family, &conf, &Options::default(), None);
    {
        let asked = Asked { root, family, options: &Options::default(), compat: false };
        build(&asked, places, &mut Listed::default(), None).0
    }
}

/// Done, left alone with a warning, or an error.
fn note(done: Result<bool>, path: &str, report: &mut Report) -> Result<()> {
    match done {
        Ok(true) => report.changed.push(path.to_owned()),
        Ok(false) => {}
        Err(error) if error.left_alone() => report.warnings.push(format!("{error}; it is left as it is")),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The directories in the order of search, and those of them that the image's own configuration does not name.
fn places(
    root: &Root,
    family: Family,
    conf: &Conf,
    options: &Options,
    compat: Option<&str>,
) -> (Vec<Place>, Vec<String>) {
    let target = family.multiarch();
    let debian = root.is_there(DEBIAN).unwrap_or(false);
    // what ldconfig adds unasked
    let system: Vec<String> = if debian {
        vec![format!("/lib/{target}"), format!("/usr/lib/{target}"), "/lib".into(), "/usr/lib".into()]
    } else {
        ["/lib", "/lib64", "/usr/lib", "/usr/lib64"].map(str::to_owned).into()
    };
    let mut own: Vec<Place> = Vec::new();
    let add = |path: &str, places: &mut Vec<Place>, folder: Option<String>| -> bool {
        if places.iter().any(|place| place.dir.path == path) {
            return false;
        }
        let Ok(dir) = root.open_dir(path) else { return false };
        let Ok(identity) = dir.identity() else { return false };
        if places.iter().any(|place| place.identity == identity) {
            return false;
        }
        places.push(Place { dir, identity, folder });
        true
    };
    for path in conf.directories.iter().chain(&system) {
        add(path, &mut own, None);
    }
    let mut first = Vec::new();
    let mut new = Vec::new();
    let folders = options.folders.iter().map(String::as_str).filter(|folder| folder.starts_with('/'));
    for path in compat.into_iter().chain(folders) {
        let path = path.trim_end_matches('/');
        let Ok(identity) = root.open_dir(path).and_then(|dir| dir.identity()) else { continue };
        let is_compat = compat.is_some_and(|compat| compat.trim_end_matches('/') == path);
        match own.iter_mut().position(|place| place.identity == identity) {
            // compatibility comes before all, wherever the image has it
            Some(at) if is_compat => {
                let mut place = own.remove(at);
                (place.folder, place.dir.path) = (Some(path.to_owned()), path.to_owned());
                first.push(place);
            }
            Some(at) => own[at].folder = Some(path.to_owned()),
            None => {
                if add(path, &mut first, Some(path.to_owned())) && !is_compat {
                    new.push(path.to_owned());
                }
            }
        }
    }
    first.extend(own);
    (first, new)
}

/// The cache's bytes, and what was left out of it.
fn build(
    asked: &Asked<'_, '_>,
    places: Vec<Place>,
    listed: &mut Listed,
    old: Option<&(Vec<u8>, bool)>,
) -> (Vec<u8>, Vec<String>) {
    let Asked { root, compat, .. } = *asked;
    let sound = old.filter(|(_, whole)| *whole).and_then(|(bytes, _)| View::parse(bytes).ok()).filter(is_small);
    let combined = old.is_some_and(|(bytes, _)| bytes.starts_with(b"ld.so-1.7.0"));
    let written = root.changed(CACHE).unwrap_or((i64::MIN, 0));
    let old = sound.unwrap_or_default();
    let of = owners(root, &old, &places);
    let trust: Vec<Trust> = places
        .iter()
        .enumerate()
        .map(|(at, place)| {
            let older = || place.dir.changed().is_ok_and(|changed| changed <= written);
            match (of.contains(&Some(at)), place.folder.is_some()) {
                (true, true) => Trust::Known,
                (true, false) if older() => Trust::Whole,
                _ => Trust::None,
            }
        })
        .collect();
    // a folder of which the links tell, if any of them stands
    let tell = |(at, place): (usize, &Place)| {
        let folder = place.folder.as_deref().filter(|folder| is_told(root, asked.options, folder));
        let found = if trust[at] == Trust::Known && folder.is_some() {
            scan::linked(asked, listed, &place.dir, folder)
        } else {
            Vec::new()
        };
        (!found.is_empty()).then_some(found)
    };
    let mut told: Vec<Option<Vec<Found>>> = places.iter().enumerate().map(tell).collect();
    let mut warnings = Vec::new();
    let mut reads = READS;
    let mut new: Vec<(usize, Found)> = Vec::new();
    for (at, place) in places.iter().enumerate().filter(|(at, _)| trust[*at] != Trust::Whole) {
        let mut known = Known::default();
        if let Some(found) = &mut told[at] {
            new.extend(found.drain(..).map(|found| (at, found)));
            continue;
        }
        if trust[at] == Trust::Known {
            let here =
                old.entries.iter().zip(&of).filter(|(entry, owner)| **owner == Some(at) && entry.hwcaps.is_none());
            here.for_each(|(entry, _)| known.add(entry));
        }
        let listing = place.folder.as_deref().and_then(|folder| listed.take(folder));
        match scan::folder(asked, listed, &place.dir, &known, place.folder.as_deref(), listing, &mut reads) {
            Ok(found) => new.extend(found.into_iter().map(|found| (at, found))),
            Err(error) => warnings.push(format!("{error}; its libraries are not in the cache")),
        }
    }
    let replaced: HashSet<(usize, &str, u32)> = new
        .iter()
        .filter(|(_, found)| found.replaces)
        .map(|(at, found)| (*at, found.entry.soname.as_str(), found.entry.flags))
        .collect();
    let mut entries: Vec<(usize, EntryView<'_>)> = Vec::with_capacity(old.entries.len() + new.len());
    for (entry, owner) in old.entries.into_iter().zip(of) {
        let kept = match owner {
            None => true,
            Some(at) => match trust[at] {
                Trust::Whole => true,
                // few images have glibc-hwcaps, and those that have are read anew
                Trust::Known => {
                    (entry.hwcaps.is_none() || told[at].is_some())
                        && !replaced.contains(&(at, &*entry.soname, entry.flags))
                }
                Trust::None => false,
            },
        };
        if kept {
            entries.push((owner.map_or(usize::MAX, |at| at + 2), entry));
        }
    }
    entries.extend(new.iter().map(|(at, found)| {
        let rank = if compat && *at == 0 {
            0
        } else if found.drivers {
            1
        } else {
            at + 2
        };
        (rank, EntryView::of(&found.entry))
    }));
    if reads == 0 || entries.len() > ENTRIES {
        warnings.push(format!("the image has more than {READS} libraries; not all of them are in {CACHE}"));
        entries.truncate(ENTRIES);
    }
    // what stands first of a name is found first: the writer's own sorting keeps it so
    entries.sort_by_key(|(rank, _)| *rank);
    let own = concat!("thruway-hook ", env!("CARGO_PKG_VERSION"));
    let view = View {
        entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        generator: Some(old.generator.unwrap_or(own.into())),
    };
    (if combined { view.to_combined_bytes() } else { view.to_bytes() }, warnings)
}

/// A cache whose texts lie over one another could be written out as gigabytes.
fn is_small(view: &View<'_>) -> bool {
    let bytes: usize = view.entries.iter().map(|entry| entry.soname.len() + entry.path.len()).sum();
    view.entries.len() <= ENTRIES && bytes as u64 <= CACHE_FILE
}

/// Which place each entry of a cache belongs to: it has hundreds of entries in few directories.
fn owners(root: &Root, old: &View<'_>, places: &[Place]) -> Vec<Option<usize>> {
    let mut known: Vec<(&str, Option<usize>)> = Vec::new();
    let mut owner = |dir| {
        if let Some((_, owner)) = known.iter().find(|(path, _)| *path == dir) {
            return *owner;
        }
        let identity = root.open_dir(dir).and_then(|dir| dir.identity()).ok();
        let owner = places.iter().position(|place| Some(place.identity) == identity);
        if known.len() < PARENTS {
            known.push((dir, owner));
        }
        owner
    };
    old.entries.iter().map(|entry| parent(entry).and_then(&mut owner)).collect()
}

fn parent<'a>(entry: &'a EntryView<'_>) -> Option<&'a str> {
    let (dir, _) = entry.path.rsplit_once('/')?;
    // DIR/glibc-hwcaps/NAME/FILE is DIR's
    if entry.hwcaps.is_some() { dir.rsplit_once('/')?.0.strip_suffix("/glibc-hwcaps") } else { Some(dir) }
}

/// So that a later ldconfig in the container keeps the driver: the folders that the image's configuration does not name.
fn drop_in(root: &Root, conf: &Conf, new: &[String], report: &mut Report) -> Result<()> {
    if new.is_empty() {
        // one of an earlier start
        return match root.open_dir(DROP_INS) {
            Ok(_) => note(remove_own(root, OWN), &format!("{DROP_INS}/{OWN}"), report),
            Err(_) => Ok(()),
        };
    }
    let mut text = String::from("# the NVIDIA driver's libraries; written by thruway-hook at the container's start\n");
    for path in new {
        text.push_str(path);
        text.push('\n');
    }
    note(put(root, DROP_INS, OWN, text.as_bytes()), &format!("{DROP_INS}/{OWN}"), report)?;
    include_drop_ins(root, conf, report)
}

/// /etc/ld.so.conf.d/00-thruway-compat.conf, before all others; or no such file.
pub fn compat_drop_in(root: &Root, compat: Option<&str>, report: &mut Report) -> Result<()> {
    let path = format!("{DROP_INS}/{OWN_COMPAT}");
    let Some(compat) = compat else {
        return match root.open_dir(DROP_INS) {
            Ok(_) => note(remove_own(root, OWN_COMPAT), &path, report),
            Err(_) => Ok(()),
        };
    };
    note(put(root, DROP_INS, OWN_COMPAT, format!("{compat}\n").as_bytes()), &path, report)?;
    include_drop_ins(root, &ldconf::read(root), report)
}

/// What an earlier hook of the same start has decided.
pub fn decided_compat(root: &Root) -> Option<String> {
    let (bytes, _) = root.read(&format!("{DROP_INS}/{OWN_COMPAT}"), SMALL_FILE).ok()??;
    let text = String::from_utf8(bytes).ok()?;
    text.lines().next().filter(|line| line.starts_with('/')).map(str::to_owned)
}

fn remove_own(root: &Root, name: &str) -> Result<bool> {
    root.make_dir(DROP_INS, false).and_then(|dir| root.remove(&dir, name))
}

fn include_drop_ins(root: &Root, conf: &Conf, report: &mut Report) -> Result<()> {
    if conf.drop_ins {
        return Ok(());
    }
    let there = root.is_there(CONF)?;
    let mut text = format!("include {DROP_INS}/*.conf\n").into_bytes();
    match &conf.text {
        Some(old) => text.extend(old),
        None if there => {
            report
                .warnings
                .push(format!("{CONF} is no file that could be read; a later ldconfig will not know the driver"));
            return Ok(());
        }
        None => {}
    }
    note(put(root, "/etc", "ld.so.conf", &text), CONF, report)
}

/// Writes a file where its bytes differ.
fn put(root: &Root, dir: &str, name: &str, bytes: &[u8]) -> Result<bool> {
    if root.read(&format!("{dir}/{name}"), SMALL_FILE)?.is_some_and(|(old, whole)| whole && old == bytes) {
        return Ok(false);
    }
    let dir = root.make_dir(dir, false)?;
    root.write(&dir, name, bytes, 0o644).map(|()| true)
}

/// musl's loader reads directories from a file of its own; what it searches without one stands first in a new one.
fn musl(root: &Root, family: Family, options: &Options, report: &mut Report) -> Result<()> {
    let arch = family.musl();
    let there = root.is_there(&format!("/lib/ld-musl-{arch}.so.1"))? || root.is_there("/etc/alpine-release")?;
    if !there {
        return Ok(());
    }
    let name = format!("ld-musl-{arch}.path");
    let old = root.read(&format!("/etc/{name}"), SMALL_FILE)?;
    let mut text = match old {
        Some((bytes, true)) => String::from_utf8_lossy(&bytes).into_owned(),
        Some((_, false)) => {
            report.warnings.push(format!("/etc/{name} is larger than {} KiB; it is left as it is", SMALL_FILE >> 10));
            return Ok(());
        }
        None => "/lib\n/usr/local/lib\n/usr/lib\n".to_owned(),
    };
    let known: Vec<&str> = text.split([':', '\n']).map(str::trim).collect();
    let missing = options.folders.iter().filter(|folder| !known.contains(&folder.as_str()));
    let missing: Vec<&str> = missing.map(String::as_str).filter(|folder| !folder.contains([':', '\n'])).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&missing.join("\n"));
    text.push('\n');
    note(put(root, "/etc", &name, text.as_bytes()), &format!("/etc/{name}"), report)
}

/// A root with musl's loader and no glibc's has no use for a cache.
fn is_musl_alone(root: &Root, family: Family) -> std::result::Result<bool, RootError> {
    if !root.is_there(&format!("/lib/ld-musl-{}.so.1", family.musl()))? {
        return Ok(false);
    }
    let glibc = match family {
        Family::X86 => ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"],
        Family::Arm => ["/lib/ld-linux-aarch64.so.1", "/lib64/ld-linux-aarch64.so.1"],
    };
    for path in glibc {
        if root.is_there(path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
