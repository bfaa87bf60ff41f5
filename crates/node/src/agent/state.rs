//! What the agent counts and tells: its metrics and its readiness.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histogram, in seconds.
const BOUNDS: [f64; 7] = [0.000_1, 0.000_3, 0.001, 0.01, 0.1, 1.0, 2.0];

/// What is counted from several threads.
#[derive(Debug, Default)]
pub struct Counters {
    allocations: AtomicU64,
    refusals: AtomicU64,
    nanoseconds: AtomicU64,
    buckets: [AtomicU64; 7],
    pub registrations: AtomicU64,
    pub looks: AtomicU64,
    xids: Mutex<BTreeMap<(String, u64), u64>>,
}

impl Counters {
    pub fn allocated(&self, took: Duration, granted: bool) {
        let counter = if granted { &self.allocations } else { &self.refusals };
        counter.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(at) = BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound)
            && let Some(bucket) = self.buckets.get(at)
        {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn xid(&self, gpu: &str, number: u64) {
        *self.xids.lock().unwrap_or_else(PoisonError::into_inner).entry((gpu.to_owned(), number)).or_default() += 1;
    }
}

/// One resource, as it is told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub name: String,
    pub devices: usize,
    pub healthy: usize,
    pub registered: bool,
    pub followed: bool,
}

/// The agent's picture of itself.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub resources: Vec<Told>,
    /// Cards that are away, and why.
    pub away: BTreeMap<String, String>,
    /// Cards that are not offered, and why.
    pub left_out: Vec<(String, String)>,
    /// NVML answered at least once, or it is known why it does not.
    pub looked: bool,
    /// What is in the way, one sentence each.
    pub trouble: Vec<String>,
    pub driver: Option<String>,
    /// From process start to the first registration.
    pub registered_after: Option<Duration>,
}

impl Picture {
    /// All that should be is so; else what is in the way.
    pub fn ready(&self) -> Result<(), String> {
        let mut why = self.trouble.clone();
        if !self.looked {
            why.push("the cards have not been looked at yet".into());
        }
        let waiting = self.resources.iter().filter(|resource| !(resource.registered && resource.followed));
        why.extend(waiting.map(|resource| format!("{} is not registered with the kubelet", resource.name)));
        if why.is_empty() { Ok(()) } else { Err(why.join("\n")) }
    }

    /// Prometheus' text form.
    pub fn metrics(&self, counters: &Counters) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, String)>| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed).to_string();
        let of = |told: &Told, state: &str| format!("{{resource=\"{}\",state=\"{state}\"}}", quoted(&told.name));
        let devices = self.resources.iter().flat_map(|told| {
            let away = told.devices.saturating_sub(told.healthy);
            [(of(told, "healthy"), told.healthy.to_string()), (of(told, "unhealthy"), away.to_string())]
        });
        family("thruway_node_devices", "gauge", "Devices as the kubelet is told of them.", devices.collect());
        let registered = self.resources.iter().map(|told| {
            let so = u8::from(told.registered && told.followed);
            (format!("{{resource=\"{}\"}}", quoted(&told.name)), so.to_string())
        });
        let help = "Whether the kubelet knows the resource and follows its list.";
        family("thruway_node_registered", "gauge", help, registered.collect());
        let away = self
            .away
            .iter()
            .map(|(gpu, why)| (format!("{{gpu=\"{}\",why=\"{}\"}}", quoted(gpu), quoted(why)), "1".to_owned()));
        family("thruway_node_gpu_away", "gauge", "Cards that may not be given now.", away.collect());
        let left = self
            .left_out
            .iter()
            .map(|(card, why)| (format!("{{card=\"{}\",why=\"{}\"}}", quoted(card), quoted(why)), "1".to_owned()));
        family("thruway_node_gpu_left_out", "gauge", "Cards that are not offered.", left.collect());
        let ready = vec![(String::new(), u8::from(self.ready().is_ok()).to_string())];
        family("thruway_node_ready", "gauge", "Whether /readyz would say yes.", ready);
        let total = vec![(String::new(), count(&counters.registrations))];
        family("thruway_node_registrations_total", "counter", "Registrations that the kubelet took.", total);
        let total = vec![(String::new(), count(&counters.looks))];
        family("thruway_node_looks_total", "counter", "Times that all cards were looked at anew.", total);
        let total = vec![(String::new(), count(&counters.refusals))];
        family("thruway_node_allocate_refused_total", "counter", "Allocate calls that were refused.", total);
        let xids = counters.xids.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = xids
            .iter()
            .map(|((gpu, number), times)| (format!("{{gpu=\"{}\",xid=\"{number}\"}}", quoted(gpu)), times.to_string()));
        family("thruway_node_xids_total", "counter", "Xids that the driver told of.", lines.collect());
        let mut so_far = 0;
        let name = "thruway_node_allocate_seconds";
        let _ = writeln!(text, "# HELP {name} Time to answer Allocate.\n# TYPE {name} histogram");
        for (bound, bucket) in BOUNDS.iter().zip(&counters.buckets) {
            so_far += bucket.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {so_far}");
        }
        let calls = counters.allocations.load(Ordering::Relaxed) + counters.refusals.load(Ordering::Relaxed);
        let seconds = counters.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {calls}\n{name}_sum {seconds}\n{name}_count {calls}");
        text
    }
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}
