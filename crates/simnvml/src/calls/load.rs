//! How busy a card is, its clocks, its encoder and decoder.

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEncoderSessionInfo_t, nvmlFBCStats_t, nvmlUtilization_t};

use crate::abi::{Answer, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, Out, nvml};
use crate::card::Load;
use crate::state::Handles;
use crate::view::View;

/// Microseconds between two of the driver's samples.
const PERIOD: u32 = 167_000;

/// A card that is cut up does not say how busy it is, nor do its parts.
fn load(view: &View, device: nvmlDevice_t) -> Answer<&Load> {
    let gpu = view.gpu(device)?;
    if gpu.mig_enabled() { Err(NOT_SUPPORTED) } else { Ok(&gpu.card.load) }
}

fn engine(percent: Answer<u32>, out: Out<u32>, period: Out<u32>) -> Answer {
    out.put(percent?)?;
    period.put(PERIOD)
}

/// graphics, SM, memory, video
fn clock(of: [u32; 4], kind: u32, out: Out<u32>) -> Answer {
    out.put(*of.get(kind as usize).ok_or(INVALID_ARGUMENT)?)
}

/// Application clocks: data-centre cards only.
fn application(view: &View, device: nvmlDevice_t, kind: u32, out: Out<u32>) -> Answer {
    let card = &view.gpu(device)?.card;
    if card.serial.is_none() || kind == 3 {
        return Err(NOT_SUPPORTED);
    }
    clock(card.clocks.max, kind, out)
}

