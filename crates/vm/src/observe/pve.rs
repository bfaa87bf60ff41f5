//! Proxmox VE: the node, its storages, mappings and machines' files.

use formats::hint::in_args;
use formats::propstr::{PropStr, boolean};
use formats::pveconf::{Conf, Entry, sections};
use formats::qemuargs::QemuArgs;
use gpu::Inventory;
use machine::{Kind, Machine, MachineExt};
use model::{Bdf, Digest, Reason, Seen, Source};
use sha1::Digest as _;

use super::procs::Procs;
use super::vars;
use crate::hint::settings;
use crate::{Backup, Efidisk, Given, Mapping, MappingEntry, Pve, Running, Setting, Storage, Vm, VmKind};

const MAPPING: &str = "/etc/pve/mapping/pci.cfg";

/// Is: this is a Proxmox VE node whose configuration file system can be looked at.
pub fn observe(machine: &dyn Machine) -> Seen<Pve> {
    let version = version(machine);
    match machine.list("/etc/pve") {
        Seen::Is(names) if names.is_empty() && version.is_there() => {
            return Seen::Unreadable(Reason::Other("is empty: pve-cluster does not run here".into()));
        }
        Seen::Is(names) if !names.is_empty() => {}
        Seen::Unreadable(reason) if version.is_there() => return Seen::Unreadable(reason),
        _ if version.is_there() => {
            return Seen::Unreadable(Reason::Other("is not there, though Proxmox VE is installed".into()));
        }
        _ => return Seen::Absent,
    }
    let node = match machine.link_name("/etc/pve/local") {
        Seen::Is(name) => Seen::Is(name),
        _ => machine.value("/etc/hostname"),
    };
    let storages = machine.text("/etc/pve/storage.cfg").is().unwrap_or_default();
    let storages = sections(&storages).into_iter().filter(|one| one.get("disable").is_none()).map(|one| Storage {
        // a storage without `content` may hold images and container roots
        images: one.get("content").is_none_or(|content| content.split(',').any(|word| word.trim() == "images")),
        dir: vars::dir(&one),
        id: one.id,
        kind: one.kind,
    });
    Seen::Is(Pve { version, node, storages: storages.collect(), backups: backups(machine) })
}

/// pve-manager's version, from dpkg's own list.
fn version(machine: &dyn Machine) -> Seen<String> {
    let status = machine.text("/var/lib/dpkg/status");
    status.and_then(|text| Seen::from(formats::dpkg::installed(&text, "pve-manager")))
}

fn backups(machine: &dyn Machine) -> Vec<Backup> {
    let text = machine.text("/etc/pve/jobs.cfg").is().unwrap_or_default();
    let jobs = sections(&text).into_iter().filter(|job| job.kind == "vzdump");
    let jobs = jobs.filter(|job| job.get("enabled").and_then(boolean) != Some(false));
    jobs.filter_map(|job| {
        let vms = if job.get("all").and_then(boolean) == Some(true) {
            None
        } else {
            Some(job.get("vmid")?.split([',', ' ', ';']).filter_map(|id| id.trim().parse().ok()).collect())
        };
        let mode = job.get("mode").unwrap_or("snapshot").trim().to_owned();
        Some(Backup { vms, mode, line: job.line, id: job.id })
    })
    .collect()
}

/// /etc/pve/mapping/pci.cfg.
pub fn mappings(machine: &dyn Machine) -> Seen<Vec<Mapping>> {
    machine.text(MAPPING).map(|text| {
        let entries = |section: formats::pveconf::Section| {
            let maps = section.props.iter().filter(|(key, _, _)| key == "map");
            let entries = maps.filter_map(|(_, value, line)| {
                let props = PropStr::parse(value);
                let word = |key: &str| props.get(key).map(str::to_owned);
                Some(MappingEntry {
                    node: word("node")?,
                    path: word("path")?,
                    id: word("id"),
                    subsystem: word("subsystem-id"),
                    group: props.get("iommugroup").and_then(|group| group.parse().ok()),
                    line: *line,
                })
            });
            Mapping { entries: entries.collect(), id: section.id.clone() }
        };
        sections(&text).into_iter().map(entries).collect()
    })
}

