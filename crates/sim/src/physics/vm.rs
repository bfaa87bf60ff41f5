//! A VM's start on Proxmox VE: what is refused, what the host loses, what the guest gets.

use std::path::Path;

use machine::MachineExt as _;
use model::Bdf;

use super::{Boot, PhysicsError, boot};
use crate::pci::Pci;
use crate::tree::Tree;

/// A VM that was started.
#[derive(Clone, Debug, PartialEq)]
pub struct Vm {
    pub vmid: u32,
    pub pid: u32,
    /// The functions that it has, with their addresses on the host.
    pub functions: Vec<Pci>,
    /// The OEM strings of its SMBIOS, in the order of its arguments.
    pub oem_strings: Vec<String>,
    /// What the firmware shows when it cannot start the guest's loader; the guest then does not run.
    pub screen: Option<String>,
    /// Host drivers that lost a device to the start: "0000:22:00.0 r8169".
    pub host_lost: Vec<String>,
    /// What the start's log says beside it.
    pub messages: Vec<String>,
}

const CONF: &str = "/etc/pve/qemu-server";

fn refused<T>(message: impl Into<String>) -> Result<T, PhysicsError> {
    Err(PhysicsError::Refused(message.into()))
}

/// The current part of a VM's file: key and value, in order.
fn conf(tree: &Tree, vmid: u32) -> Option<Vec<(String, String)>> {
    let text = tree.root.text(&format!("{CONF}/{vmid}.conf")).is()?;
    let main = text.lines().take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
    let pairs = main.filter_map(|line| line.split_once(':'));
    Some(pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect())
}

fn of<'a>(conf: &'a [(String, String)], key: &str) -> Option<&'a str> {
    conf.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

/// `default,key=value,…`: one property.
fn property<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split(',').find_map(|part| part.split_once('=').filter(|(k, _)| *k == key).map(|(_, value)| value))
}

fn on(value: Option<&str>) -> bool {
    matches!(value, Some("1" | "on" | "yes" | "true"))
}

/// The functions that the `hostpciN` lines name, each device's own together.
fn wanted(conf: &[(String, String)], all: &[Pci]) -> Result<Vec<Vec<Pci>>, PhysicsError> {
    let mut devices = Vec::new();
    for (key, value) in conf.iter().filter(|(key, _)| key.starts_with("hostpci")) {
        let host = value.split(',').next().unwrap_or_default();
        let host = property(value, "host").unwrap_or(host.trim_start_matches("host="));
        let mut functions: Vec<Pci> = Vec::new();
        for address in host.split(';') {
            let whole = !address.contains('.');
            let text = if whole { format!("{address}.0") } else { address.to_owned() };
            let Ok(bdf) = text.parse::<Bdf>() else { return refused(format!("{key}: unable to parse \"{address}\"")) };
            let found: Vec<&Pci> =
                all.iter().filter(|f| if whole { f.bdf.same_slot(&bdf) } else { f.bdf == bdf }).collect();
            if found.is_empty() {
                return refused(format!("no PCI device found for '{address}'"));
            }
            functions.extend(found.into_iter().cloned());
        }
        devices.push(functions);
    }
    let mut seen: Vec<Bdf> = Vec::new();
    for function in devices.iter().flatten() {
        if seen.contains(&function.bdf) {
            return refused(format!("device '{}' assigned more than once", function.bdf));
        }
        seen.push(function.bdf);
    }
    Ok(devices)
}

