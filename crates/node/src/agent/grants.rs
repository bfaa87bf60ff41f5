//! Allocate and GetPreferredAllocation. What is looked at before a grant and runs the driver's code (which card it has at an
//! address) can hang with it: that is done in a thread of its own, with a deadline, so that the kubelet hears why. Where the
//! driver's entry for the card is the very one that was read before, its answer is known, and the grant waits for no thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube::plugin::{self, Answer, Config, Found, ListStrategy, Live, Offer, Present, Topology};
use kubelet::v1beta1::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse, ContainerPreferredAllocationResponse,
    DeviceSpec, Mount, PreferredAllocationRequest, PreferredAllocationResponse,
};
use machine::events::Watcher;
use machine::{Machine as _, Mark, Root};
use model::{Bdf, Seen};
use tokio::sync::oneshot;
use tonic::Status;

use super::state::Counters;

/// The kubelet waits longer; a pod that is refused with the reason is better than one that hangs.
const DEADLINE: Duration = Duration::from_secs(2);
/// Nearly every answer is there by then; nothing else of the agent is kept waiting for longer.
const SOON: Duration = Duration::from_micros(150);
/// More containers or devices than any pod has.
const MOST: usize = 4096;

/// What is offered now, and why.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub config: Config,
    pub found: Found,
    pub offer: Offer,
    pub topology: Topology,
    /// Ids that are not well.
    pub unhealthy: BTreeSet<String>,
}

enum Job {
    Allocate(AllocateRequest, oneshot::Sender<Result<AllocateResponse, Status>>),
    Prefer(PreferredAllocationRequest, oneshot::Sender<Result<PreferredAllocationResponse, Status>>),
}

/// Where containers' requests are brought.
#[derive(Clone)]
pub struct Desk {
    jobs: mpsc::Sender<(String, Job)>,
    clerk: Arc<Mutex<Clerk>>,
    standing: Arc<Mutex<Arc<Standing>>>,
    counters: Arc<Counters>,
}

impl Desk {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread could be had.
    pub fn open(machine: Root, counters: Arc<Counters>) -> std::io::Result<Desk> {
        let (jobs, wanted) = mpsc::channel();
        let standing: Arc<Mutex<Arc<Standing>>> = Arc::default();
        let clerk = Clerk { names: Names::new(&machine), machine, certain: BTreeMap::new(), serial: 0, started: now() };
        let clerk = Arc::new(Mutex::new(clerk));
        let desk = Desk { jobs, clerk: Arc::clone(&clerk), standing: Arc::clone(&standing), counters };
        let begun = std::thread::Builder::new().name("grants".into()).stack_size(512 << 10);
        begun.spawn(move || {
            while let Ok((resource, job)) = wanted.recv() {
                let standing = Arc::clone(&standing.lock().unwrap_or_else(PoisonError::into_inner));
                match job {
                    Job::Allocate(request, reply) => {
                        let mut clerk = clerk.lock().unwrap_or_else(PoisonError::into_inner);
                        let _ = reply.send(clerk.allocate(&standing, &resource, &request));
                    }
                    Job::Prefer(request, reply) => {
                        let _ = reply.send(prefer(&standing, &resource, &request));
                    }
                }
            }
        })?;
        Ok(desk)
    }

    pub fn set(&self, standing: Arc<Standing>) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// # Errors
    /// A device is unknown, unhealthy or not what it was; the driver does not answer in time.
    pub async fn allocate(&self, resource: &str, request: AllocateRequest) -> Result<AllocateResponse, Status> {
        let begun = Instant::now();
        let result = match self.at_once(resource, &request) {
            Some(result) => result,
            None => {
                let (reply, answer) = oneshot::channel();
                self.ask(resource, Job::Allocate(request, reply), answer).await
            }
        };
        self.counters.allocated(begun.elapsed(), result.is_ok());
        result
    }

    /// None: the driver would have to be asked, or the thread is at it.
    fn at_once(&self, resource: &str, request: &AllocateRequest) -> Option<Result<AllocateResponse, Status>> {
        let mut clerk = self.clerk.try_lock().ok()?;
        let standing = Arc::clone(&self.standing.lock().unwrap_or_else(PoisonError::into_inner));
        clerk.knows(&standing, resource, request).then(|| clerk.allocate(&standing, resource, request))
    }

    /// # Errors
    /// As [`plugin::prefer`]; no answer in time.
    pub async fn prefer(
        &self,
        resource: &str,
        request: PreferredAllocationRequest,
    ) -> Result<PreferredAllocationResponse, Status> {
        let (reply, answer) = oneshot::channel();
        self.ask(resource, Job::Prefer(request, reply), answer).await
    }