/// The machines of this node.
pub fn vms(
    machine: &dyn Machine,
    node: &Pve,
    mappings: &[Mapping],
    gpus: &Inventory,
    procs: &Procs,
    vms: &mut Vec<Vm>,
    unread: &mut Vec<(Source, Reason)>,
) {
    let by_node = node.node.get().map(|name| format!("/etc/pve/nodes/{name}/qemu-server"));
    let mut dir = "/etc/pve/qemu-server".to_owned();
    let names = match (machine.list(&dir), by_node) {
        (Seen::Is(names), _) => Seen::Is(names),
        // a copied tree without pmxcfs's links
        (Seen::Absent | Seen::Unreadable(_), Some(other)) => {
            let names = machine.list(&other);
            dir = other;
            names
        }
        (names, None) => names,
    };
    let names = match names {
        Seen::Is(names) => names,
        Seen::Absent => return,
        Seen::Unreadable(reason) => return unread.push((Source::file(dir), reason)),
    };
    let mut ids: Vec<u32> = names.iter().filter_map(|name| name.strip_suffix(".conf")?.parse().ok()).collect();
    ids.sort_unstable();
    for vmid in ids {
        let path = format!("{dir}/{vmid}.conf");
        let bytes = match machine.read(&path) {
            Seen::Is(bytes) => bytes,
            // moved to another node meanwhile
            Seen::Absent => continue,
            Seen::Unreadable(reason) => {
                unread.push((Source::file(path), reason));
                continue;
            }
        };
        let conf = match Conf::parse(&bytes) {
            Ok(conf) => conf,
            Err(bad) => {
                let reason = Reason::Malformed(format!("{path}:{}: {}", bad.line, bad.message));
                unread.push((Source::line(path, bad.line), reason));
                continue;
            }
        };
        let pid = machine.number(&format!("/run/qemu-server/{vmid}.pid"));
        let pid = pid.and_then(|pid| Seen::from(u32::try_from(pid).ok()));
        let mut vm = read(vmid, path, bytes, conf, node, mappings, gpus);
        vm.real_path = machine.resolve(&vm.path).is().unwrap_or_else(|| vm.path.clone());
        vm.running = match pid {
            // an API tells that it runs, and not with what
            Seen::Unreadable(reason) if machine.kind() == Kind::Remote => Running::Unknown(reason),
            // the pid file is what Proxmox VE itself goes by
            Seen::Absent if machine.kind() == Kind::Remote => Running::No,
            pid => procs.find(pid, |args| args.id == Some(vmid)),
        };
        let disk = vm.efidisk.as_ref().filter(|_| vm.uefi && !vm.given.is_empty() && vm.running == Running::No);
        vm.vars = disk.map(|disk| vars::of_disk(machine, &node.storages, &disk.volume));
        vms.push(vm);
    }
}

fn read(vmid: u32, path: String, bytes: Vec<u8>, conf: Conf, node: &Pve, mappings: &[Mapping], gpus: &Inventory) -> Vm {
    let word = |key: &str| conf.get(key).map(|entry| Setting { value: entry.value.to_owned(), line: Some(entry.line) });
    let first = |key: &str, name: &str| {
        let entry = conf.get(key)?;
        let value = PropStr::parse(entry.value).default_or(name)?.to_owned();
        Some(Setting { value, line: Some(entry.line) })
    };
    let flag = |key: &str| {
        let entry = conf.get(key)?;
        Some(Setting { value: boolean(entry.value)?, line: Some(entry.line) })
    };
    let machine = first("machine", "type");
    let firmware = word("bios");
    let uefi = firmware.as_ref().is_some_and(|bios| bios.value == "ovmf");
    let efidisk = conf.get("efidisk0").map(|entry| {
        let props = PropStr::parse(entry.value);
        Efidisk {
            volume: props.default_or("file").unwrap_or_default().to_owned(),
            efitype: props.get("efitype").unwrap_or("2m").to_owned(),
            // the older firmware has no Secure Boot, whatever its disk was made with
            enrolled: props.bool("pre-enrolled-keys") == Some(true) && props.get("efitype") == Some("4m"),
            certs: props.get("ms-cert").map(str::to_owned),
            line: entry.line,
        }
    });
    let kvm_hidden = conf.get("cpu").and_then(|cpu| PropStr::parse(cpu.value).bool("hidden")) == Some(true);
    let enrolled_keys = efidisk.as_ref().filter(|_| uefi);
    let enrolled_keys = enrolled_keys.map(|disk| Setting { value: disk.enrolled, line: Some(disk.line) });
    let memory = first("memory", "current")
        .and_then(|memory| Some(Setting { value: memory.value.parse().ok()?, line: memory.line }));
    let balloon = conf.get("balloon").map(|entry| Setting { value: entry.value != "0", line: Some(entry.line) });
    let q35 = machine.as_ref().is_some_and(|machine| machine.value.contains("q35"));
    let is_disk = |entry: &Entry<'_>| {
        let digits = entry.key.strip_prefix("scsi").unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let scsi_disks = conf.current().any(|entry| is_disk(&entry));
    let mut given: Vec<Given> = conf.current().filter_map(|entry| hostpci(entry, q35, node, mappings, gpus)).collect();
    given.extend(conf.get("args").into_iter().filter_map(from_args));
    let mut pending: Vec<_> = conf
        .pending()
        .into_iter()
        .map(|entry| (entry.key.to_owned(), Some(entry.value.to_owned()), Some(entry.line)))
        .collect();
    pending.extend(conf.pending_deletes().into_iter().map(|key| (key, None, None)));
    // what waits for a stop and start is what the next start tells
    let args = conf.pending().into_iter().find(|entry| entry.key == "args").or(conf.get("args"));
    let args = args.filter(|_| !conf.pending_deletes().iter().any(|key| key == "args"));
    let hints = args.map(|entry| settings(in_args(entry.value), Some(entry.line))).unwrap_or_default();
    let vga_none = first("vga", "type").is_some_and(|vga| vga.value == "none");
    let vga = conf.get("vga").is_some() && !vga_none;
    let flagged = |key: &str| flag(key).is_some_and(|one| one.value);
    Vm {
        kind: VmKind::Proxmox,
        id: vmid.to_string(),
        name: conf.get("name").map(|name| name.value.to_owned()).unwrap_or_default(),
        real_path: path.clone(),
        path,
        digest: Digest::of(&bytes),
        sha1: sha1::Sha1::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        template: flagged("template"),
        lock: word("lock"),
        q35,
        machine,
        firmware,
        uefi,
        efidisk,
        enrolled_keys,
        vars: None,
        kvm_hidden,
        cpu: first("cpu", "cputype"),
        memory: memory.unwrap_or(Setting { value: 512, line: None }),
        balloon: balloon.unwrap_or(Setting { value: true, line: None }),
        onboot: flag("onboot"),
        scsihw: word("scsihw"),
        scsi_disks,
        console: vga || conf.get("serial0").is_some(),
        ostype: conf.get("ostype").map(|entry| entry.value.to_owned()),
        given,
        pending,
        hints,
        snapshots: conf.snapshots().into_iter().map(str::to_owned).collect(),
        running: Running::No,
        bytes,
        conf: Some(conf),
        domain: None,
    }
}

