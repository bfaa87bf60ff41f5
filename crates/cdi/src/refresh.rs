//! What should lie in the directory of generated specs, and in driver.json beside it: bytes, from a machine; and having them
//! lie there, by the journal's cache.

use formats::cdispec;
use gpu::chips;
use journal::cache::Cache;
use machine::{Machine, MachineExt as _};
use model::{Bdf, Capabilities, Capability, PciId};
use serde::Serialize;

use crate::generate::Gathered;
use crate::options::{Options, Wanted};
use crate::{GpuNodes, Mode, NoSpec, gather_here, generate_mode};

/// The directory that engines read first, and that is empty after a boot.
pub const OUTPUT_DIR: &str = "/var/run/cdi";
/// NVIDIA GPUs, whole.
pub const SPEC_NAME: &str = "nvidia.com-gpu.json";
/// What the shim reads for NVIDIA_REQUIRE_*.
pub const DRIVER_FILE: &str = "/run/thruway/driver.json";

/// The files that a machine as it is should have, and those that should be gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// (path, bytes).
    pub files: Vec<(String, Vec<u8>)>,
    /// Paths of ours that have no reason any more.
    pub remove: Vec<String>,
    pub notes: Vec<String>,
    /// The whole spec, where there is one.
    pub spec: Option<cdispec::Spec>,
    /// Why there is none.
    pub none: Option<NoSpec>,
}

/// What came of a wish.
#[derive(Debug, Default)]
pub struct Carried {
    pub wish: Wish,
    /// Paths whose bytes were others, or that were not there.
    pub wrote: Vec<String>,
    pub removed: Vec<String>,
}

/// Looks, and has the directory be as it should, alone among those that write there: the look stands behind whoever wrote
/// before, so that what is written last was seen last.
///
/// # Errors
/// As [`Cache::put`].
pub fn carry_out(
    machine: &dyn Machine,
    cache: &Cache,
    dir: &str,
    options: &Options,
) -> Result<Carried, journal::Error> {
    let mut alone = cache.sole(dir, false)?;
    let mut done = Carried { wish: wish(machine, dir, options), ..Carried::default() };
    if alone.is_none() && !done.wish.files.is_empty() {
        alone = cache.sole(dir, true)?;
    }
    for (path, bytes) in &done.wish.files {
        let fresh = cache.put(path, bytes)?;
        done.wrote.extend(fresh.then(|| path.clone()));
    }
    for path in &done.wish.remove {
        let there = cache.remove(path)?;
        done.removed.extend(there.then(|| path.clone()));
    }
    drop(alone);
    Ok(done)
}

/// "thruway.dev-utility.json".
pub fn capability_file(capability: Capability) -> String {
    format!("thruway.dev-{}.json", capability.word())
}

/// What the directory should hold now. Without a driver or a card nothing of ours stays.
pub fn wish(machine: &dyn Machine, dir: &str, options: &Options) -> Wish {
    let dir = dir.trim_end_matches('/');
    let mut wish = Wish::default();
    let made = match Mode::of(machine) {
        Mode::Nvml => of_cards(machine, dir, options, &mut wish),
        mode => generate_mode(machine, mode, options).map(|(spec, notes)| {
            wish.notes = notes;
            wish.files.push((format!("{dir}/{SPEC_NAME}"), cdispec::to_json(&spec).into_bytes()));
            wish.spec = Some(spec);
        }),
    };
    wish.none = made.err();
    let ours = Capability::ALL.map(|capability| format!("{dir}/{}", capability_file(capability)));
    for path in ours.into_iter().chain([format!("{dir}/{SPEC_NAME}"), DRIVER_FILE.to_owned()]) {
        if !wish.files.iter().any(|(file, _)| *file == path) {
            wish.remove.push(path);
        }
    }
    wish
}

