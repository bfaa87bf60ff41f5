//! Which driver branch brought a function: older ones do not have it, and clients must answer N/A.

/// (function, first branch). From the change log and the headers of NVML's documentation; where a function came within a
/// branch's life, the branch's first release is taken. Functions that are not named here are in every branch since 450.
pub const SINCE: &[(&str, u32)] = &[
    ("nvmlDeviceGetMemoryInfo_v2", 510),
    ("nvmlDeviceGetComputeRunningProcesses_v3", 510),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3", 510),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", 510),
    ("nvmlDeviceGetNumGpuCores", 510),
    ("nvmlDeviceGetMemoryBusWidth", 510),
    ("nvmlDeviceGetIrqNum", 510),
    ("nvmlDeviceGetPcieLinkMaxSpeed", 510),
    ("nvmlDeviceGetPcieSpeed", 510),
    ("nvmlDeviceGetPowerSource", 510),
    ("nvmlDeviceGetAdaptiveClockInfoStatus", 510),
    ("nvmlDeviceGetDynamicPstatesInfo", 510),
    ("nvmlDeviceGetNumFans", 495),
    ("nvmlDeviceGetGpuInstanceProfileInfoV", 510),
    ("nvmlDeviceGetBusType", 510),
    ("nvmlDeviceGetMinMaxFanSpeed", 515),
    ("nvmlDeviceGetGpuMaxPcieLinkGeneration", 515),
    ("nvmlDeviceGetGspFirmwareVersion", 520),
    ("nvmlDeviceGetGspFirmwareMode", 520),
    ("nvmlDeviceGetDefaultEccMode", 510),
    ("nvmlDeviceGetTargetFanSpeed", 515),
    ("nvmlDeviceGetCurrentClocksEventReasons", 535),
    ("nvmlDeviceGetSupportedClocksEventReasons", 535),
    ("nvmlDeviceGetModuleId", 535),
    ("nvmlDeviceGetRunningProcessDetailList", 535),
    ("nvmlDeviceGetNumaNodeId", 535),
    ("nvmlDeviceGetJpgUtilization", 545),
    ("nvmlDeviceGetOfaUtilization", 545),
    ("nvmlDeviceGetPciInfoExt", 545),
    ("nvmlDeviceGetProcessesUtilizationInfo", 550),
    ("nvmlDeviceGetTemperatureV", 560),
    ("nvmlDeviceGetMarginTemperature", 560),
    ("nvmlDeviceGetDriverModel_v2", 560),
    ("nvmlSystemGetDriverBranch", 560),
    ("nvmlDeviceGetHandleByUUIDV", 570),
    ("nvmlDeviceGetPdi", 580),
    ("nvmlDeviceGetAddressingMode", 580),
    ("nvmlDeviceGetRepairStatus", 580),
];

/// The branch that brought this function; `None`: older than all that are simulated.
pub fn since(function: &str) -> Option<u32> {
    SINCE.iter().find(|(name, _)| *name == function).map(|(_, branch)| *branch)
}

/// What a driver of this branch does not have.
pub fn missing(branch: u32) -> impl Iterator<Item = &'static str> {
    SINCE.iter().filter(move |(_, since)| *since > branch).map(|(name, _)| *name)
}
