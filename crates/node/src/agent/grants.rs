//! Allocate and GetPreferredAllocation: answered in a thread of their own, since what is looked at before a grant (procfs,
//! sysfs) can hang with the driver, and with a deadline, so that the kubelet hears why.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube::plugin::{self, Answer, Config, Found, ListStrategy, Offer, Topology};
use kubelet::v1beta1::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse, ContainerPreferredAllocationResponse,
    DeviceSpec, Mount, PreferredAllocationRequest, PreferredAllocationResponse,
};
use machine::events::Watcher;
use machine::{Machine as _, Root};
use model::Seen;
use tokio::sync::oneshot;
use tonic::Status;

use super::state::Counters;

/// The kubelet waits longer; a pod that is refused with the reason is better than one that hangs.
const DEADLINE: Duration = Duration::from_secs(2);
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
        let desk = Desk { jobs, standing: Arc::clone(&standing), counters };
        let begun = std::thread::Builder::new().name("grants".into()).stack_size(512 << 10);
        begun.spawn(move || {
            let mut clerk = Clerk { names: Names::new(&machine), machine, serial: AtomicU64::new(0), started: now() };
            while let Ok((resource, job)) = wanted.recv() {
                let standing = Arc::clone(&standing.lock().unwrap_or_else(PoisonError::into_inner));
                match job {
                    Job::Allocate(request, reply) => {
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
        let (reply, answer) = oneshot::channel();
        let result = self.ask(resource, Job::Allocate(request, reply), answer).await;
        self.counters.allocated(begun.elapsed(), result.is_ok());
        result
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
        answer: oneshot::Receiver<Result<T, Status>>,
    ) -> Result<T, Status> {
        let gone = || Status::internal("the agent's thread for grants ended; it must be restarted");
        self.jobs.send((resource.to_owned(), job)).map_err(|_| gone())?;
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

struct Clerk {
    machine: Root,
    names: Names,
    serial: AtomicU64,
    started: u64,
}

impl Clerk {
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
        let cdi = standing.config.list.contains(&ListStrategy::CdiCri)
            || standing.config.list.contains(&ListStrategy::CdiAnnotations);
        if cdi {
            self.names.refresh(&self.machine);
        }
        let mut container_responses = Vec::new();
        for ask in &request.container_requests {
            if let Some(id) = ask.devices_ids.iter().find(|id| standing.unhealthy.contains(*id)) {
                return Err(Status::failed_precondition(format!("{id} of {name} is unhealthy and cannot be given")));
            }
            let serial = format!("{:x}-{}", self.started, self.serial.fetch_add(1, Ordering::Relaxed));
            let names = &self.names;
            let resolves = |name: &str| if cdi { names.has(name) } else { Seen::Absent };
            let present = plugin::allocate::OnMachine { machine: &self.machine, resolves };
            let answer =
                plugin::allocate(&standing.config, &standing.found, resource, &ask.devices_ids, &serial, &present)
                    .map_err(|refusal| Status::failed_precondition(refusal.to_string()))?;
            container_responses.push(spoken(answer));
        }
        Ok(AllocateResponse { container_responses })
    }
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

    fn refresh(&mut self, machine: &Root) {
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
        let same = self.certain == certain && certain.iter().all(Option::is_some);
        if self.known.is_some() && same {
            return;
        }
        self.certain = certain;
        let (files, _) = cdi::read_dirs(machine, &cdi::SPEC_DIRS.map(str::to_owned));
        let good = cdi::list(&files).into_iter().filter(|device| device.conflict.is_none());
        self.known = Some(good.map(|device| device.name).collect());
    }

    fn has(&self, name: &str) -> Seen<bool> {
        Seen::Is(self.known.as_ref().is_some_and(|known| known.contains(name)))
    }
}
