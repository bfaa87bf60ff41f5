//! The journal's hands on a simulated machine: generators, services, sysfs, the hypervisor and the cluster do to the
//! tree what the real ones do to a machine.

use std::path::{Path, PathBuf};

use journal::{HandError, Hands, Stock};
use machine::{Answer, Engine, MachineExt as _, Question};
use model::{ArgsTool, Bdf, Op, PackagesOp, ServiceVerb, Tool};
use serde_json::{Value, json};

use crate::physics::{self, PhysicsError, handover, loader};
use crate::tree::Tree;

/// Carries operations out on one laid-out tree.
pub struct SimHands {
    root: PathBuf,
}

impl SimHands {
    pub fn new(root: &Path) -> Self {
        SimHands { root: root.to_owned() }
    }

    fn tree(&self) -> Result<Tree, HandError> {
        Tree::open(&self.root).map_err(|error| failed("simulator", error))
    }
}

fn failed(command: &str, error: PhysicsError) -> HandError {
    match error {
        PhysicsError::Io { path, source } => HandError::Io { path, source },
        other => {
            HandError::Failed { command: command.into(), status: "exit status: 1".into(), message: other.to_string() }
        }
    }
}

fn no(command: &str, message: impl Into<String>) -> HandError {
    HandError::Failed { command: command.into(), status: "exit status: 1".into(), message: message.into() }
}

impl Hands for SimHands {
    fn act(&self, op: &Op) -> Result<(), HandError> {
        let tree = self.tree()?;
        match op {
            Op::WriteFile { path, .. } | Op::RemoveFile { path } | Op::Link { path, .. } => {
                Err(HandError::NotHere { what: path.clone(), why: "files are the journal's own work".into() })
            }
            Op::Sysfs { path, value, .. } => sysfs(&tree, path, value),
            Op::Service { unit, verb } => service(&tree, unit, *verb),
            Op::Regenerate(tool) => regenerate(&tree, tool),
            Op::KernelArgs { by, add, remove } => kernel_args(&tree, *by, add, remove),
            Op::Proxmox { vmid, set, delete, .. } => qm_set(&tree, *vmid, set, delete),
            Op::ProxmoxMapping { id, .. } => Err(api_only(id)),
            Op::Jellyfin(op) => Err(HandError::jellyfin(&op.url)),
            Op::Packages(op) => crate::packages::install(&tree, op),
            Op::RunFile(op) => Err(installer_only(&op.file.path)),
            Op::Kube(op) => crate::cluster::apply(&tree, op),
            Op::Bind(op) => handover::carry(&tree, op, &op.to),
            Op::Mig(op) => Err(nvml_only(op.bdf)),
            Op::EndProcess { pid, name, .. } => handover::end(&tree, *pid, name),
        }
    }

    fn take_back(&self, op: &Op) -> Result<(), HandError> {
        let tree = self.tree()?;
        match op {
            Op::WriteFile { .. } | Op::RemoveFile { .. } | Op::Link { .. } => self.act(op),
            Op::Sysfs { path, back, .. } => sysfs(&tree, path, back),
            Op::Service { unit, verb } => {
                let opposite = match verb {
                    ServiceVerb::Enable => ServiceVerb::Disable,
                    ServiceVerb::Disable => ServiceVerb::Enable,
                    ServiceVerb::Start => ServiceVerb::Stop,
                    ServiceVerb::Stop => ServiceVerb::Start,
                    same => *same,
                };
                service(&tree, unit, opposite)
            }
            Op::Regenerate(tool) => regenerate(&tree, tool),
            Op::KernelArgs { by, add, remove } => kernel_args(&tree, *by, remove, add),
            Op::Proxmox { vmid, set, before, .. } => {
                let new = set.iter().filter(|(key, _)| !before.iter().any(|(k, _)| k == key));
                let new: Vec<String> = new.map(|(key, _)| key.clone()).collect();
                qm_set(&tree, *vmid, before, &new)
            }
            Op::ProxmoxMapping { id, .. } => Err(api_only(id)),
            Op::Jellyfin(op) => Err(HandError::jellyfin(&op.url)),
            // The journal asks for this with what its log says of the time before.
            Op::Packages(_) => Ok(()),
            Op::RunFile(op) => Err(installer_only(&op.file.path)),
            Op::Kube(op) => crate::cluster::take_back(&tree, op),
            Op::Bind(op) => handover::carry(&tree, op, &op.from),
            Op::Mig(op) => Err(nvml_only(op.bdf)),
            Op::EndProcess { .. } => Ok(()),
        }
    }

