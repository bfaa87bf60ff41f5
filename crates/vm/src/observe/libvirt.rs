//! libvirt: the domains of its QEMU driver.

use formats::domxml::Domain;
use formats::hint::PREFIX;
use machine::{Machine, MachineExt};
use model::{Digest, Reason, Seen, Source};

use super::procs::Procs;
use super::vars;
use crate::hint::settings;
use crate::{Given, Running, Setting, Vars, Vm, VmKind};

const DIR: &str = "/etc/libvirt/qemu";

/// Is: libvirt's QEMU driver is installed, and the unit that reads its definitions again on a reload.
pub fn observe(machine: &dyn Machine) -> Seen<Option<String>> {
    // One daemon for all drivers, or since libvirt 9 one for each.
    let units = [("/usr/sbin/virtqemud", "virtqemud.service"), ("/usr/sbin/libvirtd", "libvirtd.service")];
    let unit = units.iter().find(|(path, _)| machine.exists(path)).map(|(_, unit)| (*unit).to_owned());
    match machine.list(DIR) {
        Seen::Is(names) if unit.is_some() || names.iter().any(|name| name.ends_with(".xml")) => Seen::Is(unit),
        Seen::Is(_) | Seen::Absent => Seen::Absent,
        // a capture that never looked there, on a machine without libvirt
        Seen::Unreadable(Reason::NotCaptured) if unit.is_none() => Seen::Absent,
        Seen::Unreadable(reason) => Seen::Unreadable(reason),
    }
}

pub fn vms(machine: &dyn Machine, procs: &Procs, vms: &mut Vec<Vm>, unread: &mut Vec<(Source, Reason)>) {
    for file in machine.names(DIR).iter().filter(|name| name.ends_with(".xml")) {
        let path = format!("{DIR}/{file}");
        let bytes = match machine.read(&path) {
            Seen::Is(bytes) => bytes,
            Seen::Absent => continue,
            Seen::Unreadable(reason) => {
                unread.push((Source::file(path), reason));
                continue;
            }
        };
        match Domain::parse(&bytes) {
            Ok(domain) => {
                let autostart = machine.lstat(&format!("{DIR}/autostart/{file}")).is_there();
                let pid = machine.number(&format!("/run/libvirt/qemu/{}.pid", domain.name));
                let pid = pid.and_then(|pid| Seen::from(u32::try_from(pid).ok()));
                let name = domain.name.clone();
                let nvram = domain.nvram.clone();
                let mut vm = read(path, bytes, domain, autostart);
                vm.running = procs.find(pid, |args| args.name.as_deref() == Some(&name));
                if vm.uefi && !vm.given.is_empty() && vm.running == Running::No {
                    vm.vars = variables(machine, &nvram);
                }
                vms.push(vm);
            }
            Err(bad) => {
                let reason = Reason::Malformed(format!("{path}:{}: {}", bad.line, bad.message));
                unread.push((Source::line(path, bad.line), reason));
            }
        }
    }
}

/// The domain's own store; before its first start, the template that it will be made of.
fn variables(machine: &dyn Machine, (file, template): &(Option<String>, Option<String>)) -> Option<Vars> {
    let absolute = |path: &Option<String>| path.clone().filter(|path| path.starts_with('/'));
    let own = absolute(file).map(|path| vars::read(machine, path));
    match own {
        Some(own) if own.says != Seen::Absent => Some(own),
        own => absolute(template).map(|path| vars::read(machine, path)).or(own),
    }
}

fn read(path: String, bytes: Vec<u8>, domain: Domain, autostart: bool) -> Vm {
    let set = |value: Option<String>, tag: &str| value.map(|value| Setting { value, line: domain.line_of(tag) });
    let uefi = domain.is_uefi();
    let secure = domain.loader.as_ref().is_some_and(|loader| loader.secure);
    let keys = domain.enrolled_keys.or(secure.then_some(true));
    // without either word libvirt takes the first firmware that fits, which may have keys or not
    let enrolled_keys =
        keys.filter(|_| uefi).map(|value| Setting { value, line: domain.line_of("loader").or(domain.line_of("os")) });
    let cpu = match domain.cpu_mode.as_deref() {
        Some("host-passthrough" | "host-model" | "maximum") => Some("host".to_owned()),
        Some(_) | None => domain.cpu_model.clone(),
    };
    let given = domain.hostdevs.iter().map(|one| Given {
        key: "hostdev".into(),
        line: Some(one.line),
        text: format!("<hostdev managed='{}'> {}", if one.managed { "yes" } else { "no" }, one.source),
        functions: vec![one.source],
        whole: false,
        mapping: None,
        // behind a root port; bus 0 of q35 is the root complex itself
        pcie: domain.is_q35() && one.guest.is_none_or(|(bus, _, _)| bus != 0),
        x_vga: false,
        romfile: one.romfile.clone(),
    });
    let given = given.collect();
    let scsi = domain.text().contains("bus='scsi'") || domain.text().contains("bus=\"scsi\"");
    Vm {
        kind: VmKind::Libvirt,
        id: domain.name.clone(),
        name: domain.name.clone(),
        real_path: path.clone(),
        path,
        digest: Digest::of(&bytes),
        sha1: String::new(),
        template: false,
        lock: None,
        q35: domain.is_q35(),
        machine: set(domain.machine.clone(), "type"),
        firmware: Some(Setting { value: if uefi { "ovmf" } else { "seabios" }.into(), line: domain.line_of("os") }),
        uefi,
        efidisk: None,
        enrolled_keys,
        vars: None,
        kvm_hidden: domain.kvm_hidden,
        cpu: set(cpu, "cpu"),
        memory: Setting { value: domain.memory_mib.unwrap_or(0), line: domain.line_of("memory") },
        balloon: Setting { value: domain.balloon.as_deref() != Some("none"), line: domain.line_of("memballoon") },
        onboot: Some(Setting { value: autostart, line: None }),
        // libvirt names no default controller to judge by
        scsihw: None,
        scsi_disks: scsi,
        console: true,
        ostype: None,
        given,
        pending: Vec::new(),
        snapshots: Vec::new(),
        hints: settings(domain.oem_strings(PREFIX), domain.line_of("oemStrings")),
        running: Running::No,
        bytes,
        conf: None,
        domain: Some(domain),
    }
}
