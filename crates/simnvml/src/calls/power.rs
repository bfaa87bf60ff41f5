//! Power, temperature and fans. What a card has no sensor for is not supported.

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlMarginTemperature_v1_t, nvmlTemperature_v1_t};

use crate::abi::{Answer, INVALID_ARGUMENT, NOT_SUPPORTED, Out, nvml, version_word};
use crate::card::Power;
use crate::state::{Handles, supported};
use crate::view::View;

fn power(view: &View, device: nvmlDevice_t) -> Answer<&Power> {
    supported(view.gpu(device)?.card.power.as_ref())
}

/// A card without fans calls every fan's number an invalid argument (seen on an H100 with driver 580).
fn fan(view: &View, device: nvmlDevice_t, number: u32) -> Answer<u32> {
    view.gpu(device)?.card.fans.get(number as usize).copied().ok_or(INVALID_ARGUMENT)
}

nvml! {
    /// Milliwatts.
    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, out: Out<u32>) |view| { out.put(supported(power(view, device)?.draw_mw)?) }
    fn nvmlDeviceGetPowerManagementMode(device: nvmlDevice_t, mode: Out<u32>) |view| {
        supported(power(view, device)?.range_mw)?;
        mode.put(1)
    }
    fn nvmlDeviceGetPowerManagementLimit(device: nvmlDevice_t, out: Out<u32>) |view| {
        let power = power(view, device)?;
        supported(power.range_mw)?;
        out.put(power.limit_mw)
    }
    fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(power(view, device)?.limit_mw)
    }
    fn nvmlDeviceGetPowerManagementDefaultLimit(device: nvmlDevice_t, out: Out<u32>) |view| {
        let [default, _, _] = supported(power(view, device)?.range_mw)?;
        out.put(default)
    }
    fn nvmlDeviceGetPowerManagementLimitConstraints(device: nvmlDevice_t, min: Out<u32>, max: Out<u32>) |view| {
        let [_, lowest, highest] = supported(power(view, device)?.range_mw)?;
        min.put(lowest)?;
        max.put(highest)
    }
    /// Millijoules since the driver was loaded; Volta and later.
    fn nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, out: Out<u64>) |view| {
        out.put(supported(view.gpu(device)?.card.energy_mj)?)
    }
    /// 0: mains.
    fn nvmlDeviceGetPowerSource(device: nvmlDevice_t, out: Out<u32>) |view| { view.gpu(device)?; out.put(0) }

    /// Degrees Celsius. Sensor 0 is the GPU's; there is no other.
    fn nvmlDeviceGetTemperature(device: nvmlDevice_t, sensor: u32, out: Out<u32>) |view| {
        let gpu = view.gpu(device)?;
        if sensor == 0 { out.put(gpu.card.temperature.now) } else { Err(INVALID_ARGUMENT) }
    }
    fn nvmlDeviceGetTemperatureV(device: nvmlDevice_t, out: Out<nvmlTemperature_v1_t>) |view| {
        let gpu = view.gpu(device)?;
        out.versioned(1)?;
        let asked = out.get()?;
        if asked.sensorType != 0 { return Err(INVALID_ARGUMENT); }
        out.put(nvmlTemperature_v1_t { temperature: gpu.card.temperature.now.cast_signed(), ..asked })
    }
    /// 0 shutdown, 1 slowdown, 2 memory's, 3 GPU's. Cards that tell T.Limit margins answer with the margin's place, or N/A.
    fn nvmlDeviceGetTemperatureThreshold(device: nvmlDevice_t, which: u32, out: Out<u32>) |view| {
        let temperature = &view.gpu(device)?.card.temperature;
        match which {
            0 => out.put(supported(temperature.shutdown)?),
            1 => out.put(supported(temperature.slowdown)?),
            2 => out.put(supported(temperature.memory_max)?),
            3 => out.put(supported(temperature.gpu_max)?),
            4..8 => Err(NOT_SUPPORTED),
            _ => Err(INVALID_ARGUMENT),
        }
    }
    /// Degrees that are left until the card slows down.
    fn nvmlDeviceGetMarginTemperature(device: nvmlDevice_t, out: Out<nvmlMarginTemperature_v1_t>) |view| {
        let margin = supported(view.gpu(device)?.card.temperature.limit_margin)?;
        out.versioned(1)?;
        let version = version_word::<nvmlMarginTemperature_v1_t>(1);
        out.put(nvmlMarginTemperature_v1_t { version, marginTemperature: margin })
    }

    fn nvmlDeviceGetNumFans(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(u32::try_from(view.gpu(device)?.card.fans.len()).unwrap_or(u32::MAX))
    }
    /// Per cent.
    fn nvmlDeviceGetFanSpeed(device: nvmlDevice_t, out: Out<u32>) |view| {
        out.put(fan(view, device, 0).map_err(|code| if code == INVALID_ARGUMENT { NOT_SUPPORTED } else { code })?)
    }
    fn nvmlDeviceGetFanSpeed_v2(device: nvmlDevice_t, number: u32, out: Out<u32>) |view| {
        out.put(fan(view, device, number)?)
    }
    fn nvmlDeviceGetTargetFanSpeed(device: nvmlDevice_t, number: u32, out: Out<u32>) |view| {
        out.put(fan(view, device, number)?)
    }
    fn nvmlDeviceGetMinMaxFanSpeed(device: nvmlDevice_t, min: Out<u32>, max: Out<u32>) |view| {
        fan(view, device, 0)?;
        min.put(30)?;
        max.put(100)
    }
    /// 0: the card decides.
    fn nvmlDeviceGetFanControlPolicy_v2(device: nvmlDevice_t, number: u32, out: Out<u32>) |view| {
        fan(view, device, number)?;
        out.put(0)
    }
}
