//! Stress: the card computes and moves memory for a while, and every result is checked bit by bit.
//!
//! The CUDA driver API by dlopen and kernels of our own. A slice of work takes about a second, so that progress is told
//! and a stop is obeyed between two of them.

mod kernels;
pub mod links;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cuda::{Attribute, Buffer, CudaError, Device, Function, Module, WorkError, Worker};
use serde::Serialize;

/// Threads of a block, and blocks for each multiprocessor: as many threads as any of them runs at once.
const THREADS: u32 = 256;
const BLOCKS: u32 = 8;
/// Of one launch of arithmetic: some milliseconds of any card, so that a screen on it is not kept waiting, and few enough
/// that the CPU's twin of 32 lanes is no burden.
const ROUNDS: u32 = 16_384;
/// Memory's and each kind of arithmetic's part of a slice.
const SLICE: Duration = Duration::from_millis(400);

/// CUresults of a card that was well and is not any more: unavailable (46), an uncorrectable ECC error (214), NVLink (220),
/// faults of kernels that have none (700, 714 to 719), a launch without an end (702), unknown (999).
const LOST: [i32; 12] = [46, 214, 220, 700, 702, 714, 715, 716, 717, 718, 719, 999];

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub time: Duration,
    /// Per cent of the memory that is free.
    pub memory: u8,
    /// Kernels with a fault of ours, which must be found: what proves that this would find one.
    pub broken: bool,
}

/// What was found so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    pub seconds: f64,
    /// Bytes of the card's memory under test.
    pub memory: u64,
    /// Results looked at and found wrong, by kind; of the first wrong one where it was.
    pub memory_errors: u64,
    pub first_memory_error: Option<u64>,
    pub integer_errors: u64,
    pub float_errors: u64,
    /// Bytes written and read, and the time that took.
    pub bytes: u64,
    pub memory_seconds: f64,
    pub integer_ops: u64,
    pub integer_seconds: f64,
    pub float_ops: u64,
    pub float_seconds: f64,
    /// A stop was asked for before the time was over.
    pub stopped: bool,
    /// The card stopped working in the middle, in CUDA's words.
    pub lost: Option<String>,
}

impl Tally {
    pub fn errors(&self) -> u64 {
        self.memory_errors + self.integer_errors + self.float_errors
    }

    /// Bytes a second.
    pub fn bandwidth(&self) -> f64 {
        rate(self.bytes, self.memory_seconds)
    }

    /// Operations a second; a multiply-add is two.
    pub fn integers(&self) -> f64 {
        rate(self.integer_ops, self.integer_seconds)
    }

    pub fn floats(&self) -> f64 {
        rate(self.float_ops, self.float_seconds)
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// What the card can do at most, by its own figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Peak {
    pub multiprocessors: u32,
    pub compute_capability: (u32, u32),
    /// Bytes a second: memory clock, twice (two edges), times the bus; none where the driver does not say.
    pub bandwidth: Option<f64>,
    /// Single precision operations a second: lanes by generation, times the clock, a multiply-add as two.
    pub floats: Option<f64>,
}

/// Single precision lanes of a multiprocessor. Source: CUDA C++ Programming Guide, arithmetic instructions' throughput.
fn lanes((major, minor): (u32, u32)) -> Option<u32> {
    Some(match (major, minor) {
        (5, _) | (6, 1 | 2) | (8, 6 | 7 | 9) | (9.., _) => 128,
        (6, 0) | (7, _) | (8, 0) => 64,
        _ => return None,
    })
}

fn peak(worker: &Worker<'_>) -> Result<Peak, CudaError> {
    let get = |attribute| worker.attribute(attribute).map(|value| u32::try_from(value).unwrap_or(0));
    let multiprocessors = get(Attribute::MultiprocessorCount)?;
    let compute_capability = (get(Attribute::ComputeCapabilityMajor)?, get(Attribute::ComputeCapabilityMinor)?);
    let known = |product: f64| Some(product).filter(|product| *product > 0.0);
    let memory = f64::from(get(Attribute::MemoryClockRate)?) * 1e3 * 2.0;
    let clock = f64::from(get(Attribute::ClockRate)?) * 1e3;
    Ok(Peak {
        multiprocessors,
        compute_capability,
        bandwidth: known(memory * f64::from(get(Attribute::MemoryBusWidth)?) / 8.0),
        floats: lanes(compute_capability).and_then(|lanes| known(f64::from(lanes * multiprocessors) * clock * 2.0)),
    })
}

/// Works on this card until the time is over or `stop` is set. `tell` is called after each slice.
pub fn run(
    device: &Device<'_>,
    wanted: Wanted,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Tally, &Peak),
) -> Result<(Tally, Peak), WorkError> {
    let current = device.current()?;
    let worker = Worker::new(&current)?;
    let peak = peak(&worker)?;
    let module = worker.module(&kernels::ptx(wanted.broken))?;
    let bench = Bench::new(&worker, &module, peak.multiprocessors.max(1) * BLOCKS)?;
    let memory = field(&worker, wanted.memory)?;
    let mut tally = Tally { memory: memory.bytes() as u64, ..Tally::default() };
    let began = Instant::now();
    let mut seed = 1u32;
    while began.elapsed() < wanted.time {
        if stop.load(Ordering::Relaxed) {
            tally.stopped = true;
            break;
        }
        let done = bench.slice(&memory, seed, stop, &mut tally);
        tally.seconds = began.elapsed().as_secs_f64();
        match done {
            Ok(()) => {}
            // What was found until then stands, and that it stopped is itself a finding.
            Err(error) if LOST.contains(&error.code) => {
                tally.lost = Some(error.to_string());
                break;
            }
            Err(error) => return Err(error.into()),
        }
        seed = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        tell(&tally, &peak);
    }
    Ok((tally, peak))
}

