//! CUDA forward compatibility: whether the newer libcuda that an image carries is to be used over the machine's driver.
//! The library says itself for which drivers it is made, in the ELF note section `.note.cuda.fwd_compatibility`: name
//! "NVIDIA Corporation", content JSON. Nothing of it is mounted anywhere: its directory only comes first for the loader.

use rustix::fs::FileType;
use serde::Deserialize;

use crate::elf::{self, Family, Notes, Source};
use crate::ldcache;
use crate::root::Root;
use crate::{Error, Options, Report};

const SECTION: &str = ".note.cuda.fwd_compatibility";
const VENDOR: &[u8] = b"NVIDIA Corporation";
const NOTE: usize = 16 << 10;

/// What the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host<'a> {
    /// "580.159.04"
    pub driver: Option<&'a str>,
    pub cuda: Option<(u32, u32)>,
}

/// What an image's compatibility library says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compat {
    /// From its name: libcuda.so.590.44.01.
    pub version: String,
    pub note: Option<Note>,
}

/// The note's JSON, as far as it decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Note {
    #[serde(rename = "CUDA Version", default)]
    pub cuda: String,
    /// Branches of the driver that it works over: 535, 550.
    #[serde(rename = "Driver", default)]
    pub drivers: Vec<u32>,
}

/// Whether the library is to be used.
pub fn decide(compat: &Compat, host: Host<'_>) -> bool {
    let older_driver = |driver: &str| numbers(driver) < numbers(&compat.version);
    match (&compat.note, host.driver) {
        (Some(note), Some(driver)) if !note.drivers.is_empty() => {
            branch(driver).is_some_and(|branch| note.drivers.contains(&branch)) && older_driver(driver)
        }
        (Some(note), _) => match (pair(&note.cuda), host.cuda) {
            (Some(theirs), Some(ours)) => theirs > ours,
            _ => false,
        },
        (None, Some(driver)) => match (branch(driver), branch(&compat.version)) {
            (Some(ours), Some(theirs)) => ours < theirs,
            _ => false,
        },
        (None, None) => false,
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

fn branch(version: &str) -> Option<u32> {
    numbers(version).first().copied()
}

fn pair(version: &str) -> Option<(u32, u32)> {
    match numbers(version)[..] {
        [major, minor, ..] => Some((major, minor)),
        [major] => Some((major, 0)),
        [] => None,
    }
}

/// The note of a library. Err: it has one that cannot be read.
pub fn note<S: Source + ?Sized>(source: &S) -> Result<Option<Note>, String> {
    let Some((bytes, align)) = elf::section(source, SECTION, NOTE) else { return Ok(None) };
    let found = Notes { bytes: &bytes, align }.find(|note| note.name.trim_ascii_end_nul() == VENDOR);
    let Some(found) = found else { return Ok(None) };
    serde_json::from_slice(found.content.trim_ascii_end_nul()).map(Some).map_err(|error| error.to_string())
}

trait TrimNul {
    fn trim_ascii_end_nul(&self) -> &[u8];
}

impl TrimNul for [u8] {
    fn trim_ascii_end_nul(&self) -> &[u8] {
        let end = self.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        &self[..end]
    }
}

/// Decides, writes the decision for ldconfig (or takes an older one back), and gives the directory that is to come first.
pub fn apply(root: &Root, options: &Options, report: &mut Report) -> Result<Option<String>, Error> {
    let host = Host { driver: options.driver.as_deref(), cuda: options.cuda };
    if host == Host::default() {
        return Ok(ldcache::decided_compat(root));
    }
    let found = find(root, &options.compat_root, report);
    let used = found.is_some_and(|compat| decide(&compat, host)).then(|| options.compat_root.clone());
    ldcache::compat_drop_in(root, used.as_deref(), report)?;
    Ok(used)
}

/// The one regular libcuda.so.X.Y of the image's directory; none where there are several, as NVIDIA's hook has it.
fn find(root: &Root, path: &str, report: &mut Report) -> Option<Compat> {
    if !path.starts_with('/') || path.contains('\n') {
        report.warnings.push(format!("{path:?} is no directory for compatibility libraries"));
        return None;
    }
    let dir = root.open_dir(path).ok()?;
    let names = root.list(&dir).ok()?;
    let mut files = names.iter().filter(|name| {
        let version = name.name.strip_prefix("libcuda.so.");
        name.kind == FileType::RegularFile && version.is_some_and(|version| version.contains('.'))
    });
    let (name, None) = (files.next()?, files.next()) else { return None };
    let file = root.open_in(&dir, &name.name, name.kind).ok()??;
    // one of another processor, or no library at all, helps nobody
    elf::library(&file, Family::here())?;
    let version = name.name.strip_prefix("libcuda.so.")?.to_owned();
    match note(&file) {
        Ok(note) => Some(Compat { version, note }),
        Err(error) => {
            report.warnings.push(format!(
                "{path}/{} has a compatibility note that cannot be read ({error}); it is not used",
                name.name
            ));
            None
        }
    }
}
