//! Memory errors: ECC, retired pages, remapped rows. All errors are device memory's.
#![allow(non_snake_case, reason = "fields of the header's structures")]

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEccErrorCounts_t, nvmlRowRemapperHistogramValues_t};

use crate::abi::{Answer, INVALID_ARGUMENT, NOT_SUPPORTED, Out, nvml};
use crate::card::{Card, Ecc};
use crate::state::{Handles, supported};
use crate::view::View;

/// Counters are only kept while ECC is on.
fn counted(view: &View, device: nvmlDevice_t) -> Answer<&Ecc> {
    supported(view.gpu(device)?.card.ecc.as_ref().filter(|ecc| ecc.enabled))
}

/// kind: 0 corrected, 1 uncorrected; counter: 0 volatile, 1 aggregate.
pub(crate) fn count(ecc: &Ecc, kind: u32, counter: u32) -> Answer<u64> {
    Ok(match (kind, counter) {
        (0, 0) => ecc.corrected,
        (1, 0) => ecc.uncorrected,
        (0, 1) => ecc.aggregate_corrected,
        (1, 1) => ecc.aggregate_uncorrected,
        _ => return Err(INVALID_ARGUMENT),
    })
}

fn pages(card: &Card, cause: u32) -> Answer<&[u64]> {
    let retired = supported(card.retired.as_ref())?;
    match cause {
        0 => Ok(&retired.single),
        1 => Ok(&retired.double),
        _ => Err(INVALID_ARGUMENT),
    }
}

nvml! {
    fn nvmlDeviceGetEccMode(device: nvmlDevice_t, current: Out<u32>, pending: Out<u32>) |view| {
        let enabled = u32::from(supported(view.gpu(device)?.card.ecc.as_ref())?.enabled);
        current.put(enabled)?;
        pending.put(enabled)
    }
    fn nvmlDeviceGetDefaultEccMode(device: nvmlDevice_t, mode: Out<u32>) |view| {
        let card = &view.gpu(device)?.card;
        supported(card.ecc.as_ref())?;
        mode.put(u32::from(card.serial.is_some()))
    }
    fn nvmlDeviceGetTotalEccErrors(device: nvmlDevice_t, kind: u32, counter: u32, out: Out<u64>) |view| {
        out.put(count(counted(view, device)?, kind, counter)?)
    }
    /// Places: 0 L1, 1 L2, 2 device memory, 3 registers, 4 texture, 5 shared, 6 CBU, 7 SRAM.
    fn nvmlDeviceGetMemoryErrorCounter(device: nvmlDevice_t, kind: u32, counter: u32, place: u32, out: Out<u64>) |view| {
        let number = count(counted(view, device)?, kind, counter)?;
        match place {
            2 => out.put(number),
            7 => out.put(0),
            // since Ampere all that is no device memory is SRAM
            0..=6 if view.gpu(device)?.card.architecture >= 7 => Err(NOT_SUPPORTED),
            0..=6 => out.put(0),
            _ => Err(INVALID_ARGUMENT),
        }
    }
    fn nvmlDeviceGetDetailedEccErrors(device: nvmlDevice_t, kind: u32, counter: u32, out: Out<nvmlEccErrorCounts_t>) |view| {
        let deviceMemory = count(counted(view, device)?, kind, counter)?;
        out.put(nvmlEccErrorCounts_t { l1Cache: 0, l2Cache: 0, deviceMemory, registerFile: 0 })
    }

    fn nvmlDeviceGetRetiredPages(device: nvmlDevice_t, cause: u32, number: Out<u32>, out: Out<u64>) |view| {
        out.list(number, pages(&view.gpu(device)?.card, cause)?)
    }
    /// The times are all zero: unknown.
    fn nvmlDeviceGetRetiredPages_v2(
        device: nvmlDevice_t, cause: u32, number: Out<u32>, out: Out<u64>, times: Out<u64>
    ) |view| {
        let pages = pages(&view.gpu(device)?.card, cause)?;
        out.list(number, pages)?;
        if times.is_null() { Ok(()) } else { times.fill(&vec![0; pages.len()]) }
    }
    fn nvmlDeviceGetRetiredPagesPendingStatus(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(u32::from(supported(view.gpu(device)?.card.retired.as_ref())?.pending))
    }

    /// Ampere and later.
    fn nvmlDeviceGetRemappedRows(
        device: nvmlDevice_t, corrected: Out<u32>, uncorrected: Out<u32>, pending: Out<u32>, failed: Out<u32>
    ) |view| {
        let rows = supported(view.gpu(device)?.card.remapped.as_ref())?;
        corrected.put(rows.corrected)?;
        uncorrected.put(rows.uncorrected)?;
        pending.put(u32::from(rows.pending))?;
        failed.put(u32::from(rows.failed))
    }
    fn nvmlDeviceGetRowRemapperHistogram(device: nvmlDevice_t, out: Out<nvmlRowRemapperHistogramValues_t>) |view| {
        let [max, high, partial, low, none] = supported(view.gpu(device)?.card.remapped.as_ref())?.histogram;
        out.put(nvmlRowRemapperHistogramValues_t { max, high, partial, low, none })
    }
}
