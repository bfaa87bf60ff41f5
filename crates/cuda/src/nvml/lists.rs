//! Lists of a device: fields in one call, encoder sessions, processes, pages, clocks.

use std::ffi::{CStr, c_int, c_uint};

use nvml_wrapper_sys::bindings as sys;

use super::{Device, NvmlCode, Plain, Said, done, zeroed};

/// NVML_FI_DEV_* and its scope (a link, or 0 GPU, 1 module, 2 memory).
pub type FieldId = (u32, u32);

/// More than any list of a card; a longer answer is no answer.
const MOST: usize = 65_536;

/// nvmlEncoderSessionInfo_t. The codec stays a number: 0 H.264, 1 HEVC, 2 AV1.
#[derive(Clone, Copy, Debug)]
pub struct EncoderSession {
    pub id: u32,
    pub pid: u32,
    pub codec: u32,
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// Microseconds.
    pub latency: u32,
}

/// nvmlProcessUtilizationSample_t: per cent.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSample {
    pub pid: u32,
    /// Microseconds since 1970.
    pub time: u64,
    pub sm: u32,
    pub memory: u32,
    pub encoder: u32,
    pub decoder: u32,
}

/// nvmlProcessInfo_t. None: NVML says all ones.
#[derive(Clone, Copy, Debug)]
pub struct RunningProcess {
    pub pid: u32,
    pub memory: Option<u64>,
    pub gpu_instance: Option<u32>,
    pub compute_instance: Option<u32>,
}

impl Device<'_> {
    /// nvmlDeviceGetFieldValues: one conversation with the driver, an answer for each. A number's sign is kept.
    pub fn fields(&self, ids: &[FieldId]) -> Said<Vec<Said<i64>>> {
        let mut values: Vec<sys::nvmlFieldValue_t> =
            ids.iter().map(|(id, scope)| sys::nvmlFieldValue_t { fieldId: *id, scopeId: *scope, ..zeroed() }).collect();
        let count = c_int::try_from(values.len()).map_err(|_| NvmlCode::INVALID_ARGUMENT)?;
        // SAFETY: the header's signature; as many structures as are said.
        unsafe {
            let call: unsafe extern "C" fn(sys::nvmlDevice_t, c_int, *mut sys::nvmlFieldValue_t) -> sys::nvmlReturn_t =
                self.calls.symbol(c"nvmlDeviceGetFieldValues")?;
            done(call(self.handle, count, values.as_mut_ptr()))?;
        }
        Ok(values.iter().map(field).collect())
    }

    /// Sessions with the codec as NVML numbers it; nvml-wrapper drops the whole list at a codec it does not know.
    pub fn encoder_sessions(&self) -> Said<Vec<EncoderSession>> {
        let list: Vec<sys::nvmlEncoderSessionInfo_t> =
            // SAFETY: the header's signature.
            unsafe { self.list(c"nvmlDeviceGetEncoderSessions") }?;
        let session = |it: &sys::nvmlEncoderSessionInfo_t| EncoderSession {
            id: it.sessionId,
            pid: it.pid,
            codec: it.codecType,
            width: it.hResolution,
            height: it.vResolution,
            fps: it.averageFps,
            latency: it.averageLatency,
        };
        Ok(list.iter().map(session).collect())
    }

    /// How busy each process kept the engines since then (µs since 1970). Nothing ran: an empty list.
    pub fn process_samples(&self, since: u64) -> Said<Vec<ProcessSample>> {
        type Call = unsafe extern "C" fn(
            sys::nvmlDevice_t,
            *mut sys::nvmlProcessUtilizationSample_t,
            *mut c_uint,
            u64,
        ) -> sys::nvmlReturn_t;
        // SAFETY: the header's signature.
        let call: Call = unsafe { self.calls.symbol(c"nvmlDeviceGetProcessUtilization") }?;
        let list = grow(|room, count| {
            // SAFETY: as many structures as the count says, or none asked for with no place.
            done(unsafe { call(self.handle, room, count, since) })
        });
        let list = match list {
            Err(NvmlCode::NOT_FOUND) => return Ok(Vec::new()),
            other => other?,
        };
        let sample = |it: &sys::nvmlProcessUtilizationSample_t| ProcessSample {
            pid: it.pid,
            time: it.timeStamp,
            sm: it.smUtil,
            memory: it.memUtil,
            encoder: it.encUtil,
            decoder: it.decUtil,
        };
        // The driver's buffer holds entries of nobody.
        Ok(list.iter().filter(|it| it.pid != 0).map(sample).collect())
    }

    /// Clients of an MPS server.
    pub fn mps_processes(&self) -> Said<Vec<RunningProcess>> {
        let list: Vec<sys::nvmlProcessInfo_v2_t> =
            // SAFETY: the header's signature.
            unsafe { self.list(c"nvmlDeviceGetMPSComputeRunningProcesses_v3") }?;
        let none = |number: u32| (number != u32::MAX).then_some(number);
        let process = |it: &sys::nvmlProcessInfo_v2_t| RunningProcess {
            pid: it.pid,
            memory: (it.usedGpuMemory != u64::MAX).then_some(it.usedGpuMemory),
            gpu_instance: none(it.gpuInstanceId),
            compute_instance: none(it.computeInstanceId),
        };
        Ok(list.iter().map(process).collect())
    }

    /// Addresses of retired pages: cause 0 several single-bit errors, 1 a double-bit error.
    pub fn retired_pages(&self, cause: u32) -> Said<Vec<u64>> {
        type Call = unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, *mut c_uint, *mut u64) -> sys::nvmlReturn_t;
        // SAFETY: the header's signature.
        let call: Call = unsafe { self.calls.symbol(c"nvmlDeviceGetRetiredPages") }?;
        grow(|room, count| {
            // SAFETY: as many numbers as the count says.
            done(unsafe { call(self.handle, cause, count, room) })
        })
    }

    /// MHz, highest first.
    pub fn supported_memory_clocks(&self) -> Said<Vec<u32>> {
        // SAFETY: the header's signature.
        unsafe { self.list(c"nvmlDeviceGetSupportedMemoryClocks") }
    }

    /// MHz at this memory clock, highest first.
    pub fn supported_graphics_clocks(&self, memory: u32) -> Said<Vec<u32>> {
        type Call = unsafe extern "C" fn(sys::nvmlDevice_t, c_uint, *mut c_uint, *mut c_uint) -> sys::nvmlReturn_t;
        // SAFETY: the header's signature.
        let call: Call = unsafe { self.calls.symbol(c"nvmlDeviceGetSupportedGraphicsClocks") }?;
        grow(|room, count| {
            // SAFETY: as many numbers as the count says.
            done(unsafe { call(self.handle, memory, count, room) })
        })
    }

    /// # Safety
    /// The symbol is `nvmlReturn_t name(nvmlDevice_t, unsigned *count, T *)`.
    unsafe fn list<T: Plain>(&self, name: &CStr) -> Said<Vec<T>> {
        type Call<T> = unsafe extern "C" fn(sys::nvmlDevice_t, *mut c_uint, *mut T) -> sys::nvmlReturn_t;
        // SAFETY: the caller answers for the signature.
        let call: Call<T> = unsafe { self.calls.symbol(name) }?;
        grow(|room, count| {
            // SAFETY: as many structures as the count says.
            done(unsafe { call(self.handle, count, room) })
        })
    }
}

