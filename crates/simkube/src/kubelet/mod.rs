//! A simulated kubelet: what of it a device plugin meets, over the real sockets.
//!
//! Built from the public specification (kubernetes.io, Device Plugins; KEP 3573, 4009, 606). It registers and dials back,
//! keeps each plugin's list, admits pods with GetPreferredAllocation and Allocate, writes the checkpoint and serves
//! pod-resources. At a start it empties the directory as the real one does. Where the specification leaves a limit to the
//! plugin (63 characters of an id) it refuses what is beyond. It starts no container.
#![allow(
    clippy::disallowed_methods,
    reason = "it stands for the kubelet, which owns its directory; used by tests alone"
)]

mod checkpoint;
mod names;
mod plugins;
mod podresources;
mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kubelet::v1beta1::registration_server::{Registration, RegistrationServer};
use kubelet::v1beta1::{DevicePluginOptions, Empty, RegisterRequest};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::life::Life;

pub use checkpoint::CHECKPOINT;
pub use names::extended_resource;
pub use pods::{Ask, Grant, Refused};

/// How the kubelet answers a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Manners {
    #[default]
    Good,
    /// Each answer takes so long.
    Slow(Duration),
    /// Takes the call and never answers.
    Dead,
    /// Speaks these versions and not ours.
    Speaks(String),
}

/// One device as a plugin told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub healthy: bool,
    pub numa: Vec<i64>,
}

/// One resource as the kubelet knows it.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    pub endpoint: String,
    pub options: DevicePluginOptions,
    pub devices: BTreeMap<String, Known>,
    /// A plugin's stream is open.
    pub connected: bool,
    /// When the registration came in, and when the first list of it did.
    pub registered: Option<Instant>,
    pub listed: Option<Instant>,
    /// How many lists came since.
    pub lists: u64,
    client: Option<Channel>,
    stream: Option<AbortHandle>,
}

impl Resource {
    /// What the node's status would say: (capacity, allocatable).
    pub fn counts(&self) -> (usize, usize) {
        (self.devices.len(), self.healthy().len())
    }

    pub fn healthy(&self) -> BTreeSet<String> {
        self.devices.iter().filter(|(_, known)| known.healthy).map(|(id, _)| id.clone()).collect()
    }
}

#[derive(Default)]
struct State {
    resources: BTreeMap<String, Resource>,
    grants: Vec<Grant>,
    manners: Manners,
    /// What was refused, in the words in which it was.
    refused: Vec<String>,
    generation: u64,
    /// When this life's socket could be seen.
    appeared: Option<Instant>,
}

struct Core {
    dir: PathBuf,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.state());
        self.changed.send_modify(|count| *count += 1);
        done
    }
}

/// A running simulated kubelet; it ends with this value, and leaves its files as a killed one does.
pub struct Kubelet {
    core: Arc<Core>,
    pod_resources: PathBuf,
    life: Mutex<Option<Life>>,
}

impl Kubelet {
    /// Starts below this machine's root: `var/lib/kubelet/device-plugins` and `var/lib/kubelet/pod-resources` are made.
    ///
    /// # Errors
    /// The directories or the sockets cannot be made.
    pub async fn start(root: &Path) -> io::Result<Kubelet> {
        let below = |path: &str| root.join(path.trim_start_matches('/'));
        let pod_resources = below(kubelet::POD_RESOURCES);
        let core = Core { dir: below(kubelet::PLUGINS), state: Mutex::default(), changed: watch::channel(0).0 };
        let kubelet = Kubelet { core: Arc::new(core), pod_resources, life: Mutex::default() };
        kubelet.begin().await?;
        Ok(kubelet)
    }

