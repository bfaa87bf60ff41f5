//! Which packages bring a driver that runs these cards, on this distribution; or why none does, and the way out.

use gpu::ModuleKind;
use model::{Manager, Seen};

use crate::Facts;
use crate::advice::Needs;
use crate::observe::newer;

const TABLE: &str = include_str!("../data/packages.txt");

/// From this branch on the open modules run cards that are no data centre's without being told to (nv-reg.h of 550:
/// OpenRmEnableUnsupportedGpus "is deprecated and no longer required").
const OPEN_FOR_ALL: u32 = 550;

/// Drivers that do not build for newer kernels of the same distribution: distribution and version, the kernel from which
/// on, the package's version up to which, and what helps. Each was met in a build.
const BREAKS: [(&str, &str, &str, &str, &str); 1] = [(
    "debian",
    "13",
    "6.12.117",
    "550.163.01-4~bpo13+1",
    "pci_resize_resource() has one argument more there; trixie-backports has no other. Boot an older kernel, or take NVIDIA's \
     own installer of branch 580",
)];

/// Why the build may well fail, where that is known before.
pub(crate) fn known_break(facts: &Facts) -> Option<String> {
    let major = facts.os.version.split('.').next().unwrap_or_default();
    let release = facts.release.get()?;
    let (_, _, from, version, helps) = BREAKS.iter().find(|(id, of, from, ..)| {
        facts.os.id == *id && major == *of && newer(release, from) != std::cmp::Ordering::Less
    })?;
    // A newer one that apt offers is not the one that breaks.
    let dkms = |name: &str| matches!(name, "nvidia-kernel-dkms" | "nvidia-open-kernel-dkms");
    let offered = facts.offered.iter().filter(|package| dkms(&package.name));
    if offered.into_iter().any(|package| newer(&package.version, version) == std::cmp::Ordering::Greater) {
        return None;
    }
    Some(format!(
        "the driver up to {version} does not build for kernels from {from} on: {helps}. Otherwise this plan fails at the build \
         and is taken back"
    ))
}

/// A driver that this system's package manager has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub manager: Manager,
    pub branch: Option<u32>,
    pub kind: ModuleKind,
    /// What is not installed yet.
    pub packages: Vec<String>,
    /// Components of the distribution's archive that hold them.
    pub components: Vec<&'static str>,
    /// nvidia.ko by the names that it may have.
    pub modules: Vec<String>,
    /// Modules that the distribution built and signed: nothing is built here.
    pub signed: bool,
}

/// Why nothing is planned: a sentence, and what to do by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoWay {
    pub says: String,
    pub instead: Vec<String>,
}

struct Row {
    branch: u32,
    kind: ModuleKind,
    components: Vec<&'static str>,
    module: &'static str,
    packages: Vec<&'static str>,
}

/// The table's rows for a distribution.
fn rows(id: &str, version: &str) -> Vec<Row> {
    let major = version.split('.').next().unwrap_or_default();
    let row = |line: &'static str| {
        let mut cells = line.split('|').map(str::trim);
        let (os, of) = cells.next()?.split_once(' ')?;
        if os != id || (of != "*" && of != major) {
            return None;
        }
        let branch = cells.next()?.parse().ok()?;
        let kind = if cells.next()? == "open" { ModuleKind::Open } else { ModuleKind::Proprietary };
        let components = cells.next()?.split_whitespace().collect();
        let module = cells.next()?;
        Some(Row { branch, kind, components, module, packages: cells.next()?.split_whitespace().collect() })
    };
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
}

/// The way to a driver here.
pub(crate) fn way(facts: &Facts, needs: &Needs) -> Result<Way, NoWay> {
    let release = facts.release.get().map(String::as_str).unwrap_or_default();
    if let Some(end) = ["-cloud-amd64", "-cloud-arm64", "-kvm"].into_iter().find(|end| release.ends_with(end)) {
        let plain = if end == "-kvm" { "linux-generic" } else { "linux-image-amd64" };
        return Err(NoWay {
            says: format!("kernel {release} is built without DRM, and the driver's modules are not all loaded on it"),
            instead: vec![
                format!("sudo apt-get install {plain}"),
                "boot that kernel, then plan again: thruway guest plan".into(),
            ],
        });
    }
    match facts.os.id.as_str() {
        "debian" | "arch" => of_table(facts, needs),
        "ubuntu" => ubuntu(facts, needs),
        "fedora" => fedora(facts, needs),
        other => Err(NoWay {
            says: format!(
                "thruway does not know the driver packages of {}",
                if other.is_empty() { "this system" } else { other }
            ),
            instead: by_run_file(needs),
        }),
    }
}

