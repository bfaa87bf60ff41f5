//! A Proxmox VE machine's file, or on a running node the same through `qm set`.

use formats::hint::with_args;
use formats::propstr::PropStr;
use formats::pveconf::{Conf, Entry};
use gpu::Card;
use model::{Before, Change, Content, Effective, Intent, Layer, Op, Plan, Refusal, Risk, Tell, Undo};

use super::{allows, full_name, tells, will_have};
use crate::{Facts, Storage, Vm, hint};

/// What the file shall say, gathered key by key.
struct Wanted {
    set: Vec<(String, String)>,
    delete: Vec<String>,
    because: Vec<&'static str>,
    risk: Vec<Risk>,
    notes: Vec<String>,
}

pub(super) fn plan(facts: &Facts, intent: &Intent, vm: &Vm, cards: &[&Card], plan: &mut Plan) {
    let Some(conf) = &vm.conf else { return };
    // what waits for a stop and start is as good as set: else the same plan would come again
    let mut conf = conf.clone();
    for (key, value, _) in &vm.pending {
        // False changes nothing: a pending key that the file's grammar has not, or that is gone already.
        let _ = match value {
            Some(value) => conf.set(key, value),
            None => conf.remove(key),
        };
    }
    let mut wanted =
        Wanted { set: Vec::new(), delete: Vec::new(), because: Vec::new(), risk: Vec::new(), notes: Vec::new() };
    for card in cards {
        if let Err(refusal) = give(facts, vm, card, &conf, &mut wanted) {
            plan.refusals.push(refusal);
        }
    }
    if !cards.is_empty() {
        settings(facts, intent, vm, &conf, plan, &mut wanted);
    }
    if let Some(tell) = intent.hint {
        told(facts, vm, cards, &conf, tell, &mut wanted);
    }
    if !vm.snapshots.is_empty() && !wanted.is_empty() {
        let names = vm.snapshots.join(", ");
        wanted.notes.push(format!("going back to a snapshot ({names}) brings back the definition without the card"));
    }
    plan.notes.append(&mut wanted.notes);
    if !wanted.is_empty() {
        let change = change(facts, vm, &conf, wanted);
        plan.changes.push(change);
    }
}

/// What a machine with a card should be: q35, OVMF, the host's CPU, no balloon, virtio-scsi.
fn settings(facts: &Facts, intent: &Intent, vm: &Vm, conf: &Conf, plan: &mut Plan, wanted: &mut Wanted) {
    machine(intent, vm, conf, wanted);
    firmware(facts, intent, vm, conf, plan, wanted);
    let plain = conf.get("cpu").and_then(|cpu| PropStr::parse(cpu.value).default_or("cputype").map(str::to_owned));
    let weak = plain
        .as_deref()
        .is_none_or(|model| matches!(model, "kvm64" | "kvm32" | "qemu64" | "qemu32") || model.starts_with("x86-64-v2"));
    if weak && !allows(intent, "vm/cpu-not-host") {
        let mut cpu = PropStr::parse(conf.get("cpu").map(|cpu| cpu.value).unwrap_or_default());
        cpu.set_default("cputype", "host");
        want(wanted, conf, "cpu", cpu.to_string(), "vm/cpu-not-host");
    }
    if !allows(intent, "vm/balloon-with-hostpci") {
        want(wanted, conf, "balloon", "0".into(), "vm/balloon-with-hostpci");
    }
    if vm.scsi_disks && !allows(intent, "vm/scsihw") {
        // an emulated controller's guest may have no virtio driver: Windows would lose its disk
        let virtio = conf.get("scsihw").is_some_and(|kind| kind.value.starts_with("virtio-scsi"));
        if virtio || !vm.is_windows() {
            want(wanted, conf, "scsihw", "virtio-scsi-single".into(), "vm/scsihw");
        } else {
            wanted
                .notes
                .push("the SCSI controller is left as it is: install the virtio drivers in Windows first".into());
        }
    }
}