    async fn ask<T>(
        &self,
        resource: &str,
        job: Job,
        mut answer: oneshot::Receiver<Result<T, Status>>,
    ) -> Result<T, Status> {
        let gone = || Status::internal("the agent's thread for grants ended; it must be restarted");
        self.jobs.send((resource.to_owned(), job)).map_err(|_| gone())?;
        // to sleep and be woken takes as long as the answer
        let soon = Instant::now() + SOON;
        while Instant::now() < soon {
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(oneshot::error::TryRecvError::Empty) => std::thread::yield_now(),
                Err(oneshot::error::TryRecvError::Closed) => return Err(gone()),
            }
        }
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(answer) => answer.map_err(|_| gone())?,
            Err(_) => Err(Status::deadline_exceeded(format!(
                "{resource}: the driver's files below /proc and /sys did not answer in {} s; see dmesg on this node",
                DEADLINE.as_secs()
            ))),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

fn resource<'a>(standing: &'a Standing, name: &str) -> Result<&'a plugin::Resource, Status> {
    standing
        .offer
        .resources
        .iter()
        .find(|resource| resource.name == name)
        .ok_or_else(|| Status::failed_precondition(format!("{name} is not offered on this node any more")))
}

fn prefer(
    standing: &Standing,
    name: &str,
    request: &PreferredAllocationRequest,
) -> Result<PreferredAllocationResponse, Status> {
    let resource = resource(standing, name)?;
    let mut container_responses = Vec::new();
    for ask in &request.container_requests {
        let size = usize::try_from(ask.allocation_size).ok().filter(|size| *size <= MOST);
        let size = size.ok_or_else(|| Status::invalid_argument("the allocation's size is no number of devices"))?;
        let chosen = plugin::prefer(
            resource,
            &standing.topology,
            standing.config.shared_policy,
            &ask.available_device_i_ds,
            &ask.must_include_device_i_ds,
            size,
        )
        .map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        container_responses.push(ContainerPreferredAllocationResponse { device_i_ds: chosen });
    }
    Ok(PreferredAllocationResponse { container_responses })
}

/// Keeps in mind which cards the driver told by the UUID that they are offered as: before its first use it tells none.
struct Noting<P> {
    on: P,
    told: RefCell<Vec<String>>,
}

impl<P: Present> Present for Noting<P> {
    fn live(&self, device: &plugin::Device) -> Live {
        let live = self.on.live(device);
        if live.uuid.get() == Some(&device.gpu) {
            self.told.borrow_mut().push(device.gpu.clone());
        }
        live
    }

    fn resolves(&self, name: &str) -> Seen<bool> {
        self.on.resolves(name)
    }
}

struct Clerk {
    machine: Root,
    names: Names,
    /// By a card's UUID: the marks of its entries when it was last granted, when the driver told that UUID. The same entries tell the same.
    certain: BTreeMap<String, Marks>,
    serial: u64,
    started: u64,
}

/// Of a card's sysfs directory, and of the driver's file about it.
type Marks = (Mark, Mark);

impl Clerk {
    fn marks(&self, bdf: Bdf) -> Option<Marks> {
        let device = self.machine.mark(&format!("/sys/bus/pci/devices/{bdf}"))?;
        Some((device, self.machine.mark(&plugin::information(bdf))?))
    }

    /// Whether a grant needs no look that could hang: all of its cards are certain, and the specs are read.
    fn knows(&mut self, standing: &Standing, name: &str, request: &AllocateRequest) -> bool {
        let Ok(resource) = resource(standing, name) else { return true };
        let mut ids = request.container_requests.iter().flat_map(|ask| &ask.devices_ids).take(MOST);
        let same = |device: &plugin::Device| {
            self.certain.get(&device.gpu).is_some_and(|marks| self.marks(device.bdf) == Some(*marks))
        };
        ids.all(|id| resource.device(id).is_none_or(same)) && (!by_cdi(standing) || self.names.current(&self.machine))
    }

