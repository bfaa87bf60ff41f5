//! The kubelet's side of a plugin: dials back, asks the options, follows the list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelet::v1beta1::device_plugin_client::DevicePluginClient;
use kubelet::v1beta1::{Empty, ListAndWatchResponse, RegisterRequest};

use tonic::transport::Channel;

use super::{Core, Known, Resource};

/// The kubelet's patience with a plugin's socket.
const DIAL: Duration = Duration::from_secs(10);
/// What the specification grants an id.
pub(super) const LONGEST: usize = 63;

/// The newest registration of a name takes the place of the one before.
pub(super) async fn connect(core: &Arc<Core>, request: &RegisterRequest, came: Instant) -> Result<(), String> {
    let path = core.dir.join(&request.endpoint);
    let generation = core.state().generation;
    let channel = kubelet::socket::connect(path, DIAL)
        .await
        .map_err(|error| format!("cannot dial the plugin at {}: {error}", request.endpoint))?;
    let mut client = DevicePluginClient::new(channel.clone());
    let options = client
        .get_device_plugin_options(Empty {})
        .await
        .map_err(|status| format!("GetDevicePluginOptions of {} failed: {}", request.endpoint, status.message()))?
        .into_inner();
    let name = request.resource_name.clone();
    let task = tokio::spawn(follow(Arc::clone(core), client, name.clone(), request.endpoint.clone(), came));
    let replaced = core.change(|state| {
        if state.generation != generation {
            task.abort();
            return None;
        }
        let before = state.resources.remove(&name).unwrap_or_default();
        state.resources.insert(
            name,
            Resource {
                endpoint: request.endpoint.clone(),
                options,
                // what was known stays until the first list comes
                devices: before.devices,
                connected: true,
                registered: Some(came),
                listed: None,
                lists: 0,
                client: Some(channel),
                stream: Some(task.abort_handle()),
            },
        );
        before.stream
    });
    replaced.iter().for_each(|stream| stream.abort());
    Ok(())
}

/// Each list is the whole one. Where the stream ends all devices are unhealthy.
async fn follow(
    core: Arc<Core>,
    mut client: DevicePluginClient<Channel>,
    name: String,
    endpoint: String,
    came: Instant,
) {
    let mine = |resource: &Resource| resource.endpoint == endpoint && resource.registered == Some(came);
    if let Ok(answer) = client.list_and_watch(Empty {}).await {
        let mut stream = answer.into_inner();
        while let Ok(Some(list)) = stream.message().await {
            let heard = Instant::now();
            let changed = core.change(|state| {
                let bad = list.devices.iter().find(|device| device.id.is_empty() || device.id.len() > LONGEST);
                if let Some(bad) = bad {
                    state
                        .refused
                        .push(format!("device id \"{}\" of {name} is not of 1 to {LONGEST} characters", bad.id));
                    return false;
                }
                let Some(resource) = state.resources.get_mut(&name).filter(|resource| mine(resource)) else {
                    return false;
                };
                let before: Vec<String> = resource.devices.keys().cloned().collect();
                resource.devices = devices(&list);
                resource.listed.get_or_insert(heard);
                resource.lists += 1;
                before != resource.devices.keys().cloned().collect::<Vec<_>>()
            });
            if changed {
                core.keep();
            }
        }
    }
    core.change(|state| {
        if let Some(resource) = state.resources.get_mut(&name).filter(|resource| mine(resource)) {
            resource.connected = false;
            resource.client = None;
            resource.devices.values_mut().for_each(|known| known.healthy = false);
        }
    });
}

fn devices(list: &ListAndWatchResponse) -> std::collections::BTreeMap<String, Known> {
    let known = |device: &kubelet::v1beta1::Device| {
        let numa = device.topology.iter().flat_map(|topology| topology.nodes.iter().map(|node| node.id)).collect();
        (device.id.clone(), Known { healthy: device.health == kubelet::HEALTHY, numa })
    };
    list.devices.iter().map(known).collect()
}
