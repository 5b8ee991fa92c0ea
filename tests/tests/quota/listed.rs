//! NVML's lists of processes as a tenant sees them: its own, with what they have booked, in every version of every list.

use cuota_tests::console::Arg::{At, Is, Out};
use cuota_tests::console::Console;
use cuota_tests::machine::{MIB, Machine, has_real_gpu, skip};

use crate::QUOTA;

const SHARED: &str = "4GiB";

/// `NVML_ERROR_INSUFFICIENT_SIZE`
const INSUFFICIENT_SIZE: i64 = 7;

/// Lists of compute processes, and the size of an entry. Its first four bytes are the PID, the second eight the bytes.
const COMPUTE: [(&str, usize); 3] = [
    ("nvmlDeviceGetComputeRunningProcesses", 16),
    ("nvmlDeviceGetComputeRunningProcesses_v2", 24),
    ("nvmlDeviceGetComputeRunningProcesses_v3", 24),
];

/// Lists in which no process of these tests is.
const OTHERS: [(&str, usize); 6] = [
    ("nvmlDeviceGetGraphicsRunningProcesses", 16),
    ("nvmlDeviceGetGraphicsRunningProcesses_v2", 24),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3", 24),
    ("nvmlDeviceGetMPSComputeRunningProcesses", 16),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v2", 24),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", 24),
];

/// sizeof(nvmlProcessDetailList_v1_t) and of an entry.
const DETAILS_BYTES: usize = 24;
const DETAIL_BYTES: usize = 32;

/// As many entries as these tests have room for.
const ROOM: u32 = 32;

/// Processes and their bytes, in the order of their PIDs.
type Listed = Vec<(u64, u64)>;

/// Asks for a list with room for `room` entries: the status, the count that came back, and the entries.
#[track_caller]
fn ask(console: &mut Console, device: u64, (name, bytes): (&str, usize), room: u32) -> (i64, u64, Listed) {
    let count = room.to_le_bytes();
    let infos = if room == 0 { Is(0) } else { Out(room as usize * bytes) };
    let answer = console.call(name, &[Is(device), At(&count), infos]);
    let count = answer.number(0);
    let entries = answer.wrote.get(1).map_or(&[][..], |wrote| &wrote[..]);
    let listed = usize::try_from(count.min(room.into())).expect("a small number");
    (answer.status, count, entries_of(entries, bytes, listed))
}

/// The PIDs and bytes in entries of a list.
fn entries_of(entries: &[u8], bytes: usize, count: usize) -> Listed {
    let four = |chunk: &[u8]| u64::from(u32::from_le_bytes(chunk[..4].try_into().expect("four bytes")));
    let eight = |chunk: &[u8]| u64::from_le_bytes(chunk[8..16].try_into().expect("eight bytes"));
    let mut all: Listed =
        entries.chunks_exact(bytes).take(count).map(|entry| (four(entry), eight(entry))).collect();
    all.sort_unstable();
    all
}

/// A list with room for all.
#[track_caller]
fn whole(console: &mut Console, list: (&str, usize)) -> Listed {
    let device = console.nvml_device();
    let (status, _, listed) = ask(console, device, list, ROOM);
    assert_eq!(status, 0, "{}", list.0);
    listed
}

/// The list with details: of `mode`, 0 for compute, 1 for graphics, 2 for MPS. It lies in memory of the console's own.
#[track_caller]
fn details(console: &mut Console, mode: u32) -> Listed {
    let device = console.nvml_device();
    let room = ROOM as usize * DETAIL_BYTES;
    let list = console.call("cuMemHostAlloc", &[Out(8), Is(room as u64), Is(0)]).ok().number(0);
    let mut asked = [0; DETAILS_BYTES];
    // NVML_STRUCT_VERSION(ProcessDetailList, 1), the mode, the room, the entries.
    asked[..4].copy_from_slice(&(24_u32 | 1 << 24).to_le_bytes());
    asked[4..8].copy_from_slice(&mode.to_le_bytes());
    asked[8..12].copy_from_slice(&ROOM.to_le_bytes());
    asked[16..].copy_from_slice(&list.to_le_bytes());
    let answer = console.call("nvmlDeviceGetRunningProcessDetailList", &[Is(device), At(&asked)]).ok();
    let count = u32::from_le_bytes(answer.wrote[0][8..12].try_into().expect("four bytes"));
    let copy = console.call("default!memcpy", &[Out(room), Is(list), Is(room as u64)]);
    let listed = entries_of(&copy.wrote[0], DETAIL_BYTES, count as usize);
    assert_eq!(console.call("cuMemFreeHost", &[Is(list)]).status, 0);
    listed
}

/// What a tenant's processes have booked, in the order of their PIDs.
fn booked(machine: &Machine, tenant: &str) -> Listed {
    let mut all: Listed =
        machine.processes(tenant).iter().map(|p| (u64::from(p.pid), p.usage.booked)).collect();
    all.sort_unstable();
    all
}

/// Two processes of the tenant `t`, one of another, one of none; each holds something.
struct Crowd {
    machine: Machine,
    one: Console,
    two: Console,
    other: Console,
    native: Console,
}

impl Crowd {
    fn new() -> Self {
        let machine = Machine::new();
        let (one, two) = (machine.start("t", SHARED), machine.start("t", SHARED));
        let (other, native) = (machine.start("other", QUOTA), machine.native().start_with_context());
        let mut crowd = Self { machine, one, two, other, native };
        for (console, mib) in [&mut crowd.one, &mut crowd.two, &mut crowd.other, &mut crowd.native]
            .into_iter()
            .zip([64, 128, 32, 16])
        {
            assert!(console.alloc(mib * MIB).is_ok());
        }
        crowd
    }

