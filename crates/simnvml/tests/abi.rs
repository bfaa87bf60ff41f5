//! The C interface, called as C calls it: what the real library refuses is refused, and nothing that a client passes makes
//! it crash.
#![allow(unsafe_code, clippy::disallowed_methods, clippy::disallowed_types, reason = "calls C, through pointers")]

mod common;

use std::ffi::{CStr, c_char};
use std::mem::zeroed;
use std::path::Path;
use std::process::Command;
use std::ptr::{null_mut, without_provenance_mut};
use std::time::{Duration, Instant};

use common::Sim;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlFieldValue_t, nvmlMemory_v2_t, nvmlProcessInfo_v2_t,
};

/// The library of a folder. One is loaded for each path, so tests do not meet.
fn load(sim: &Sim) -> NvmlLib {
    // SAFETY: our own library, whose load runs nothing
    unsafe { NvmlLib::new(&sim.installed.soname) }.expect("loads")
}

fn started(sim: &Sim) -> (NvmlLib, nvmlDevice_t) {
    let lib = load(sim);
    let mut device: nvmlDevice_t = null_mut();
    // SAFETY: pointers to live locals
    unsafe {
        assert_eq!(lib.nvmlInit_v2(), 0);
        assert_eq!(lib.nvmlDeviceGetHandleByIndex_v2(0, &raw mut device), 0);
    }
    (lib, device)
}

#[test]
fn what_the_real_one_refuses_is_refused() {
    let sim = Sim::new("h100");
    let lib = load(&sim);
    let (mut number, mut text) = (0_u32, [0 as c_char; 96]);
    let mut device: nvmlDevice_t = null_mut();
    // SAFETY: pointers to live locals of the size that is passed, or null
    unsafe {
        assert_eq!(lib.nvmlDeviceGetCount_v2(&raw mut number), 1, "before the start");
        assert_eq!(lib.nvmlShutdown(), 1, "not started");
        assert_eq!(lib.nvmlSystemGetCudaDriverVersion_v2((&raw mut number).cast()), 0, "needs no start");
        assert_eq!(lib.nvmlInit_v2(), 0);
        assert_eq!(lib.nvmlDeviceGetHandleByIndex_v2(1, &raw mut device), 2, "a bad index");
        assert_eq!(lib.nvmlDeviceGetHandleByIndex_v2(0, null_mut()), 2, "nowhere to put it");
        assert_eq!(lib.nvmlDeviceGetHandleByIndex_v2(0, &raw mut device), 0);
        assert_eq!(lib.nvmlDeviceGetName(device, text.as_mut_ptr(), 5), 7, "too small a buffer");
        assert_eq!(lib.nvmlDeviceGetName(device, null_mut(), 96), 2);
        let name = "NVIDIA H100 80GB HBM3";
        assert_eq!(lib.nvmlDeviceGetName(device, text.as_mut_ptr(), 21), 7, "no room for the NUL");
        assert_eq!(lib.nvmlDeviceGetName(device, text.as_mut_ptr(), 22), 0);
        assert_eq!(CStr::from_ptr(text.as_ptr()).to_str(), Ok(name));
        for wrong in [0_usize, 1, 0x5100_2000, 0x5200_1000, usize::MAX] {
            assert_eq!(lib.nvmlDeviceGetName(without_provenance_mut(wrong), text.as_mut_ptr(), 96), 2, "{wrong:x}");
        }
        for wrong in [c"", c"x", c":", c"0000:99:00.0"] {
            let code = lib.nvmlDeviceGetHandleByPciBusId_v2(wrong.as_ptr(), &raw mut device);
            assert_eq!(code, if wrong.count_bytes() > 1 { 6 } else { 2 }, "{wrong:?}");
        }
        let mut memory: nvmlMemory_v2_t = zeroed();
        assert_eq!(lib.nvmlDeviceGetMemoryInfo_v2(device, &raw mut memory), 25, "no version");
        memory.version = u32::try_from(size_of::<nvmlMemory_v2_t>()).expect("small") | (2 << 24);
        assert_eq!(lib.nvmlDeviceGetMemoryInfo_v2(device, &raw mut memory), 0);
        assert_eq!((memory.total >> 20, memory.reserved >> 20, memory.used), (81559, 480, 0));
        assert_eq!(lib.nvmlDeviceGetFanSpeed_v2(device, 0, &raw mut number), 2, "as a real H100 answers");
        for (kind, code, capacity) in [(0, 0, 100), (1, 0, 100), (2, 3, 0)] {
            number = 0;
            assert_eq!(lib.nvmlDeviceGetEncoderCapacity(device, kind, &raw mut number), code, "as a real H100 answers");
            assert_eq!(number, capacity);
        }
        assert_eq!(lib.nvmlDeviceSetPersistenceMode(device, 1), 4);
        assert_eq!(lib.nvmlShutdown(), 0);
        assert_eq!(lib.nvmlDeviceGetName(device, text.as_mut_ptr(), 96), 1, "after the end");
    }
}

