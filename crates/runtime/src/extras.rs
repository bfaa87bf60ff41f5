//! What is given beside cards, by variables of their own: GPUDirect Storage, InfiniBand, GDRCopy, NVSwitch, IMEX channels,
//! MIG's control nodes. All of it is nodes and files of fixed names, so it is looked up and needs no spec.

use formats::cdispec::{DeviceNode, Edits, Mount};
use oci::request::{Extra, Request};

use crate::{files, host};

/// The edits of a request's extras.
///
/// # Errors
/// What was asked for is not on this machine: a sentence.
pub fn edits(request: &Request) -> Result<Option<Edits>, String> {
    if request.extras.is_empty() && request.imex.is_empty() {
        return Ok(None);
    }
    let mut edits = Edits::default();
    for channel in &request.imex {
        let path = format!("/dev/nvidia-caps-imex-channels/channel{channel}");
        if host::node(&path).is_none() {
            return Err(format!(
                "this container asks for IMEX channel {channel}, and {path} is not on this machine: nvidia-modprobe -i \
                 {channel} makes it, where nvidia-imex runs"
            ));
        }
        edits.device_nodes.push(node(path));
    }
    for extra in &request.extras {
        match extra {
            Extra::Gds => {
                found(&mut edits, "/dev", "nvidia-fs", *extra)?;
                for path in ["/run/udev", "/etc/cufile.json"] {
                    if std::fs::metadata(path).is_ok() {
                        edits.mounts.push(bind(path));
                    }
                }
            }
            Extra::Mofed => {
                found(&mut edits, "/dev/infiniband", "uverbs", *extra)?;
                found(&mut edits, "/dev/infiniband", "rdma_cm", *extra)?;
            }
            Extra::Gdrcopy => found(&mut edits, "/dev", "gdrdrv", *extra)?,
            Extra::Nvswitch => found(&mut edits, "/dev", "nvidia-nvswitch", *extra)?,
            Extra::MigConfig => edits.device_nodes.push(node(capability("config")?)),
            Extra::MigMonitor => edits.device_nodes.push(node(capability("monitor")?)),
        }
    }
    Ok(Some(edits))
}

fn node(path: String) -> DeviceNode {
    DeviceNode { path, ..DeviceNode::default() }
}

fn bind(path: &str) -> Mount {
    let options = ["ro", "nosuid", "nodev", "rbind", "rprivate"].map(str::to_owned).to_vec();
    Mount { host_path: path.to_owned(), container_path: path.to_owned(), kind: None, options }
}

fn found(edits: &mut Edits, folder: &str, prefix: &str, extra: Extra) -> Result<(), String> {
    let names =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut paths: Vec<String> =
        names.filter(|name| name.starts_with(prefix)).map(|name| format!("{folder}/{name}")).collect();
    paths.retain(|path| host::node(path).is_some());
    paths.sort();
    if paths.is_empty() {
        let (variable, module) = match extra {
            Extra::Gds => ("NVIDIA_GDS", "nvidia-fs"),
            Extra::Mofed => ("NVIDIA_MOFED", "ib_uverbs"),
            Extra::Gdrcopy => ("NVIDIA_GDRCOPY", "gdrdrv"),
            _ => ("NVIDIA_NVSWITCH", "nvidia, with NVSwitches"),
        };
        return Err(format!(
            "this container asks for {variable}=enabled, and no {folder}/{prefix}… is on this machine: load the kernel module \
             ({module}), or take the variable out"
        ));
    }
    edits.device_nodes.extend(paths.into_iter().map(node));
    Ok(())
}

/// The node of one of MIG's capabilities: `config 1` in mig-minors is /dev/nvidia-caps/nvidia-cap1.
fn capability(name: &str) -> Result<String, String> {
    let minors = files::read("/proc/driver/nvidia-caps/mig-minors".as_ref()).unwrap_or_default();
    let minor = minors.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
    let path = minor.map(|minor| format!("/dev/nvidia-caps/nvidia-cap{minor}"));
    path.filter(|path| host::node(path).is_some()).ok_or_else(|| {
        format!(
            "this container asks to {name} MIG, and the node for it is not on this machine: nvidia-modprobe -f \
             /proc/driver/nvidia/capabilities/mig/{name} makes it"
        )
    })
}
