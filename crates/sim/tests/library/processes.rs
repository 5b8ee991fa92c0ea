//! NVML's process lists: how many there are, whether the caller's array is long enough, and what it may leave out.

use crate::program::{Library, Program, call, in_child};
use cuota_abi::nvml::*;
use std::ffi::{CStr, c_uint};

struct Lists {
    nvml: Library,
    device: nvmlDevice_t,
    _program: Program,
}

impl Lists {
    fn start() -> Self {
        let (program, nvml, mut device) = (Program::start(), Library::nvml(), std::ptr::null_mut());
        assert_eq!(call!(nvml, nvmlInit_v2: PFN_nvmlInit_v2()), 0);
        let get =
            call!(nvml, nvmlDeviceGetHandleByIndex_v2: PFN_nvmlDeviceGetHandleByIndex_v2(0, &raw mut device));
        assert_eq!(get, 0);
        Self { nvml, device, _program: program }
    }

    /// Asks the list `name`, whose entries are `T`, for as many as `room`. Gives the result and the count.
    fn ask<T>(&self, name: &str, room: c_uint, to: *mut T) -> (u32, c_uint) {
        type List<T> = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut T) -> nvmlReturn_t;
        let (list, mut count): (List<T>, _) = (self.nvml.get(name), room);
        // SAFETY: the array has as many entries as is said, or is null.
        (unsafe { list(self.device, &raw mut count, to) }.0, count)
    }
}

#[test]
fn each_version_of_the_compute_list_says_the_number_before_it_gives_the_processes() {
    in_child(
        "processes::each_version_of_the_compute_list_says_the_number_before_it_gives_the_processes",
        || {
            let lists = Lists::start();
            let (pid, name) = (std::process::id(), "nvmlDeviceGetComputeRunningProcesses");
            let mut first = [nvmlProcessInfo_v1_t { pid: 0, usedGpuMemory: 0 }; 2];
            let nobody =
                nvmlProcessInfo_v2_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
            let (mut second, mut third) = ([nobody; 2], [nobody; 2]);
            assert_eq!(lists.ask::<nvmlProcessInfo_v1_t>(name, 0, std::ptr::null_mut()), (7, 1));
            assert_eq!(lists.ask(name, 2, first.as_mut_ptr()), (0, 1));
            assert_eq!(lists.ask(&format!("{name}_v2"), 1, second.as_mut_ptr()), (0, 1));
            assert_eq!(lists.ask(&format!("{name}_v3"), 2, third.as_mut_ptr()), (0, 1));
            assert_eq!((first[0].pid, second[0].pid, third[0].pid, third[1].pid), (pid, pid, pid, 0));
            assert_eq!((first[0].usedGpuMemory >> 20, third[0].gpuInstanceId), (504, c_uint::MAX));
            assert_eq!(lists.ask::<nvmlProcessInfo_v1_t>(name, 2, std::ptr::null_mut()).0, 2);
            let no_count = call!(
                lists.nvml,
                nvmlDeviceGetComputeRunningProcesses_v3:
                    PFN_nvmlDeviceGetComputeRunningProcesses_v3(
                        lists.device,
                        std::ptr::null_mut(),
                        third.as_mut_ptr()
                    )
            );
            assert_eq!(no_count, 2);
        },
    );
}

#[test]
fn lists_of_what_nobody_does_are_empty() {
    in_child("processes::lists_of_what_nobody_does_are_empty", || {
        let lists = Lists::start();
        for kind in ["Graphics", "MPSCompute"] {
            for version in ["", "_v2", "_v3"] {
                let name = format!("nvmlDeviceGet{kind}RunningProcesses{version}");
                assert_eq!(
                    lists.ask::<nvmlProcessInfo_v1_t>(&name, 0, std::ptr::null_mut()),
                    (0, 0),
                    "{name}"
                );
            }
        }
    });
}

#[test]
fn the_detail_list_tells_apart_what_processes_do() {
    in_child("processes::the_detail_list_tells_apart_what_processes_do", || {
        let lists = Lists::start();
        // SAFETY: every field is a plain number.
        let mut array: [nvmlProcessDetail_v1_t; 2] = unsafe { std::mem::zeroed() };
        let mut ask = |version, mode, room| {
            let mut list = nvmlProcessDetailList_t {
                version,
                mode,
                numProcArrayEntries: room,
                procArray: array.as_mut_ptr(),
            };
            let result = call!(
                lists.nvml,
                nvmlDeviceGetRunningProcessDetailList:
                    PFN_nvmlDeviceGetRunningProcessDetailList(lists.device, &raw mut list)
            );
            (result, list.numProcArrayEntries)
        };
        let version = nvmlProcessDetailList_v1;
        assert_eq!((ask(version, 0, 0), ask(version, 0, 2)), ((7, 1), (0, 1)));
        assert_eq!((ask(version, 1, 2), ask(version, 2, 0)), ((0, 0), (0, 0)));
        assert_eq!((ask(version, 3, 2).0, ask(1, 0, 2).0), (2, 25));
        assert_eq!((array[0].pid, array[0].usedGpuMemory >> 20), (std::process::id(), 504));
    });
}

#[test]
fn a_process_has_a_name_as_long_as_the_caller_has_room() {
    in_child("processes::a_process_has_a_name_as_long_as_the_caller_has_room", || {
        let lists = Lists::start();
        let mut text = [0; 256];
        let mut name = |pid, length| {
            call!(
                lists.nvml,
                nvmlSystemGetProcessName: PFN_nvmlSystemGetProcessName(pid, text.as_mut_ptr(), length)
            )
        };
        let own = std::process::id();
        assert_eq!((name(own, 0), name(u32::MAX / 2, 256), name(own, 6)), (2, 6, 0));
        // SAFETY: the last call has written a C string.
        assert_eq!(unsafe { CStr::from_ptr(text.as_ptr()) }.count_bytes(), 5);
    });
}

#[test]
fn the_use_of_processes_is_not_found_where_none_computes() {
    in_child("processes::the_use_of_processes_is_not_found_where_none_computes", || {
        let lists = Lists::start();
        let mut count = 9;
        let ask = call!(
            lists.nvml,
            nvmlDeviceGetProcessUtilization:
                PFN_nvmlDeviceGetProcessUtilization(lists.device, std::ptr::null_mut(), &raw mut count, 0)
        );
        assert_eq!((ask, count), (6, 0));
    });
}