/// Starts a VM as `qm start` does.
pub fn start_vm(host: &Path, vmid: u32) -> Result<Vm, PhysicsError> {
    let tree = Tree::open(host)?;
    let Some(conf) = conf(&tree, vmid) else {
        return refused(format!("Configuration file 'nodes/pve/qemu-server/{vmid}.conf' does not exist"));
    };
    if tree.has(&format!("/run/qemu-server/{vmid}.pid")) {
        return refused(format!("VM {vmid} already running"));
    }
    let all = tree.functions()?;
    let devices = wanted(&conf, &all)?;
    let given: Vec<Pci> = devices.iter().flatten().cloned().collect();
    let oem_strings = oem_strings(of(&conf, "args").unwrap_or_default());
    let mut vm = Vm {
        vmid,
        pid: 40_000 + vmid,
        functions: given,
        oem_strings,
        screen: None,
        host_lost: vec![],
        messages: vec![],
    };
    if !vm.functions.is_empty() {
        pass_through(&tree, &conf, &mut vm)?;
    }
    if of(&conf, "bios") == Some("ovmf") {
        match of(&conf, "efidisk0") {
            None => vm.messages.push("WARN: no efidisk configured! Using temporary efivars disk.".into()),
            Some(disk) if on(property(disk, "pre-enrolled-keys")) && property(disk, "efitype") == Some("4m") => {
                vm.screen = Some(
                    "bdsdxe: failed to load Boot0001 \"UEFI QEMU QEMU HARDDISK \" from \
                     PciRoot(0x0)/Pci(0x1E,0x0)/Pci(0x1,0x0)/Pci(0x5,0x0)/Scsi(0x0,0x0): Access Denied"
                        .into(),
                );
            }
            Some(_) => {}
        }
    }
    run(&tree, &conf, &vm)?;
    Ok(vm)
}

/// What QEMU makes of `-smbios type=11,value=…`, which may stand several times and with several values.
fn oem_strings(args: &str) -> Vec<String> {
    let words: Vec<&str> = args.split_whitespace().collect();
    let options = words.windows(2).filter(|pair| pair[0] == "-smbios").map(|pair| pair[1]);
    let type_11 = options.filter(|option| option.split(',').any(|part| part == "type=11"));
    type_11
        .flat_map(|option| option.split(','))
        .filter_map(|part| part.strip_prefix("value="))
        .map(str::to_owned)
        .collect()
}

/// SMBIOS's table as QEMU's firmware hands it to the guest: system information, the OEM strings if there are any, the end.
fn dmi(vm: &Vm) -> Vec<u8> {
    let mut table = vec![1, 27, 0, 1, 1, 2];
    table.extend([0; 21]);
    table.extend(b"QEMU\0Standard PC (Q35 + ICH9, 2009)\0\0");
    if !vm.oem_strings.is_empty() {
        table.extend([11, 5, 0, 0x0e, vm.oem_strings.len() as u8]);
        for text in &vm.oem_strings {
            table.extend(text.bytes());
            table.push(0);
        }
        table.push(0);
    }
    table.extend([127, 4, 0, 0x7f, 0, 0]);
    table
}