/// The hints, among the other words of `args`: Proxmox VE itself writes no OEM string (`smbios1` is type 1).
fn told(facts: &Facts, vm: &Vm, cards: &[&Card], conf: &Conf, tell: Tell, wanted: &mut Wanted) {
    let mut after = conf.clone();
    for (key, value) in &wanted.set {
        after.set(key, value);
    }
    for key in &wanted.delete {
        after.remove(key);
    }
    let port = |card: &Card| {
        let slot = card.identity.bdf.slot();
        let is_its = |entry: &Entry<'_>| {
            let by_facts =
                vm.given.iter().any(|one| one.key == entry.key && one.functions.contains(&card.identity.bdf));
            is_hostpci(entry.key) && (by_facts || hosts(entry.value).iter().any(|host| is_slot(host, &slot)))
        };
        after.current().find(is_its).and_then(|entry| hint::pve_port(entry.key))
    };
    let hints = match tell {
        Tell::Nothing => Vec::new(),
        tell => hint::hints(facts, &will_have(facts, vm, cards), tell == Tell::Named, &port),
    };
    let old = conf.get("args").map(|args| args.value).unwrap_or_default();
    let new = with_args(old, &hint::texts(&vm.hints, &hints));
    if new == old {
        return;
    }
    wanted.because.push("vm/hint-stale");
    if tell != Tell::Nothing {
        wanted.risk.push(tells(vm));
    }
    if facts.live {
        wanted.notes.push("args may be set by root@pam alone, not by an API token".into());
    }
    if new.is_empty() {
        wanted.delete.push("args".into());
    } else {
        wanted.set.push(("args".into(), new));
    }
}

impl Wanted {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.delete.is_empty()
    }
}

/// Asks for a value unless it stands there already.
fn want(wanted: &mut Wanted, conf: &Conf, key: &str, value: String, because: &'static str) {
    if conf.get(key).is_some_and(|entry| entry.value == value) {
        return;
    }
    wanted.set.push((key.into(), value));
    if !wanted.because.contains(&because) {
        wanted.because.push(because);
    }
}

/// The hostpci line: all functions, on a PCI Express port. A line that names the card is completed, others that name
/// a part of it go.
fn give(facts: &Facts, vm: &Vm, card: &Card, conf: &Conf, wanted: &mut Wanted) -> Result<(), Refusal> {
    let bdf = card.identity.bdf;
    let lines: Vec<(String, String)> = conf
        .current()
        .filter(|entry| is_hostpci(entry.key))
        .map(|entry| (entry.key.into(), entry.value.into()))
        .collect();
    if vm.given.iter().any(|given| given.key == "args" && given.functions.iter().any(|one| one.same_slot(&bdf))) {
        return Err(Refusal {
            because: "vm/twice-in-one-vm".into(),
            says: format!(
                "{} already has {} by its args line, which thruway does not edit",
                vm.title(),
                full_name(card)
            ),
            instead: format!("qm set {} --delete args (or take the vfio-pci part out), then plan again", vm.id),
        });
    }
    let names_card = |key: &str, value: &str| {
        let by_facts = vm.given.iter().any(|given| {
            given.key == key && given.text == value && given.functions.iter().any(|one| one.same_slot(&bdf))
        });
        by_facts || hosts(value).iter().any(|host| is_slot(host, &bdf.slot()))
    };
    let mut ours = lines.iter().filter(|(key, value)| names_card(key, value));
    let Some((key, value)) = ours.next() else {
        let taken =
            |key: &str| lines.iter().any(|(other, _)| other == key) || wanted.set.iter().any(|(other, _)| other == key);
        let free = (0..16).map(|index| format!("hostpci{index}")).find(|key| !taken(key));
        let Some(key) = free else {
            return Err(Refusal {
                because: "vm/card-not-given".into(),
                says: format!("{} has all sixteen hostpci lines in use", vm.title()),
                instead: "take one out first".into(),
            });
        };
        want(wanted, conf, &key, format!("{},pcie=1", bdf.slot()), "vm/card-not-given");
        return Ok(());
    };
    let mut props = PropStr::parse(value);
    if props.get("mapping").is_none() {
        let several = hosts(value);
        let whole: Vec<String> = several
            .iter()
            .map(|host| if is_slot(host, &bdf.slot()) { whole_slot(facts, host, card) } else { host.clone() })
            .fold(Vec::new(), |mut all, host| {
                if !all.contains(&host) {
                    all.push(host);
                }
                all
            });
        if whole != several {
            props.set_default("host", &whole.join(";"));
        }
    }
    if props.bool("pcie") != Some(true) {
        props.set("pcie", "1");
    }
    let because =
        if props.bool("pcie") == PropStr::parse(value).bool("pcie") { "vm/card-partial" } else { "vm/pcie-missing" };
    want(wanted, conf, key, props.to_string(), because);
    for (other, value) in ours {
        // a line that names only this card; one with other devices too is for a human
        if hosts(value).iter().all(|host| is_slot(host, &bdf.slot())) {
            wanted.delete.push(other.clone());
            wanted.because.push("vm/twice-in-one-vm");
        } else {
            wanted.notes.push(format!(
                "{other} of {} names {} again, beside other devices: mend that line by hand",
                vm.title(),
                bdf.short()
            ));
        }
    }
    Ok(())
}