/// NVIDIA's own installer, in lines.
fn by_run_file(needs: &Needs) -> Vec<String> {
    let branch = needs.newest.map_or(format!("{} or newer", needs.oldest.max(570)), |newest| newest.to_string());
    let kind = if needs.kind == ModuleKind::Open { "open" } else { "proprietary" };
    vec![
        format!(
            "download NVIDIA-Linux-x86_64-VERSION.run of branch {branch} from https://www.nvidia.com/en-us/drivers/unix/"
        ),
        format!(
            "sudo sh NVIDIA-Linux-x86_64-VERSION.run --dkms --kernel-module-type={kind}   # after the reboot without nouveau"
        ),
        "to take it back: sudo nvidia-uninstall".into(),
    ]
}

fn of_table(facts: &Facts, needs: &Needs) -> Result<Way, NoWay> {
    let (id, version) = (&facts.os.id, &facts.os.version);
    let name = format!("{} {version}", if id == "debian" { "Debian" } else { "Arch" });
    let name = name.trim_end();
    let rows = rows(id, version);
    let fitting = rows.iter().filter(|row| needs.runs(row.branch, row.kind));
    let best = fitting.max_by_key(|row| (row.branch, prefers(facts, row.branch) == row.kind));
    let Some(row) = best else {
        let has: Vec<String> = rows
            .iter()
            .map(|row| row.branch.to_string())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let has = if has.is_empty() {
            "no driver that thruway knows".to_owned()
        } else {
            format!("branch {}", has.join(" and "))
        };
        let mut instead = by_run_file(needs);
        if id == "arch" {
            instead.insert(0, "or nvidia-580xx-dkms from the AUR, with linux-headers".into());
        }
        return Err(NoWay { says: format!("{name} packages {has}, and the card needs {}", needs.says), instead });
    };
    let mut packages = build_tools(facts);
    packages.extend(row.packages.iter().map(|name| (*name).to_owned()));
    Ok(Way {
        manager: if id == "arch" { Manager::Pacman } else { Manager::Apt },
        branch: Some(row.branch),
        kind: row.kind,
        packages: missing(facts, packages),
        components: row.components.clone(),
        modules: vec!["nvidia".into(), row.module.into()],
        signed: false,
    })
}

/// The kind of modules to prefer where both would run.
fn prefers(facts: &Facts, branch: u32) -> ModuleKind {
    // A 3D controller has no screen: a data centre's card.
    let centre = facts.usable().all(|card| card.class >> 8 == 0x0302);
    let from = if centre { 515 } else { OPEN_FOR_ALL };
    if branch >= from { ModuleKind::Open } else { ModuleKind::Proprietary }
}

fn ubuntu(facts: &Facts, needs: &Needs) -> Result<Way, NoWay> {
    let mut branch = needs.branch(facts);
    let kind = if needs.runs(branch, prefers(facts, branch)) { prefers(facts, branch) } else { needs.kind };
    if !needs.runs(branch, kind) {
        branch = needs.oldest.max(branch);
    }
    if !needs.runs(branch, kind) {
        let says = format!("Ubuntu packages no driver for it: it needs {}", needs.says);
        return Err(NoWay { says, instead: by_run_file(needs) });
    }
    let open = if kind == ModuleKind::Open { "-open" } else { "" };
    let user = ["nvidia-utils", "libnvidia-decode", "libnvidia-encode"].map(|name| format!("{name}-{branch}-server"));
    let signed = format!("linux-modules-nvidia-{branch}-server{open}-{}", flavour(facts));
    let offered = facts.offered.iter().any(|package| package.name == signed);
    let signed = offered.then_some(signed).filter(|_| facts.secure_boot.get() == Some(&true));
    let mut packages = match &signed {
        Some(modules) => vec![modules.clone(), format!("nvidia-headless-no-dkms-{branch}-server{open}")],
        None => {
            let mut packages = build_tools(facts);
            packages.push(format!("nvidia-headless-{branch}-server{open}"));
            packages
        }
    };
    packages.extend(user);
    Ok(Way {
        manager: Manager::Apt,
        branch: Some(branch),
        kind,
        packages: missing(facts, packages),
        components: Vec::new(),
        modules: vec!["nvidia".into()],
        signed: signed.is_some(),
    })
}

