//! One resource's socket, and what the kubelet is answered there.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kubelet::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use kubelet::v1beta1::registration_client::RegistrationClient;
use kubelet::v1beta1::{
    AllocateRequest, AllocateResponse, Device, DevicePluginOptions, Empty, ListAndWatchResponse, NumaNode,
    PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest, PreferredAllocationResponse,
    RegisterRequest, TopologyInfo,
};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::grants::Desk;

/// The kubelet dials back and asks before it answers a registration.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kubelet's socket is seen a moment before anybody listens there, so the first tries follow soon.
const FIRST: Duration = Duration::from_micros(100);
const SOON: Duration = Duration::from_millis(1);
const LAST: Duration = Duration::from_secs(1);
/// A registration after which the kubelet does not open the stream in this time is made again.
const FORGOTTEN: Duration = Duration::from_secs(2);

/// A file by what it is, not by its name. A socket's inode is not used again for as long as somebody listens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    dev: u64,
    inode: u64,
    changed: (i64, i64),
}

impl FileId {
    pub fn of(path: &Path) -> Option<FileId> {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some(FileId { dev: meta.dev(), inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }

    /// The same file, whatever was done to its metadata since.
    pub fn is(&self, other: &FileId) -> bool {
        (self.dev, self.inode) == (other.dev, other.inode)
    }
}

/// A resource as it is offered.
pub struct Front {
    pub name: String,
    path: PathBuf,
    desk: Desk,
    list: watch::Sender<Vec<Device>>,
    streams: Arc<AtomicUsize>,
    socket: Option<(FileId, AbortHandle)>,
    /// The kubelet's socket that was told, and when.
    told: Option<(FileId, Instant)>,
    telling: Option<(FileId, JoinHandle<()>)>,
}

/// What became of a registration.
pub struct Told {
    pub resource: String,
    pub kubelet: FileId,
    /// Or why not; it is tried again.
    pub result: Result<(), String>,
}

impl Front {
    pub fn new(name: &str, path: PathBuf, desk: Desk, devices: Vec<Device>) -> Front {
        Front {
            name: name.into(),
            path,
            desk,
            list: watch::channel(devices).0,
            streams: Arc::default(),
            socket: None,
            told: None,
            telling: None,
        }
    }

    /// Tells the kubelet the whole list again where it is another.
    pub fn show(&self, devices: Vec<Device>) {
        self.list.send_if_modified(|shown| {
            let changed = *shown != devices;
            if changed {
                *shown = devices;
            }
            changed
        });
    }

    /// (all, healthy) as the kubelet is told.
    pub fn counts(&self) -> (usize, usize) {
        let list = self.list.borrow();
        (list.len(), list.iter().filter(|device| device.health == kubelet::HEALTHY).count())
    }

    /// The kubelet follows the list.
    pub fn followed(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }

    pub fn registered(&self) -> bool {
        self.told.is_some()
    }

    /// Our socket lies in the directory, and it is ours: a kubelet that starts deletes it.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(&mut self) -> io::Result<bool> {
        let there = FileId::of(&self.path);
        if let (Some((id, _)), Some(there)) = (&self.socket, &there)
            && id.is(there)
        {
            return Ok(false);
        }
        if there.is_some() {
            let kind = std::fs::symlink_metadata(&self.path)?.file_type();
            if !kind.is_socket() {
                return Err(io::Error::other(format!("{} is there and is no socket", self.path.display())));
            }
            std::fs::remove_file(&self.path)?;
        }
        let listener = UnixListener::bind(&self.path)?;
        let id = FileId::of(&self.path).ok_or_else(|| io::Error::other("the socket went as it was made"))?;
        let service = Service {
            desk: self.desk.clone(),
            name: self.name.clone(),
            list: self.list.subscribe(),
            streams: Arc::clone(&self.streams),
        };
        let server = tokio::spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            let _ = Server::builder().serve_with_incoming(DevicePluginServer::new(service), incoming).await;
        });
        // whoever listened before has no name any more; a call that is being answered is answered
        if let Some((_, old)) = self.socket.replace((id, server.abort_handle())) {
            old.abort();
        }
        self.told = None;
        Ok(true)
    }

    /// Nobody is answered any more.
    pub fn withdraw(&mut self) {
        if let Some((_, server)) = self.socket.take() {
            server.abort();
            let _ = std::fs::remove_file(&self.path);
        }
        if let Some((_, telling)) = self.telling.take() {
            telling.abort();
        }
        self.told = None;
    }

    /// Whether this kubelet is to be told of us (again).
    pub fn wants(&self, kubelet: &FileId) -> bool {
        if self.telling.as_ref().is_some_and(|(to, _)| to == kubelet) {
            return false;
        }
        match &self.told {
            Some((to, when)) if to == kubelet => !self.followed() && when.elapsed() > FORGOTTEN,
            _ => true,
        }
    }

    /// Registers, for as long as it takes.
    pub fn tell(&mut self, kubelet: FileId, socket: PathBuf, said: mpsc::UnboundedSender<Told>) {
        let request = RegisterRequest {
            version: kubelet::VERSION.into(),
            endpoint: self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            resource_name: self.name.clone(),
            options: Some(options()),
        };
        let task = tokio::spawn(async move {
            let mut pause = FIRST;
            let mut last = String::new();
            loop {
                let result = register(&socket, request.clone()).await;
                let done = result.is_ok();
                // said once; a kubelet that is not up yet is no news
                if done || (result.as_ref().err() != Some(&last) && pause > Duration::from_millis(50)) {
                    last = result.as_ref().err().cloned().unwrap_or_default();
                    let _ = said.send(Told { resource: request.resource_name.clone(), kubelet, result });
                }
                if done {
                    return;
                }
                match pause < SOON {
                    // a timer is of milliseconds, and the kubelet has bound its socket and listens at any moment
                    true => tokio::task::yield_now().await,
                    false => tokio::time::sleep(pause).await,
                }
                pause = (pause * 2).min(LAST);
            }
        });
        if let Some((_, old)) = self.telling.replace((kubelet, task)) {
            old.abort();
        }
        self.told = None;
    }

    pub fn heard(&mut self, told: &Told) {
        if told.result.is_ok() && self.telling.as_ref().is_some_and(|(to, _)| *to == told.kubelet) {
            self.telling = None;
            self.told = Some((told.kubelet, Instant::now()));
        }
    }
}