    fn stock(&self, op: &PackagesOp) -> Result<Stock, HandError> {
        crate::packages::stock(&self.tree()?, op)
    }

    fn unstock(&self, op: &PackagesOp, before: &Stock) -> Result<Vec<String>, HandError> {
        crate::packages::unstock(&self.tree()?, op, before)
    }

    fn reboot(&self) -> Result<(), HandError> {
        physics::boot(&self.root).map(|_| ()).map_err(|error| failed("systemctl reboot", error))
    }
}

/// NVIDIA's installer is a program, and a simulated tree runs none.
fn installer_only(path: &str) -> HandError {
    HandError::NotHere { what: format!("running {path}"), why: "a simulated machine runs no program".into() }
}

/// A simulated tree has no NVML to cut by; the simulated libnvidia-ml has.
fn nvml_only(bdf: Bdf) -> HandError {
    HandError::NotHere { what: format!("cutting {bdf}"), why: "it is done by NVML, which a tree has not".into() }
}

fn api_only(id: &str) -> HandError {
    HandError::NotHere { what: format!("the mapping {id}"), why: "it is made by the API alone".into() }
}

fn kernel_args(tree: &Tree, by: ArgsTool, add: &[String], remove: &[String]) -> Result<(), HandError> {
    let command = by.paste(add, remove).join("; ");
    let there = match by {
        ArgsTool::Grubby => tree.has("/usr/sbin/grubby"),
        ArgsTool::Kernelstub => tree.has("/etc/kernelstub/configuration"),
        ArgsTool::RpmOstree => tree.has("/usr/bin/rpm-ostree"),
    };
    if !there {
        return Err(HandError::NotHere { what: command, why: "it is not installed on this machine".into() });
    }
    loader::kernel_args(tree, by, add, remove).map_err(|error| failed(&command, error))
}

fn regenerate(tree: &Tree, tool: &Tool) -> Result<(), HandError> {
    let command = tool.argv().join(" ");
    let missing = || HandError::NotHere { what: command.clone(), why: "it is not installed on this machine".into() };
    let there = |path: &str| tree.has(path);
    let done = match tool {
        Tool::UpdateGrub if there("/boot/grub/grub.cfg") => loader::update_grub(tree),
        Tool::GrubMkconfig if there("/boot/grub/grub.cfg") => loader::update_grub(tree),
        Tool::Grub2Mkconfig if there("/boot/grub2/grub.cfg") => loader::update_grub(tree),
        Tool::UpdateBootloader if there("/usr/sbin/update-bootloader") => loader::update_grub(tree),
        Tool::Sdbootutil if there("/usr/bin/sdbootutil") => loader::kernel_install(tree),
        Tool::Booster if there("/usr/bin/booster") => initramfs(tree),
        Tool::OstreeInitramfs if there("/run/ostree-booted") => initramfs(tree),
        Tool::UpdateInitramfs if there("/etc/initramfs-tools") => initramfs(tree),
        Tool::Dracut if there("/etc/dracut.conf.d") || there("/etc/dracut.conf") => initramfs(tree),
        Tool::Mkinitcpio if there("/etc/mkinitcpio.conf") => initramfs(tree),
        Tool::ProxmoxBootTool if loader::has_esps(tree) => loader::refresh(tree),
        Tool::KernelInstall if there("/boot/loader/entries") || loader::has_image(tree) => loader::kernel_install(tree),
        Tool::UdevReload => Ok(()),
        _ => return Err(missing()),
    };
    done.map_err(|error| failed(&command, error))
}

