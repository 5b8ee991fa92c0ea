//! MIG: one instance for a process, with memory of its own; NVML sees them all.

use crate::program::{Library, Program, call, command, part};
use cuota_abi::cuda::*;
use cuota_abi::nvml::*;
use std::ffi::{CStr, CString, c_char};

const FIRST: &str = "MIG-63756f74-612d-7369-6d2d-6d69672d0000";
const SECOND: &str = "MIG-63756f74-612d-7369-6d2d-6d69672d0001";

/// Runs the part of a test in a process that sees `visible`, on an 8 GiB device in two instances.
fn run(name: &str, visible: Option<&str>, folder: &std::path::Path) {
    let mut child = command(name, "inside", folder);
    child.env("CUOTA_SIM_MIG", "2");
    if let Some(visible) = visible {
        child.env("CUDA_VISIBLE_DEVICES", visible).env("CUOTA_SIM_TEST_SEES", visible);
    }
    assert!(child.status().expect("the child runs").success(), "{visible:?}");
}

fn of_device(nvml: &Library) -> nvmlDevice_t {
    let mut device = std::ptr::null_mut();
    assert_eq!(call!(nvml, nvmlInit_v2: PFN_nvmlInit_v2()), 0);
    let get = call!(
        nvml,
        nvmlDeviceGetHandleByIndex_v2: PFN_nvmlDeviceGetHandleByIndex_v2(0, &raw mut device)
    );
    assert_eq!(get, 0);
    device
}

fn by_uuid(nvml: &Library, uuid: &str) -> (u32, nvmlDevice_t) {
    let (text, mut device) = (CString::new(uuid).expect("no zeros"), std::ptr::null_mut());
    let get = call!(
        nvml,
        nvmlDeviceGetHandleByUUID: PFN_nvmlDeviceGetHandleByUUID(text.as_ptr(), &raw mut device)
    );
    (get, device)
}

fn used_and_total_mib(nvml: &Library, device: nvmlDevice_t) -> (u64, u64) {
    let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
    let get = call!(nvml, nvmlDeviceGetMemoryInfo: PFN_nvmlDeviceGetMemoryInfo(device, &raw mut memory));
    assert_eq!(get, 0);
    (memory.used >> 20, memory.total >> 20)
}

#[test]
fn a_process_sees_one_instance_with_its_own_memory() {
    let name = "mig::a_process_sees_one_instance_with_its_own_memory";
    if part().is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for visible in [None, Some("0"), Some(FIRST), Some(SECOND)] {
            run(name, visible, folder.path());
        }
        return;
    }
    let program = Program::start();
    let (cuda, mut count) = (&program.cuda, 0);
    assert_eq!(call!(cuda, cuDeviceGetCount: PFN_cuDeviceGetCount_v2000(&raw mut count)), 0);
    let (mut of_gpu, mut own) = (CUuuid { bytes: [0; 16] }, CUuuid { bytes: [0; 16] });
    let first = call!(cuda, cuDeviceGetUuid: PFN_cuDeviceGetUuid_v9020(&raw mut of_gpu, 0));
    let second = call!(cuda, cuDeviceGetUuid_v2: PFN_cuDeviceGetUuid_v11040(&raw mut own, 0));
    assert_eq!((count, first, second), (1, 0, 0));
    let sees = std::env::var("CUOTA_SIM_TEST_SEES").unwrap_or_default();
    let index = i8::from(sees == SECOND);
    assert_eq!((&of_gpu.bytes[10..13], &own.bytes[10..13]), (&text(b"gpu")[..], &text(b"mig")[..]));
    assert_eq!((of_gpu.bytes[15], own.bytes[15]), (0, index));
    let kind = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let get = call!(cuda, cuDeviceGetAttribute: PFN_cuDeviceGetAttribute_v2000(&raw mut count, kind, 0));
    assert_eq!((get, count), (0, 66));
    assert!(program.allocate(3 << 30).is_ok());
    assert_eq!(program.allocate(1 << 30), Err(2), "an instance has 4 GiB");
}

fn text(bytes: &[u8; 3]) -> [c_char; 3] {
    bytes.map(u8::cast_signed)
}