    fn finish(self) {
        [self.one, self.two, self.other, self.native].into_iter().for_each(Console::finish);
    }
}

#[test]
fn every_list_shows_a_tenant_its_own_processes_with_what_they_have_booked() {
    let mut crowd = Crowd::new();
    let (theirs, others) = (booked(&crowd.machine, "t"), booked(&crowd.machine, "other"));
    assert_eq!((theirs.len(), others.len()), (2, 1));
    for list in COMPUTE {
        assert_eq!(whole(&mut crowd.one, list), theirs, "{}", list.0);
        assert_eq!(whole(&mut crowd.two, list), theirs, "{}", list.0);
        assert_eq!(whole(&mut crowd.other, list), others, "{}", list.0);
        assert!(whole(&mut crowd.native, list).len() >= 4, "{}", list.0);
    }
    for list in OTHERS {
        assert_eq!(whole(&mut crowd.one, list), [], "{}", list.0);
    }
    crowd.finish();
}

#[test]
fn list_with_details_shows_a_tenant_its_own_processes_only() {
    let mut crowd = Crowd::new();
    let (theirs, others) = (booked(&crowd.machine, "t"), booked(&crowd.machine, "other"));
    assert_eq!(details(&mut crowd.one, 0), theirs);
    assert_eq!(details(&mut crowd.other, 0), others);
    assert!(details(&mut crowd.native, 0).len() >= 4);
    for mode in [1, 2] {
        assert_eq!(details(&mut crowd.one, mode), []);
    }
    crowd.finish();
}

#[test]
fn list_without_room_enough_says_how_many_entries_the_tenant_needs() {
    let mut crowd = Crowd::new();
    let device = crowd.one.nvml_device();
    for list in COMPUTE {
        for room in [0, 1] {
            let (status, count, _) = ask(&mut crowd.one, device, list, room);
            assert_eq!((status, count), (INSUFFICIENT_SIZE, 2), "{} with room for {room}", list.0);
        }
        let (status, count, listed) = ask(&mut crowd.one, device, list, 2);
        assert_eq!((status, count, listed.len()), (0, 2, 2), "{}", list.0);
    }
    for list in OTHERS {
        let (status, count, _) = ask(&mut crowd.one, device, list, 0);
        assert_eq!((status, count), (0, 0), "{}: there is none", list.0);
    }
    crowd.finish();
}

#[test]
fn tenant_without_a_quota_is_shown_what_the_driver_shows() {
    let machine = Machine::new();
    let mut native = machine.native().start_with_context();
    let mut console = machine.tenant("t", None).start_with_context();
    assert!(console.alloc(64 * MIB).is_ok());
    let device = (native.nvml_device(), console.nvml_device());
    for list in COMPUTE.into_iter().chain(OTHERS) {
        assert_eq!(whole(&mut console, list), whole(&mut native, list), "{}", list.0);
        let (theirs, ours) = (ask(&mut native, device.0, list, 0), ask(&mut console, device.1, list, 0));
        assert_eq!(ours, theirs, "{} without room", list.0);
    }
    assert_eq!(details(&mut console, 0), details(&mut native, 0));
    native.finish();
    console.finish();
}

#[test]
fn process_that_has_not_used_the_gpu_is_shown_its_tenants_processes() {
    let mut crowd = Crowd::new();
    let theirs = booked(&crowd.machine, "t");
    let mut looker = crowd.machine.tenant("t", Some(SHARED)).start();
    let _ = looker.call("nvmlInit_v2", &[]).ok();
    let device = looker.call("nvmlDeviceGetHandleByIndex_v2", &[Is(0), Out(8)]).ok().number(0);
    for list in COMPUTE {
        let (status, count, listed) = ask(&mut looker, device, list, ROOM);
        assert_eq!((status, count), (0, 2), "{}", list.0);
        assert_eq!(listed, theirs, "{}", list.0);
    }
    looker.finish();
    // A tenant of which nobody has used the GPU has no processes on it.
    let mut first = crowd.machine.tenant("new", Some(QUOTA)).start();
    let _ = first.call("nvmlInit_v2", &[]).ok();
    let device = first.call("nvmlDeviceGetHandleByIndex_v2", &[Is(0), Out(8)]).ok().number(0);
    for list in COMPUTE {
        assert_eq!(ask(&mut first, device, list, ROOM), (0, 0, vec![]), "{}", list.0);
    }
    first.finish();
    crowd.two.kill();
    crowd.one.synchronize();
    [crowd.one, crowd.other, crowd.native].into_iter().for_each(Console::finish);
}

#[test]
fn impossible_questions_for_a_list_get_the_drivers_answer() {
    let machine = Machine::new();
    let mut native = machine.native().start_with_context();
    let mut console = machine.start("t", QUOTA);
    let devices = [native.nvml_device(), console.nvml_device()];
    let count = 4_u32.to_le_bytes();
    if has_real_gpu() {
        skip("without a device NVML's lists crash natively");
    }
    for (list, _) in COMPUTE.into_iter().chain(OTHERS) {
        let [theirs, ours] =
            [(&mut native, devices[0]), (&mut console, devices[1])].map(|(console, device)| {
                let no_count = console.call(list, &[Is(device), Is(0), Is(0)]).status;
                let mut no_device = || console.call(list, &[Is(0), At(&count), Out(256)]).status;
                (no_count, (!has_real_gpu()).then(&mut no_device))
            });
        assert_eq!(ours, theirs, "{list}: no count, no device");
    }
    native.finish();
    console.finish();
}
