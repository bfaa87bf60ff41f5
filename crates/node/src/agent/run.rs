//! What the agent does when something happened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::plugin::health::{Told as Change, Tracker};
use kube::plugin::{self, Config, Found, Offer, Topology};
use machine::{Root, lean};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::directory::Directory;
use super::front::{FileId, Front, Told, listed};
use super::grants::{Desk, Standing};
use super::looker::{self, Job, Look, Looker};
use super::side::Side;
use super::state::{self, Counters, Picture};
use super::watch::{self, Watch};
use super::{Open, Read, Settings, audit, http, rival};
use crate::cli::warn;

/// inotify can be lost (its queue overflows, a limit is reached): so often it is looked all the same.
const LOOK: Duration = Duration::from_millis(500);

/// Whether somebody else serves what we offer.
#[derive(Debug, PartialEq, Eq)]
enum Rival {
    Asked,
    Nobody,
    Somebody(String),
}

struct Agent<'a> {
    settings: &'a Settings,
    read: &'a Read<'a>,
    machine: Root,
    config: Arc<Mutex<Arc<Config>>>,
    standing: Arc<Standing>,
    found: Found,
    leaving: bool,
    desk: Desk,
    watch: Watch,
    fronts: BTreeMap<String, Front>,
    side: Side,
    /// GPUs cordoned by the node's file.
    cordoned: Vec<String>,
    rival: Rival,
    /// The kubelet was asked whether somebody serves our names already.
    asked_kubelet: bool,
    suspects: Vec<PathBuf>,
    counters: Arc<Counters>,
    shown: Arc<Mutex<Picture>>,
    picture: Picture,
    /// By where it is from: a trouble that is over is taken out.
    trouble: BTreeMap<&'static str, Vec<String>>,
    told: mpsc::UnboundedSender<Told>,
    asked: mpsc::UnboundedSender<Option<String>>,
}

/// Runs until a signal ends it. Its sockets stay where they are, so that pods go on and the next one takes over.
///
/// # Errors
/// One sentence: the configuration is wrong, or a thread or socket could not be had.
pub fn run(settings: &Settings, open: &Open<'_>, read: &Read<'_>) -> Result<(), String> {
    lean::one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no event loop: {error}"))?;
    let done = runtime.block_on(serve(settings, open, read));
    // threads that hang in the driver are not waited for
    runtime.shutdown_background();
    done
}

