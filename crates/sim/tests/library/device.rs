//! Look-ups, devices, and what is not modelled.

use crate::program::{Library, Program, call, command, in_child, part};
use cuota_abi::cuda::*;
use cuota_abi::nvml::*;
use std::ffi::{CString, c_void};

fn look_up(cuda: &Library, name: &str, version: i32, flags: u64) -> (u32, *mut c_void) {
    let name = CString::new(name).expect("no zeros");
    let mut address = std::ptr::null_mut();
    let mut status = CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
    let result = call!(
        cuda,
        cuGetProcAddress_v2: PFN_cuGetProcAddress_v12000(name.as_ptr(), &raw mut address, version, flags, &raw mut status)
    );
    (result, address)
}

#[test]
fn a_look_up_gives_the_exported_symbol_of_the_version_asked_for() {
    in_child("device::a_look_up_gives_the_exported_symbol_of_the_version_asked_for", || {
        let cuda = Library::cuda();
        assert_eq!(look_up(&cuda, "cuMemAlloc", 12000, 0), (0, cuda.address("cuMemAlloc_v2")));
        assert_eq!(look_up(&cuda, "cuMemAlloc", 2000, 0), (0, cuda.address("cuMemAlloc")));
        assert_eq!(look_up(&cuda, "cuMemAllocAsync", 12000, 0), (0, cuda.address("cuMemAllocAsync")));
        assert_eq!(look_up(&cuda, "cuMemAllocAsync", 12000, 2), (0, cuda.address("cuMemAllocAsync_ptsz")));
        assert_eq!(look_up(&cuda, "cuCtxCreate", 13000, 2), (0, cuda.address("cuCtxCreate_v4")));
        assert_eq!(look_up(&cuda, "cuMemAllocAsync", 11010, 0), (500, std::ptr::null_mut()));
        assert_eq!(look_up(&cuda, "cuNoSuchFunction", 13000, 0), (500, std::ptr::null_mut()));
    });
}

#[test]
fn a_function_that_is_not_modelled_says_so_and_is_logged_once() {
    in_child("device::a_function_that_is_not_modelled_says_so_and_is_logged_once", || {
        let cuda = Library::cuda();
        for _ in 0..2 {
            let none = std::ptr::null_mut();
            assert_eq!(call!(cuda, cuTexRefCreate: PFN_cuTexRefCreate_v2000(none)), 801);
        }
        let log = std::env::var("CUOTA_SIM_LOG").expect("the test sets it");
        let text = std::fs::read_to_string(log).expect("the log is written");
        assert_eq!(text.matches("cuTexRefCreate").count(), 1, "{text}");
    });
}

#[test]
fn nothing_works_before_init() {
    in_child("device::nothing_works_before_init", || {
        let cuda = Library::cuda();
        let mut count = 0;
        assert_eq!(call!(cuda, cuDeviceGetCount: PFN_cuDeviceGetCount_v2000(&raw mut count)), 3);
        assert_eq!(call!(cuda, cuInit: PFN_cuInit_v2000(0)), 0);
        assert_eq!(call!(cuda, cuDeviceGetCount: PFN_cuDeviceGetCount_v2000(&raw mut count)), 0);
        assert_eq!(count, 1);
    });
}

#[test]
fn cuda_does_not_survive_fork() {
    in_child("device::cuda_does_not_survive_fork", || {
        let program = Program::start();
        // SAFETY: the child calls the library, which answers without locks, and ends by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let refused =
                call!(program.cuda, cuInit: PFN_cuInit_v2000(0)) == 3 && program.allocate(512) == Err(3);
            // SAFETY: ends the forked child without running the parent's exit handlers.
            unsafe { libc::_exit(i32::from(!refused)) };
        }
        let mut status = -1;
        // SAFETY: `child` is a child of this process.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert!(program.allocate(512).is_ok(), "the parent goes on");
    });
}