/// Every kernel's image is written again; where proxmox-boot-tool keeps ESPs, its hook refreshes them.
fn initramfs(tree: &Tree) -> Result<(), PhysicsError> {
    physics::snapshot(tree, None)?;
    for name in tree.root.names("/boot") {
        let path = format!("/boot/{name}");
        let image = is_image(&name);
        if image && machine::Machine::link(&tree.root, &path).is_absent() {
            tree.write(&path, tree.text(&path))?;
        }
    }
    if loader::has_esps(tree) || loader::has_image(tree) { loader::refresh(tree) } else { Ok(()) }
}

/// Debian's, dracut's and mkinitcpio's, SUSE's, booster's names.
pub(crate) fn is_image(name: &str) -> bool {
    ["initrd.img-", "initramfs-", "initrd-", "booster-"].iter().any(|start| name.starts_with(start))
}

const UNITS: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

fn service(tree: &Tree, unit: &str, verb: ServiceVerb) -> Result<(), HandError> {
    if verb == ServiceVerb::DaemonReload {
        return Ok(());
    }
    let full = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
    let word = format!("{verb:?}").to_ascii_lowercase();
    let command = format!("systemctl {word} {unit}");
    let mut units: Value = tree.stored("units.json").unwrap_or_else(|| json!({}));
    // systemd keeps a unit that runs, whatever becomes of its file
    let runs = || units.get(&full).and_then(|state| state.get("active")) == Some(&Value::Bool(true));
    let known = UNITS.iter().any(|dir| tree.has(&format!("{dir}/{full}")));
    if !known && (verb != ServiceVerb::Stop || !runs()) {
        return Err(no(&command, format!("Failed to {word} {full}: Unit {full} not found.")));
    }
    if matches!(verb, ServiceVerb::Enable | ServiceVerb::Disable) {
        links(tree, &full, verb == ServiceVerb::Enable).map_err(|error| failed(&command, error))?;
    }
    let Some(all) = units.as_object_mut() else { return Err(no(&command, "units.json is no object")) };
    let state = all.entry(full.clone()).or_insert_with(|| json!({"active": true, "enabled": true, "restarts": 0}));
    let restarts = state.get("restarts").and_then(Value::as_u64).unwrap_or(0);
    if let Some(state) = state.as_object_mut() {
        match verb {
            ServiceVerb::Enable | ServiceVerb::Disable => {
                state.insert("enabled".into(), (verb == ServiceVerb::Enable).into())
            }
            ServiceVerb::Stop => state.insert("active".into(), false.into()),
            ServiceVerb::Restart | ServiceVerb::Start | ServiceVerb::Reload => {
                state.insert("restarts".into(), (restarts + 1).into());
                state.insert("active".into(), true.into())
            }
            ServiceVerb::DaemonReload => None,
        };
    }
    let runs = match verb {
        ServiceVerb::Stop => Some(false),
        ServiceVerb::Start | ServiceVerb::Restart => Some(true),
        _ => None,
    };
    if let Some(runs) = runs {
        handover::unit(tree, &full, runs).map_err(|error| failed(&command, error))?;
    }
    if full == "systemd-modules-load.service" && matches!(verb, ServiceVerb::Restart | ServiceVerb::Start) {
        physics::load_listed(tree).map_err(|error| failed(&command, error))?;
    }
    if full == "docker.service" && matches!(verb, ServiceVerb::Restart | ServiceVerb::Start | ServiceVerb::Reload) {
        docker(tree, verb != ServiceVerb::Reload).map_err(|message| no(&command, message))?;
    }
    if full == "thruway-cdi-refresh.service" && matches!(verb, ServiceVerb::Restart | ServiceVerb::Start) {
        specs(tree).map_err(|message| no(&command, message))?;
    }
    tree.store("units.json", &units).map_err(|error| failed(&command, error))
}