#[test]
fn lists_tell_their_number_first() {
    let sim = Sim::new("h100x8");
    let (lib, _) = started(&sim);
    let mut device: nvmlDevice_t = null_mut();
    // SAFETY: pointers to live locals of the count that is passed
    unsafe {
        assert_eq!(lib.nvmlDeviceGetHandleByIndex_v2(7, &raw mut device), 0);
        let mut count = 0_u32;
        assert_eq!(lib.nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, null_mut()), 7);
        assert_eq!(count, 1);
        let mut list: [nvmlProcessInfo_v2_t; 4] = zeroed();
        count = 4;
        assert_eq!(lib.nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, list.as_mut_ptr()), 0);
        assert_eq!((count, list[0].pid, list[0].usedGpuMemory >> 20), (1, 11327, 2566));
        let mut values: [nvmlFieldValue_t; 3] = zeroed();
        values[0].fieldId = 82;
        values[1].fieldId = 29;
        values[2].fieldId = 193;
        assert_eq!(lib.nvmlDeviceGetFieldValues(device, 3, values.as_mut_ptr()), 0);
        let codes = values.map(|value| value.nvmlReturn);
        assert_eq!((codes, values[0].value.uiVal, values[2].value.siVal), ([0, 3, 0], 40, -8));
    }
}

#[test]
fn faults_come_with_the_control_file_and_go_with_it() {
    let sim = Sim::new("h100x8");
    let nvml = Nvml::builder().lib_path(sim.installed.soname.as_os_str()).init().expect("starts");
    let card = nvml.device_by_index(3).expect("a card");
    let temperature = || card.temperature(nvml_wrapper::enum_wrappers::device::TemperatureSensor::Gpu);
    assert_eq!(temperature().ok(), Some(34));
    sim.control("[[gpus]]\nindex = 3\nset = { temperature = { now = 93 }, ecc = { uncorrected = 2 } }\n");
    assert_eq!(temperature().ok(), Some(93));
    let uncorrected = nvml_wrapper::enum_wrappers::device::MemoryError::Uncorrected;
    let volatile = nvml_wrapper::enum_wrappers::device::EccCounter::Volatile;
    assert_eq!(card.total_ecc_errors(uncorrected, volatile).ok(), Some(2));
    sim.control("[[gpus]]\nindex = 3\nlost = true\n");
    assert!(matches!(temperature(), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_index(3), Err(NvmlError::GpuLost)));
    assert!(nvml.device_by_index(4).is_ok(), "the others are well");
    sim.control("fail = { nvmlDeviceGetTemperature = 4 }\nlacks = ['nvmlDeviceGetName']");
    assert!(matches!(temperature(), Err(NvmlError::NoPermission)));
    assert!(card.name().is_err());
    sim.control("hang = { milliseconds = 300, calls = ['nvmlDeviceGetTemperature'] }");
    let start = Instant::now();
    assert!(temperature().is_ok() && start.elapsed() >= Duration::from_millis(300));
    sim.control("kernel = '580.95.05'");
    let second = Nvml::builder().lib_path(sim.installed.soname.as_os_str()).init();
    assert!(matches!(second, Err(NvmlError::LibRmVersionMismatch)));
    sim.control("no such word");
    assert!(temperature().is_err(), "a control file that cannot be read is no absent one");
    sim.control("");
    assert_eq!(temperature().ok(), Some(34));
}

