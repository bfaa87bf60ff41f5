//! The one thread that looks, for all who ask: the newest sample, what was before it, and the Xids so far.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, UNIX_EPOCH};

use machine::nvml::NvmlGpu;
use serde::Serialize;
use tokio::sync::watch;

use super::chain::Chain;
use crate::Sample;

/// An Xid of one card: how often it came since this program began, and when it last did (seconds since the epoch).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    pub gpu: String,
    pub uuid: String,
    pub number: u64,
    pub count: u64,
    pub last: f64,
}

/// One finished look.
pub struct Look {
    pub number: u64,
    pub sample: Sample,
    pub xids: Vec<Told>,
    pub ended: Instant,
    pub took: Duration,
    /// Seconds since the epoch.
    pub time: f64,
    /// The driver answered, or there is none; not: it could not be asked.
    pub up: bool,
}

/// Whoever takes samples; it may hang.
pub trait Source: Send + 'static {
    fn look(&mut self) -> Sample;
}

impl<F: FnMut() -> Sample + Send + 'static> Source for F {
    fn look(&mut self) -> Sample {
        self()
    }
}

pub struct Keeper {
    last: watch::Receiver<Option<Arc<Look>>>,
    ask: mpsc::SyncSender<Instant>,
    history: Arc<Mutex<History>>,
    failed: Arc<AtomicU64>,
}

impl Keeper {
    /// Begins to look: at once, then every so often, and whenever somebody asks.
    ///
    /// # Errors
    /// No thread could be had.
    pub fn begin(source: impl Source, every: Duration) -> io::Result<Keeper> {
        let (publish, last) = watch::channel(None);
        // one question waits: whoever asks meanwhile gets the same answer
        let (ask, wanted) = mpsc::sync_channel(1);
        let (history, failed) = (Arc::<Mutex<History>>::default(), Arc::<AtomicU64>::default());
        let (kept, fails) = (Arc::clone(&history), Arc::clone(&failed));
        let thread = std::thread::Builder::new().name("look".into());
        thread.spawn(move || looks(source, every, &wanted, &publish, &kept, &fails))?;
        Ok(Keeper { last, ask, history, failed })
    }

    /// A sample that is no older than this; where none comes within the patience, the last one, and false.
    pub async fn now(&self, fresh: Duration, patience: Duration) -> (Option<Arc<Look>>, bool) {
        let mut last = self.last.clone();
        let known = last.borrow_and_update().clone();
        if let Some(look) = known.filter(|look| look.ended.elapsed() <= fresh) {
            return (Some(look), true);
        }
        let _ = self.ask.try_send(Instant::now());
        let came = matches!(tokio::time::timeout(patience, last.changed()).await, Ok(Ok(())));
        let look = last.borrow().clone();
        (look, came)
    }

    /// The newest sample, whatever its age.
    pub fn last(&self) -> Option<Arc<Look>> {
        self.last.borrow().clone()
    }

