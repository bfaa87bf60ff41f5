//! What the API tells of the node itself: its PCI functions, its storages, what there is in the cluster.

use formats::pveconf::sections;
use machine::MachineExt as _;
use serde_json::{Value, json};

use super::Account;
use super::api::{Given, may, no};
use super::state::{self, State};
use crate::tree::Tree;

const DEVICES: &str = "/sys/bus/pci/devices";

/// GET /cluster/resources: nodes, VMs and storages, those that this user may see.
pub(super) fn resources(state: &State, tree: &Tree, who: &Account, params: &[(String, String)]) -> Value {
    let kind = params.iter().find(|(key, _)| key == "type").map(|(_, value)| value.as_str());
    let mut all: Vec<Value> = Vec::new();
    if matches!(kind, None | Some("node")) {
        all.push(json!({ "type": "node", "node": "pve", "id": "node/pve", "status": "online" }));
    }
    if matches!(kind, None | Some("vm")) {
        for vmid in state.vmids(tree).into_iter().filter(|vmid| may(who, &format!("/vms/{vmid}"), "VM.Audit")) {
            let conf = state::conf(tree, vmid);
            let value = |key: &str| conf.as_ref()?.main.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
            let runs = tree.has(&format!("/run/qemu-server/{vmid}.pid"));
            all.push(json!({
                "type": "qemu", "vmid": vmid, "node": "pve", "id": format!("qemu/{vmid}"),
                "name": value("name").unwrap_or_else(|| format!("VM {vmid}")),
                "status": if runs { "running" } else { "stopped" },
                "template": u8::from(value("template").is_some_and(|text| text == "1")),
            }));
        }
    }
    if matches!(kind, None | Some("storage")) {
        let text = tree.root.text("/etc/pve/storage.cfg").is().unwrap_or_default();
        let seen = |id: &str| {
            ["Datastore.Audit", "Datastore.AllocateSpace"].iter().any(|one| may(who, &format!("/storage/{id}"), one))
        };
        let known = sections(&text).into_iter().filter(|one| one.get("disable").is_none() && seen(&one.id));
        all.extend(known.map(|one| {
            json!({
                "type": "storage", "node": "pve", "id": format!("storage/pve/{}", one.id), "storage": one.id,
                "plugintype": one.kind, "content": one.get("content").unwrap_or("images,rootdir"), "status": "available",
            })
        }));
    }
    Value::Array(all)
}

/// GET /nodes/pve/hardware/pci. Source: PVE::API2::Hardware::PCI, PVE::SysFSTools::lspci.
pub(super) fn pci(tree: &Tree, who: &Account, params: &[(String, String)]) -> Given {
    if !["Sys.Audit", "Sys.Modify"].iter().any(|one| may(who, "/", one)) {
        return no(403, "Permission check failed (/, Sys.Audit|Sys.Modify)");
    }
    let hidden = params.iter().find(|(key, _)| key == "pci-class-blacklist");
    let hidden: Vec<&str> = hidden.map_or("05;06;0b", |(_, value)| value.as_str()).split([';', ',', ' ']).collect();
    let hidden: Vec<&str> = hidden.into_iter().filter(|class| !class.is_empty()).collect();
    let mut all = Vec::new();
    for name in tree.root.names(DEVICES) {
        let value = |file: &str| tree.root.value(&format!("{DEVICES}/{name}/{file}")).is();
        let Some(class) = value("class") else { continue };
        if hidden.iter().any(|start| class.trim_start_matches("0x").starts_with(start)) {
            continue;
        }
        let group = tree.root.link_name(&format!("{DEVICES}/{name}/iommu_group")).is();
        let mut one = json!({
            "id": name, "class": class, "vendor": value("vendor"), "device": value("device"),
            "vendor_name": if value("vendor").as_deref() == Some("0x10de") { "NVIDIA Corporation" } else { "Vendor" },
            "device_name": "Simulated device",
            "iommugroup": group.and_then(|group| group.parse::<i64>().ok()).unwrap_or(-1),
        });
        for file in ["subsystem_vendor", "subsystem_device"] {
            if let (Some(value), Some(one)) = (value(file), one.as_object_mut()) {
                one.insert(file.into(), value.into());
            }
        }
        all.push(one);
    }
    Ok(Value::Array(all))
}