/// What thruway's own service does first: the specs of the driver that runs.
fn specs(tree: &Tree) -> Result<(), String> {
    let cache = journal::cache::Cache::open(tree.root.path()).map_err(|error| error.to_string())?;
    let carried = cdi::carry_out(&tree.root, &cache, cdi::OUTPUT_DIR, &cdi::Options::default());
    carried.map(drop).map_err(|error| error.to_string())
}

/// The links that `WantedBy=` asks for (systemd.unit(5)).
fn links(tree: &Tree, unit: &str, enable: bool) -> Result<(), PhysicsError> {
    let Some(dir) = UNITS.iter().find(|dir| tree.has(&format!("{dir}/{unit}"))) else { return Ok(()) };
    let text = tree.text(&format!("{dir}/{unit}"));
    let targets = text.lines().filter_map(|line| line.strip_prefix("WantedBy=")).flat_map(str::split_whitespace);
    for target in targets {
        let link = format!("/etc/systemd/system/{target}.wants/{unit}");
        if enable {
            tree.link(&link, &format!("{dir}/{unit}"))?;
        } else {
            tree.remove(&link)?;
            // as systemctl does with a directory that it leaves empty
            tree.remove_empty(&format!("/etc/systemd/system/{target}.wants"))?;
        }
    }
    Ok(())
}

/// dockerd reads its configuration: from then on `docker info` shows the runtimes and the default; CDI from its next start
/// on alone, as the real one (26.1).
fn docker(tree: &Tree, starts: bool) -> Result<(), String> {
    let text = tree.text("/etc/docker/daemon.json");
    let text = if text.trim().is_empty() { "{}".to_owned() } else { text };
    let config: Value = serde_json::from_str(&text)
        .map_err(|error| format!("unable to configure the Docker daemon with file /etc/docker/daemon.json: {error}"))?;
    let question = Question::EngineInfo(Engine::Docker);
    let Some(Answer::Json(mut info)) = tree.answer(question) else { return Ok(()) };
    let given = config.get("runtimes").and_then(Value::as_object).cloned().unwrap_or_default();
    let default = config.get("default-runtime").and_then(Value::as_str).unwrap_or("runc");
    if default != "runc" && !given.contains_key(default) {
        return Err(format!("specified default runtime '{default}' does not exist"));
    }
    let known = info.get("Runtimes").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut runtimes = serde_json::Map::new();
    runtimes.extend(known.into_iter().filter(|(name, _)| name == "runc" || name.starts_with("io.containerd.")));
    runtimes.extend(given);
    let Some(all) = info.as_object_mut() else { return Ok(()) };
    all.insert("Runtimes".into(), Value::Object(runtimes));
    all.insert("DefaultRuntime".into(), default.into());
    // CDI: unknown before 25; a feature to be switched on until 27; on from 28.
    let version = all.get("ServerVersion").and_then(Value::as_str).unwrap_or_default();
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    let cdi = config.pointer("/features/cdi").and_then(Value::as_bool).unwrap_or(major >= 28);
    if !starts {
        // as it was at the start
    } else if major >= 25 && cdi {
        let dirs = config.get("cdi-spec-dirs").cloned().unwrap_or_else(|| json!(["/etc/cdi", "/var/run/cdi"]));
        all.insert("CDISpecDirs".into(), dirs);
    } else {
        all.shift_remove("CDISpecDirs");
    }
    tree.set_answer(question, Some(&Answer::Json(info))).map_err(|error| error.to_string())?;
    crate::cluster::kubelet(tree).map_err(|error| error.to_string())
}

