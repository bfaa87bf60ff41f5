//! kubelet_internal_checkpoint: what the kubelet remembers over a restart, in its form.
//!
//! `{"Data":{"PodDeviceEntries":[{"PodUID","ContainerName","ResourceName","DeviceIDs":{"NODE":[…]},"AllocResp":BASE64}],
//! "RegisteredDevices":{RESOURCE:[…]}},"Checksum":N}`; a device of no NUMA node stands under "-1". The real checksum is over
//! Go's structure in memory; here it is over the text.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubelet::v1beta1::ContainerAllocateResponse;
use prost::Message as _;
use serde_json::{Value, json};

use super::pods::Grant;

pub const CHECKPOINT: &str = "kubelet_internal_checkpoint";

type Known = BTreeMap<String, Vec<String>>;

pub(super) fn write(dir: &Path, grants: &[Grant], known: &Known) -> io::Result<()> {
    let entries: Vec<Value> = grants.iter().map(entry).collect();
    let data = json!({ "PodDeviceEntries": entries, "RegisteredDevices": known });
    let whole = json!({ "Data": data, "Checksum": sum(&data.to_string()) });
    let new = dir.join(format!(".{CHECKPOINT}.new"));
    std::fs::write(&new, whole.to_string())?;
    std::fs::rename(new, dir.join(CHECKPOINT))
}

fn entry(grant: &Grant) -> Value {
    let mut ids: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (index, id) in grant.devices.iter().enumerate() {
        let nodes = grant.numa.get(index).filter(|nodes| !nodes.is_empty()).cloned().unwrap_or_else(|| vec![-1]);
        for node in nodes {
            ids.entry(node.to_string()).or_default().push(id);
        }
    }
    json!({
        "PodUID": grant.pod, "ContainerName": grant.container, "ResourceName": grant.resource, "DeviceIDs": ids,
        "AllocResp": STANDARD.encode(grant.answer.encode_to_vec()),
    })
}

/// What a life before left; nothing where there is no file, or one that is not whole.
pub(super) fn read(dir: &Path) -> (Vec<Grant>, Known) {
    let whole = std::fs::read(dir.join(CHECKPOINT)).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let Some(whole) = whole else { return Default::default() };
    let data = &whole["Data"];
    if whole["Checksum"] != sum(&data.to_string()) {
        return Default::default();
    }
    let grants = data["PodDeviceEntries"].as_array().into_iter().flatten().filter_map(grant).collect();
    (grants, serde_json::from_value(data["RegisteredDevices"].clone()).unwrap_or_default())
}

fn grant(entry: &Value) -> Option<Grant> {
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    let mut nodes: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut order = Vec::new();
    for (node, ids) in entry["DeviceIDs"].as_object()? {
        let node: i64 = node.parse().ok()?;
        for id in ids.as_array()?.iter().filter_map(Value::as_str) {
            if !nodes.contains_key(id) {
                order.push(id.to_owned());
            }
            nodes.entry(id.to_owned()).or_default().extend((node >= 0).then_some(node));
        }
    }
    let bytes = STANDARD.decode(entry["AllocResp"].as_str()?).ok()?;
    Some(Grant {
        pod: text("PodUID")?,
        container: text("ContainerName")?,
        resource: text("ResourceName")?,
        numa: order.iter().filter_map(|id| nodes.get(id).cloned()).collect(),
        devices: order,
        answer: ContainerAllocateResponse::decode(bytes.as_slice()).ok()?,
    })
}

/// FNV-1a.
fn sum(text: &str) -> u64 {
    text.bytes().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)).into()
}
