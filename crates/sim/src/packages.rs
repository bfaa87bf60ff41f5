//! A package manager on a simulated machine: a small archive that knows build tools, kernel headers and NVIDIA's drivers,
//! refuses in apt's words what apt refuses, and removes what it brought.
//!
//! What an archive holds is as its package lists of 2025 say; versions are one of each branch.

use std::collections::{BTreeMap, BTreeSet};

use journal::{HandError, Installed, Stock};
use machine::{Machine as _, MachineExt as _};
use model::{Manager, PackagesOp};
use serde::{Deserialize, Serialize};

use crate::physics::{self, PhysicsError};
use crate::tree::Tree;

const STATUS: &str = "/var/lib/dpkg/status";
const AUTO: &str = "/var/lib/apt/extended_states";

/// What was at a path before packages came: kept beside the tree, put back when they go.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Was {
    Absent,
    /// Nor the directory that it is.
    NoDirectory,
    Link(String),
    File {
        text: String,
        mode: u32,
    },
}

fn no(command: &str, message: impl Into<String>) -> HandError {
    HandError::Failed { command: command.into(), status: "exit status 100".into(), message: message.into() }
}

fn broken(command: &str, error: PhysicsError) -> HandError {
    no(command, error.to_string())
}

/// One package of the archive.
struct Offer {
    version: &'static str,
    depends: Vec<String>,
    component: &'static str,
}

fn offer(version: &'static str, component: &'static str, depends: &[&str]) -> Option<Offer> {
    Some(Offer { version, component, depends: depends.iter().map(|name| (*name).to_owned()).collect() })
}

fn branch_version(branch: &str) -> Option<&'static str> {
    Some(match branch {
        "470" => "470.256.02",
        "535" => "535.183.01",
        "550" => "550.163.01",
        "580" => "580.95.05",
        _ => return None,
    })
}

/// Where the system stands: distribution, version, kernels, components that apt asks.
struct Archive {
    os: String,
    version: String,
    kernels: Vec<String>,
    components: BTreeSet<String>,
}

impl Archive {
    fn of(tree: &Tree) -> Archive {
        let text = tree.text("/etc/os-release");
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches('"').to_owned()
        };
        let mut components = BTreeSet::new();
        let mut take = |entries: Vec<formats::aptsources::Entry>| {
            components.extend(entries.into_iter().flat_map(|entry| entry.components));
        };
        take(formats::aptsources::one_line(&tree.text("/etc/apt/sources.list")));
        for (name, text) in tree.texts("/etc/apt/sources.list.d", "") {
            if name.ends_with(".list") {
                take(formats::aptsources::one_line(&text));
            } else if name.ends_with(".sources") {
                take(formats::aptsources::deb822(&text));
            }
        }
        let kernels = tree.root.names("/lib/modules");
        Archive { os: field("ID"), version: field("VERSION_ID"), kernels, components }
    }

    fn find(&self, name: &str) -> Option<Offer> {
        let found = match name {
            "build-essential" => offer("12.8", "main", &["gcc", "make", "libc6-dev"]),
            "gcc" | "make" | "libc6-dev" | "dkms" => offer("1-simulated", "main", &[]),
            _ if name.starts_with("linux-headers-") => self.headers(name),
            _ if self.os == "ubuntu" => self.ubuntu(name),
            _ if self.os == "debian" => self.debian(name),
            _ => None,
        }?;
        self.components.contains(found.component).then_some(found)
    }

    fn headers(&self, name: &str) -> Option<Offer> {
        let wanted = name.strip_prefix("linux-headers-")?;
        if self.kernels.iter().any(|kernel| kernel == wanted) {
            return offer("1-simulated", "main", &[]);
        }
        let newest = self.kernels.iter().filter(|kernel| kernel.ends_with(&format!("-{wanted}"))).max()?;
        offer("1-simulated", "main", &[&format!("linux-headers-{newest}")])
    }

    /// The -server series of restricted: focal ends with 535.
    fn ubuntu(&self, name: &str) -> Option<Offer> {
        let branch = name.split('-').find(|part| part.len() == 3 && part.bytes().all(|b| b.is_ascii_digit()))?;
        let version = branch_version(branch)?;
        if self.version.starts_with("20.") && branch > "535" || !name.contains("-server") {
            return None;
        }
        let open = if name.ends_with("-open") { "-open" } else { "" };
        let front = name.split(branch).next()?;
        match front {
            "nvidia-headless-" => {
                offer(version, "restricted", &["dkms", &format!("nvidia-dkms-{branch}-server{open}")])
            }
            "nvidia-dkms-" => offer(version, "restricted", &["dkms"]),
            "nvidia-utils-" | "libnvidia-decode-" | "libnvidia-encode-" => offer(version, "restricted", &[]),
            _ => None,
        }
    }

    fn debian(&self, name: &str) -> Option<Offer> {
        let version = match self.version.split('.').next()? {
            "12" => "535.183.01",
            "13" => "550.163.01",
            _ => return None,
        };
        match name {
            "nvidia-kernel-dkms" => offer(version, "non-free", &["dkms"]),
            "nvidia-open-kernel-dkms" => offer(version, "contrib", &["dkms", "firmware-nvidia-gsp"]),
            "firmware-nvidia-gsp" => offer(version, "non-free-firmware", &[]),
            "nvidia-modprobe" | "nvidia-persistenced" => offer(version, "contrib", &[]),
            "nvidia-smi" | "libcuda1" | "libnvcuvid1" | "libnvidia-encode1" => offer(version, "non-free", &[]),
            _ => None,
        }
    }
}