fn is_hostpci(key: &str) -> bool {
    key.strip_prefix("hostpci").is_some_and(|digits| digits.parse::<u8>().is_ok_and(|index| index < 16))
}

fn hosts(value: &str) -> Vec<String> {
    let props = PropStr::parse(value);
    let host = if props.get("mapping").is_some() { None } else { props.default_or("host") };
    host.unwrap_or_default().split(';').map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect()
}

/// True where an address, with or without domain and function, is of this slot.
fn is_slot(host: &str, slot: &str) -> bool {
    let spelled = if host.contains('.') { host.to_owned() } else { format!("{host}.0") };
    spelled.parse::<model::Bdf>().is_ok_and(|bdf| bdf.slot() == slot)
}

/// The slot without a function, spelled as it was; a card of one function stays as it is.
fn whole_slot(facts: &Facts, host: &str, card: &Card) -> String {
    match host.split_once('.') {
        Some((slot, _)) if facts.functions(card).len() > 1 => slot.to_owned(),
        _ => host.to_owned(),
    }
}

fn machine(intent: &Intent, vm: &Vm, conf: &Conf, wanted: &mut Wanted) {
    let old = conf.get("machine").map(|machine| machine.value).unwrap_or_default();
    let mut props = PropStr::parse(old);
    let q35 = props.default_or("type").is_some_and(|kind| kind.contains("q35"));
    if q35 {
        return;
    }
    if allows(intent, "vm/machine-not-q35") {
        // pcie=1 does not start on i440fx
        for (key, value) in wanted.set.iter_mut().filter(|(key, _)| is_hostpci(key)) {
            let mut props = PropStr::parse(value);
            props.remove("pcie");
            let unchanged = conf.get(key).is_some_and(|entry| entry.value == props.to_string());
            *value = if unchanged { String::new() } else { props.to_string() };
        }
        wanted.set.retain(|(_, value)| !value.is_empty());
        return;
    }
    props.set_default("type", "q35");
    want(wanted, conf, "machine", props.to_string(), "vm/machine-not-q35");
    wanted.risk.push(Risk::Outage("the guest's network interfaces change their names: its network stays down unless it matches them by MAC address".into()));
    if vm.is_windows() {
        wanted.notes.push("Windows may ask to be activated again after the change of the machine type".into());
    }
}