/// What Proxmox VE and QEMU do with the host's functions, or why not.
fn pass_through(tree: &Tree, conf: &[(String, String)], vm: &mut Vm) -> Result<(), PhysicsError> {
    let q35 = of(conf, "machine").is_some_and(|machine| machine.contains("q35"));
    let pcie = conf.iter().any(|(key, value)| key.starts_with("hostpci") && on(property(value, "pcie")));
    if pcie && !q35 {
        return refused("q35 machine model is not enabled");
    }
    if tree.root.names("/sys/class/iommu").is_empty() {
        return refused("cannot prepare PCI pass-through, IOMMU not present");
    }
    for pid in tree.root.names("/run/qemu-server") {
        let Some(other) = pid.strip_suffix(".pid") else { continue };
        let pid = tree.value(&format!("/run/qemu-server/{pid}")).unwrap_or_default();
        let cmdline = tree.text(&format!("/proc/{pid}/cmdline"));
        if let Some(taken) = vm.functions.iter().find(|f| cmdline.contains(&format!("host={}", f.bdf))) {
            return refused(format!("PCI device '{}' already in use by VMID '{other}'", taken.bdf));
        }
    }
    let remapping = interrupt_remapping(tree);
    let parameter = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    if !remapping && tree.value(parameter).as_deref() != Some("Y") {
        let first = vm.functions.first().map(|f| f.bdf.to_string()).unwrap_or_default();
        return refused(format!(
            "vfio {first}: failed to setup container for group: Failed to set iommu for container: Operation not permitted"
        ));
    }
    let groups: Vec<Option<u32>> = vm.functions.iter().map(|function| function.group).collect();
    let mut functions = tree.functions()?;
    // Proxmox VE binds every member of the group that is no bridge, wanted or not.
    for function in functions.iter_mut() {
        let member = function.group.is_some() && groups.contains(&function.group);
        if !member || function.bridge || function.driver == "vfio-pci" {
            continue;
        }
        if function.driver_override.as_deref().is_some_and(|driver| driver != "vfio-pci") {
            return refused(format!("can't unbind/bind PCI group to VFIO '{}'", function.bdf));
        }
        if !function.driver.is_empty() && !vm.functions.iter().any(|f| f.bdf == function.bdf) {
            vm.host_lost.push(format!("{} {}", function.bdf, function.driver));
        }
        function.driver = "vfio-pci".into();
    }
    let boot_framebuffer = tree.text("/proc/iomem").contains("BOOTFB");
    if let Some(card) = vm.functions.iter().find(|f| f.boot_vga == Some(true)).filter(|_| boot_framebuffer) {
        vm.messages.push(format!("vfio-pci {}: BAR 1: can't reserve [mem 64bit pref]", card.bdf));
    }
    super::bind(tree, |now| *now = functions)?;
    let vfio = ["vfio", "vfio_pci", "vfio_iommu_type1"].map(String::from);
    tree.set_modules(&[], &vfio)
}

/// Intel: bit 3 of the extended capabilities; AMD: always. Either can be switched off on the command line.
fn interrupt_remapping(tree: &Tree) -> bool {
    let cmdline = tree.text("/proc/cmdline");
    if cmdline.split_whitespace().any(|token| token == "intremap=off" || token == "nointremap") {
        return false;
    }
    tree.root.names("/sys/class/iommu").iter().all(|unit| {
        match tree.value(&format!("/sys/class/iommu/{unit}/intel-iommu/ecap")) {
            Some(ecap) => u64::from_str_radix(&ecap, 16).is_ok_and(|ecap| ecap & 8 != 0),
            None => true,
        }
    })
}

/// The process, as the host sees it.
fn run(tree: &Tree, conf: &[(String, String)], vm: &Vm) -> Result<(), PhysicsError> {
    let name = of(conf, "name").unwrap_or("vm");
    let machine = of(conf, "machine").unwrap_or("pc");
    let mut words = vec![
        "/usr/bin/kvm".to_owned(),
        "-id".into(),
        vm.vmid.to_string(),
        "-name".into(),
        name.into(),
        "-machine".into(),
        format!("type={machine}+pve0"),
    ];
    if of(conf, "bios") == Some("ovmf") {
        let code = match of(conf, "efidisk0").and_then(|disk| property(disk, "efitype")) {
            Some("4m") if machine.contains("q35") => "OVMF_CODE_4M.secboot.fd",
            Some("4m") => "OVMF_CODE_4M.fd",
            _ => "OVMF_CODE.fd",
        };
        let disk = of(conf, "efidisk0").and_then(|disk| disk.split(',').next()?.rsplit(':').next());
        let vars = disk.map_or(format!("/tmp/{}-ovmf.fd", vm.vmid), |volume| format!("/dev/pve/{volume}"));
        for drive in [
            format!("if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/pve-edk2-firmware//{code}"),
            format!("if=pflash,unit=1,format=raw,id=drive-efidisk0,file={vars}"),
        ] {
            words.extend(["-drive".into(), drive]);
        }
    }
    words.extend(["-m".into(), of(conf, "memory").unwrap_or("512").into()]);
    let many = vm.functions.len() > 1;
    for (at, function) in vm.functions.iter().enumerate() {
        words.push("-device".into());
        let first = if many && at == 0 { ",multifunction=on" } else { "" };
        words
            .push(format!("vfio-pci,host={},id=hostpci0.{at},bus=ich9-pcie-port-1,addr=0x0.{at}{first}", function.bdf));
    }
    // Proxmox VE puts the words of args last
    words.extend(of(conf, "args").unwrap_or_default().split_whitespace().map(str::to_owned));
    let mut cmdline = words.join("\0");
    cmdline.push('\0');
    let dir = format!("/proc/{}", vm.pid);
    tree.write(&format!("{dir}/cmdline"), cmdline)?;
    tree.write(&format!("{dir}/comm"), "kvm\n")?;
    tree.write(&format!("{dir}/cgroup"), format!("0::/qemu.slice/{}.scope\n", vm.vmid))?;
    tree.write(&format!("{dir}/status"), format!("Name:\tkvm\nState:\tS (sleeping)\nPid:\t{}\n", vm.pid))?;
    let groups = vm.functions.iter().filter_map(|function| function.group);
    for (at, group) in groups.collect::<std::collections::BTreeSet<u32>>().into_iter().enumerate() {
        tree.link(&format!("{dir}/fd/{}", 20 + at), &format!("/dev/vfio/{group}"))?;
    }
    tree.write(&format!("/run/qemu-server/{}.pid", vm.vmid), format!("{}\n", vm.pid))
}