async fn serve(settings: &Settings, open: &Open<'_>, read: &Read<'_>) -> Result<(), String> {
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mut signals = Signals::new().map_err(failed("cannot hear signals"))?;
    let config = Arc::new(read()?);
    let machine = open(&config).map_err(failed("cannot open the machine"))?;
    let counters: Arc<Counters> = Arc::default();
    let desk = Desk::open(open(&config).map_err(failed("cannot open the machine"))?, Arc::clone(&counters))
        .map_err(failed("no thread"))?;
    let (told, mut tolds) = mpsc::unbounded_channel();
    let (asked, mut answers) = mpsc::unbounded_channel();
    let (heard, mut vigil) = mpsc::unbounded_channel();
    let (looked, mut looks) = mpsc::unbounded_channel();
    let remembered = looker::remembered(&machine);
    let mut agent = Agent {
        settings,
        read,
        watch: Watch::new(Tracker::new(config.health.clone()), heard),
        config: Arc::new(Mutex::new(Arc::clone(&config))),
        standing: Arc::default(),
        found: Found::default(),
        leaving: false,
        machine,
        desk,
        fronts: BTreeMap::new(),
        side: Side::new(settings.task.clone()),
        cordoned: Vec::new(),
        rival: Rival::Asked,
        asked_kubelet: false,
        suspects: Vec::new(),
        shown: Arc::default(),
        counters,
        picture: Picture::default(),
        trouble: BTreeMap::new(),
        told,
        asked,
    };
    config.notes.iter().for_each(|note| warn(note));
    if let Some(found) = &remembered {
        agent.found = found.clone();
        agent.watch.know(found, &[]);
        agent.offer();
    }
    let directory = Directory::new(&settings.plugins).map_err(failed("cannot watch the kubelet's directory"))?;
    agent.reconcile(&directory);
    if let Some(address) = settings.listen {
        http::serve(address, Arc::clone(&agent.shown), Arc::clone(&agent.counters))
            .await
            .map_err(|error| format!("cannot serve metrics at {address}: {error}; --listen chooses another address"))?;
    }
    let job = Job {
        machine: open(&config).map_err(failed("cannot open the machine"))?,
        root: settings.root.clone(),
        config: Arc::clone(&agent.config),
        specs: settings.specs,
        before: remembered,
    };
    if let (Some(every), Some(notices)) = (settings.audit, agent.side.notices()) {
        let machine = open(&config).map_err(failed("cannot open the machine"))?;
        audit::start(machine, settings.pod_resources.clone(), every, notices).map_err(failed("no thread"))?;
    }
    let looker = Looker::start(job, move |look| looked.send(look).is_ok()).map_err(failed("no thread"))?;
    let mut tick = tokio::time::interval(watch::TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut poll = tokio::time::interval(LOOK);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut lean = tokio::time::interval_at(tokio::time::Instant::now() + lean::FIRST, lean::AGAIN);
    loop {
        tokio::select! {
            biased;
            () = directory.changed() => agent.reconcile(&directory),
            Some(told) = tolds.recv() => agent.heard(&told),
            Some(answer) = answers.recv() => agent.rivals(answer, &directory),
            stop = signals.next() => match stop {
                Stop::End => return Ok(()),
                Stop::Reload => {
                    agent.reload();
                    agent.reconcile(&directory);
                    looker.again();
                }
            },
            Some(heard) = vigil.recv() => {
                let changes = agent.watch.hear(heard, &agent.counters);
                agent.changed(changes);
            }
            Some(look) = looks.recv() => {
                agent.looked(look)?;
                agent.reconcile(&directory);
            }
            _ = tick.tick() => {
                let changes = agent.watch.tick(&agent.machine);
                agent.changed(changes);
                agent.side.tick();
            }
            () = agent.side.news() => agent.news(),
            _ = poll.tick() => agent.reconcile(&directory),
            _ = lean.tick() => lean::settle(),
        }
    }
}

impl Agent<'_> {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is offered out of what was found, and who is told.
    fn offer(&mut self) {
        let config = self.config();
        let offer = match plugin::offer(&config, &self.found) {
            Ok(offer) => {
                self.trouble.remove("offer");
                offer
            }
            Err(refusal) => {
                self.say("offer", vec![refusal.to_string()]);
                Offer::default()
            }
        };
        let topology = Topology::new(&self.found);
        self.standing = Arc::new(Standing {
            config: (*config).clone(),
            found: self.found.clone(),
            offer,
            topology,
            unhealthy: BTreeSet::new(),
        });
        self.show();
    }

    /// The lists as the devices' health is.
    fn show(&mut self) {
        let well = |device: &plugin::Device| self.watch.healthy(&device.gpu, &device.uuid);
        let resources = &self.standing.offer.resources;
        let unhealthy: BTreeSet<String> = resources
            .iter()
            .flat_map(|resource| &resource.devices)
            .filter(|device| !well(device))
            .map(|device| device.id.clone())
            .collect();
        if unhealthy != self.standing.unhealthy {
            Arc::make_mut(&mut self.standing).unhealthy = unhealthy;
        }
        self.desk.set(Arc::clone(&self.standing));
        let mut gone: BTreeSet<String> = self.fronts.keys().cloned().collect();
        for resource in &self.standing.offer.resources {
            gone.remove(&resource.name);
            let devices: Vec<_> = resource
                .devices
                .iter()
                .map(|device| listed(device, !self.standing.unhealthy.contains(&device.id)))
                .collect();
            match self.fronts.get(&resource.name) {
                Some(front) => front.show(devices),
                None => {
                    let path = self.settings.plugins.join(resource.socket());
                    let front = Front::new(&resource.name, path, self.desk.clone(), devices);
                    self.fronts.insert(resource.name.clone(), front);
                }
            }
        }
        // the kubelet is told that there are none left; it forgets a plugin that goes only after minutes
        for name in gone {
            if let Some(front) = self.fronts.get(&name) {
                front.show(Vec::new());
            }
        }
        self.paint();
    }

    fn looked(&mut self, look: Look) -> Result<(), String> {
        self.counters.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let driver = look.found.driver.is_some();
        if !driver && !self.picture.looked && self.config().fail_on_init_error {
            let why: String = look.trouble.iter().map(|trouble| format!("; {trouble}")).collect();
            return Err(format!(
                "no NVIDIA driver runs on this node, and failOnInitError is set{why}; without it the agent waits for one"
            ));
        }
        self.say("look", look.trouble);
        self.say("driver", if driver { Vec::new() } else { vec!["no NVIDIA driver runs on this node".into()] });
        self.leaving = !look.leaving.is_empty();
        self.watch.apart = self.leaving;
        let news = self.found != look.found;
        self.found = look.found;
        self.cordoned = look.cordoned;
        self.side.wish(look.labels);
        let changes = self.cordon();
        self.picture.looked = true;
        self.note(&changes);
        if news {
            self.offer();
        } else {
            self.show();
        }
        Ok(())
    }

    /// Has the watch know the cards, and which of them are cordoned by whom.
    fn cordon(&mut self) -> Vec<Change> {
        let both: Vec<String> = self.cordoned.iter().chain(&self.side.cordoned).cloned().collect();
        self.watch.know(&self.found, &both)
    }

    /// Of the API.
    fn news(&mut self) {
        self.side.hear();
        let trouble = self.side.trouble.clone();
        self.say("api", trouble);
        let changes = self.cordon();
        self.note(&changes);
        self.show();
    }

    fn changed(&mut self, changes: Vec<Change>) {
        let trouble = self.watch.trouble.clone();
        self.say("nvml", trouble.into_iter().collect());
        if !changes.is_empty() {
            self.note(&changes);
            self.show();
        }
    }

    fn note(&mut self, changes: &[Change]) {
        for change in changes {
            let fix = if change.fix.is_empty() { String::new() } else { format!("; {}", change.fix) };
            warn(&format!("{}{fix}", change.says));
            if !change.changed {
                continue;
            }
            self.side.tell(change);
            if change.healthy {
                self.picture.away.remove(&change.gpu);
            } else {
                self.picture.away.insert(change.gpu.clone(), change.says.clone());
            }
        }
    }

    /// Sockets and registrations as they should be. Costs a few stats where they are.
    fn reconcile(&mut self, directory: &Directory) {
        if !directory.watch() {
            let why = format!("{} is not there: does a kubelet run on this node?", self.settings.plugins.display());
            self.say("directory", vec![why]);
            return self.paint();
        }
        self.ask_for_rivals();
        let mut trouble = Vec::new();
        let kubelet = self.settings.kubelet.as_ref().and_then(|path| Some((path, FileId::of(path)?)));
        for front in self.fronts.values_mut() {
            match &self.rival {
                Rival::Nobody => {}
                // what the kubelet follows is in effect, whoever else is there
                _ if front.followed() => {}
                Rival::Asked => continue,
                Rival::Somebody(_) => {
                    front.withdraw();
                    continue;
                }
            }
            if let Err(error) = front.listen() {
                trouble.push(format!("{} cannot be served: {error}", front.name));
                continue;
            }
            if let Some((path, id)) = &kubelet
                && front.wants(id)
            {
                front.tell(*id, path.to_path_buf(), self.told.clone());
            }
        }
        if let Rival::Somebody(why) = &self.rival {
            trouble.push(why.clone());
        }
        self.say("directory", trouble);
        self.paint();
    }

    fn heard(&mut self, told: &Told) {
        if let Some(front) = self.fronts.get_mut(&told.resource) {
            front.heard(told);
            match &told.result {
                Ok(()) => {
                    self.counters.registrations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if self.picture.registered_after.is_none() {
                        let took = self.settings.started.elapsed();
                        self.picture.registered_after = Some(took);
                        let (all, well) = front.counts();
                        let took = took.as_secs_f64() * 1000.0;
                        warn(&format!(
                            "{} is registered: {well} of {all} devices, {took:.1} ms after the start",
                            told.resource
                        ));
                    }
                    self.say("kubelet", Vec::new());
                }
                Err(why) => self.say("kubelet", vec![why.clone()]),
            }
        }
        self.paint();
    }

    /// Asks, where there is somebody new to be asked.
    fn ask_for_rivals(&mut self) {
        if self.fronts.is_empty() {
            return;
        }
        let first = !std::mem::replace(&mut self.asked_kubelet, true);
        let suspects = rival::suspects(&self.settings.plugins);
        let refused = matches!(self.rival, Rival::Somebody(_));
        if !first && suspects == self.suspects && !refused {
            return;
        }
        self.suspects = suspects.clone();
        if suspects.is_empty() && (!first || FileId::of(&self.settings.pod_resources).is_none()) && !refused {
            self.rival = Rival::Nobody;
            return;
        }
        let asked = self.asked.clone();
        let resources: Vec<String> = self.fronts.keys().cloned().collect();
        let pods = self.settings.pod_resources.clone();
        let unfollowed = !self.fronts.values().any(Front::followed);
        tokio::spawn(async move {
            let mut found = rival::answers(&suspects).await;
            // one that has just ended is still in the kubelet's list for a moment
            for _ in 0..4 {
                if found.is_some() || !(first || refused) || !unfollowed {
                    break;
                }
                match rival::served(&pods, &resources).await {
                    None => break,
                    some => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        found = rival::served(&pods, &resources).await.and(some);
                    }
                }
            }
            let _ = asked.send(found);
        });
    }

    fn rivals(&mut self, answer: Option<String>, directory: &Directory) {
        let now = answer.map_or(Rival::Nobody, Rival::Somebody);
        if now != self.rival {
            self.rival = now;
            self.reconcile(directory);
        }
    }

    fn reload(&mut self) {
        match (self.read)() {
            Ok(config) => {
                warn("the configuration was read again");
                config.notes.iter().for_each(|note| warn(note));
                self.watch.set_rules(config.health.clone());
                *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                self.say("config", Vec::new());
                self.offer();
            }
            Err(why) => self.say("config", vec![format!("the configuration before stays in force: {why}")]),
        }
    }

    /// Keeps a trouble, and writes it to the log where it is news.
    fn say(&mut self, from: &'static str, trouble: Vec<String>) {
        let before = self.trouble.insert(from, trouble).unwrap_or_default();
        let news: Vec<String> =
            self.trouble.get(from).into_iter().flatten().filter(|line| !before.contains(line)).cloned().collect();
        news.iter().for_each(|line| warn(line));
    }

    fn paint(&mut self) {
        self.picture.trouble = self.trouble.values().flatten().cloned().collect();
        self.picture.driver = self.found.driver.clone();
        let left = self.standing.offer.left_out.iter();
        self.picture.left_out =
            left.map(|left| (left.uuid.clone().unwrap_or_else(|| left.bdf.to_string()), left.why.clone())).collect();
        self.picture.resources = self
            .fronts
            .values()
            .map(|front| {
                let (devices, healthy) = front.counts();
                let name = front.name.clone();
                state::Told { name, devices, healthy, registered: front.registered(), followed: front.followed() }
            })
            .collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = self.picture.clone();
    }
}

enum Stop {
    End,
    Reload,
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.term.recv() => Stop::End,
            _ = self.int.recv() => Stop::End,
            _ = self.hup.recv() => Stop::Reload,
        }
    }
}