    /// The process ends at once and another starts: what is in memory is gone but for the checkpoint, the directory is
    /// emptied, kubelet.sock made anew. Between the two is `away`.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub async fn restart(&self, away: Duration) -> io::Result<()> {
        self.stop();
        if !away.is_zero() {
            tokio::time::sleep(away).await;
        }
        self.begin().await
    }

    /// The process ends: its sockets' files stay, nobody answers.
    pub fn stop(&self) {
        drop(self.life.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.core.change(|state| {
            state.resources.clear();
            state.generation += 1;
            state.appeared = None;
        });
    }

    async fn begin(&self) -> io::Result<()> {
        let dir = self.core.dir.clone();
        std::fs::create_dir_all(&dir)?;
        let (grants, known) = checkpoint::read(&dir);
        empty(&dir)?;
        self.core.change(|state| {
            state.grants = grants;
            // as the checkpoint has them: known by name, nobody there, nothing healthy
            state.resources = known
                .into_iter()
                .map(|(name, ids)| {
                    let devices = ids.into_iter().map(|id| (id, Known { healthy: false, numa: Vec::new() })).collect();
                    (name, Resource { devices, ..Resource::default() })
                })
                .collect();
        });
        if let Some(dir) = self.pod_resources.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let _ = std::fs::remove_file(&self.pod_resources);
        let (core, pod_resources) = (Arc::clone(&self.core), self.pod_resources.clone());
        let life = Life::start(move || async move {
            let lister = UnixListener::bind(pod_resources)?;
            tokio::spawn(podresources::serve(Arc::clone(&core), lister));
            let appeared = Instant::now();
            let listener = UnixListener::bind(core.dir.join(kubelet::KUBELET_SOCKET))?;
            core.change(|state| state.appeared = Some(appeared));
            let service = RegistrationServer::new(Desk(core));
            tokio::spawn(async move {
                let incoming = UnixListenerStream::new(listener);
                let _ = Server::builder().serve_with_incoming(service, incoming).await;
            });
            Ok(())
        });
        let life = life.await?;
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = Some(life);
        Ok(())
    }

    pub fn set_manners(&self, manners: Manners) {
        self.core.change(|state| state.manners = manners);
    }

    pub fn dir(&self) -> &Path {
        &self.core.dir
    }

    /// Of a resource now.
    pub fn resource(&self, name: &str) -> Option<Resource> {
        self.core.state().resources.get(name).cloned()
    }

    pub fn resources(&self) -> Vec<String> {
        self.core.state().resources.keys().cloned().collect()
    }

    pub fn grants(&self) -> Vec<Grant> {
        self.core.state().grants.clone()
    }

    pub fn refused(&self) -> Vec<String> {
        self.core.state().refused.clone()
    }

    /// When this life's kubelet.sock could first be seen.
    pub fn appeared(&self) -> Option<Instant> {
        self.core.state().appeared
    }

    /// Waits until it is so of the resource; false: it was not in this time.
    pub async fn until(&self, name: &str, limit: Duration, so: impl Fn(&Resource) -> bool) -> bool {
        let mut changed = self.core.changed.subscribe();
        let wait = async {
            loop {
                if self.resource(name).is_some_and(|resource| so(&resource)) {
                    return;
                }
                if changed.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// The plugin is connected and told of its devices.
    pub async fn until_listed(&self, name: &str, limit: Duration) -> bool {
        self.until(name, limit, |resource| resource.connected && resource.listed.is_some()).await
    }

    /// Admits a pod's container, as the kubelet does: devices that it already holds, else chosen and allocated.
    ///
    /// # Errors
    /// What the pod's status would say beside UnexpectedAdmissionError.
    pub async fn admit(&self, ask: &Ask) -> Result<Grant, Refused> {
        pods::admit(&self.core, ask).await
    }

    /// The pod has ended; its devices are free. The plugin is told of nothing: the API has no word for it.
    pub fn forget(&self, pod: &str) {
        self.core.change(|state| state.grants.retain(|grant| grant.pod != pod));
        self.core.keep();
    }

    /// Devices that two grants of one resource hold: must be empty.
    pub fn given_twice(&self) -> Vec<String> {
        let state = self.core.state();
        let mut seen = BTreeSet::new();
        let ids = state.grants.iter().flat_map(|grant| grant.devices.iter().map(move |id| (&grant.resource, id)));
        ids.filter(|key| !seen.insert(*key)).map(|(resource, id)| format!("{resource}={id}")).collect()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Core {
    /// The checkpoint as the state is.
    fn keep(&self) {
        let state = self.state();
        let known = state
            .resources
            .iter()
            .map(|(name, resource)| (name.clone(), resource.devices.keys().cloned().collect::<Vec<_>>()));
        let _ = checkpoint::write(&self.dir, &state.grants, &known.collect());
    }
}

/// All sockets go, whoever's they are; directories and the checkpoint stay.
fn empty(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Where plugins register.
struct Desk(Arc<Core>);

#[tonic::async_trait]
impl Registration for Desk {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let came = Instant::now();
        let request = request.into_inner();
        let manners = self.0.state().manners.clone();
        let speaks = match &manners {
            Manners::Speaks(version) => version.as_str(),
            _ => kubelet::VERSION,
        };
        match manners {
            Manners::Slow(time) => tokio::time::sleep(time).await,
            Manners::Dead => std::future::pending().await,
            _ => {}
        }
        let refuse = |why: String| {
            self.0.change(|state| state.refused.push(why.clone()));
            Err(Status::unknown(why))
        };
        if request.version != speaks {
            return refuse(format!(
                "requested API version \"{}\" is not supported by kubelet. Supported version is \"{speaks}\"",
                request.version
            ));
        }
        if let Err(why) = extended_resource(&request.resource_name) {
            return refuse(format!("the ResourceName \"{}\" is invalid: {why}", request.resource_name));
        }
        if request.endpoint.is_empty() || request.endpoint.contains('/') {
            return refuse(format!("the endpoint \"{}\" is no file name in the plugins' directory", request.endpoint));
        }
        // the plugin is dialled before its registration is answered: it must be serving by then
        match plugins::connect(&self.0, &request, came).await {
            Ok(()) => Ok(Response::new(Empty {})),
            Err(why) => refuse(why),
        }
    }
}
