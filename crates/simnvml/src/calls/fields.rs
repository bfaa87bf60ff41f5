//! nvmlDeviceGetFieldValues: many values in one call, each with a code of its own.

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlFieldValue_t, nvmlValue_t};

use crate::abi::{Answer, Code, INVALID_ARGUMENT, NOT_SUPPORTED, Out, nvml};
use crate::calls::ecc::count;
use crate::calls::process::now;
use crate::state::{Handles, supported};
use crate::view::Gpu;

/// Of one link of an A100 or H100.
const MBPS: u32 = 26_562;

/// nvmlValueType_t of what we answer.
enum Value {
    Unsigned(u32),
    Long(u64),
    Signed(i32),
}

/// Numbers are NVML_FI_DEV_*; the scope is a link's number where there is one.
fn field(gpu: &Gpu, id: u32, scope: u32) -> Answer<Value> {
    let card = &gpu.card;
    let ecc = || supported(card.ecc.as_ref());
    let counted = |kind, counter| count(supported(card.ecc.as_ref().filter(|ecc| ecc.enabled))?, kind, counter);
    let rows = || supported(card.remapped.as_ref());
    let pages = || supported(card.retired.as_ref());
    let power = || supported(card.power.as_ref());
    let number = |length: usize| Value::Unsigned(u32::try_from(length).unwrap_or(u32::MAX));
    let tlimit =
        |which: usize| Ok(Value::Signed(supported(card.temperature.tlimit.and_then(|all| all.get(which).copied()))?));
    match id {
        1 | 2 => Ok(Value::Unsigned(u32::from(ecc()?.enabled))),
        3 | 11 => counted(0, 0).map(Value::Long),
        4 | 12 => counted(1, 0).map(Value::Long),
        5 | 22 => counted(0, 1).map(Value::Long),
        6 | 23 => counted(1, 1).map(Value::Long),
        29 => Ok(number(pages()?.single.len())),
        30 => Ok(number(pages()?.double.len())),
        31 | 92 | 93 => Ok(Value::Unsigned(u32::from(pages()?.pending))),
        82 => Ok(Value::Unsigned(supported(card.temperature.memory)?)),
        83 | 191 => Ok(Value::Long(supported(card.energy_mj)?)),
        91 if card.nvlinks > 0 => Ok(Value::Unsigned(card.nvlinks)),
        // speeds in MB/s: of links 0 to 5, of all, of links 6 to 11, and by scope; state (up); version
        84..=89 if card.nvlinks > id - 84 => Ok(Value::Unsigned(MBPS)),
        90 | 164 if card.nvlinks > 0 => Ok(Value::Unsigned(MBPS)),
        132..=137 if card.nvlinks > id - 126 => Ok(Value::Unsigned(MBPS)),
        165 if card.nvlinks > scope => Ok(Value::Unsigned(1)),
        166 if card.nvlinks > scope => Ok(Value::Unsigned(card.nvlink_version)),
        94 => Ok(Value::Unsigned(card.pcie.replays)),
        95 => Ok(Value::Unsigned(0)),
        142 => Ok(Value::Unsigned(rows()?.corrected)),
        143 => Ok(Value::Unsigned(rows()?.uncorrected)),
        144 => Ok(Value::Unsigned(u32::from(rows()?.pending))),
        145 => Ok(Value::Unsigned(u32::from(rows()?.failed))),
        138..=141 if card.nvlinks > 0 => Ok(Value::Long(0)),
        // perf policies, and the counters of clocks' event reasons: nanoseconds
        74..=79 | 269..=271 => Ok(Value::Long(0)),
        185 => Ok(Value::Unsigned(supported(power()?.draw_mw)?)),
        186 => Ok(Value::Unsigned(supported(power()?.instant_mw.or(power()?.draw_mw))?)),
        187 => Ok(Value::Unsigned(supported(power()?.range_mw)?[1])),
        188 => Ok(Value::Unsigned(supported(power()?.range_mw)?[2])),
        189 => Ok(Value::Unsigned(supported(power()?.range_mw)?[0])),
        190 | 192 => Ok(Value::Unsigned(power()?.limit_mw)),
        193..=196 => tlimit(id as usize - 193),
        // GPU recovery action: none
        230 => Ok(Value::Unsigned(0)),
        308.. => Err(INVALID_ARGUMENT),
        _ => Err(NOT_SUPPORTED),
    }
}

fn fill(gpu: &Gpu, asked: nvmlFieldValue_t) -> nvmlFieldValue_t {
    let (code, kind, value) = match field(gpu, asked.fieldId, asked.scopeId) {
        Ok(Value::Unsigned(number)) => (0, 1, nvmlValue_t { ullVal: u64::from(number) }),
        Ok(Value::Long(number)) => (0, 3, nvmlValue_t { ullVal: number }),
        // the low half is the number, whichever way it is read
        Ok(Value::Signed(number)) => (0, 5, nvmlValue_t { ullVal: u64::from(number.cast_unsigned()) }),
        Err(Code(code)) => (code, 1, nvmlValue_t { ullVal: 0 }),
    };
    let timestamp = i64::try_from(now()).unwrap_or(i64::MAX);
    nvmlFieldValue_t { timestamp, latencyUsec: 0, valueType: kind, nvmlReturn: code, value, ..asked }
}

nvml! {
    /// Success also where single fields fail.
    fn nvmlDeviceGetFieldValues(device: nvmlDevice_t, number: i32, values: Out<nvmlFieldValue_t>) |view| {
        let gpu = view.gpu_of(device)?;
        let number = usize::try_from(number).ok().filter(|number| (1..4096).contains(number)).ok_or(INVALID_ARGUMENT)?;
        if values.is_null() { return Err(INVALID_ARGUMENT); }
        (0..number).map(|n| values.at(n)).try_for_each(|value| value.put(fill(gpu, value.get()?)))
    }
}
