//! A second plugin for the same resource: the kubelet lets the newest registration of a name win and says nothing, so that
//! two of them take each other's place for ever. Whoever comes second must not begin.
//!
//! A plugin's socket does not tell its resource. What is asked is harmless to the other: GetDevicePluginOptions, and the
//! kubelet's own pod-resources. Its ListAndWatch is left alone: some plugins lose a message to whoever else listens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kubelet::podresources::AllocatableResourcesRequest;
use kubelet::podresources::pod_resources_lister_client::PodResourcesListerClient;
use kubelet::v1beta1::Empty;
use kubelet::v1beta1::device_plugin_client::DevicePluginClient;

const PATIENCE: Duration = Duration::from_millis(300);

/// Sockets in the directory that a plugin for NVIDIA's resources would have: NVIDIA's own and HAMi's are nvidia-gpu.sock,
/// GKE's nvidiaGPU-1700000000.sock. Those of KubeVirt (kubevirt-…) offer other names.
pub fn suspects(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
            name.starts_with("nvidia") && name.ends_with(".sock")
        })
        .collect();
    found.sort();
    found
}

/// The first of these that answers as a plugin: what is wrong, and the fix.
pub async fn answers(suspects: &[PathBuf]) -> Option<String> {
    for path in suspects {
        // a file that a killed plugin left refuses at once
        let Ok(channel) = kubelet::socket::connect(path.clone(), PATIENCE).await else { continue };
        if DevicePluginClient::new(channel).get_device_plugin_options(Empty {}).await.is_ok() {
            return Some(format!(
                "another device plugin for NVIDIA's resources serves {} on this node, and the kubelet takes one for each \
                 name: take that one away (kubectl get daemonsets -A | grep -i nvidia) and this agent begins by itself",
                path.display()
            ));
        }
    }
    None
}

/// One of these resources is served by somebody, while we do not serve it: asked before the first registration.
pub async fn served(pod_resources: &Path, resources: &[String]) -> Option<String> {
    let channel = kubelet::socket::connect(pod_resources.to_owned(), PATIENCE).await.ok()?;
    let answer =
        PodResourcesListerClient::new(channel).get_allocatable_resources(AllocatableResourcesRequest {}).await.ok()?;
    let taken = answer.into_inner().devices.into_iter().map(|devices| devices.resource_name);
    let name = taken.into_iter().find(|name| resources.contains(name))?;
    Some(format!(
        "the kubelet already has healthy devices of {name}, so another device plugin serves it on this node: take that one \
         away (kubectl get daemonsets -A | grep -i nvidia) and this agent begins by itself"
    ))
}