fn installed(tree: &Tree) -> Vec<Installed> {
    let auto = tree.text(AUTO);
    let all = formats::dpkg::packages(&tree.text(STATUS), |_| true);
    let is_auto = |name: &str| auto.lines().any(|line| line.strip_prefix("Package: ") == Some(name));
    all.into_iter()
        .map(|package| Installed {
            auto: is_auto(&package.name),
            remains: !package.installed(),
            name: package.name,
            version: package.version,
        })
        .collect()
}

fn command(op: &PackagesOp) -> String {
    op.paste().last().cloned().unwrap_or_default()
}

pub(crate) fn stock(tree: &Tree, op: &PackagesOp) -> Result<Stock, HandError> {
    let command = command(op);
    if op.manager != Manager::Apt || !tree.has(STATUS) {
        let why = format!("{} is not installed on this machine", op.manager.name());
        return Err(HandError::NotHere { what: command, why });
    }
    let archive = Archive::of(tree);
    let before = installed(tree);
    let held = formats::dpkg::packages(&tree.text(STATUS), |_| true);
    let held: Vec<&str> =
        held.iter().filter(|package| package.status.starts_with("hold")).map(|package| package.name.as_str()).collect();
    let here = |name: &str| before.iter().any(|package| package.name == name && !package.remains);
    let mut comes: BTreeMap<String, String> = BTreeMap::new();
    let mut todo: Vec<String> = op.install.clone();
    while let Some(name) = todo.pop() {
        if here(&name) || comes.contains_key(&name) {
            continue;
        }
        let Some(found) = archive.find(&name) else {
            return Err(no(&command, format!("E: Unable to locate package {name}")));
        };
        // Two series of the driver conflict; one that is held cannot make way.
        if let Some(held) = held.iter().find(|held| held.starts_with("nvidia-") && name.starts_with("nvidia-")) {
            let message = format!("E: Unable to correct problems, you have held broken packages. ({held} is held)");
            return Err(no(&command, message));
        }
        todo.extend(found.depends);
        comes.insert(name, found.version.to_owned());
    }
    let size = format!("Need to get {} MB of archives.", comes.len() * 12);
    Ok(Stock { before, comes: comes.into_iter().collect(), size, known: Vec::new() })
}

