//! A simulated device plugin, as little as one can be: for whoever must meet another one.

use std::path::{Path, PathBuf};

use kubelet::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use kubelet::v1beta1::registration_client::RegistrationClient;
use kubelet::v1beta1::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DevicePluginOptions, Empty,
    ListAndWatchResponse, PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse, RegisterRequest,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

use crate::life::Life;

/// A running plugin; dropped, it is gone as a killed one is: its socket's file stays.
pub struct Plugin {
    path: PathBuf,
    _life: Life,
}

impl Plugin {
    /// Serves these healthy devices at a socket of this name.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn start(dir: &Path, socket: &str, devices: &[&str]) -> std::io::Result<Plugin> {
        let path = dir.join(socket);
        let device = |id: &&str| Device { id: (*id).into(), health: kubelet::HEALTHY.into(), topology: None };
        let service = DevicePluginServer::new(Service(devices.iter().map(device).collect()));
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let life = Life::start(move || async move {
            let incoming = UnixListenerStream::new(UnixListener::from_std(listener)?);
            tokio::spawn(async move {
                let _ = tonic::transport::Server::builder().serve_with_incoming(service, incoming).await;
            });
            Ok(())
        })
        .await?;
        Ok(Plugin { path, _life: life })
    }

    /// Registers with the kubelet of its directory.
    ///
    /// # Errors
    /// What the kubelet says.
    pub async fn register(&self, version: &str, resource: &str) -> Result<(), Status> {
        let kubelet = self.path.with_file_name(kubelet::KUBELET_SOCKET);
        let channel = kubelet::socket::connect(kubelet, std::time::Duration::from_secs(10))
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let request = RegisterRequest {
            version: version.into(),
            endpoint: self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            resource_name: resource.into(),
            options: None,
        };
        RegistrationClient::new(channel).register(request).await.map(drop)
    }
}

struct Service(Vec<Device>);

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = ReceiverStream<Result<ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let devices = self.0.clone();
        tokio::spawn(async move {
            let _ = send.send(Ok(ListAndWatchResponse { devices })).await;
            send.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("it has no preference"))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let answers = request.into_inner().container_requests.into_iter().map(|_| ContainerAllocateResponse::default());
        Ok(Response::new(AllocateResponse { container_responses: answers.collect() }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