fn fedora(facts: &Facts, needs: &Needs) -> Result<Way, NoWay> {
    if !facts.rpmfusion {
        let url = "https://mirrors.rpmfusion.org/nonfree/fedora/rpmfusion-nonfree-release-$(rpm -E %fedora).noarch.rpm";
        let free = url.replace("nonfree", "free");
        return Err(NoWay {
            says: "Fedora has no NVIDIA driver of its own; RPM Fusion has, and its archive is not set up here".into(),
            instead: vec![format!("sudo dnf install {free} {url}"), "then plan again: thruway guest plan".into()],
        });
    }
    let (branch, name) = match needs.newest {
        Some(470..=579) => (Some(470), "akmod-nvidia-470xx"),
        Some(580..=589) => (Some(580), "akmod-nvidia-580xx"),
        Some(_) => {
            let says = format!("RPM Fusion packages no driver for it: it needs {}", needs.says);
            return Err(NoWay { says, instead: by_run_file(needs) });
        }
        None => (None, "akmod-nvidia"),
    };
    let suffix = name.strip_prefix("akmod-nvidia").unwrap_or_default();
    let release = facts.release.get().cloned().unwrap_or_default();
    let packages =
        vec![format!("kernel-devel-{release}"), name.to_owned(), format!("xorg-x11-drv-nvidia{suffix}-cuda")];
    Ok(Way {
        manager: Manager::Dnf,
        branch,
        kind: needs.kind,
        packages,
        components: Vec::new(),
        modules: vec!["nvidia".into()],
        signed: false,
    })
}

/// What builds modules: headers of this kernel, and the package that brings those of the kernels to come.
fn build_tools(facts: &Facts) -> Vec<String> {
    let mut tools = Vec::new();
    match (facts.os.id.as_str(), &facts.release.value) {
        ("arch", Seen::Is(release)) => {
            let end = ["-lts", "-zen", "-hardened"].into_iter().find(|end| release.ends_with(end)).unwrap_or_default();
            tools.push(format!("linux{end}-headers"));
        }
        (_, Seen::Is(release)) => {
            tools.push("build-essential".into());
            tools.push(format!("linux-headers-{release}"));
            tools.push(meta(facts, "linux-headers"));
        }
        _ => tools.push("build-essential".into()),
    }
    tools
}

/// "generic" of 5.15.0-130-generic, "amd64" of 6.12.48+deb13-amd64, "cloud-amd64" of 6.1.0-50-cloud-amd64.
pub(crate) fn flavour(facts: &Facts) -> String {
    let release = facts.release.get().map(String::as_str).unwrap_or_default();
    let parts = release.split('-').skip(1).skip_while(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    parts.collect::<Vec<_>>().join("-")
}

/// The package that follows this kernel's flavour: with the end that the installed kernel package has ("-hwe-22.04").
pub(crate) fn meta(facts: &Facts, front: &str) -> String {
    let flavour = flavour(facts);
    let image = format!("linux-image-{flavour}");
    let end = facts
        .present
        .iter()
        .find_map(|name| name.strip_prefix(&image).filter(|end| end.is_empty() || end.starts_with("-hwe")));
    format!("{front}-{flavour}{}", end.unwrap_or_default())
}

/// What builds kernel modules and is not here, DKMS with it; none: a system whose packages are not known.
pub(crate) fn to_build(facts: &Facts) -> Option<(Manager, Vec<String>)> {
    let manager = match facts.os.id.as_str() {
        "debian" | "ubuntu" => Manager::Apt,
        "fedora" => Manager::Dnf,
        "arch" => Manager::Pacman,
        _ => return None,
    };
    let mut tools = match manager {
        Manager::Dnf => vec![format!("kernel-devel-{}", facts.release.get().cloned().unwrap_or_default())],
        _ => build_tools(facts),
    };
    tools.extend(["dkms".to_owned()]);
    if manager != Manager::Apt {
        tools.extend(["gcc", "make"].map(str::to_owned));
    }
    Some((manager, missing(facts, tools)))
}

fn missing(facts: &Facts, packages: Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in packages {
        if !facts.present.contains(&name) && !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_row() {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            let (id, version) = line.split('|').next().and_then(|cell| cell.trim().split_once(' ')).expect(line);
            let version = if version == "*" { "1" } else { version };
            let row = rows(id, version);
            assert!(row.iter().any(|row| line.contains(&row.packages.join(" "))), "{line}");
            assert!(
                row.iter().all(|row| row.packages.len() >= 2 && row.branch >= 390 && !row.module.is_empty()),
                "{line}"
            );
        }
        assert_eq!(rows("debian", "12.11").len(), 3);
        assert!(rows("debian", "10").is_empty());
    }
}