#[test]
fn nvml_shows_what_the_process_holds() {
    in_child("device::nvml_shows_what_the_process_holds", || {
        let program = Program::start();
        program.allocate(5 << 20).expect("room");
        let nvml = Library::nvml();
        assert_eq!(call!(nvml, nvmlInit_v2: PFN_nvmlInit_v2()), 0);
        let mut device = std::ptr::null_mut();
        assert_eq!(
            call!(nvml, nvmlDeviceGetHandleByIndex_v2: PFN_nvmlDeviceGetHandleByIndex_v2(0, &raw mut device)),
            0
        );
        let (mut count, mut list) = (0, [const { nobody() }; 4]);
        let few = call!(
            nvml,
            nvmlDeviceGetComputeRunningProcesses_v3:
                PFN_nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, list.as_mut_ptr())
        );
        assert_eq!((few, count), (7, 1), "an array that is too short learns the number");
        count = 4;
        let all = call!(
            nvml,
            nvmlDeviceGetComputeRunningProcesses_v3:
                PFN_nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, list.as_mut_ptr())
        );
        assert_eq!((all, count, list[0].pid), (0, 1, std::process::id()));
        // Context 500, module 2, its variable's block 2, and 6 for 5 MiB.
        assert_eq!(list[0].usedGpuMemory >> 20, 510);
        let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
        assert_eq!(
            call!(nvml, nvmlDeviceGetMemoryInfo: PFN_nvmlDeviceGetMemoryInfo(device, &raw mut memory)),
            0
        );
        assert_eq!((memory.used >> 20, memory.total >> 30), (510, 8));
        assert_eq!(memory.free, program.free_bytes());
    });
}

#[test]
fn the_libraries_print_nothing() {
    let name = "device::the_libraries_print_nothing";
    if part().is_some() {
        let program = Program::start();
        let nvml = Library::nvml();
        assert_eq!(call!(nvml, nvmlInit_v2: PFN_nvmlInit_v2()), 0);
        assert_eq!(call!(program.cuda, cuTexRefCreate: PFN_cuTexRefCreate_v2000(std::ptr::null_mut())), 801);
        assert_eq!(program.allocate(1 << 40), Err(2));
        // SAFETY: ends the process at once, before the test harness says more.
        unsafe { libc::_exit(0) };
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = command(name, "0", folder.path());
    let heard = child.env("CUOTA_SIM_MEMORY", "much").stderr(std::process::Stdio::piped()).output();
    let heard = heard.expect("the child runs");
    let said = String::from_utf8_lossy(&heard.stdout);
    let own: Vec<&str> = said.lines().filter(|l| !l.is_empty() && !l.starts_with("running ")).collect();
    assert!(heard.status.success() && heard.stderr.is_empty(), "{heard:?}");
    assert!(own.is_empty() || own == [format!("test {name} ... ")], "{own:?}");
}

/// The last byte of the UUIDs that CUDA shows, in order; the number of devices that NVML shows.
fn shown() -> (Vec<u8>, u32) {
    let (cuda, nvml) = (Library::cuda(), Library::nvml());
    assert_eq!(call!(nvml, nvmlInit_v2: PFN_nvmlInit_v2()), 0);
    let (mut count, mut all) = (0, 0);
    assert_eq!(call!(nvml, nvmlDeviceGetCount_v2: PFN_nvmlDeviceGetCount_v2(&raw mut all)), 0);
    match call!(cuda, cuInit: PFN_cuInit_v2000(0)) {
        0 => {}
        refused => {
            assert_eq!(refused, 100, "without a device");
            return (Vec::new(), all);
        }
    }
    assert_eq!(call!(cuda, cuDeviceGetCount: PFN_cuDeviceGetCount_v2000(&raw mut count)), 0);
    let uuid = |device| {
        let mut uuid = CUuuid { bytes: [0; 16] };
        assert_eq!(call!(cuda, cuDeviceGetUuid: PFN_cuDeviceGetUuid_v9020(&raw mut uuid, device)), 0);
        uuid.bytes[15].cast_unsigned()
    };
    ((0..count).map(uuid).collect(), all)
}

#[test]
fn cuda_shows_the_visible_devices_in_their_order_and_nvml_all() {
    let name = "device::cuda_shows_the_visible_devices_in_their_order_and_nvml_all";
    if let Some(expected) = part() {
        let (devices, all) = shown();
        let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
        assert_eq!((devices.join(","), all), (expected, 3));
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let one = "GPU-63756f74-612d-7369-6d2d-6770752d0001";
    for (variable, expected) in
        [("0,1,2", "0,1,2"), ("2,0", "2,0"), (one, "1"), ("1,7,0", "1"), ("", ""), ("1,1", "")]
    {
        let mut child = command(name, expected, folder.path());
        child.env("CUOTA_SIM_DEVICES", "3").env("CUDA_VISIBLE_DEVICES", variable);
        let status = child.status().expect("the child runs");
        assert!(status.success(), "CUDA_VISIBLE_DEVICES={variable}: {status}");
    }
}

const fn nobody() -> nvmlProcessInfo_t {
    nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 }
}
