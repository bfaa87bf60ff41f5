//! The thread that looks at the whole node: at its start, and whenever something happened that can mean another offer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use journal::cache::Cache;
use kube::plugin::{self, Config, Found};
use machine::events::{Happened, Watcher};
use machine::{Machine, MachineExt as _, Root};
use model::{Bdf, Seen};
use serde::{Deserialize, Serialize};

use crate::cordon;
use crate::labels::{Labels, wanted};
use crate::nfd;

/// The agent's own directory.
pub const HOME: &str = "/var/lib/thruway/node";
/// What was found last, so that the next start need not wait for the driver.
pub const INVENTORY: &str = "/var/lib/thruway/node/inventory.json";

/// So long nothing must happen before it is looked: a driver's load is dozens of announcements.
const QUIET: Duration = Duration::from_millis(60);
const MOST: Duration = Duration::from_millis(600);
/// procfs announces nothing, and in a pod's network nothing of the kernel's announcements is heard.
const PULSE: Duration = Duration::from_secs(1);

/// What one look gave.
#[derive(Clone, Debug)]
pub struct Look {
    pub found: Found,
    /// As [`cordon::FILE`] has them.
    pub cordoned: Vec<String>,
    /// Cards that the ledger promises to others and that NVIDIA's driver still holds: they cannot be let go of while NVML
    /// is open here.
    pub leaving: Vec<Bdf>,
    /// What the Node is to be labelled with; none where that cannot be told now: the driver does not answer for a card it holds.
    pub labels: Option<Labels>,
    /// What went wrong, one sentence each.
    pub trouble: Vec<String>,
}

/// [`INVENTORY`]'s form.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// [`cdi::pulse`] as it was: another one, and what was found is of the past.
    pulse: String,
    found: Found,
}

/// What was found by a life before, where the node is as it was.
pub fn remembered(machine: &dyn Machine) -> Option<Found> {
    let kept: Kept = serde_json::from_slice(&machine.read(INVENTORY).is()?).ok()?;
    (kept.found.form == plugin::found::FORM && !kept.pulse.is_empty() && kept.pulse == cdi::pulse(machine))
        .then_some(kept.found)
}

/// What is looked at, and how.
pub struct Job {
    pub machine: Root,
    pub root: PathBuf,
    pub config: Arc<Mutex<Arc<Config>>>,
    /// Write the CDI specs.
    pub specs: bool,
    /// What was found before.
    pub before: Option<Found>,
}

/// Asks for a look before anything happens.
#[derive(Clone)]
pub struct Looker(mpsc::Sender<()>);

impl Looker {
    /// Starts the thread, which looks at once.
    ///
    /// # Errors
    /// No thread could be had.
    pub fn start(job: Job, tell: impl Fn(Look) -> bool + Send + 'static) -> std::io::Result<Looker> {
        let (kick, kicked) = mpsc::channel();
        std::thread::Builder::new().name("look".into()).spawn(move || job.run(&kicked, &tell))?;
        Ok(Looker(kick))
    }

    pub fn again(&self) {
        let _ = self.0.send(());
    }
}

impl Job {
    fn run(mut self, kicked: &mpsc::Receiver<()>, tell: &dyn Fn(Look) -> bool) {
        let mut watcher = Watcher::new(&self.root);
        loop {
            // before the look, so that nothing falls between
            let pulse = cdi::pulse(&self.machine);
            let mut look = self.look();
            for dir in [HOME, journal::ledger::DIR, "/dev", "/proc/driver/nvidia"] {
                watcher.watch(dir);
            }
            if self.specs {
                self.refresh(&mut look, &mut watcher);
            }
            self.features(&mut look);
            self.keep(&pulse, &mut look);
            self.before = Some(look.found.clone());
            if !tell(look) {
                return;
            }
            self.wait(&mut watcher, &pulse, kicked);
        }
    }