fn of_cards(machine: &dyn Machine, dir: &str, options: &Options, wish: &mut Wish) -> Result<(), NoSpec> {
    let gathered = gather_here(machine, options)?;
    let files = gathered.files(machine, options.driver_root.as_deref())?;
    let made = gathered.of(machine, &files, options)?;
    let mut add = |name: &str, spec: &cdispec::Spec| {
        wish.files.push((format!("{dir}/{name}"), cdispec::to_json(spec).into_bytes()));
    };
    add(SPEC_NAME, &made.spec);
    for capability in Capability::ALL {
        let wanted = match capability {
            Capability::Compat32 if files.twins.is_empty() => continue,
            Capability::Compat32 => Wanted::Twins,
            other => Wanted::Sets(Capabilities::NONE.with(other)),
        };
        let kind = format!("thruway.dev/{}", capability.word());
        let options = Options { capabilities: Some(wanted), kind: Some(kind), ..options.clone() };
        add(&capability_file(capability), &gathered.of(machine, &files, &options)?.spec);
    }
    wish.files.push((DRIVER_FILE.to_owned(), driver_json(machine, &gathered).into_bytes()));
    wish.notes = made.notes;
    wish.spec = Some(made.spec);
    Ok(())
}

/// Files of other generators in the directories of specs that define our kind: (path, how many of its devices are also ours).
pub fn others(machine: &dyn Machine, dirs: &[String]) -> Vec<(String, usize)> {
    let (files, _) = crate::specs::read_dirs(machine, dirs);
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.ours()) {
        let Some(spec) = file.spec().filter(|spec| spec.kind == crate::KIND) else { continue };
        found.push((file.path.clone(), spec.devices.len()));
    }
    found
}

#[derive(Serialize)]
struct DriverJson<'a> {
    schema: u32,
    driver: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cuda: Option<&'static str>,
    gpus: Vec<GpuJson<'a>>,
}

#[derive(Serialize)]
struct GpuJson<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minor: Option<u32>,
    bdf: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    brand: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arch: Option<&'static str>,
    name: String,
}

fn driver_json(machine: &dyn Machine, gathered: &Gathered) -> String {
    let gpus = gathered.gpus.iter().map(|gpu| {
        let (name, brand) = named(machine, gpu);
        GpuJson {
            index: gpu.index,
            uuid: gpu.uuid.as_deref(),
            minor: gpu.minor,
            bdf: gpu.bdf.to_string(),
            brand,
            arch: id_of(machine, gpu.bdf).and_then(capability_of),
            name,
        }
    });
    let json = DriverJson {
        schema: 1,
        driver: &gathered.version,
        cuda: oci::require::cuda_of(&gathered.version),
        gpus: gpus.collect(),
    };
    serde_json::to_string(&json).unwrap_or_default() + "\n"
}

/// The driver's own name of the card, and the brand that NVML would say by it.
fn named(machine: &dyn Machine, gpu: &GpuNodes) -> (String, Option<&'static str>) {
    let text = machine.text(&format!("/proc/driver/nvidia/gpus/{}/information", gpu.bdf)).is().unwrap_or_default();
    match crate::nodes::field(&text, "Model").filter(|model| !model.contains('?')) {
        Some(model) => (model.to_owned(), brand_of(model)),
        None => (gpu.name.clone(), None),
    }
}

/// The word that images use in NVIDIA_REQUIRE_CUDA ("brand=tesla"); NVML's brands, nvmlBrandType_t.
fn brand_of(model: &str) -> Option<&'static str> {
    let name = model.strip_prefix("NVIDIA ").unwrap_or(model);
    let known = [
        ("GeForce", "geforce"),
        ("Tesla", "tesla"),
        ("Quadro RTX", "quadrortx"),
        ("Quadro", "quadro"),
        ("TITAN RTX", "titanrtx"),
        ("TITAN", "titan"),
        ("NVS", "nvs"),
        ("GRID", "grid"),
        ("RTX", "nvidiartx"),
    ];
    let known = known.iter().find(|(start, _)| name.starts_with(start)).map(|(_, brand)| *brand);
    // "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"
    known.or_else(|| model.starts_with("NVIDIA ").then_some("nvidia"))
}

fn id_of(machine: &dyn Machine, bdf: Bdf) -> Option<PciId> {
    let number = |name: &str| machine.number(&format!("/sys/bus/pci/devices/{bdf}/{name}")).is();
    Some(PciId::new(u16::try_from(number("vendor")?).ok()?, u16::try_from(number("device")?).ok()?))
}

