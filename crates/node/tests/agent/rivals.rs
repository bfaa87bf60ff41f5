//! Another plugin for the same resource.

use std::time::{Duration, Instant};

use kubelet::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use kubelet::v1beta1::registration_client::RegistrationClient;
use kubelet::v1beta1::{
    AllocateRequest, AllocateResponse, Device, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest, PreferredAllocationResponse,
    RegisterRequest,
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

use crate::world::{GPU, LONG, QUICK, World, run};

/// As little as a plugin can be.
struct Other(String);

#[tonic::async_trait]
impl DevicePlugin for Other {
    type ListAndWatchStream = ReceiverStream<Result<ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let devices = vec![Device { id: self.0.clone(), health: kubelet::HEALTHY.into(), topology: None }];
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
        Err(Status::unimplemented("none"))
    }

    async fn allocate(&self, _: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        Err(Status::unimplemented("none"))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

/// Serves and registers; ends with the handle.
async fn other(world: &World, socket: &str, id: &str) -> tokio::task::JoinHandle<()> {
    let path = world.kubelet.dir().join(socket);
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let service = DevicePluginServer::new(Other(id.into()));
    let server = tokio::spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        let _ = tonic::transport::Server::builder().serve_with_incoming(service, incoming).await;
    });
    let channel = kubelet::socket::connect(world.kubelet.dir().join(kubelet::KUBELET_SOCKET), LONG).await.unwrap();
    let request = RegisterRequest {
        version: kubelet::VERSION.into(),
        endpoint: socket.into(),
        resource_name: GPU.into(),
        options: None,
    };
    RegistrationClient::new(channel).register(request).await.unwrap();
    server
}

async fn until_ready_says(world: &World, words: &str) {
    let until = Instant::now() + LONG;
    while !world.get("/readyz").await.contains(words) {
        assert!(Instant::now() < until, "{words}: {}\n{}", world.get("/readyz").await, world.said());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// By its socket's name, and by the kubelet's word where the name says nothing.
#[test]
fn whoever_comes_second_does_not_begin() {
    run(async {
        for (socket, words) in [("nvidia-gpu.sock", "nvidia-gpu.sock"), ("acme.sock", "already has healthy devices")] {
            let Some(mut world) = World::new("t4", QUICK, &[]).await else { return };
            let first = other(&world, socket, "GPU-other").await;
            assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (1, 1)).await);
            world.start();
            until_ready_says(&world, words).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
            let resource = world.kubelet.resource(GPU).unwrap();
            assert_eq!((resource.endpoint.as_str(), resource.counts()), (socket, (1, 1)), "{}", world.said());
            // the other one goes: ours begins by itself
            first.abort();
            std::fs::remove_file(world.kubelet.dir().join(socket)).unwrap();
            let ours = |it: &simkube::kubelet::Resource| it.endpoint == "thruway-gpu.sock" && it.connected;
            assert!(world.kubelet.until(GPU, LONG, ours).await, "{}", world.said());
        }
    });
}

#[test]
fn one_that_takes_our_place_is_named_and_not_fought() {
    run(async {
        let Some(world) = World::ready("t4", QUICK).await else { return };
        let _second = other(&world, "nvidia-gpu.sock", "GPU-other").await;
        until_ready_says(&world, "another device plugin").await;
        let taken = world.kubelet.resource(GPU).unwrap().registered;
        tokio::time::sleep(Duration::from_millis(2800)).await;
        let resource = world.kubelet.resource(GPU).unwrap();
        assert_eq!((resource.endpoint.as_str(), resource.registered), ("nvidia-gpu.sock", taken), "{}", world.said());
    });
}
