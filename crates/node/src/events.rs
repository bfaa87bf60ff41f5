//! Events: what a person is to see with `kubectl describe` of the pod or the node. Few, bounded, and each at most once an hour.
//!
//! Source: kubernetes.io, Event v1 (events.k8s.io); the bounds are those of client-go's recorder (25 at once, then one every five
//! minutes).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Who says it.
pub const CONTROLLER: &str = "thruway.dev/node";

const AGAIN: Duration = Duration::from_secs(3600);
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
const KEYS: usize = 1024;
/// The API's limit of a note is 1024 bytes.
const NOTE: usize = 1000;

/// About what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// The own node.
    Node,
    Pod {
        namespace: String,
        name: String,
    },
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub about: About,
    /// What of it: the GPU, the Xid. One with another subject is another matter.
    pub subject: String,
    pub warning: bool,
    /// "GpuOutsideGrant": CamelCase, for machines.
    pub reason: &'static str,
    /// "ObserveGpu": what was done or seen.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

/// Lets through what was not told lately.
#[derive(Debug)]
pub struct Gate {
    told: BTreeMap<(About, &'static str, String), (Instant, u32)>,
    tokens: u32,
    refilled: Instant,
}

impl Gate {
    pub fn new(now: Instant) -> Self {
        Gate { told: BTreeMap::new(), tokens: BURST, refilled: now }
    }

    /// How often it was seen since it was told last, where it is to be told now.
    pub fn pass(&mut self, notice: &Notice, now: Instant) -> Option<u32> {
        let refill = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if refill > 0 {
            self.tokens = BURST.min(self.tokens.saturating_add(u32::try_from(refill).unwrap_or(BURST)));
            self.refilled = now;
        }
        let key = (notice.about.clone(), notice.reason, notice.subject.clone());
        if let Some((last, count)) = self.told.get_mut(&key) {
            *count = count.saturating_add(1);
            if now.saturating_duration_since(*last) < AGAIN {
                return None;
            }
        }
        if self.tokens == 0 {
            return None;
        }
        self.tokens -= 1;
        let seen = self.told.remove(&key).map_or(1, |(_, count)| count);
        if self.told.len() >= KEYS {
            self.told.retain(|_, (last, _)| now.saturating_duration_since(*last) < AGAIN);
        }
        if self.told.len() < KEYS {
            self.told.insert(key, (now, 0));
        }
        Some(seen)
    }
}

/// The Event as it is sent. `uid` is the node's; `time` "2026-01-01T00:00:00.000000Z".
pub fn event(notice: &Notice, node: &str, uid: &str, seen: u32, time: &str) -> (String, Value) {
    let (namespace, regarding, name) = match &notice.about {
        About::Node => (
            "default".to_owned(),
            json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}),
            node.to_owned(),
        ),
        About::Pod { namespace, name } => {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name});
            (namespace.clone(), pod, name.clone())
        }
    };
    let mut note = notice.note.clone();
    if seen > 1 {
        note.push_str(&format!(" (seen {seen} times in the last hour)"));
    }
    if let Some(at) = (0..=NOTE).rev().find(|at| note.is_char_boundary(*at)).filter(|_| note.len() > NOTE) {
        note.truncate(at);
    }
    let prefix: String = name.chars().take(200).collect();
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": format!("{prefix}."), "namespace": namespace},
        "eventTime": time,
        "reportingController": CONTROLLER,
        "reportingInstance": node.chars().take(128).collect::<String>(),
        "action": notice.action,
        "reason": notice.reason,
        "regarding": regarding,
        "note": note,
        "type": if notice.warning { "Warning" } else { "Normal" },
    });
    (namespace, event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(pod: &str) -> Notice {
        let about = About::Pod { namespace: "media".into(), name: pod.into() };
        let subject = "GPU-1".into();
        Notice { about, subject, warning: true, reason: "GpuOutsideGrant", action: "ObserveGpu", note: "x".into() }
    }

    #[test]
    fn once_an_hour_and_counted() {
        let begin = Instant::now();
        let mut gate = Gate::new(begin);
        let at = |minutes: u64| begin + Duration::from_secs(60 * minutes);
        assert_eq!(gate.pass(&notice("a"), at(0)), Some(1));
        for minute in 1..60 {
            assert_eq!(gate.pass(&notice("a"), at(minute)), None);
        }
        assert_eq!(gate.pass(&notice("b"), at(59)), Some(1), "another pod is another matter");
        assert_eq!(gate.pass(&notice("a"), at(60)), Some(60));
    }

    #[test]
    fn a_flood_is_cut_off() {
        let begin = Instant::now();
        let mut gate = Gate::new(begin);
        let passed = |gate: &mut Gate, at: Instant, from: usize| {
            (from..from + 2000).filter(|n| gate.pass(&notice(&n.to_string()), at).is_some()).count()
        };
        assert_eq!(passed(&mut gate, begin, 0), 25);
        assert_eq!(passed(&mut gate, begin + Duration::from_secs(600), 5000), 2);
        assert!(gate.told.len() <= KEYS);
    }
}
