//! From card to card. A copy takes the CPU as long as it takes; the cards' clock, by which events tell time, goes on by what a
//! real way of this kind would take.

use simcards::card::Link;
use simcards::view::{Gpu, View};

use super::copies::{PIECE, dead};
use crate::errors::{
    Answer, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, PEER_ACCESS_ALREADY_ENABLED, PEER_ACCESS_NOT_ENABLED,
    PEER_ACCESS_UNSUPPORTED,
};
use crate::state::{Handle, Mark, clock, cuda, current, lock, world};
use simcards::abi::Out;

/// What of a way's rate large copies reach: of 18 links of an H100 some 390 of 450 GB/s.
const REACHED: f64 = 0.86;
/// Through the host every byte goes twice.
const THROUGH_HOST: f64 = 0.5;

fn link(view: &View, from: u32, to: u32) -> Option<&Link> {
    view.control.links.iter().find(|link| (link.from, link.to) == (from, to))
}

fn gpu(view: &View, device: usize) -> Answer<&Gpu> {
    let index = world().devices.get(device).ok_or(INVALID_DEVICE)?.gpu;
    view.gpus.get(index as usize).ok_or(INVALID_DEVICE)
}

/// By NVLink, or as cards for data centres do over PCIe; GeForce has none there. A card that is cut up has none.
fn can(view: &View, from: &Gpu, to: &Gpu) -> bool {
    let well = |gpu: &Gpu| !gpu.mig_enabled();
    let kind = (from.card.nvlinks > 0 && to.card.nvlinks > 0) || (from.card.ecc.is_some() && to.card.ecc.is_some());
    from.index != to.index
        && well(from)
        && well(to)
        && link(view, from.index, to.index).and_then(|link| link.peer).unwrap_or(kind)
}

/// Bytes a second. Source: NVLink's 25 GB/s a link and direction (14 on GA102); PCI Express' rates, by generation.
fn rate(from: &Gpu, to: &Gpu, peer: bool) -> f64 {
    let links = from.card.nvlinks.min(to.card.nvlinks);
    if peer && links > 0 {
        let each = if from.card.compute == [8, 6] { 14.0625 } else { 25.0 };
        return f64::from(links) * each * 1e9 * REACHED;
    }
    let lane = |generation: u32| 0.25e9 * f64::from(1 << generation.clamp(1, 6).saturating_sub(1));
    let of = |gpu: &Gpu| lane(gpu.card.pcie.max_gen) * f64::from(gpu.card.pcie.width);
    of(from).min(of(to)) * REACHED * if peer { 1.0 } else { THROUGH_HOST }
}

/// Another's context, its faults before it.
fn other(view: &View, context: Handle) -> Answer<(Handle, usize)> {
    crate::state::alive(view, context).map(|device| (context, device))
}

fn copy(view: &View, to: (u64, Handle), from: (u64, Handle), bytes: usize) -> Answer {
    current(view)?;
    let ((source, source_device), (target, target_device)) = (other(view, from.1)?, other(view, to.1)?);
    let (sender, receiver) = (gpu(view, source_device)?, gpu(view, target_device)?);
    // one after the other: the world is locked for each
    let origin = world().memory(source_device, view)?;
    let there = world().memory(target_device, view)?;
    for (memory, at) in [(&origin, from.0), (&there, to.0)] {
        let (start, length) = lock(memory).range(at)?;
        if bytes as u64 > length - (at - start) {
            return Err(INVALID_VALUE);
        }
    }
    let wrong = link(view, sender.index, receiver.index);
    let mut piece = vec![0; bytes.min(PIECE)];
    for offset in (0..bytes).step_by(PIECE) {
        let part = piece.get_mut(..PIECE.min(bytes - offset)).unwrap_or_default();
        lock(&origin).read(from.0 + offset as u64, part).map_err(|code| dead(source, code))?;
        for flip in wrong.iter().flat_map(|link| &link.flips) {
            let at = flip.byte.checked_sub(offset as u64).and_then(|at| usize::try_from(at).ok());
            if let Some(byte) = at.and_then(|at| part.get_mut(at)) {
                *byte ^= 1 << (flip.bit & 7);
            }
        }
        lock(&there).write(to.0 + offset as u64, part)?;
    }
    let mut world = world();
    let peer = world.peers.contains(&(source, target)) || world.peers.contains(&(target, source));
    let slow = f64::from(wrong.map_or(1, |link| link.slow).max(1));
    let real = bytes as f64 / rate(sender, receiver, peer) * slow * 1e9;
    let began = match world.mark {
        Some(Mark::Event(at) | Mark::Copy(at)) => at,
        None => world.now(),
    };
    let end = began + real as i64;
    world.ahead = end - clock();
    world.mark = Some(Mark::Copy(end));
    Ok(())
}

cuda! { table:
    fn cuDeviceCanAccessPeer(answer: Out<i32>, device: i32, peer: i32) |view| {
        let all = world();
        let (from, to) = (all.device(device)?.0, all.device(peer)?.0);
        drop(all);
        Ok(answer.put(i32::from(can(view, gpu(view, from)?, gpu(view, to)?)))?)
    }

    /// The current context is let into the other's memory.
    fn cuCtxEnablePeerAccess(peer: Handle, flags: u32) |view| {
        let (context, device) = current(view)?;
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        if peer == context {
            return Err(INVALID_CONTEXT);
        }
        let (_, other) = other(view, peer)?;
        if !can(view, gpu(view, device)?, gpu(view, other)?) {
            return Err(PEER_ACCESS_UNSUPPORTED);
        }
        if world().peers.insert((context, peer)) { Ok(()) } else { Err(PEER_ACCESS_ALREADY_ENABLED) }
    }

    fn cuCtxDisablePeerAccess(peer: Handle) |view| {
        let (context, _) = current(view)?;
        if !world().contexts.contains_key(&peer) {
            return Err(INVALID_CONTEXT);
        }
        if world().peers.remove(&(context, peer)) { Ok(()) } else { Err(PEER_ACCESS_NOT_ENABLED) }
    }

    fn cuMemcpyPeer(to: u64, target: Handle, from: u64, source: Handle, bytes: usize) |view| {
        copy(view, (to, target), (from, source), bytes)
    }

    fn cuMemcpyPeerAsync(to: u64, target: Handle, from: u64, source: Handle, bytes: usize, _stream: Handle) |view| {
        copy(view, (to, target), (from, source), bytes)
    }
}