    /// Looks at which the driver could not be asked.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn with_history<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn looks(
    mut source: impl Source,
    every: Duration,
    wanted: &mpsc::Receiver<Instant>,
    publish: &watch::Sender<Option<Arc<Look>>>,
    history: &Mutex<History>,
    failed: &AtomicU64,
) {
    let (mut number, mut ended, mut next) = (0, None, Instant::now());
    let mut xids: BTreeMap<(String, u64), Told> = BTreeMap::new();
    loop {
        match wanted.recv_timeout(next.saturating_duration_since(Instant::now())) {
            // asked while the last look ran: that one is the answer
            Ok(asked) if ended.is_some_and(|ended| asked <= ended) => continue,
            Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let began = Instant::now();
        let sample = source.look();
        number += 1;
        let time = sample.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let up = sample.driver.unreadable().is_none();
        if !up {
            failed.fetch_add(1, Ordering::Relaxed);
        }
        hear(&mut xids, &sample, time);
        history.lock().unwrap_or_else(PoisonError::into_inner).add(&sample, time);
        let now = Instant::now();
        let look =
            Look { number, sample, xids: xids.values().cloned().collect(), ended: now, took: now - began, time, up };
        (ended, next) = (Some(now), now + every);
        if publish.send(Some(Arc::new(look))).is_err() {
            return;
        }
    }
}

/// A card's Xids are kept also when it is lost.
fn hear(known: &mut BTreeMap<(String, u64), Told>, sample: &Sample, time: f64) {
    for card in &sample.cards {
        let gpu = card.gpu.index.to_string();
        for (number, count) in &card.xids {
            let told = known.entry((gpu.clone(), *number)).or_insert_with(|| Told {
                gpu: gpu.clone(),
                uuid: card.gpu.uuid.get().cloned().unwrap_or_default(),
                number: *number,
                count: 0,
                last: time,
            });
            if *count != told.count {
                (told.count, told.last) = (*count, time);
            }
        }
    }
}

/// What a point of a card's history tells: per cent of time or of memory, watts, degrees.
pub const PLOTS: [&str; 6] = ["sm", "memory", "encoder", "decoder", "power", "temperature"];
/// So many points are kept: an hour at one each five seconds.
const POINTS: usize = 720;
/// Of so many cards.
const CARDS: usize = 64;

/// The last points of each card. NaN: not known then.
#[derive(Default)]
pub struct History {
    /// Seconds since the epoch.
    pub times: VecDeque<f64>,
    pub cards: BTreeMap<String, VecDeque<[f32; 6]>>,
}

impl History {
    fn add(&mut self, sample: &Sample, time: f64) {
        if self.times.back().is_some_and(|last| time <= *last) {
            return;
        }
        let before = self.times.len();
        self.times.push_back(time);
        for card in &sample.cards {
            let key = card.gpu.uuid.get().cloned().unwrap_or_else(|| format!("gpu{}", card.gpu.index));
            if self.cards.len() < CARDS || self.cards.contains_key(&key) {
                let points = self.cards.entry(key).or_insert_with(|| VecDeque::from(vec![NOTHING; before]));
                points.push_back(point(&card.gpu));
            }
        }
        let most = self.times.len();
        for points in self.cards.values_mut().filter(|points| points.len() < most) {
            points.push_back(NOTHING);
        }
        while self.times.len() > POINTS {
            self.times.pop_front();
            for points in self.cards.values_mut() {
                points.pop_front();
            }
            self.cards.retain(|_, points| points.iter().any(|point| point.iter().any(|value| value.is_finite())));
        }
    }

    /// From the oldest to the newest, in seconds.
    pub fn span(&self) -> f64 {
        self.times.back().zip(self.times.front()).map_or(0.0, |(newest, oldest)| newest - oldest)
    }

    /// The newest points as columns for a plot, oldest first: (seconds before the newest, value).
    pub fn column(&self, card: &str, plot: usize, span: f64) -> Vec<(f64, f32)> {
        let (Some(points), Some(newest)) = (self.cards.get(card), self.times.back()) else { return Vec::new() };
        let all = self.times.iter().zip(points).map(|(time, point)| (newest - time, point.get(plot).copied()));
        let told = all.filter(|(age, _)| *age <= span).filter_map(|(age, value)| Some((age, value?)));
        told.filter(|(_, value)| value.is_finite()).collect()
    }
}

const NOTHING: [f32; 6] = [f32::NAN; 6];

#[allow(clippy::cast_precision_loss, reason = "a plot's pixel is coarser")]
fn point(gpu: &NvmlGpu) -> [f32; 6] {
    let number = |seen: &model::Seen<u32>| seen.get().map_or(f32::NAN, |value| *value as f32);
    let memory = match (gpu.memory_used.get(), gpu.memory_total.get()) {
        (Some(used), Some(total)) if *total > 0 => (*used as f64 / *total as f64 * 100.0) as f32,
        _ => f32::NAN,
    };
    [
        number(&gpu.utilization_gpu),
        memory,
        number(&gpu.utilization_encoder),
        number(&gpu.utilization_decoder),
        number(&gpu.power_draw) / 1e3,
        number(&gpu.temperature),
    ]
}

/// What the doctor said, when, and how long it took.
pub struct Said {
    pub number: u64,
    pub chain: Chain,
    pub ended: Instant,
    pub took: Duration,
}

/// Has the doctor look in a thread of its own, every so often. None until it has looked once.
///
/// # Errors
/// No thread could be had.
pub fn doctor(
    mut look: impl FnMut() -> Chain + Send + 'static,
    every: Duration,
) -> io::Result<watch::Receiver<Option<Arc<Said>>>> {
    let (publish, last) = watch::channel(None);
    std::thread::Builder::new().name("doctor".into()).spawn(move || {
        for number in 1.. {
            let began = Instant::now();
            let chain = look();
            let ended = Instant::now();
            if publish.send(Some(Arc::new(Said { number, chain, ended, took: ended - began }))).is_err() {
                return;
            }
            std::thread::sleep(every);
        }
    })?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::simulated;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
    }

    #[test]
    fn one_look_is_made_for_all_who_wait() {
        let looks = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&looks);
        let source = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(100));
            simulated::gt1030()
        };
        let keeper = Keeper::begin(source, Duration::from_secs(600)).expect("a thread");
        runtime().block_on(async {
            let ask = || keeper.now(Duration::ZERO, Duration::from_secs(9));
            let (a, b, c, d, e) = tokio::join!(ask(), ask(), ask(), ask(), ask());
            for (look, current) in [a, b, c, d, e] {
                assert_eq!((look.map(|look| look.number), current), (Some(1), true));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(looks.load(Ordering::Relaxed), 1, "a question that an answer overtook is not asked again");
            let (look, _) = keeper.now(Duration::from_secs(60), Duration::ZERO).await;
            assert_eq!(look.map(|look| look.number), Some(1), "still fresh");
            let (look, _) = ask().await;
            assert_eq!(look.map(|look| look.number), Some(2));
        });
    }

    #[test]
    fn a_driver_that_hangs_leaves_the_last_sample() {
        let mut first = true;
        let source = move || {
            if !std::mem::take(&mut first) {
                std::thread::sleep(Duration::from_secs(3600));
            }
            simulated::gt1030()
        };
        let keeper = Keeper::begin(source, Duration::from_secs(600)).expect("a thread");
        runtime().block_on(async {
            assert!(keeper.now(Duration::from_secs(9), Duration::from_secs(9)).await.1);
            let (look, current) = keeper.now(Duration::ZERO, Duration::from_millis(50)).await;
            assert_eq!((look.map(|look| look.number), current), (Some(1), false));
        });
    }

    #[test]
    fn history_is_bounded_and_knows_gaps() {
        let mut history = History::default();
        let one = simulated::gt1030();
        for n in 0..POINTS + 50 {
            let mut sample = one.clone();
            if n == POINTS + 10 {
                sample.cards.clear();
            }
            history.add(&sample, n as f64);
        }
        let (key, points) = history.cards.iter().next().expect("a card");
        assert_eq!((history.times.len(), points.len()), (POINTS, POINTS));
        assert!(points.iter().flatten().all(|value| value.is_nan() || *value < 2100.0));
        assert_eq!(history.column(key, 5, 60.0).len(), 60, "one of 61 is not known");
        assert!(history.column(key, 4, 60.0).is_empty(), "a GT 1030 does not tell its power");
    }

    #[test]
    fn an_xid_is_heard_when_its_count_grows() {
        let (mut known, mut sample) = (BTreeMap::new(), simulated::gt1030());
        sample.cards[0].xids.insert(79, 1);
        hear(&mut known, &sample, 10.0);
        hear(&mut known, &sample, 20.0);
        assert_eq!(
            known.values().map(|told| (told.number, told.count, told.last)).collect::<Vec<_>>(),
            [(79, 1, 10.0)]
        );
        sample.cards[0].xids.insert(79, 3);
        hear(&mut known, &sample, 30.0);
        sample.cards.clear();
        hear(&mut known, &sample, 40.0);
        assert_eq!(known.values().map(|told| (told.count, told.last)).collect::<Vec<_>>(), [(3, 30.0)]);
    }
}