/// A write to an attribute of a PCI function or of a driver.
fn sysfs(tree: &Tree, path: &str, value: &str) -> Result<(), HandError> {
    let command = format!("write \"{value}\" to {path}");
    let value = value.trim();
    let attribute = path.rsplit('/').next().unwrap_or_default();
    let address = path.split('/').rev().find_map(|part| part.parse::<Bdf>().ok());
    let refused = |message: &str| no(&command, message);
    if !tree.has(path) && attribute != "drivers_probe" && attribute != "unbind" {
        return Err(refused("No such file or directory"));
    }
    let functions = tree.functions().map_err(|error| failed(&command, error))?;
    let find = |bdf: Option<Bdf>| functions.iter().find(|f| Some(f.bdf) == bdf).cloned();
    let change: Box<dyn Fn(&mut crate::Pci)>;
    let target = match attribute {
        "driver_override" => {
            let wanted = (!value.is_empty() && value != "(null)").then(|| value.to_owned());
            change = Box::new(move |function| function.driver_override = wanted.clone());
            find(address)
        }
        "unbind" => {
            let named = find(value.parse().ok()).filter(|function| !function.driver.is_empty());
            change = Box::new(|function| function.driver.clear());
            named
        }
        "bind" => {
            let driver = path.rsplit('/').nth(1).unwrap_or_default().to_owned();
            let accepts = |f: &crate::Pci| f.driver_override.as_deref().map_or(f.native() == driver, |d| d == driver);
            let named = find(value.parse().ok()).filter(|function| function.driver.is_empty() && accepts(function));
            change = Box::new(move |function| function.driver = driver.clone());
            named
        }
        "drivers_probe" => {
            change = Box::new(|function| {
                if function.driver.is_empty() {
                    function.driver = function.driver_override.clone().unwrap_or_else(|| function.native());
                }
            });
            find(value.parse().ok())
        }
        _ => return tree.write(path, format!("{value}\n")).map_err(|error| failed(&command, error)),
    };
    let Some(target) = target else { return Err(refused("No such device")) };
    let changed =
        physics::bind(tree, |functions| functions.iter_mut().filter(|f| f.bdf == target.bdf).for_each(&change));
    changed.map_err(|error| failed(&command, error))
}

/// `qm set VMID --key value … --delete keys`, on the current part of the VM's file.
pub(crate) fn qm_set(tree: &Tree, vmid: u32, set: &[(String, String)], delete: &[String]) -> Result<(), HandError> {
    let command = format!("qm set {vmid}");
    let path = format!("/etc/pve/qemu-server/{vmid}.conf");
    let Some(text) = tree.root.text(&path).is() else {
        return Err(no(&command, format!("Configuration file 'nodes/pve/qemu-server/{vmid}.conf' does not exist")));
    };
    let end = text.find("\n[").map_or(text.len(), |at| at + 1);
    let (main, rest) = text.split_at(end);
    let mut notes: Vec<&str> = main.lines().filter(|line| line.starts_with('#')).collect();
    let mut lines: Vec<(String, String)> = main
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| !key.starts_with('#'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect();
    lines.retain(|(key, _)| !delete.contains(key));
    for (key, value) in set {
        lines.retain(|(k, _)| k != key);
        lines.push((key.clone(), allocate(&text, vmid, value)));
    }
    lines.sort();
    let mut out: Vec<String> = notes.drain(..).map(str::to_owned).collect();
    out.extend(lines.iter().map(|(key, value)| format!("{key}: {value}")));
    let mut out = out.join("\n") + "\n";
    if !rest.is_empty() {
        out.push('\n');
        out.push_str(rest);
    }
    tree.write(&path, out).map_err(|error| failed(&command, error))
}

/// `STORE:SIZE,…` asks for a new volume: the next free name of this VM.
fn allocate(conf: &str, vmid: u32, value: &str) -> String {
    let (volume, options) = value.split_once(',').map_or((value, ""), |(volume, options)| (volume, options));
    let Some((store, size)) = volume.split_once(':') else { return value.to_owned() };
    if size.is_empty() || !size.bytes().all(|b| b.is_ascii_digit()) {
        return value.to_owned();
    }
    let free =
        (0..).map(|n| format!("vm-{vmid}-disk-{n}")).find(|name| !conf.contains(name.as_str())).unwrap_or_default();
    let size = if options.contains("efitype=") { "4M".to_owned() } else { format!("{size}G") };
    let options = if options.is_empty() { String::new() } else { format!(",{options}") };
    format!("{store}:{free}{options},size={size}")
}
