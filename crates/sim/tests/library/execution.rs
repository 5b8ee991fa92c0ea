//! Kernels, streams and events in time, alone and beside another process.

use crate::program::{Program, call, in_child, part, start};
use cuota_abi::cuda::*;
use std::io::Read;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A word of pinned host memory, which the device may use.
fn pinned_word(program: &Program) -> *mut u32 {
    let mut address = std::ptr::null_mut();
    assert_eq!(call!(program.cuda, cuMemHostAlloc: PFN_cuMemHostAlloc_v2020(&raw mut address, 4096, 0)), 0);
    address.cast()
}

#[test]
fn events_measure_the_cost_of_kernels() {
    in_child("execution::events_measure_the_cost_of_kernels", || {
        let program = Program::start();
        let (stream, first, last) = (program.stream(1), program.event(), program.event());
        assert_eq!(program.record(first, stream), 0);
        for _ in 0..20 {
            assert_eq!(program.launch("spin", 500_000, stream), 0);
        }
        assert_eq!(program.record(last, stream), 0);
        assert_eq!(program.query(last), 600);
        assert_eq!(program.synchronize(stream), 0);
        // The launches may come later than the device wants them, so the time is at least theirs.
        assert!(program.elapsed_us(first, last) >= 10_000.0);
    });
}

/// Whoever asks without a pause has the engine's lock nearly always, and the worker hardly ever: then nothing may be left to the worker.
#[test]
fn work_goes_on_while_a_program_asks_for_it_without_a_pause() {
    const COST_US: f32 = 200.0;
    in_child("execution::work_goes_on_while_a_program_asks_for_it_without_a_pause", || {
        let program = Program::start();
        let (stream, first, last) = (program.stream(1), program.event(), program.event());
        let mut taken_us: Vec<f32> = (0..60)
            .map(|_| {
                assert_eq!(program.record(first, stream), 0);
                assert_eq!(program.launch("spin", 200_000, stream), 0);
                assert_eq!(program.record(last, stream), 0);
                while call!(program.cuda, cuStreamQuery: PFN_cuStreamQuery_v2000(stream)) != 0 {}
                std::thread::sleep(Duration::from_micros(300));
                program.elapsed_us(first, last)
            })
            .collect();
        taken_us.sort_by(f32::total_cmp);
        // By the model's clock; where the program itself loses its processor, a launch comes late.
        assert!(taken_us[45] <= 3.0 * COST_US, "{taken_us:?} us for {COST_US} each");
    });
}

#[test]
fn a_kernel_that_waits_is_released_by_another_stream() {
    in_child("execution::a_kernel_that_waits_is_released_by_another_stream", || {
        let program = Program::start();
        let (waiting, other) = (program.stream(1), program.stream(1));
        let flag = program.allocate(512).expect("room");
        assert_eq!(program.launch("waiter", flag, waiting), 0);
        assert_eq!(call!(program.cuda, cuStreamQuery: PFN_cuStreamQuery_v2000(waiting)), 600);
        assert_eq!(program.launch("setter", flag, other), 0);
        assert_eq!(program.synchronize(waiting), 0);
    });
}

