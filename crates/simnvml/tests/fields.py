"""Prints as JSON what nvidia-ml-py reads of every GPU; null is N/A. What the test compares with the model."""

import json
import pynvml as n


def read(function, *arguments):
    try:
        value = function(*arguments)
    except (n.NVMLError_NotSupported, n.NVMLError_FunctionNotFound, n.NVMLError_InvalidArgument):
        return None
    return value.decode() if isinstance(value, bytes) else value


def processes(gpu):
    try:
        return n.nvmlDeviceGetComputeRunningProcesses_v3(gpu)
    except n.NVMLError_FunctionNotFound:
        return n.nvmlDeviceGetComputeRunningProcesses_v2(gpu)


def mig(gpu):
    parts = []
    for at in range(read(n.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0):
        try:
            part = n.nvmlDeviceGetMigDeviceHandleByIndex(gpu, at)
        except (n.NVMLError_NotFound, n.NVMLError_NotSupported):
            break
        assert n.nvmlDeviceIsMigDeviceHandle(part)
        attributes = n.nvmlDeviceGetAttributes_v2(part)
        parts.append({
            "name": n.nvmlDeviceGetName(part),
            "uuid": n.nvmlDeviceGetUUID(part),
            "gi": n.nvmlDeviceGetGpuInstanceId(part),
            "total": n.nvmlDeviceGetMemoryInfo(part).total,
            "sm": attributes.multiprocessorCount,
        })
    return parts


def gpu(index):
    d = n.nvmlDeviceGetHandleByIndex(index)
    pci = n.nvmlDeviceGetPciInfo(d)
    v1, v2 = n.nvmlDeviceGetMemoryInfo(d), read(n.nvmlDeviceGetMemoryInfo, d, n.nvmlMemory_v2)
    rates = read(n.nvmlDeviceGetUtilizationRates, d)
    mode = read(n.nvmlDeviceGetMigMode, d)
    [memory_temperature] = n.nvmlDeviceGetFieldValues(d, [n.NVML_FI_DEV_MEMORY_TEMP])
    return {
        "name": n.nvmlDeviceGetName(d),
        "uuid": n.nvmlDeviceGetUUID(d),
        "serial": read(n.nvmlDeviceGetSerial, d),
        "bus": pci.busId if isinstance(pci.busId, str) else pci.busId.decode(),
        "device": pci.pciDeviceId,
        "subsystem": pci.pciSubSystemId,
        "minor": n.nvmlDeviceGetMinorNumber(d),
        "architecture": n.nvmlDeviceGetArchitecture(d),
        "compute": list(n.nvmlDeviceGetCudaComputeCapability(d)),
        "cores": read(n.nvmlDeviceGetNumGpuCores, d),
        "total": v1.total,
        "used_with_reserved": v1.used,
        "reserved": v2 and v2.reserved,
        "used": v2 and v2.used,
        "bar1": n.nvmlDeviceGetBAR1MemoryInfo(d).bar1Total,
        "temperature": n.nvmlDeviceGetTemperature(d, n.NVML_TEMPERATURE_GPU),
        "temperature_v": read(n.nvmlDeviceGetTemperatureV, d, n.NVML_TEMPERATURE_GPU),
        "memory_temperature": memory_temperature.value.uiVal if memory_temperature.nvmlReturn == 0 else None,
        "power": read(n.nvmlDeviceGetPowerUsage, d),
        "limit": read(n.nvmlDeviceGetEnforcedPowerLimit, d),
        "energy": read(n.nvmlDeviceGetTotalEnergyConsumption, d),
        "fan": read(n.nvmlDeviceGetFanSpeed, d),
        "fans": read(n.nvmlDeviceGetNumFans, d),
        "clock": n.nvmlDeviceGetClockInfo(d, n.NVML_CLOCK_SM),
        "max_clock": n.nvmlDeviceGetMaxClockInfo(d, n.NVML_CLOCK_MEM),
        "load": rates and [rates.gpu, rates.memory],
        "encoder": read(n.nvmlDeviceGetEncoderUtilization, d),
        "encoder_stats": n.nvmlDeviceGetEncoderStats(d),
        "capacity": read(n.nvmlDeviceGetEncoderCapacity, d, n.NVML_ENCODER_QUERY_H264),
        "ecc": read(n.nvmlDeviceGetEccMode, d),
        "ecc_total": read(n.nvmlDeviceGetTotalEccErrors, d, 1, 0),
        "remapped": read(n.nvmlDeviceGetRemappedRows, d),
        "retired": read(n.nvmlDeviceGetRetiredPages, d, 0),
        "link": [n.nvmlDeviceGetCurrPcieLinkGeneration(d), n.nvmlDeviceGetCurrPcieLinkWidth(d)],
        "processes": [[p.pid, p.usedGpuMemory] for p in processes(d)],
        "nvlink": read(n.nvmlDeviceGetNvLinkState, d, 0),
        "persistence": n.nvmlDeviceGetPersistenceMode(d),
        "mig_mode": mode,
        "mig": mig(d),
        "reasons": read(n.nvmlDeviceGetCurrentClocksEventReasons, d),
        "gsp": read(n.nvmlDeviceGetGspFirmwareVersion, d),
        "near": len(n.nvmlDeviceGetTopologyNearestGpus(d, 50)),
    }


n.nvmlInit()
print(json.dumps({
    "driver": n.nvmlSystemGetDriverVersion(),
    "nvml": n.nvmlSystemGetNVMLVersion(),
    "cuda": n.nvmlSystemGetCudaDriverVersion(),
    "gpus": [gpu(index) for index in range(n.nvmlDeviceGetCount())],
}))
n.nvmlShutdown()
