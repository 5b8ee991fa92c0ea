//! The processes of a device: their memory, their share of its time, their names. All of them compute; none draws pictures, and
//! there is no MPS.

use super::sensors::whole;
use super::{put, put_text};
use crate::machine::{Answer, Machine};
use cuota_abi::nvml::{
    nvmlDevice_t, nvmlProcessDetail_v1_t, nvmlProcessDetailList_t, nvmlProcessDetailList_v1,
    nvmlProcessInfo_t, nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t, nvmlProcessUtilizationSample_t,
    nvmlReturn_t,
};
use cuota_sim::mig;
use cuota_sim::shared::ProcessUse;
use std::ffi::{c_char, c_uint, c_ulonglong};
use std::time::{SystemTime, UNIX_EPOCH};

/// The instance ids of a process on a device without MIG.
const NO_INSTANCE: c_uint = c_uint::MAX;
/// The modes of `nvmlProcessDetailList_v1_t`: compute, graphics, MPS.
const COMPUTE: c_uint = 0;
const LAST_MODE: c_uint = 2;

/// One process, with its GPU instance and compute instance.
struct Process {
    held: ProcessUse,
    instances: (c_uint, c_uint),
}

fn processes(device: nvmlDevice_t) -> Answer<Vec<Process>> {
    let mut all = Vec::new();
    for (index, part) in Machine::get()?.parts(device)? {
        let instances = index.map_or((NO_INSTANCE, NO_INSTANCE), |index| (mig::gpu_instance(index), 0));
        all.extend(part.with(|d| d.processes()).into_iter().map(|held| Process { held, instances }));
    }
    Ok(all)
}

/// Fills the caller's array; where it is too short, says how many there are.
unsafe fn list<T>(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut T,
    make: impl Fn(&Process) -> T,
) -> Answer<()> {
    let all = processes(device)?;
    // SAFETY: as in `fill`.
    unsafe { fill(&all, count, infos, make) }
}

/// As [`list`], of processes that are known.
unsafe fn fill<T>(
    all: &[Process],
    count: *mut c_uint,
    infos: *mut T,
    make: impl Fn(&Process) -> T,
) -> Answer<()> {
    if count.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, so valid by the caller's word.
    let room = unsafe { count.replace(all.len() as c_uint) };
    if (room as usize) < all.len() {
        return Err(nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE);
    }
    for (place, process) in all.iter().enumerate() {
        // SAFETY: the caller's array has `room` entries and there are no more processes than that.
        unsafe { put(infos.wrapping_add(place), make(process))? };
    }
    Ok(())
}

fn with_instances(process: &Process) -> nvmlProcessInfo_v2_t {
    nvmlProcessInfo_v2_t {
        pid: process.held.pid,
        usedGpuMemory: process.held.bytes,
        gpuInstanceId: process.instances.0,
        computeInstanceId: process.instances.1,
    }
}

fn with_details(process: &Process) -> nvmlProcessDetail_v1_t {
    nvmlProcessDetail_v1_t {
        pid: process.held.pid,
        usedGpuMemory: process.held.bytes,
        gpuInstanceId: process.instances.0,
        computeInstanceId: process.instances.1,
        usedGpuCcProtectedMemory: 0,
    }
}

unsafe fn list_nothing(device: nvmlDevice_t, count: *mut c_uint) -> Answer<()> {
    Machine::get()?.device(device)?;
    // SAFETY: null or valid by the caller's word.
    unsafe { put(count, 0) }
}

/// Microseconds since 1970, as NVML stamps samples.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

nvml_api! {
    fn nvmlDeviceGetComputeRunningProcesses(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        infos: *mut nvmlProcessInfo_v1_t,
    ) {
        let make = |p: &Process| nvmlProcessInfo_v1_t { pid: p.held.pid, usedGpuMemory: p.held.bytes };
        list(device, infoCount, infos, make)
    }

    fn nvmlDeviceGetComputeRunningProcesses_v2(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        infos: *mut nvmlProcessInfo_v2_t,
    ) {
        list(device, infoCount, infos, with_instances)
    }

    fn nvmlDeviceGetComputeRunningProcesses_v3(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        infos: *mut nvmlProcessInfo_t,
    ) {
        list(device, infoCount, infos, with_instances)
    }

    fn nvmlDeviceGetGraphicsRunningProcesses(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        _infos: *mut nvmlProcessInfo_v1_t,
    ) {
        list_nothing(device, infoCount)
    }

    fn nvmlDeviceGetGraphicsRunningProcesses_v2(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        _infos: *mut nvmlProcessInfo_v2_t,
    ) {
        list_nothing(device, infoCount)
    }

    fn nvmlDeviceGetGraphicsRunningProcesses_v3(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        _infos: *mut nvmlProcessInfo_t,
    ) {
        list_nothing(device, infoCount)
    }

    fn nvmlDeviceGetMPSComputeRunningProcesses(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        _infos: *mut nvmlProcessInfo_v1_t,
    ) {
        list_nothing(device, infoCount)
    }

    fn nvmlDeviceGetMPSComputeRunningProcesses_v2(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        _infos: *mut nvmlProcessInfo_v2_t,
    ) {
        list_nothing(device, infoCount)
    }

    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
        device: nvmlDevice_t,
        infoCount: *mut c_uint,
        _infos: *mut nvmlProcessInfo_t,
    ) {
        list_nothing(device, infoCount)
    }

    fn nvmlDeviceGetRunningProcessDetailList(device: nvmlDevice_t, plist: *mut nvmlProcessDetailList_t) {
        if plist.is_null() {
            return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
        }
        let asked = plist.read();
        if asked.version != nvmlProcessDetailList_v1 {
            return Err(nvmlReturn_t::NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        if asked.mode > LAST_MODE {
            return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
        }
        let mut all = processes(device)?;
        if asked.mode != COMPUTE {
            all.clear();
        }
        fill(&all, &raw mut (*plist).numProcArrayEntries, asked.procArray, with_details)
    }

    fn nvmlDeviceGetProcessUtilization(
        device: nvmlDevice_t,
        utilization: *mut nvmlProcessUtilizationSample_t,
        processSamplesCount: *mut c_uint,
        lastSeenTimeStamp: c_ulonglong,
    ) {
        let (busy, now) = (whole(device)?.utilization_percent(), now_us());
        let mut all = processes(device)?;
        if processSamplesCount.is_null() {
            return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
        }
        if busy == 0 || lastSeenTimeStamp >= now {
            all.clear();
        }
        if all.is_empty() {
            put(processSamplesCount, 0)?;
            return Err(nvmlReturn_t::NVML_ERROR_NOT_FOUND);
        }
        if utilization.is_null() {
            put(processSamplesCount, all.len() as c_uint)?;
            return Err(nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE);
        }
        // The model knows the whole only, and shares it out evenly.
        let each = busy / all.len() as c_uint;
        fill(&all, processSamplesCount, utilization, |process| nvmlProcessUtilizationSample_t {
            pid: process.held.pid,
            timeStamp: now,
            smUtil: each,
            memUtil: 0,
            encUtil: 0,
            decUtil: 0,
        })
    }

    fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) {
        Machine::get()?;
        if name.is_null() || length == 0 {
            return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
        }
        let path = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(|_| nvmlReturn_t::NVML_ERROR_NOT_FOUND)?;
        let text = path.to_string_lossy();
        let mut end = text.len().min(length as usize - 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        put_text(name, length, &text[..end])
    }
}