/// Stops a VM. Proxmox VE gives nothing back: the functions stay with vfio-pci.
pub fn stop_vm(host: &Path, vmid: u32) -> Result<(), PhysicsError> {
    let tree = Tree::open(host)?;
    let file = format!("/run/qemu-server/{vmid}.pid");
    let Some(pid) = tree.value(&file) else { return refused(format!("VM {vmid} not running")) };
    tree.remove(&format!("/proc/{pid}"))?;
    tree.remove(&file)
}

/// No VM survives its host's boot.
pub(crate) fn forget(tree: &Tree) -> Result<(), PhysicsError> {
    for file in tree.root.names("/run/qemu-server") {
        let file = format!("/run/qemu-server/{file}");
        if let Some(pid) = tree.value(&file).filter(|pid| pid.parse::<u32>().is_ok()) {
            tree.remove(&format!("/proc/{pid}"))?;
        }
        tree.remove(&file)?;
    }
    Ok(())
}

/// Boots the guest's own tree with the VM's functions behind its first root port: 01:00.0, 01:00.1, …
pub fn plug_into(guest: &Path, vm: &Vm) -> Result<Boot, PhysicsError> {
    if let Some(screen) = &vm.screen {
        return refused(screen.clone());
    }
    let tree = Tree::open(guest)?;
    let mut hardware = tree.hardware()?;
    let port = Bdf::new(0, 0, 0x1c, 0);
    hardware.pci.retain(|function| function.bdf.bus != 1);
    for (at, function) in vm.functions.iter().enumerate() {
        let mut inside = function.clone();
        inside.native = Some(match function.native() {
            native if native == "vfio-pci" => String::new(),
            native => native,
        });
        inside.driver = String::new();
        inside.driver_override = None;
        inside.group = None;
        inside.bdf = Bdf::new(0, 1, 0, at as u8);
        inside.behind = hardware.pci.iter().any(|f| f.bdf == port).then_some(port);
        inside.boot_vga = function.boot_vga.map(|_| false);
        inside.numa = -1;
        inside.bars = function.bars.iter().map(|bar| bar.split(" at ").next().unwrap_or(bar).to_owned()).collect();
        hardware.pci.push(inside);
    }
    hardware.pci.sort_by_key(|function| function.bdf);
    tree.set_hardware(&hardware)?;
    tree.write_mode("/sys/firmware/dmi/tables/DMI", dmi(vm), 0o400)?;
    drop(tree);
    boot(guest)
}