/// Asks for a list: how long it is, then for it, with room for what came in between.
fn grow<T: Plain>(mut ask: impl FnMut(*mut T, *mut c_uint) -> Said<()>) -> Said<Vec<T>> {
    let mut count: c_uint = 0;
    match ask(std::ptr::null_mut(), &raw mut count) {
        Ok(()) | Err(NvmlCode::INSUFFICIENT_SIZE) => {}
        Err(code) => return Err(code),
    }
    for _ in 0..3 {
        if count == 0 {
            return Ok(Vec::new());
        }
        let room = (count as usize).saturating_add(8).min(MOST);
        let mut list = vec![zeroed::<T>(); room];
        count = c_uint::try_from(room).unwrap_or(c_uint::MAX);
        match ask(list.as_mut_ptr(), &raw mut count) {
            Ok(()) => {
                list.truncate(count as usize);
                return Ok(list);
            }
            // More have come since.
            Err(NvmlCode::INSUFFICIENT_SIZE) if (count as usize) < MOST => {}
            Err(code) => return Err(code),
        }
    }
    Err(NvmlCode::INSUFFICIENT_SIZE)
}

/// nvmlFieldValue_t's union, by its type: 0 double, 1 unsigned, 2 unsigned long, 3 unsigned long long, 4 long long, 5 int.
fn field(value: &sys::nvmlFieldValue_t) -> Said<i64> {
    done(value.nvmlReturn)?;
    // SAFETY: every member is a number over the same bytes, all of which NVML or we wrote.
    Ok(unsafe {
        match value.valueType {
            0 => value.value.dVal as i64,
            1 => i64::from(value.value.uiVal),
            2 | 3 => i64::try_from(value.value.ullVal).unwrap_or(i64::MAX),
            4 => value.value.sllVal,
            // the newer members lie over the same four bytes
            5 => i64::from(value.value.uiVal.cast_signed()),
            _ => return Err(NvmlCode::UNKNOWN),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_grows_meanwhile_is_asked_for_again() {
        let mut calls = 0;
        let list = grow::<u32>(|room, count| {
            calls += 1;
            // SAFETY: the test's own numbers, within the room that `grow` gave.
            unsafe {
                if calls == 1 {
                    *count = 1;
                    return Err(NvmlCode::INSUFFICIENT_SIZE);
                }
                if calls == 2 {
                    *count = 20;
                    return Err(NvmlCode::INSUFFICIENT_SIZE);
                }
                assert!(*count >= 20);
                *room = 7;
                *count = 1;
            }
            Ok(())
        });
        assert_eq!(list, Ok(vec![7]));
        assert_eq!(grow::<u32>(|_, _| Err(NvmlCode::NO_PERMISSION)), Err(NvmlCode::NO_PERMISSION));
        assert_eq!(grow::<u32>(|_, _| Ok(())), Ok(Vec::new()));
    }

    #[test]
    fn a_field_keeps_its_sign_and_its_code() {
        let value = |kind, number: u64, code| sys::nvmlFieldValue_t {
            valueType: kind,
            nvmlReturn: code,
            value: sys::nvmlValue_t { ullVal: number },
            ..zeroed()
        };
        assert_eq!(field(&value(5, 0xffff_fff8, 0)), Ok(-8));
        assert_eq!(field(&value(1, 700_000, 0)), Ok(700_000));
        assert_eq!(field(&value(3, 1 << 40, 0)), Ok(1 << 40));
        assert_eq!(field(&value(1, 5, 3)), Err(NvmlCode::NOT_SUPPORTED));
        assert_eq!(field(&value(99, 5, 0)), Err(NvmlCode::UNKNOWN));
    }
}