nvml! {
    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, out: Out<nvmlUtilization_t>) |view| {
        let load = load(view, device)?;
        out.put(nvmlUtilization_t { gpu: load.gpu, memory: load.memory })
    }
    fn nvmlDeviceGetEncoderUtilization(device: nvmlDevice_t, out: Out<u32>, period: Out<u32>) |view| {
        engine(load(view, device).map(|load| load.encoder), out, period)
    }
    fn nvmlDeviceGetDecoderUtilization(device: nvmlDevice_t, out: Out<u32>, period: Out<u32>) |view| {
        engine(load(view, device).map(|load| load.decoder), out, period)
    }
    /// Since Turing.
    fn nvmlDeviceGetJpgUtilization(device: nvmlDevice_t, out: Out<u32>, period: Out<u32>) |view| {
        if view.gpu(device)?.card.architecture < 6 { return Err(NOT_SUPPORTED); }
        engine(load(view, device).map(|load| load.jpeg), out, period)
    }
    fn nvmlDeviceGetOfaUtilization(device: nvmlDevice_t, out: Out<u32>, period: Out<u32>) |view| {
        if view.gpu(device)?.card.architecture < 6 { return Err(NOT_SUPPORTED); }
        engine(load(view, device).map(|load| load.ofa), out, period)
    }

    /// 0 H.264, 1 HEVC, 2 AV1. It says 100 also where there is no NVENC: an H100 with driver 580 answered 100, 100 and,
    /// for AV1, that it is not supported.
    fn nvmlDeviceGetEncoderCapacity(device: nvmlDevice_t, kind: u32, out: Out<u32>) |view| {
        let card = &view.gpu(device)?.card;
        let busy = u32::try_from(card.sessions.len()).unwrap_or(u32::MAX).saturating_mul(10).min(100);
        match kind {
            0 | 1 => out.put(100 - busy),
            2 if card.encoder && card.architecture >= 8 && card.architecture != 9 => out.put(100 - busy),
            2 => Err(NOT_SUPPORTED),
            _ => Err(INVALID_ARGUMENT),
        }
    }
    /// Frames a second and microseconds are means over the sessions.
    fn nvmlDeviceGetEncoderStats(device: nvmlDevice_t, count: Out<u32>, fps: Out<u32>, latency: Out<u32>) |view| {
        let sessions = &view.gpu(device)?.card.sessions;
        let number = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
        count.put(number)?;
        fps.put(sessions.iter().map(|session| session.fps).sum::<u32>() / number.max(1))?;
        latency.put(sessions.iter().map(|session| session.latency).sum::<u32>() / number.max(1))
    }
    fn nvmlDeviceGetEncoderSessions(device: nvmlDevice_t, count: Out<u32>, out: Out<nvmlEncoderSessionInfo_t>) |view| {
        let sessions = view.gpu(device)?.card.sessions.iter().zip(1..).map(|(session, id)| nvmlEncoderSessionInfo_t {
            sessionId: id,
            pid: session.pid,
            vgpuInstance: 0,
            codecType: session.codec,
            hResolution: session.width,
            vResolution: session.height,
            averageFps: session.fps,
            averageLatency: session.latency,
        });
        let sessions: Vec<_> = sessions.collect();
        // without an array it tells the number, and that is success
        if out.is_null() {
            return count.put(u32::try_from(sessions.len()).unwrap_or(u32::MAX));
        }
        out.list(count, &sessions)
    }
    fn nvmlDeviceGetFBCStats(device: nvmlDevice_t, out: Out<nvmlFBCStats_t>) |view| {
        view.gpu(device)?;
        out.put(nvmlFBCStats_t { sessionsCount: 0, averageFPS: 0, averageLatency: 0 })
    }
    fn nvmlDeviceGetFBCSessions(device: nvmlDevice_t, count: Out<u32>, _sessions: usize) |view| {
        view.gpu(device)?;
        count.put(0)
    }

    fn nvmlDeviceGetClockInfo(device: nvmlDevice_t, kind: u32, out: Out<u32>) |view| {
        clock(view.gpu(device)?.card.clocks.now, kind, out)
    }
    fn nvmlDeviceGetMaxClockInfo(device: nvmlDevice_t, kind: u32, out: Out<u32>) |view| {
        clock(view.gpu(device)?.card.clocks.max, kind, out)
    }
    /// Which: 0 now, 1 and 2 application, 3 the customer's boost limit.
    fn nvmlDeviceGetClock(device: nvmlDevice_t, kind: u32, which: u32, out: Out<u32>) |view| {
        match which {
            0 => clock(view.gpu(device)?.card.clocks.now, kind, out),
            1..=3 => application(view, device, kind, out),
            _ => Err(INVALID_ARGUMENT),
        }
    }
    fn nvmlDeviceGetApplicationsClock(device: nvmlDevice_t, kind: u32, out: Out<u32>) |view| {
        application(view, device, kind, out)
    }
    fn nvmlDeviceGetDefaultApplicationsClock(device: nvmlDevice_t, kind: u32, out: Out<u32>) |view| {
        application(view, device, kind, out)
    }
    fn nvmlDeviceGetMaxCustomerBoostClock(device: nvmlDevice_t, kind: u32, out: Out<u32>) |view| {
        application(view, device, kind, out)
    }
    fn nvmlDeviceGetSupportedMemoryClocks(device: nvmlDevice_t, count: Out<u32>, out: Out<u32>) |view| {
        let card = &view.gpu(device)?.card;
        if card.serial.is_none() { return Err(NOT_SUPPORTED); }
        out.list(count, &[card.clocks.max[2]])
    }
    /// Downwards, in steps of 15 MHz.
    fn nvmlDeviceGetSupportedGraphicsClocks(device: nvmlDevice_t, memory: u32, count: Out<u32>, out: Out<u32>) |view| {
        let card = &view.gpu(device)?.card;
        if card.serial.is_none() { return Err(NOT_SUPPORTED); }
        if memory != card.clocks.max[2] { return Err(NOT_FOUND); }
        let clocks: Vec<u32> = (210..=card.clocks.max[0]).rev().step_by(15).collect();
        out.list(count, &clocks)
    }

    fn nvmlDeviceGetPerformanceState(device: nvmlDevice_t, out: Out<u32>) |view| { out.put(view.gpu(device)?.card.pstate) }
    fn nvmlDeviceGetPowerState(device: nvmlDevice_t, out: Out<u32>) |view| { out.put(view.gpu(device)?.card.pstate) }
    fn nvmlDeviceGetCurrentClocksEventReasons(device: nvmlDevice_t, out: Out<u64>) |view| {
        out.put(view.gpu(device)?.card.reasons)
    }
    fn nvmlDeviceGetCurrentClocksThrottleReasons(device: nvmlDevice_t, out: Out<u64>) |view| {
        out.put(view.gpu(device)?.card.reasons)
    }
    fn nvmlDeviceGetSupportedClocksEventReasons(device: nvmlDevice_t, out: Out<u64>) |view| {
        view.gpu(device)?;
        out.put(0x1ff)
    }
    fn nvmlDeviceGetSupportedClocksThrottleReasons(device: nvmlDevice_t, out: Out<u64>) |view| {
        view.gpu(device)?;
        out.put(0x1ff)
    }
}
