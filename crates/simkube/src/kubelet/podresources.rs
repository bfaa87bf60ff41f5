//! The pod-resources socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use kubelet::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use kubelet::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, NumaNode,
    PodResources, TopologyInfo,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::Core;

struct Lister(Arc<Core>);

pub(super) async fn serve(core: Arc<Core>, listener: UnixListener) {
    let service = PodResourcesListerServer::new(Lister(core));
    let _ = Server::builder().serve_with_incoming(service, UnixListenerStream::new(listener)).await;
}

impl Lister {
    fn pods(&self) -> Vec<PodResources> {
        let state = self.0.state();
        let mut pods: BTreeMap<&str, BTreeMap<&str, Vec<ContainerDevices>>> = BTreeMap::new();
        for grant in &state.grants {
            let nodes: Vec<NumaNode> = grant.numa.iter().flatten().map(|id| NumaNode { id: *id }).collect();
            pods.entry(&grant.pod).or_default().entry(&grant.container).or_default().push(ContainerDevices {
                resource_name: grant.resource.clone(),
                device_ids: grant.devices.clone(),
                topology: (!nodes.is_empty()).then_some(TopologyInfo { nodes }),
            });
        }
        let container = |(name, devices): (&str, Vec<ContainerDevices>)| ContainerResources {
            name: name.into(),
            devices,
            ..ContainerResources::default()
        };
        pods.into_iter()
            .map(|(name, containers)| PodResources {
                name: name.into(),
                namespace: "default".into(),
                containers: containers.into_iter().map(container).collect(),
            })
            .collect()
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        Ok(Response::new(ListPodResourcesResponse { pod_resources: self.pods() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let state = self.0.state();
        // one entry for each device, as the real one has them
        let devices = state.resources.iter().flat_map(|(name, resource)| {
            resource.devices.iter().filter(|(_, known)| known.healthy).map(|(id, known)| ContainerDevices {
                resource_name: name.clone(),
                device_ids: vec![id.clone()],
                topology: (!known.numa.is_empty())
                    .then(|| TopologyInfo { nodes: known.numa.iter().map(|id| NumaNode { id: *id }).collect() }),
            })
        });
        Ok(Response::new(AllocatableResourcesResponse { devices: devices.collect(), ..Default::default() }))
    }

    async fn get(&self, request: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        let request = request.into_inner();
        match self.pods().into_iter().find(|pod| pod.name == request.pod_name && pod.namespace == request.pod_namespace)
        {
            Some(pod) => Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(pod) })),
            None => Err(Status::not_found(format!(
                "pod {} in namespace {} not found",
                request.pod_name, request.pod_namespace
            ))),
        }
    }
}