#[test]
fn a_launch_waits_while_the_queue_is_full() {
    in_child("execution::a_launch_waits_while_the_queue_is_full", || {
        let program = Program::start();
        let word = pinned_word(&program);
        let (stream, launched) = (program.stream(1) as u64, AtomicU32::new(0));
        let mut context = std::ptr::null_mut();
        assert_eq!(call!(program.cuda, cuCtxGetCurrent: PFN_cuCtxGetCurrent_v4000(&raw mut context)), 0);
        let (context, flag) = (context as u64, word as u64);
        let program = SharedProgram(program);
        std::thread::scope(|scope| {
            let (program, launched) = (&program, &launched);
            scope.spawn(move || {
                let cuda = &program.get().cuda;
                assert_eq!(call!(cuda, cuCtxSetCurrent: PFN_cuCtxSetCurrent_v4000(context as CUcontext)), 0);
                assert_eq!(program.get().launch("waiter", flag, stream as CUstream), 0);
                for _ in 0..2000 {
                    assert_eq!(program.get().launch("spin", 100, stream as CUstream), 0);
                    launched.fetch_add(1, Ordering::Release);
                }
            });
            while launched.load(Ordering::Acquire) < 1023 {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(
                launched.load(Ordering::Acquire),
                1023,
                "with the waiting kernel the queue holds 1,024"
            );
            // SAFETY: the word is pinned memory that nobody else writes.
            unsafe { word.write_volatile(1) };
        });
        assert_eq!(launched.load(Ordering::Acquire), 2000);
    });
}

struct SharedProgram(Program);

// SAFETY: the handles in it are numbers, and the library may be called from any thread.
unsafe impl Sync for SharedProgram {}

impl SharedProgram {
    fn get(&self) -> &Program {
        &self.0
    }
}

#[test]
fn a_fault_sticks_to_the_context() {
    in_child("execution::a_fault_sticks_to_the_context", || {
        let program = Program::start();
        let stream = program.stream(1);
        assert_eq!(program.launch("broken", 0, stream), 0);
        assert_eq!(program.synchronize(stream), 700);
        assert_eq!(program.allocate(512), Err(700));
        assert_eq!(call!(program.cuda, cuCtxSynchronize: PFN_cuCtxSynchronize_v2000()), 700);
    });
}

#[test]
fn a_kernel_with_an_impossible_shape_is_refused() {
    in_child("execution::a_kernel_with_an_impossible_shape_is_refused", || {
        let program = Program::start();
        let none = std::ptr::null_mut();
        let cuda = &program.cuda;
        let launch = call!(
            cuda,
            cuLaunchKernel: PFN_cuLaunchKernel_v4000(
                0x1234 as CUfunction, 1, 1, 1, 1, 1, 1, 0, none, std::ptr::null_mut(), std::ptr::null_mut()
            )
        );
        assert_eq!(launch, 400);
    });
}

/// Launches kernels of 1 ms for a second and prints the share of that time in which they ran, in percent.
fn saturate() {
    let program = Program::start();
    let stream = program.stream(1);
    let (begin, mut kernels) = (Instant::now(), 0_u64);
    while begin.elapsed() < Duration::from_secs(1) {
        for _ in 0..4 {
            assert_eq!(program.launch("spin", 1_000_000, stream), 0);
            kernels += 1;
        }
        assert_eq!(program.synchronize(stream), 0);
    }
    let elapsed_ms = u64::try_from(begin.elapsed().as_millis()).expect("a short time");
    println!("\nshare={}", kernels * 100 / elapsed_ms);
}

#[test]
fn work_runs_without_anybody_who_waits_for_it() {
    in_child("execution::work_runs_without_anybody_who_waits_for_it", || {
        let program = Program::start();
        let word = pinned_word(&program);
        assert_eq!(program.launch("setter", word as u64, program.stream(1)), 0);
        // SAFETY: the word is pinned memory; only the device writes it.
        while unsafe { word.read_volatile() } == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn a_killed_process_gives_its_turns_up() {
    let name = "execution::a_killed_process_gives_its_turns_up";
    match part().as_deref() {
        None => {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let mut hog = start(name, "hog", folder.path());
            let mut line = [0; 1];
            let mut output = hog.stdout.take().expect("a pipe");
            while line[0] != b'!' {
                output.read_exact(&mut line).expect("the hog goes on");
            }
            hog.kill().expect("it runs");
            hog.wait().expect("it is a child");
            assert!(start(name, "heir", folder.path()).wait().expect("runs").success());
        }
        Some("hog") => {
            let program = Program::start();
            let stream = program.stream(1);
            assert_eq!(program.launch("spin", 3_600_000_000_000, stream), 0);
            println!("!");
            assert_eq!(program.synchronize(stream), 0, "an hour later");
        }
        _ => {
            let program = Program::start();
            let stream = program.stream(1);
            for _ in 0..200 {
                assert_eq!(program.launch("spin", 1_000_000, stream), 0);
            }
            assert_eq!(program.synchronize(stream), 0);
        }
    }
}

#[test]
fn two_processes_take_turns() {
    let name = "execution::two_processes_take_turns";
    if part().is_some() {
        return saturate();
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut both = [start(name, "1", folder.path()), start(name, "2", folder.path())];
    let shares = both.each_mut().map(|child| {
        let mut text = String::new();
        child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
        assert!(child.wait().expect("it is a child").success());
        let line = text.lines().find_map(|line| line.strip_prefix("share=")).expect("it prints its share");
        line.parse::<u64>().expect("a number")
    });
    // Turns alone would give 46 each; each waits for its own work at the end of a batch.
    assert!(shares.iter().all(|s| (30..=60).contains(s)), "{shares:?} percent");
}