/// The compute capability of a card's chip. Source: NVIDIA's "CUDA GPU Compute Capability" list, by chip.
fn capability_of(id: PciId) -> Option<&'static str> {
    Some(match chips::of(id)?.name {
        "GK104" | "GK106" | "GK107" => "3.0",
        "GK110" | "GK110B" | "GK208" | "GK208B" => "3.5",
        "GK210" => "3.7",
        "GM107" | "GM108" => "5.0",
        "GM200" | "GM204" | "GM206" => "5.2",
        "GP100" => "6.0",
        "GP102" | "GP104" | "GP106" | "GP107" | "GP108" => "6.1",
        "GV100" => "7.0",
        "TU102" | "TU104" | "TU106" | "TU116" | "TU117" => "7.5",
        "GA100" => "8.0",
        "GA102" | "GA103" | "GA104" | "GA106" | "GA107" => "8.6",
        "AD102" | "AD103" | "AD104" | "AD106" | "AD107" => "8.9",
        "GH100" => "9.0",
        "GB100" | "GB102" => "10.0",
        "GB202" | "GB203" | "GB205" | "GB206" | "GB207" => "12.0",
        _ => return None,
    })
}

/// Directories in which a change can mean another spec, for whoever watches. What procfs and sysfs show is in [`pulse`].
pub fn watched(spec: Option<&cdispec::Spec>, output: &str) -> Vec<String> {
    let mut dirs: Vec<String> = [
        "/dev",
        "/dev/dri",
        "/dev/nvidia-caps",
        "/etc",
        "/etc/cdi",
        "/run/nvidia-persistenced",
        "/run/nvidia-fabricmanager",
        "/usr/bin",
        journal::ledger::DIR,
        output,
    ]
    .map(str::to_owned)
    .to_vec();
    let mounts = spec.into_iter().flat_map(|spec| &spec.container_edits.mounts);
    dirs.extend(mounts.filter_map(|mount| mount.host_path.rsplit_once('/')).map(|(dir, _)| dir.to_owned()));
    dirs.sort();
    dirs.dedup();
    dirs
}

/// What procfs and sysfs say now, as one text: another text is a reason to look at everything. Costs a few directory listings.
pub fn pulse(machine: &dyn Machine) -> String {
    let mut text = machine.value("/sys/module/nvidia/version").is().unwrap_or_default();
    text.push('\n');
    for bdf in machine.names("/proc/driver/nvidia/gpus") {
        let driver = machine.link_name(&format!("/sys/bus/pci/devices/{bdf}/driver")).is().unwrap_or_default();
        text.push_str(&format!("{bdf} {driver}\n"));
    }
    let capabilities = "/proc/driver/nvidia/capabilities";
    for gpu in machine.names(capabilities).iter().filter(|name| name.starts_with("gpu")) {
        for instance in machine.names(&format!("{capabilities}/{gpu}/mig")) {
            let parts = machine.names(&format!("{capabilities}/{gpu}/mig/{instance}"));
            text.push_str(&format!("{gpu}/{instance} {}\n", parts.join(",")));
        }
    }
    text.push_str(&machine.names(journal::ledger::DIR).join(","));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brands_are_those_that_nvml_says() {
        for (model, brand) in [
            ("NVIDIA GeForce RTX 3090", Some("geforce")),
            ("Tesla T4", Some("tesla")),
            ("NVIDIA H100 80GB HBM3", Some("nvidia")),
            ("NVIDIA RTX A6000", Some("nvidiartx")),
            ("Quadro RTX 6000", Some("quadrortx")),
            ("Quadro P400", Some("quadro")),
            ("Graphics Device", None),
        ] {
            assert_eq!(brand_of(model), brand, "{model}");
        }
    }

    #[test]
    fn a_chip_has_its_capability() {
        let of = |device| capability_of(PciId::new(PciId::NVIDIA, device));
        assert_eq!(of(0x2330), Some("9.0"));
        assert_eq!(of(0x1d01), Some("6.1"));
        assert_eq!(of(0x0020), None);
    }
}