/// As much as was asked for, or what can be had in one piece.
fn field<'a>(worker: &'a Worker<'a>, share: u8) -> Result<Buffer<'a>, CudaError> {
    let (free, _) = worker.memory()?;
    let mut bytes = free / 100 * usize::from(share.min(100)) / 16 * 16;
    loop {
        match worker.alloc(bytes.max(16)) {
            Ok(buffer) => return Ok(buffer),
            // Free, and not in one piece: less of it.
            Err(_) if bytes > 1 << 20 => bytes = bytes / 10 * 9 / 16 * 16,
            Err(error) => return Err(error),
        }
    }
}

struct Bench<'a> {
    fill: Function<'a>,
    check: Function<'a>,
    integers: Function<'a>,
    floats: Function<'a>,
    errors: Buffer<'a>,
    expected: Buffer<'a>,
    blocks: u32,
    worker: &'a Worker<'a>,
}

impl<'a> Bench<'a> {
    fn new(worker: &'a Worker<'a>, module: &'a Module<'a>, blocks: u32) -> Result<Bench<'a>, CudaError> {
        Ok(Bench {
            fill: module.function(c"fill")?,
            check: module.function(c"check")?,
            integers: module.function(c"integers")?,
            floats: module.function(c"floats")?,
            // count and lowest place: two words of 64 bits
            errors: worker.alloc(16)?,
            expected: worker.alloc(32 * 4)?,
            blocks,
            worker,
        })
    }

    /// Memory, integers and floats, a part of a second each.
    fn slice(&self, memory: &Buffer<'_>, seed: u32, stop: &AtomicBool, tally: &mut Tally) -> Result<(), CudaError> {
        self.memory(memory, seed, stop, tally)?;
        let integers = kernels::integers(seed, ROUNDS);
        let (count, ops, seconds) = self.arithmetic(&self.integers, seed, &integers, stop)?;
        tally.integer_errors += count;
        tally.integer_ops += ops * kernels::INT_OPS;
        tally.integer_seconds += seconds;
        let floats = kernels::floats(seed, ROUNDS);
        let (count, ops, seconds) = self.arithmetic(&self.floats, seed, &floats, stop)?;
        tally.float_errors += count;
        tally.float_ops += ops * kernels::FLOAT_OPS;
        tally.float_seconds += seconds;
        Ok(())
    }

    /// Nothing wrong yet: no count, and no lowest place.
    fn clear(&self) -> Result<(), CudaError> {
        self.errors.write(&[0, 0, u32::MAX, u32::MAX])
    }

    /// How many, and the lowest place.
    fn wrong(&self) -> Result<(u64, Option<u64>), CudaError> {
        let mut words = [0; 4];
        self.errors.read(&mut words)?;
        let [low, high, first_low, first_high] = words;
        let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        let first = join(first_low, first_high);
        Ok((join(low, high), Some(first).filter(|first| *first != u64::MAX)))
    }

    /// Starts writing so many units of 16 bytes.
    fn fill(&self, memory: &Buffer<'_>, units: u64, seed: u32) -> Result<(), CudaError> {
        self.worker.launch(&self.fill, self.blocks, THREADS, vec![memory.pointer(), units, u64::from(seed)])
    }

    /// Starts reading them, on top of the errors until now.
    fn check(&self, memory: &Buffer<'_>, units: u64, seed: u32) -> Result<(), CudaError> {
        let params = vec![memory.pointer(), units, u64::from(seed), self.errors.pointer()];
        self.worker.launch(&self.check, self.blocks, THREADS, params)
    }

    /// Writes all of the memory and reads it again, with another pattern each time, until the slice is over.
    fn memory(&self, memory: &Buffer<'_>, seed: u32, stop: &AtomicBool, tally: &mut Tally) -> Result<(), CudaError> {
        let units = memory.bytes() as u64 / 16;
        self.clear()?;
        self.worker.wait()?;
        let began = Instant::now();
        let mut seed = seed;
        loop {
            self.fill(memory, units, seed)?;
            self.check(memory, units, seed)?;
            self.worker.wait()?;
            tally.bytes += units * 16 * 2;
            seed = !seed.wrapping_mul(747_796_405);
            if began.elapsed() >= SLICE || stop.load(Ordering::Relaxed) {
                break;
            }
        }
        tally.memory_seconds += began.elapsed().as_secs_f64();
        let (count, first) = self.wrong()?;
        tally.memory_errors += count;
        tally.first_memory_error = tally.first_memory_error.or(first.map(|unit| unit * 16));
        Ok(())
    }

    /// Launches until the slice is over: how many results were wrong, how many rounds of a thread were done, and the time.
    fn arithmetic(
        &self,
        function: &Function<'_>,
        seed: u32,
        expected: &[u32; 32],
        stop: &AtomicBool,
    ) -> Result<(u64, u64, f64), CudaError> {
        self.expected.write(expected)?;
        self.clear()?;
        self.worker.wait()?;
        let params = [u64::from(seed), u64::from(ROUNDS), self.expected.pointer(), self.errors.pointer()];
        let began = Instant::now();
        let mut launches = 0;
        while launches == 0 || (began.elapsed() < SLICE && !stop.load(Ordering::Relaxed)) {
            self.worker.launch(function, self.blocks, THREADS, params.to_vec())?;
            self.worker.wait()?;
            launches += 1;
        }
        let seconds = began.elapsed().as_secs_f64();
        let (count, _) = self.wrong()?;
        Ok((count, u64::from(self.blocks * THREADS) * u64::from(ROUNDS) * launches, seconds))
    }
}