#[test]
fn an_xid_reaches_who_waits_for_it_once() {
    let sim = Sim::new("h100x8");
    let (lib, device) = started(&sim);
    sim.control("[[gpus]]\nindex = 0\nxids = [13]\n");
    // SAFETY: pointers to live locals
    unsafe {
        let (mut set, mut data): (nvmlEventSet_t, nvmlEventData_t) = (null_mut(), zeroed());
        assert_eq!(lib.nvmlEventSetCreate(&raw mut set), 0);
        assert_eq!(lib.nvmlDeviceRegisterEvents(device, 8, set), 0);
        assert_eq!(lib.nvmlEventSetWait_v2(set, &raw mut data, 50), 10, "no history");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                sim.control("[[gpus]]\nindex = 0\nlost = true\nxids = [13, 79]\n");
            });
            assert_eq!(lib.nvmlEventSetWait_v2(set, &raw mut data, 10_000), 0);
        });
        assert_eq!((data.device, data.eventType, data.eventData), (device, 8, 79));
        assert_eq!(lib.nvmlEventSetWait_v2(set, &raw mut data, 30), 10, "once");
        assert_eq!(lib.nvmlEventSetFree(set), 0);
        assert_eq!(lib.nvmlEventSetFree(set), 2);
    }
}

#[test]
fn an_old_driver_does_not_have_the_symbol_at_all() {
    let (old, new) = (Sim::new("gt1030-470"), Sim::without("gt1030", &["nvmlDeviceGetBrand"]));
    let (old, new) = (load(&old), load(&new));
    assert!(old.nvmlDeviceGetMemoryInfo_v2.is_err() && new.nvmlDeviceGetMemoryInfo_v2.is_ok());
    assert!(old.nvmlDeviceGetBrand.is_ok() && new.nvmlDeviceGetBrand.is_err());
    assert!(old.nvmlDeviceGetMemoryInfo.is_ok());
}

#[test]
fn mig_devices_are_parts() {
    let sim = Sim::new("a100-mig");
    let (lib, device) = started(&sim);
    // SAFETY: pointers to live locals of the size that is passed
    unsafe {
        let (mut current, mut pending, mut number) = (0, 0, 0);
        assert_eq!(lib.nvmlDeviceGetMigMode(device, &raw mut current, &raw mut pending), 0);
        assert_eq!((current, pending), (1, 1));
        let mut part: nvmlDevice_t = null_mut();
        assert_eq!(lib.nvmlDeviceGetMigDeviceHandleByIndex(device, 4, &raw mut part), 6, "there are four");
        assert_eq!(lib.nvmlDeviceGetMigDeviceHandleByIndex(device, 7, &raw mut part), 2);
        assert_eq!(lib.nvmlDeviceGetMigDeviceHandleByIndex(device, 1, &raw mut part), 0);
        assert_eq!(lib.nvmlDeviceGetGpuInstanceId(part, &raw mut number), 0);
        assert_eq!(number, 3);
        assert_eq!(lib.nvmlDeviceGetGpuInstanceId(device, &raw mut number), 3, "a whole card is none");
        let mut attributes = zeroed();
        assert_eq!(lib.nvmlDeviceGetAttributes_v2(part, &raw mut attributes), 0);
        assert_eq!((attributes.multiprocessorCount, attributes.memorySizeMB), (28, 9856));
        let (mut text, mut other) = ([0 as c_char; 96], null_mut());
        assert_eq!(lib.nvmlDeviceGetUUID(part, text.as_mut_ptr(), 96), 0);
        assert_eq!(lib.nvmlDeviceGetHandleByUUID(text.as_ptr(), &raw mut other), 0);
        assert_eq!(other, part);
        // 7 slices: 3g at 4..8, 2g at 0..2, 1g at 2 and 3: nothing is left
        assert_eq!(lib.nvmlDeviceGetGpuInstanceRemainingCapacity(device, 19, &raw mut number), 0);
        assert_eq!(number, 0);
        let mut use_of = zeroed();
        assert_eq!(lib.nvmlDeviceGetUtilizationRates(device, &raw mut use_of), 3);
    }
}