/// `hostpciN: [host=]ADDRESS[;ADDRESS]|mapping=ID[,pcie=1][,x-vga=1]…`
fn hostpci(entry: Entry<'_>, q35: bool, node: &Pve, mappings: &[Mapping], gpus: &Inventory) -> Option<Given> {
    let slot: u8 = entry.key.strip_prefix("hostpci")?.parse().ok()?;
    if slot > 15 {
        return None;
    }
    let props = PropStr::parse(entry.value);
    let mapping = props.get("mapping").map(str::to_owned);
    let mut paths: Vec<&str> = Vec::new();
    if let Some(id) = &mapping {
        let entries = mappings.iter().filter(|known| known.id == *id).flat_map(|known| &known.entries);
        let here = entries.filter(|map| node.node.get().is_none_or(|name| *name == map.node));
        paths.extend(here.flat_map(|map| map.path.split(';')));
    } else {
        paths.extend(props.default_or("host")?.split(';'));
    }
    let mut functions = Vec::new();
    let mut whole = !paths.is_empty();
    for path in paths {
        let (found, all) = addresses(path, gpus);
        functions.extend(found);
        whole &= all;
    }
    Some(Given {
        key: entry.key.to_owned(),
        line: Some(entry.line),
        text: entry.value.to_owned(),
        functions,
        whole,
        mapping,
        pcie: q35 && props.bool("pcie").unwrap_or(false),
        x_vga: props.bool("x-vga").unwrap_or(false),
        romfile: props.get("romfile").map(|name| format!("/usr/share/kvm/{name}")),
    })
}

/// The functions that an address means, and whether it means a whole slot.
fn addresses(path: &str, gpus: &Inventory) -> (Vec<Bdf>, bool) {
    let path = path.trim();
    if path.contains('.') {
        return (path.parse().into_iter().collect(), false);
    }
    let Ok(first) = format!("{path}.0").parse::<Bdf>() else { return (Vec::new(), false) };
    let mut all: Vec<Bdf> =
        gpus.functions.iter().map(|function| function.bdf).filter(|bdf| bdf.same_slot(&first)).collect();
    if !all.contains(&first) {
        all.insert(0, first);
    }
    (all, true)
}

/// `args: -device vfio-pci,host=…`: what goes round the hostpci lines.
fn from_args(entry: Entry<'_>) -> Option<Given> {
    let words: Vec<&str> = entry.value.split_whitespace().collect();
    let functions: Vec<Bdf> = QemuArgs::from_args(&words).vfio.iter().filter_map(|device| device.host).collect();
    (!functions.is_empty()).then(|| Given {
        key: "args".into(),
        line: Some(entry.line),
        text: entry.value.to_owned(),
        functions,
        whole: false,
        mapping: None,
        pcie: false,
        x_vga: false,
        romfile: None,
    })
}