fn firmware(facts: &Facts, intent: &Intent, vm: &Vm, conf: &Conf, plan: &mut Plan, wanted: &mut Wanted) {
    let uefi = conf.get("bios").is_some_and(|bios| bios.value == "ovmf");
    if !uefi && allows(intent, "vm/not-ovmf") {
        return;
    }
    if !uefi {
        want(wanted, conf, "bios", "ovmf".into(), "vm/not-ovmf");
        let says = format!(
            "{} booted by SeaBIOS so far: a guest that is already installed may not boot by OVMF. Install it anew or convert \
             it, or add --allow vm/not-ovmf to keep SeaBIOS",
            vm.title()
        );
        wanted.risk.push(Risk::Outage("a guest installed under SeaBIOS may not boot by OVMF".into()));
        wanted.notes.push(says);
    }
    if let Some(disk) = conf.get("efidisk0") {
        let props = PropStr::parse(disk.value);
        if props.bool("pre-enrolled-keys") == Some(true) {
            wanted.notes.push(format!(
                "{}'s EFI disk came with Secure Boot's keys and is kept: switch Secure Boot off in the firmware's menu, or sign \
                 the guest's driver (thruway explain vm/efidisk-enrolled-keys)",
                vm.title()
            ));
        }
        return;
    }
    if allows(intent, "vm/no-efidisk") {
        return;
    }
    let Some(storage) = storage(facts, conf) else {
        plan.refusals.push(Refusal {
            because: "vm/no-efidisk".into(),
            says: format!("No storage of this node can hold {}'s EFI disk", vm.title()),
            instead: "enable \"Disk image\" on a storage, or add --allow vm/no-efidisk".into(),
        });
        return;
    };
    let value = if facts.live {
        // qm allocates the volume and names it
        format!("{}:1,efitype=4m,pre-enrolled-keys=0", storage.id)
    } else {
        let volume = volume(storage, &vm.id, conf);
        wanted.notes.push(format!(
            "the definition is written as a file here; on the node itself `qm set` also allocates the EFI disk {volume} (4 MiB)"
        ));
        format!("{volume},efitype=4m,pre-enrolled-keys=0,size=4M")
    };
    want(wanted, conf, "efidisk0", value, "vm/no-efidisk");
}

/// Where the VM's first disk is; else the first storage that may hold images.
fn storage<'a>(facts: &'a Facts, conf: &Conf) -> Option<&'a Storage> {
    let storages = &facts.pve.get()?.storages;
    let is_disk = |key: &str| {
        ["scsi", "virtio", "sata", "ide"].iter().any(|bus| {
            key.strip_prefix(bus).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    let disks = conf.current().filter(|entry| is_disk(entry.key) && !entry.value.contains("media=cdrom"));
    let mut stores = disks.filter_map(|entry| entry.value.split_once(':').map(|(store, _)| store));
    let beside = stores.find_map(|store| storages.iter().find(|one| one.images && one.id == store));
    beside.or_else(|| storages.iter().find(|one| one.images))
}

/// The name that `qm` would give: the next free number among the VM's volumes.
fn volume(storage: &Storage, id: &str, conf: &Conf) -> String {
    let text = String::from_utf8_lossy(&conf.print()).into_owned();
    let free = (0..1000).find(|number| {
        let name = format!("vm-{id}-disk-{number}");
        !text.match_indices(&name).any(|(at, _)| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_digit()))
    });
    let name = format!("vm-{id}-disk-{}", free.unwrap_or(1000));
    match storage.kind.as_str() {
        "dir" | "nfs" | "cifs" | "glusterfs" | "btrfs" | "cephfs" => format!("{}:{id}/{name}.raw", storage.id),
        _ => format!("{}:{name}", storage.id),
    }
}

fn change(facts: &Facts, vm: &Vm, conf: &Conf, wanted: Wanted) -> Change {
    let keys: Vec<&str> =
        wanted.set.iter().map(|(key, _)| key.as_str()).chain(wanted.delete.iter().map(String::as_str)).collect();
    let title = format!("VM {}: {}", vm.id, keys.join(", "));
    let because: Vec<String> = wanted.because.iter().map(|id| (*id).to_owned()).collect();
    let (op, expects, undo) = if facts.live {
        let set = wanted.set.iter().map(|(key, _)| key).chain(&wanted.delete);
        let before = set.filter_map(|key| conf.get(key).map(|entry| (key.clone(), entry.value.to_owned()))).collect();
        let vmid = vm.id.parse().unwrap_or_default();
        let op = Op::Proxmox { vmid, set: wanted.set, delete: wanted.delete, digest: vm.sha1.clone(), before };
        // `qm` compares the digest itself, under its own lock
        (op, Before::Nothing, Undo::Inverse)
    } else {
        let mut new = vm.conf.clone().unwrap_or_else(|| conf.clone());
        for (key, value) in &wanted.set {
            new.set(key, value);
        }
        for key in &wanted.delete {
            new.remove(key);
        }
        let content = Content::from_bytes(&new.print());
        let op = Op::WriteFile { path: vm.real_path.clone(), content, mode: 0o640 };
        (op, Before::File(vm.digest.clone()), Undo::Exact)
    };
    Change { layer: Layer::Vm, title, op, expects, because, risk: wanted.risk, effective: Effective::NextVmStart, undo }
}