pub(crate) fn install(tree: &Tree, op: &PackagesOp) -> Result<(), HandError> {
    let command = command(op);
    let stock = stock(tree, op)?;
    let names: Vec<&str> = stock.comes.iter().map(|(name, _)| name.as_str()).collect();
    let driver = stock.comes.iter().find(|(name, _)| name.contains("-dkms") && name.starts_with("nvidia-"));
    let release = tree.value("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut touched: Vec<String> = vec![STATUS.into(), AUTO.into()];
    touched.extend(["/usr/bin/gcc", "/usr/bin/make"].map(String::from));
    for kernel in names.iter().filter_map(|name| name.strip_prefix("linux-headers-")) {
        touched.extend([format!("/usr/src/linux-headers-{kernel}/Makefile"), format!("/lib/modules/{kernel}/build")]);
    }
    if let Some((_, version)) = driver {
        touched.extend(physics::driver_paths(version, &release));
    }
    let mut was: BTreeMap<String, Was> = touched.iter().map(|path| (path.clone(), look(tree, path))).collect();
    for path in &touched {
        let parents =
            path.match_indices('/').map(|(at, _)| &path[..at]).filter(|dir| !dir.is_empty() && !tree.has(dir));
        was.extend(parents.map(|dir| (dir.to_owned(), Was::NoDirectory)));
    }
    // As dpkg does, the record is there before the first file.
    tree.store("packages.json", &was).map_err(|error| broken(&command, error))?;
    let done = || {
        add(tree, &stock, op)?;
        physics::unpack_packages(tree, &names)?;
        match driver {
            Some((_, version)) => physics::unpack_driver(tree, version, &release),
            None => Ok(()),
        }
    };
    done().map_err(|error: PhysicsError| broken(&command, error))?;
    let Some(builds) = &op.builds else { return Ok(()) };
    let dep = tree.text(&format!("/lib/modules/{}/modules.dep", builds.release));
    if !dep.lines().any(|line| line.contains("/nvidia.ko")) {
        let message = format!("the packages were installed, but no module nvidia was built for {}", builds.release);
        return Err(no(&format!("dkms autoinstall -k {}", builds.release), message));
    }
    Ok(())
}

/// The packages' stanzas, and apt's marks for those that nobody named.
fn add(tree: &Tree, stock: &Stock, op: &PackagesOp) -> Result<(), PhysicsError> {
    let (mut status, mut auto) = (tree.text(STATUS), tree.text(AUTO));
    for (name, version) in &stock.comes {
        status.push_str(&format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n"
        ));
        if !op.install.contains(name) {
            auto.push_str(&format!("Package: {name}\nArchitecture: amd64\nAuto-Installed: 1\n\n"));
        }
    }
    tree.write(STATUS, status)?;
    tree.write(AUTO, auto)
}

fn look(tree: &Tree, path: &str) -> Was {
    if let Some(target) = tree.root.link(path).is() {
        return Was::Link(target);
    }
    match tree.root.text(path).is() {
        Some(text) => Was::File { text, mode: tree.root.stat(path).is().map_or(0o644, |stat| stat.mode) },
        None => Was::Absent,
    }
}

/// Puts back what was there, but keeps what others installed since.
pub(crate) fn unstock(tree: &Tree, op: &PackagesOp, stock: &Stock) -> Result<Vec<String>, HandError> {
    let command = op.manager.purge(&op.install).join(" ");
    let ours = stock.brought(&installed(tree));
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let back = || {
        let was: BTreeMap<String, Was> = tree.stored("packages.json").unwrap_or_default();
        for (path, was) in &was {
            match was {
                _ if path == STATUS || path == AUTO => {
                    let left = without(&tree.text(path), &ours);
                    if left.is_empty() && matches!(was, Was::Absent) {
                        tree.remove(path)?;
                    } else {
                        tree.write(path, left)?;
                    }
                }
                Was::Absent => tree.remove(path)?,
                Was::NoDirectory => {}
                Was::Link(target) => tree.link(path, target)?,
                Was::File { text, mode } => tree.write_mode(path, text, *mode)?,
            }
        }
        // the deepest first; what others have put in stays
        for (path, _) in was.iter().rev().filter(|(_, was)| matches!(was, Was::NoDirectory)) {
            tree.remove_empty(path)?;
        }
        tree.remove(&format!("{}/packages.json", machine::SIM_DIR))
    };
    back().map_err(|error: PhysicsError| broken(&command, error))?;
    Ok(Vec::new())
}

/// A file of stanzas without those of these packages.
fn without(text: &str, names: &[String]) -> String {
    let keep = |stanza: &&str| {
        let name = stanza.lines().find_map(|line| line.strip_prefix("Package: "));
        !name.is_some_and(|name| names.iter().any(|gone| gone == name))
    };
    text.split_inclusive("\n\n").filter(keep).collect()
}