#[test]
fn sessions_and_processes_come_from_the_control_file() {
    let (sim, cut) = (Sim::new("rtx4090"), Sim::new("a100-mig"));
    let nvml = Nvml::builder().lib_path(sim.installed.soname.as_os_str()).init().expect("starts");
    let card = nvml.device_by_index(0).expect("a card");
    assert_eq!(card.encoder_stats().map(|stats| stats.session_count).ok(), Some(0));
    sim.control(
        "[[gpus]]\nindex = 0\n[gpus.set]\nsessions = [\n\
         { pid = 7, codec = 0, width = 1920, height = 1080, fps = 60, latency = 9000 },\n\
         { pid = 7, codec = 1, width = 3840, height = 2160, fps = 30, latency = 21000 }]\n\
         processes = [{ pid = 7, kind = 'C', memory_mib = 400, sm = 5, enc = 40, dec = 11 }]\n",
    );
    let stats = card.encoder_stats().expect("stats");
    assert_eq!((stats.session_count, stats.average_fps, stats.average_latency), (2, 45, 15000));
    let sessions = card.encoder_sessions().expect("sessions");
    assert_eq!(sessions.iter().map(|session| session.vres).collect::<Vec<_>>(), [1080, 2160]);
    let samples = card.process_utilization_stats(None).expect("samples");
    assert_eq!(samples.iter().map(|sample| (sample.pid, sample.enc_util)).collect::<Vec<_>>(), [(7, 40)]);

    let (lib, whole) = started(&cut);
    cut.control(
        "[[gpus]]\nindex = 0\nset = { processes = [{ pid = 4, kind = 'C', gi = 3 }, { pid = 5, kind = 'C', gi = 9 }] }\n",
    );
    let mut part: nvmlDevice_t = null_mut();
    // SAFETY: pointers to live locals of the count that is passed
    unsafe {
        assert_eq!(lib.nvmlDeviceGetMigDeviceHandleByIndex(whole, 1, &raw mut part), 0);
        for (device, pids) in [(whole, vec![4, 5]), (part, vec![4])] {
            let (mut count, mut list): (u32, [nvmlProcessInfo_v2_t; 8]) = (8, zeroed());
            assert_eq!(lib.nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, list.as_mut_ptr()), 0);
            assert_eq!(list.iter().take(count as usize).map(|it| it.pid).collect::<Vec<_>>(), pids);
            assert_eq!((list[0].gpuInstanceId, list[0].usedGpuMemory), (3, u64::MAX), "not told");
        }
    }
}

/// Names of a library's exported functions.
fn exported(library: &Path) -> Vec<String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library).output().expect("nm, of binutils");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split_once(" T ")).map(|(_, name)| name.to_owned()).collect()
}

#[test]
fn every_function_bears_null_and_garbage() {
    let sim = Sim::new("h100x8");
    let (lib, device) = started(&sim);
    let names = exported(&sim.installed.library);
    assert!(names.len() > 400, "{} functions only", names.len());
    type Any = unsafe extern "C" fn(usize, usize, usize, usize, usize, usize) -> u64;
    // what takes no pointer, and what would end or begin the session
    let harmless = ["nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags", "nvmlShutdown", "nvmlErrorString"];
    for name in names.iter().filter(|name| !harmless.contains(&name.as_str())) {
        // SAFETY: every argument of these functions is an integer or a pointer, and null pointers are to be refused
        let function = unsafe { lib.__library.get::<Any>(name.as_bytes()) }.expect("is exported");
        for first in [0, device.addr(), 0x5200_1001, 0x5400_1000, usize::MAX] {
            // a number in a pointer's place of those functions whose first argument is one would be a client's lie
            let pointer_first = !(name.contains("Device") || name.contains("Instance") || name.contains("EventSet"))
                || name.contains("ByUUID")
                || name.contains("BySerial")
                || name.contains("ByPciBusId")
                || name.contains("GetCount")
                || name.contains("EventSetCreate")
                || name.contains("ExcludedDevice");
            if pointer_first && first != 0 {
                continue;
            }
            let code = u32::try_from(unsafe { function(first, 0, 0, 0, 0, 0) } & 0xffff_ffff).expect("32 bits");
            let known = code <= 30 || code == 999;
            assert!(known && code != 999, "{name}({first:x}) answers {code}");
        }
    }
}

#[test]
fn it_says_that_it_is_simulated() {
    let sim = Sim::new("t4");
    let (lib, device) = started(&sim);
    // SAFETY: pointers to live locals of the size that is passed
    unsafe {
        let symbol = lib.__library.get::<*const c_char>(b"thruway_simulated").expect("the symbol");
        assert_eq!(CStr::from_ptr(*symbol).to_str(), Ok("thruway: simulated libnvidia-ml"));
        let mut text = [0 as c_char; 96];
        assert_eq!(lib.nvmlDeviceGetVbiosVersion(device, text.as_mut_ptr(), 32), 0);
        assert_eq!(CStr::from_ptr(text.as_ptr()).to_str(), Ok("90.04.84.00.06 (simulated)"));
    }
}
