//! Admission: which devices a container gets, and what the plugin says to it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use kubelet::v1beta1::device_plugin_client::DevicePluginClient;
use kubelet::v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse, ContainerPreferredAllocationRequest,
    PreStartContainerRequest, PreferredAllocationRequest,
};
use tonic::transport::Channel;

use super::Core;

/// A container that wants so many of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub pod: String,
    pub container: String,
    pub resource: String,
    pub count: usize,
}

impl Ask {
    pub fn new(pod: &str, resource: &str, count: usize) -> Ask {
        Ask { pod: pod.into(), container: "main".into(), resource: resource.into(), count }
    }
}

/// What a container holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub pod: String,
    pub container: String,
    pub resource: String,
    pub devices: Vec<String>,
    /// NUMA nodes beside the ids, as the checkpoint groups them.
    pub numa: Vec<Vec<i64>>,
    pub answer: ContainerAllocateResponse,
}

/// Why a pod is not admitted: the kubelet's words beside UnexpectedAdmissionError.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pod was rejected: Allocate failed due to {}, which is unexpected", self.0)
    }
}

pub(super) async fn admit(core: &Core, ask: &Ask) -> Result<Grant, Refused> {
    let name = &ask.resource;
    let refused = |why: String| Err(Refused(why));
    // chosen and held in one step, so that two pods at once never get one device
    let chosen = {
        let state = core.state();
        let held = state
            .grants
            .iter()
            .find(|grant| grant.pod == ask.pod && grant.container == ask.container && grant.resource == *name);
        let Some(resource) = state.resources.get(name) else {
            return refused(format!("can't allocate unregistered device {name}"));
        };
        let healthy = resource.healthy();
        if let Some(held) = held {
            if held.devices.len() != ask.count {
                return refused(format!(
                    "pod \"{}\" container \"{}\" changed request for resource \"{name}\" from {} to {}",
                    ask.pod,
                    ask.container,
                    held.devices.len(),
                    ask.count
                ));
            }
            if healthy.is_empty() {
                return refused(format!("no healthy devices present; cannot allocate unhealthy devices {name}"));
            }
            if !held.devices.iter().all(|id| healthy.contains(id)) {
                return refused(format!(
                    "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {name}"
                ));
            }
            // known and given: nothing is asked of the plugin again
            return Ok(held.clone());
        }
        if resource.client.is_none() {
            return refused(format!("can't allocate unregistered device {name}"));
        }
        (resource.options, resource.client.clone(), free(&state, name, &healthy, ask)?)
    };
    let (options, Some(channel), mut available) = chosen else {
        return refused(format!("can't allocate unregistered device {name}"));
    };
    let mut client = DevicePluginClient::new(channel);
    let mut take = Vec::new();
    if options.get_preferred_allocation_available {
        take = preferred(&mut client, &available, ask).await?;
    }
    // what was chosen while it was waited may be another pod's by now
    let devices = {
        let mut state = core.state();
        let Some(resource) = state.resources.get(name) else {
            return refused(format!("can't allocate unregistered device {name}"));
        };
        let healthy = resource.healthy();
        available = free(&state, name, &healthy, ask)?;
        take.retain(|id| available.contains(id));
        take.truncate(ask.count);
        let rest: Vec<_> = available.iter().filter(|id| !take.contains(id)).cloned().collect();
        take.extend(rest.into_iter().take(ask.count.saturating_sub(take.len())));
        let numa = take.iter().map(|id| resource.devices.get(id).map(|known| known.numa.clone()).unwrap_or_default());
        let grant = Grant {
            pod: ask.pod.clone(),
            container: ask.container.clone(),
            resource: name.clone(),
            numa: numa.collect(),
            devices: take.clone(),
            answer: ContainerAllocateResponse::default(),
        };
        state.grants.push(grant);
        take
    };
    let result = allocate(&mut client, &devices, options.pre_start_required).await;
    let grant = core.change(|state| {
        let index = state
            .grants
            .iter()
            .position(|grant| grant.pod == ask.pod && grant.container == ask.container && grant.resource == *name);
        let index = index.ok_or_else(|| Refused("the kubelet was restarted meanwhile".into()))?;
        match result {
            Ok(answer) => {
                if let Some(grant) = state.grants.get_mut(index) {
                    grant.answer = answer;
                }
                state.grants.get(index).cloned().ok_or_else(|| Refused("lost".into()))
            }
            Err(why) => {
                state.grants.remove(index);
                Err(why)
            }
        }
    })?;
    core.keep();
    Ok(grant)
}

fn free(state: &super::State, name: &str, healthy: &BTreeSet<String>, ask: &Ask) -> Result<BTreeSet<String>, Refused> {
    let used: BTreeSet<&String> =
        state.grants.iter().filter(|grant| grant.resource == name).flat_map(|grant| &grant.devices).collect();
    let free: BTreeSet<String> = healthy.iter().filter(|id| !used.contains(id)).cloned().collect();
    if free.len() < ask.count {
        return Err(Refused(format!(
            "requested number of devices unavailable for {name}. Requested: {}, Available: {}",
            ask.count,
            free.len()
        )));
    }
    Ok(free)
}

/// A hint: what is not among the free ones is not taken.
async fn preferred(
    client: &mut DevicePluginClient<Channel>,
    available: &BTreeSet<String>,
    ask: &Ask,
) -> Result<Vec<String>, Refused> {
    let request = ContainerPreferredAllocationRequest {
        available_device_i_ds: available.iter().cloned().collect(),
        must_include_device_i_ds: Vec::new(),
        allocation_size: i32::try_from(ask.count).unwrap_or(i32::MAX),
    };
    let answer = client
        .get_preferred_allocation(PreferredAllocationRequest { container_requests: vec![request] })
        .await
        .map_err(|status| said("GetPreferredAllocation", &status))?
        .into_inner();
    Ok(answer.container_responses.into_iter().next().map(|answer| answer.device_i_ds).unwrap_or_default())
}

async fn allocate(
    client: &mut DevicePluginClient<Channel>,
    devices: &[String],
    before_start: bool,
) -> Result<ContainerAllocateResponse, Refused> {
    let request = ContainerAllocateRequest { devices_ids: devices.to_vec() };
    let answer = client
        .allocate(AllocateRequest { container_requests: vec![request] })
        .await
        .map_err(|status| said("Allocate", &status))?
        .into_inner();
    let Some(answer) = answer.container_responses.into_iter().next() else {
        return Err(Refused("no containers return in allocation response".into()));
    };
    if let Some(device) = answer.cdi_devices.iter().find(|device| !qualified(&device.name)) {
        return Err(Refused(format!("invalid CDI device name \"{}\"", device.name)));
    }
    if before_start {
        let request = PreStartContainerRequest { devices_ids: devices.to_vec() };
        let call = tokio::time::timeout(Duration::from_secs(30), client.pre_start_container(request));
        call.await
            .map_err(|_| Refused("PreStartContainer took longer than 30 s".into()))?
            .map_err(|status| said("PreStartContainer", &status))?;
    }
    Ok(answer)
}

fn said(call: &str, status: &tonic::Status) -> Refused {
    Refused(format!("{call}: rpc error: code = {:?} desc = {}", status.code(), status.message()))
}

/// `vendor/class=name`.
fn qualified(name: &str) -> bool {
    let Some((kind, device)) = name.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    !(vendor.is_empty() || class.is_empty() || device.is_empty())
}