    fn look(&self) -> Look {
        let machine = &self.machine;
        let inventory = gpu::observe_all(machine);
        let mut found = plugin::found::look(machine, &inventory);
        let ledger = journal::ledger::read(machine);
        let taken = |bdf: Bdf| {
            let of_pods = |to: &journal::ledger::Owner| {
                matches!(to, journal::ledger::Owner::Pods | journal::ledger::Owner::Containers)
            };
            ledger.promises.iter().any(|it| it.promise.gpu.bdf == bdf && !of_pods(&it.promise.to))
        };
        let held = |bdf: Bdf| {
            machine.link_name(&format!("/sys/bus/pci/devices/{bdf}/driver")).is().as_deref() == Some("nvidia")
        };
        let leaving: Vec<Bdf> = found.gpus.iter().map(|gpu| gpu.bdf).filter(|bdf| taken(*bdf) && held(*bdf)).collect();
        // a card that hangs or fell off the bus tells nothing of itself: it is still the one that it was, and unhealthy
        for gpu in &mut found.gpus {
            let before = self.before.iter().flat_map(|before| &before.gpus).find(|it| it.bdf == gpu.bdf);
            if let Some(before) = before
                && gpu.uuid.is_none()
                && before.uuid.is_some()
                && held(gpu.bdf)
                && !taken(gpu.bdf)
            {
                *gpu = before.clone();
            }
        }
        let (cordoned, trouble) = cordon::of_file(machine);
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        let silent = matches!(inventory.nvml, Seen::Unreadable(_)) && found.gpus.iter().any(|gpu| held(gpu.bdf));
        let labels = (!silent).then(|| wanted(machine, &inventory, &found, &config));
        Look { labels, found, cordoned: cordoned.into_iter().collect(), leaving, trouble }
    }

    /// The CDI specs as they should be.
    fn refresh(&self, look: &mut Look, watcher: &mut Watcher) {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        let elsewhere = |root: &String| root != "/";
        let options = cdi::Options {
            driver_root: Some(config.driver_root.clone()).filter(elsewhere),
            dev_root: config.dev_root.clone().filter(elsewhere),
            ..cdi::Options::default()
        };
        let carried =
            Cache::open(&self.root).and_then(|cache| cdi::carry_out(&self.machine, &cache, cdi::OUTPUT_DIR, &options));
        match carried {
            Ok(carried) => {
                for dir in cdi::watched(carried.wish.spec.as_ref(), cdi::OUTPUT_DIR) {
                    watcher.watch(&dir);
                }
            }
            Err(error) => look.trouble.push(format!(
                "the CDI specs could not be written ({error}): containers get GPUs as they stood there before; the next \
                 change tries again"
            )),
        }
    }

    /// Node feature discovery's file, where one is asked for.
    fn features(&self, look: &mut Look) {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        let (Some(path), Some(labels)) = (&config.labels.output_file, &look.labels) else { return };
        let cache = Cache::open(&self.root).map_err(|error| error.to_string());
        if let Err(why) = cache.and_then(|cache| nfd::write(&cache, path, labels)) {
            look.trouble.push(why);
        }
    }

    /// For the next start. What cannot be kept costs it a second, and no more.
    fn keep(&self, pulse: &str, look: &mut Look) {
        let kept = Kept { pulse: pulse.to_owned(), found: look.found.clone() };
        let write = || -> Result<bool, String> {
            let bytes = serde_json::to_vec(&kept).map_err(|error| error.to_string())?;
            let cache = Cache::open(&self.root).map_err(|error| error.to_string())?;
            cache.put(INVENTORY, &bytes).map_err(|error| error.to_string())
        };
        if let Err(error) = write() {
            look.trouble
                .push(format!("{INVENTORY} could not be written ({error}): the next start waits for the driver"));
        }
    }

    fn wait(&self, watcher: &mut Watcher, pulse: &str, kicked: &mpsc::Receiver<()>) {
        loop {
            let heard = watcher.wait(PULSE);
            if heard.iter().any(matters) {
                let until = Instant::now() + MOST;
                while Instant::now() < until && !watcher.wait(QUIET).is_empty() {}
                return;
            }
            match kicked.try_recv() {
                Err(mpsc::TryRecvError::Empty) => {}
                _ => {
                    while kicked.try_recv().is_ok() {}
                    return;
                }
            }
            if cdi::pulse(&self.machine) != pulse {
                return;
            }
        }
    }
}

/// Whether it can mean another offer.
fn matters(happened: &Happened) -> bool {
    match happened {
        Happened::Overflow => true,
        Happened::Kernel { subsystem, path, .. } => match subsystem.as_str() {
            "pci" => true,
            "module" => path.rsplit('/').next().is_some_and(|name| name.starts_with("nvidia") || name.contains("vfio")),
            _ => false,
        },
        Happened::File { name, .. } if name.is_empty() => true,
        Happened::File { name, .. } if name.starts_with('.') => false,
        Happened::File { dir, name } => match dir.as_str() {
            HOME => name == "cordon",
            "/dev" => name.starts_with("nvidia"),
            "/etc" => name == "ld.so.cache",
            "/usr/bin" => name.starts_with("nvidia") || name == "thruway-hook",
            _ => true,
        },
    }
}
