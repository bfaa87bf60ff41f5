//! NVLink: every link of a card that has it is up, to a switch.

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlPciInfo_t};

use crate::abi::{Answer, INVALID_ARGUMENT, NOT_SUPPORTED, Out, array, nvml, zeroed};
use crate::card::Card;
use crate::state::Handles;
use crate::view::View;

/// A card's link. Links above its number are an invalid argument; a card without any does not support the call.
fn link(view: &View, device: nvmlDevice_t, number: u32) -> Answer<&Card> {
    let card = &view.gpu(device)?.card;
    match card.nvlinks {
        0 => Err(NOT_SUPPORTED),
        links if number >= links => Err(INVALID_ARGUMENT),
        _ => Ok(card),
    }
}

/// Four switches on a bus of their own.
fn remote(view: &View, device: nvmlDevice_t, number: u32, out: Out<nvmlPciInfo_t>) -> Answer {
    link(view, device, number)?;
    let bus = 0xc0 + number % 4;
    out.put(nvmlPciInfo_t {
        busIdLegacy: array(&format!("0000:{bus:02X}:00.0")),
        busId: array(&format!("00000000:{bus:02X}:00.0")),
        bus,
        pciDeviceId: 0x22a3_10de,
        ..zeroed()
    })
}

nvml! {
    fn nvmlDeviceGetNvLinkState(device: nvmlDevice_t, number: u32, active: Out<u32>) |view| {
        link(view, device, number)?;
        active.put(1)
    }
    fn nvmlDeviceGetNvLinkVersion(device: nvmlDevice_t, number: u32, version: Out<u32>) |view| {
        version.put(link(view, device, number)?.nvlink_version)
    }
    /// 0 P2P, 1 system memory, 2 P2P atomics, 3 system atomics, 4 SLI, 5 valid.
    fn nvmlDeviceGetNvLinkCapability(device: nvmlDevice_t, number: u32, which: u32, out: Out<u32>) |view| {
        link(view, device, number)?;
        match which {
            0..=3 | 5 => out.put(1),
            4 => out.put(0),
            _ => Err(INVALID_ARGUMENT),
        }
    }
    fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: nvmlDevice_t, number: u32, out: Out<nvmlPciInfo_t>) |view| {
        remote(view, device, number, out)
    }
    fn nvmlDeviceGetNvLinkRemotePciInfo(device: nvmlDevice_t, number: u32, out: Out<nvmlPciInfo_t>) |view| {
        remote(view, device, number, out)
    }
    /// 2: a switch.
    fn nvmlDeviceGetNvLinkRemoteDeviceType(device: nvmlDevice_t, number: u32, out: Out<u32>) |view| {
        link(view, device, number)?;
        out.put(2)
    }
    /// 0 replay, 1 recovery, 2 and 3 CRC, 4 ECC: none so far.
    fn nvmlDeviceGetNvLinkErrorCounter(device: nvmlDevice_t, number: u32, which: u32, out: Out<u64>) |view| {
        link(view, device, number)?;
        if which > 4 { return Err(INVALID_ARGUMENT); }
        out.put(0)
    }
}