#[test]
fn nvml_shows_the_instances_and_their_sum() {
    let name = "mig::nvml_shows_the_instances_and_their_sum";
    if part().is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        return run(name, Some(SECOND), folder.path());
    }
    let program = Program::start();
    program.allocate(1 << 30).expect("room");
    let nvml = Library::nvml();
    let device = of_device(&nvml);
    let ((first, idle), (second, busy)) = (by_uuid(&nvml, FIRST), by_uuid(&nvml, SECOND));
    assert_eq!((first, second, by_uuid(&nvml, "MIG-63756f74-612d-7369-6d2d-6d69672d0002").0), (0, 0, 6));
    assert_eq!(used_and_total_mib(&nvml, idle), (0, 4096));
    assert_eq!(used_and_total_mib(&nvml, busy), (500 + 2 + 2 + 1024, 4096));
    assert_eq!(used_and_total_mib(&nvml, device), (1528, 8192));
    let pids = |device| {
        let nobody = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        let (mut count, mut list) = (4, [nobody; 4]);
        let all = call!(
            nvml,
            nvmlDeviceGetComputeRunningProcesses_v3:
                PFN_nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, list.as_mut_ptr())
        );
        assert_eq!(all, 0);
        (count, list[0].pid, list[0].gpuInstanceId, list[0].computeInstanceId)
    };
    let own = (1, std::process::id(), 8, 0);
    assert_eq!((pids(idle), pids(busy), pids(device)), ((0, 0, 0, 0), own, own));
}

#[test]
fn nvml_tells_an_instance_from_a_device() {
    let name = "mig::nvml_tells_an_instance_from_a_device";
    if part().is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        return run(name, None, folder.path());
    }
    let nvml = Library::nvml();
    let device = of_device(&nvml);
    let by_index = |index| {
        let mut instance = std::ptr::null_mut();
        let get = call!(
            nvml,
            nvmlDeviceGetMigDeviceHandleByIndex:
                PFN_nvmlDeviceGetMigDeviceHandleByIndex(device, index, &raw mut instance)
        );
        (get, instance)
    };
    let (get, second) = by_index(1);
    assert_eq!((get, second, by_index(2).0, by_index(7).0), (0, by_uuid(&nvml, SECOND).1, 6, 2));
    let (mut current, mut pending, mut count, mut parent) = (9, 9, 0, std::ptr::null_mut());
    let mut mode = |device| call!(nvml, nvmlDeviceGetMigMode: PFN_nvmlDeviceGetMigMode(device, &raw mut current, &raw mut pending));
    assert_eq!((mode(device), mode(second), current, pending), (0, 2, 1, 1));
    let most = call!(
        nvml,
        nvmlDeviceGetMaxMigDeviceCount: PFN_nvmlDeviceGetMaxMigDeviceCount(device, &raw mut count)
    );
    assert_eq!((most, count), (0, 7));
    let mut is_instance = |device| {
        let asked = call!(
            nvml,
            nvmlDeviceIsMigDeviceHandle: PFN_nvmlDeviceIsMigDeviceHandle(device, &raw mut count)
        );
        (asked, count)
    };
    assert_eq!((is_instance(device), is_instance(second)), ((0, 0), (0, 1)));
    let up = call!(
        nvml,
        nvmlDeviceGetDeviceHandleFromMigDeviceHandle:
            PFN_nvmlDeviceGetDeviceHandleFromMigDeviceHandle(second, &raw mut parent)
    );
    assert_eq!((up, parent), (0, device));
    let mut uuid = [0; 96];
    assert_eq!(call!(nvml, nvmlDeviceGetUUID: PFN_nvmlDeviceGetUUID(second, uuid.as_mut_ptr(), 96)), 0);
    // SAFETY: the call has written a C string.
    assert_eq!(unsafe { CStr::from_ptr(uuid.as_ptr()) }.to_str(), Ok(SECOND));
    let mut busy = nvmlUtilization_t { gpu: 0, memory: 0 };
    let rates = call!(
        nvml,
        nvmlDeviceGetUtilizationRates: PFN_nvmlDeviceGetUtilizationRates(device, &raw mut busy)
    );
    assert_eq!(rates, 3);
}