    fn allocate(
        &mut self,
        standing: &Standing,
        name: &str,
        request: &AllocateRequest,
    ) -> Result<AllocateResponse, Status> {
        let resource = resource(standing, name)?;
        let asked: usize = request.container_requests.iter().map(|ask| ask.devices_ids.len()).sum();
        if asked > MOST || request.container_requests.len() > MOST {
            return Err(Status::invalid_argument("more devices than any pod can have"));
        }
        let cdi = by_cdi(standing);
        if cdi {
            self.names.refresh(&self.machine);
        }
        let mut container_responses = Vec::new();
        for ask in &request.container_requests {
            if let Some(id) = ask.devices_ids.iter().find(|id| standing.unhealthy.contains(*id)) {
                return Err(Status::failed_precondition(format!("{id} of {name} is unhealthy and cannot be given")));
            }
            let serial = format!("{:x}-{}", self.started, self.serial);
            self.serial += 1;
            let devices: Vec<&plugin::Device> = ask.devices_ids.iter().filter_map(|id| resource.device(id)).collect();
            // before the looks, so that what changes meanwhile differs at the next grant
            let marks: BTreeMap<&str, Option<Marks>> =
                devices.iter().map(|device| (device.gpu.as_str(), self.marks(device.bdf))).collect();
            let now = |gpu: &str| marks.get(gpu).copied().flatten();
            let names = &self.names;
            let resolves = |name: &str| if cdi { names.has(name) } else { Seen::Absent };
            let certain = |device: &plugin::Device| {
                let known = now(&device.gpu).is_some_and(|now| self.certain.get(&device.gpu) == Some(&now));
                known.then(|| device.gpu.clone())
            };
            let present = Noting {
                on: plugin::OnMachine { machine: &self.machine, resolves, certain },
                told: RefCell::default(),
            };
            let answer =
                plugin::allocate(&standing.config, &standing.found, resource, &ask.devices_ids, &serial, &present)
                    .map_err(|refusal| Status::failed_precondition(refusal.to_string()))?;
            for gpu in present.told.into_inner() {
                match now(&gpu) {
                    Some(marks) => self.certain.insert(gpu, marks),
                    None => self.certain.remove(&gpu),
                };
            }
            container_responses.push(spoken(answer));
        }
        Ok(AllocateResponse { container_responses })
    }
}

fn by_cdi(standing: &Standing) -> bool {
    let list = &standing.config.list;
    list.contains(&ListStrategy::CdiCri) || list.contains(&ListStrategy::CdiAnnotations)
}

fn spoken(answer: Answer) -> ContainerAllocateResponse {
    let mount = |mount: plugin::Mount| Mount {
        container_path: mount.container_path,
        host_path: mount.host_path,
        read_only: mount.read_only,
    };
    let node = |node: plugin::Node| DeviceSpec {
        container_path: node.container_path,
        host_path: node.host_path,
        permissions: node.permissions,
    };
    ContainerAllocateResponse {
        envs: answer.envs.into_iter().collect(),
        mounts: answer.mounts.into_iter().map(mount).collect(),
        devices: answer.devices.into_iter().map(node).collect(),
        annotations: answer.annotations.into_iter().collect(),
        cdi_devices: answer.cdi.into_iter().map(|name| CdiDevice { name }).collect(),
    }
}

/// Which CDI names resolve: read again when something happened in the directories of specs.
struct Names {
    watcher: Watcher,
    /// Of each directory at the last reading: watched, not there, or neither is certain.
    certain: [Option<bool>; 2],
    known: Option<BTreeSet<String>>,
}

impl Names {
    fn new(machine: &Root) -> Names {
        Names { watcher: Watcher::of_files(machine.path()), certain: [None; 2], known: None }
    }

    /// What is known is what the specs say.
    fn current(&mut self, machine: &Root) -> bool {
        // one that is not there cannot be watched and has nothing to be read; one that came since, or is there and cannot be
        // watched (inotify's limit), is read
        let certain = cdi::SPEC_DIRS.map(|dir| match self.watcher.watch(dir) {
            true => Some(true),
            false if machine.stat(dir) == Seen::Absent => Some(false),
            false => None,
        });
        if !self.watcher.wait(Duration::ZERO).is_empty() {
            self.known = None;
        }
        if self.certain != certain || certain.contains(&None) {
            self.known = None;
        }
        self.certain = certain;
        self.known.is_some()
    }

    fn refresh(&mut self, machine: &Root) {
        if self.current(machine) {
            return;
        }
        let (files, _) = cdi::read_dirs(machine, &cdi::SPEC_DIRS.map(str::to_owned));
        let good = cdi::list(&files).into_iter().filter(|device| device.conflict.is_none());
        self.known = Some(good.map(|device| device.name).collect());
    }

    fn has(&self, name: &str) -> Seen<bool> {
        Seen::Is(self.known.as_ref().is_some_and(|known| known.contains(name)))
    }
}