async fn register(socket: &Path, request: RegisterRequest) -> Result<(), String> {
    let channel = kubelet::socket::connect(socket.to_owned(), PATIENCE)
        .await
        .map_err(|error| format!("cannot reach the kubelet at {}: {}", socket.display(), chain(&error)))?;
    match RegistrationClient::new(channel).register(request).await {
        Ok(_) => Ok(()),
        Err(status) => Err(format!("the kubelet refuses the registration: {}", status.message())),
    }
}

/// An error with what caused it: tonic's own text says "transport error" alone.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn options() -> DevicePluginOptions {
    DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true }
}

/// A device in the kubelet's form.
pub fn listed(device: &kube::plugin::Device, healthy: bool) -> Device {
    let health = if healthy { kubelet::HEALTHY } else { kubelet::UNHEALTHY };
    Device {
        id: device.id.clone(),
        health: health.into(),
        topology: device.numa.map(|node| TopologyInfo { nodes: vec![NumaNode { id: node.into() }] }),
    }
}

struct Service {
    name: String,
    desk: Desk,
    list: watch::Receiver<Vec<Device>>,
    streams: Arc<AtomicUsize>,
}

/// Counts a stream for as long as it is open.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = ReceiverStream<Result<ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(options()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let (send, receive) = mpsc::channel(1);
        let mut list = self.list.clone();
        self.streams.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&self.streams));
        tokio::spawn(async move {
            let _open = open;
            loop {
                let devices = list.borrow_and_update().clone();
                if send.send(Ok(ListAndWatchResponse { devices })).await.is_err() {
                    return;
                }
                tokio::select! {
                    changed = list.changed() => if changed.is_err() { return },
                    () = send.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        self.desk.prefer(&self.name, request.into_inner()).await.map(Response::new)
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        self.desk.allocate(&self.name, request.into_inner()).await.map(Response::new)
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
