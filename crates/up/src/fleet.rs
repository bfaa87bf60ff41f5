//! Many ways at once: a canary first, a limit, never two nodes of one cluster beside each other unless that is said.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::walk::{Direction, Go, Stop, walk};
use crate::way::{Fleet, Way};

/// How one host's way ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "ended", content = "says")]
pub enum Ended {
    Well(String),
    /// Something is wrong there: the step, and why.
    Failed(String),
    /// It waits for somebody.
    Yours(String),
    /// It was stopped, and can be gone on with.
    Interrupted(String),
    /// It was not begun, and why.
    NotBegun(String),
}

/// The fleet's report, in the file's order.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub hosts: Vec<(String, Ended, f64)>,
}

impl Report {
    pub fn count(&self, of: fn(&Ended) -> bool) -> usize {
        self.hosts.iter().filter(|(_, ended, _)| of(ended)).count()
    }

    pub fn well(&self) -> bool {
        self.hosts.iter().all(|(_, ended, _)| matches!(ended, Ended::Well(_)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waits,
    Walks,
    Ended { failed: bool },
}

/// Who may begin now: pure, so that its rules can be held to.
fn next(phases: &[Phase], clusters: &[Option<&str>], fleet: &Fleet) -> Vec<usize> {
    let failed = phases.iter().filter(|phase| matches!(phase, Phase::Ended { failed: true })).count();
    if failed >= fleet.stop_after {
        return Vec::new();
    }
    let canaries = fleet.canary.min(phases.len());
    // the others wait for the canaries, and follow only where those are well
    let (upto, limit) = if phases[..canaries].iter().all(|phase| *phase == Phase::Ended { failed: false }) {
        (phases.len(), fleet.at_once)
    } else {
        (canaries, fleet.at_once)
    };
    let mut walking = phases.iter().filter(|phase| **phase == Phase::Walks).count();
    let mut per: BTreeMap<&str, usize> = BTreeMap::new();
    for (phase, cluster) in phases.iter().zip(clusters) {
        if let (Phase::Walks, Some(name)) = (phase, cluster) {
            *per.entry(name).or_default() += 1;
        }
    }
    let mut begin = Vec::new();
    for (n, phase) in phases[..upto].iter().enumerate() {
        if *phase != Phase::Waits || walking >= limit {
            continue;
        }
        if let Some(name) = clusters[n] {
            let busy = per.entry(name).or_default();
            if *busy >= fleet.same_cluster {
                continue;
            }
            *busy += 1;
        }
        walking += 1;
        begin.push(n);
    }
    begin
}

/// Walks all ways. On the way down there is no canary: what was done is taken back wherever it stands.
pub fn walk_fleet(ways: &[Way], fleet: &Fleet, direction: Direction, go: &Go<'_>) -> Report {
    let mut fleet = fleet.clone();
    if direction == Direction::Down {
        fleet.canary = 0;
        fleet.stop_after = usize::MAX;
    }
    let clusters: Vec<Option<&str>> =
        ways.iter().map(|way| way.cluster.as_ref().and_then(|cluster| cluster.name.as_deref())).collect();
    let state = Mutex::new((vec![Phase::Waits; ways.len()], vec![None::<(Ended, f64)>; ways.len()]));
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        let mut held = lock(&state);
        loop {
            let stopped = go.stop.load(std::sync::atomic::Ordering::Relaxed);
            let begin = if stopped { Vec::new() } else { next(&held.0, &clusters, &fleet) };
            if begin.is_empty() && !held.0.contains(&Phase::Walks) {
                break;
            }
            for n in begin {
                held.0[n] = Phase::Walks;
                let (state, changed, way) = (&state, &changed, &ways[n]);
                scope.spawn(move || {
                    let begun = Instant::now();
                    let ended = match walk(way, direction, go) {
                        Ok(says) => Ended::Well(says),
                        Err(stop @ Stop::Yours { .. }) => Ended::Yours(stop.to_string()),
                        Err(stop @ (Stop::Interrupted { .. } | Stop::Declined { .. })) => {
                            Ended::Interrupted(stop.to_string())
                        }
                        Err(stop) => Ended::Failed(stop.to_string()),
                    };
                    let mut held = lock(state);
                    held.0[n] = Phase::Ended { failed: !matches!(ended, Ended::Well(_)) };
                    held.1[n] = Some((ended, begun.elapsed().as_secs_f64()));
                    changed.notify_all();
                });
            }
            held = changed
                .wait_timeout(held, Duration::from_millis(500))
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    });
    let (_, ended) = state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let stopped = go.stop.load(std::sync::atomic::Ordering::Relaxed);
    let failed = ended.iter().flatten().filter(|(ended, _)| !matches!(ended, Ended::Well(_))).count();
    let why = if stopped { "stopped before".to_owned() } else { format!("not begun: {failed} failed before it") };
    let name = |way: &Way| way.name.rsplit('/').next().unwrap_or(&way.name).to_owned();
    let hosts = ways.iter().zip(ended).map(|(way, ended)| {
        let (ended, seconds) = ended.unwrap_or_else(|| (Ended::NotBegun(why.clone()), 0.0));
        (name(way), ended, seconds)
    });
    Report { hosts: hosts.collect() }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fleet(at_once: usize, canary: usize, stop_after: usize, same_cluster: usize) -> Fleet {
        Fleet { hosts: Vec::new(), at_once, same_cluster, canary, stop_after }
    }

    #[test]
    fn the_canary_goes_alone_and_its_failure_stops_the_others() {
        let one = fleet(8, 1, 5, 8);
        let mut phases = vec![Phase::Waits; 4];
        let none = [None; 4];
        assert_eq!(next(&phases, &none, &one), [0]);
        phases[0] = Phase::Walks;
        assert_eq!(next(&phases, &none, &one), [] as [usize; 0]);
        phases[0] = Phase::Ended { failed: false };
        assert_eq!(next(&phases, &none, &one), [1, 2, 3]);
        phases[0] = Phase::Ended { failed: true };
        assert_eq!(next(&phases, &none, &one), [] as [usize; 0]);
    }

    proptest! {
        #[test]
        fn limits_hold_and_all_are_reached(
            at_once in 1usize..6, canary in 0usize..4, same in 1usize..3, clusters in proptest::collection::vec(0usize..3, 1..30),
        ) {
            let fleet = fleet(at_once, canary, usize::MAX, same);
            let names = ["a", "b"];
            let clusters: Vec<Option<&str>> = clusters.iter().map(|n| names.get(*n).copied()).collect();
            let mut phases = vec![Phase::Waits; clusters.len()];
            let mut order = Vec::new();
            loop {
                for n in next(&phases, &clusters, &fleet) {
                    phases[n] = Phase::Walks;
                    order.push(n);
                }
                let walks: Vec<usize> = (0..phases.len()).filter(|n| phases[*n] == Phase::Walks).collect();
                prop_assert!(walks.len() <= at_once);
                for name in names {
                    prop_assert!(walks.iter().filter(|n| clusters[**n] == Some(name)).count() <= same);
                }
                if walks.iter().any(|n| *n >= canary) {
                    let done = |phase: &Phase| *phase == Phase::Ended { failed: false };
                    let canaries_done = phases.iter().take(canary).all(done);
                    prop_assert!(canaries_done);
                }
                let Some(first) = walks.first() else { break };
                phases[*first] = Phase::Ended { failed: false };
            }
            order.sort_unstable();
            prop_assert_eq!(order, (0..phases.len()).collect::<Vec<_>>());
        }
    }
}
