//! Events of several processes.

use crate::program::{Program, call, in_child};
use crate::sharing::{SHARED, hear, importer, is_importer, say, wait_for};
use cuota_abi::cuda::*;
use std::ptr::null_mut;

/// `CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS`.
const TO_SHARE: u32 = 6;

impl Program {
    fn event_with(&self, flags: u32) -> Result<CUevent, u32> {
        let mut event = null_mut();
        match call!(self.cuda, cuEventCreate: PFN_cuEventCreate_v2000(&raw mut event, flags)) {
            0 => Ok(event),
            error => Err(error),
        }
    }

    fn event_handle(&self, event: CUevent) -> Result<CUipcEventHandle, u32> {
        let mut handle = CUipcEventHandle { reserved: [0; 64] };
        match call!(self.cuda, cuIpcGetEventHandle: PFN_cuIpcGetEventHandle_v4010(&raw mut handle, event)) {
            0 => Ok(handle),
            error => Err(error),
        }
    }

    fn open_event(&self, handle: CUipcEventHandle) -> Result<CUevent, u32> {
        let mut event = null_mut();
        match call!(self.cuda, cuIpcOpenEventHandle: PFN_cuIpcOpenEventHandle_v4010(&raw mut event, handle)) {
            0 => Ok(event),
            error => Err(error),
        }
    }

    fn wait_in(&self, stream: CUstream, event: CUevent) -> u32 {
        call!(self.cuda, cuStreamWaitEvent: PFN_cuStreamWaitEvent_v3020(stream, event, 0))
    }

    fn synchronize_event(&self, event: CUevent) -> u32 {
        call!(self.cuda, cuEventSynchronize: PFN_cuEventSynchronize_v2000(event))
    }

    fn destroy_event(&self, event: CUevent) -> u32 {
        call!(self.cuda, cuEventDestroy_v2: PFN_cuEventDestroy_v4000(event))
    }

    fn done(&self, stream: CUstream) -> u32 {
        call!(self.cuda, cuStreamQuery: PFN_cuStreamQuery_v2000(stream))
    }

    /// A word of host memory with its own address on the device, at 0.
    fn flag(&self) -> *mut u32 {
        let mut word = null_mut();
        let make = call!(self.cuda, cuMemHostAlloc: PFN_cuMemHostAlloc_v2020(&raw mut word, 64, 2));
        assert_eq!(make, 0);
        let word = word.cast::<u32>();
        // SAFETY: the memory was just made.
        unsafe { word.write_volatile(0) };
        word
    }
}

fn to_text(handle: &CUipcEventHandle) -> String {
    handle.reserved.iter().map(|b| format!("{:02x}", b.cast_unsigned())).collect()
}

fn from_text(text: &str) -> CUipcEventHandle {
    let mut reserved = [0; 64];
    for (place, byte) in reserved.iter_mut().enumerate() {
        let digits = &text[2 * place..2 * place + 2];
        *byte = u8::from_str_radix(digits, 16).expect("hexadecimal").cast_signed();
    }
    CUipcEventHandle { reserved }
}

fn opened(program: &Program) -> CUevent {
    program.open_event(from_text(&std::env::var(SHARED).expect("the exporter sets it"))).expect("it lives")
}

#[test]
fn a_stream_waits_for_the_record_of_another_process() {
    let name = "event_sharing::a_stream_waits_for_the_record_of_another_process";
    in_child(name, || {
        let program = Program::start();
        let stream = program.stream(1);
        if is_importer() {
            let event = opened(&program);
            assert_eq!((program.query(event), program.wait_in(stream, event)), (600, 0), "the other records");
            say('!');
            assert_eq!((program.synchronize(stream), program.query(event)), (0, 0));
            assert_eq!((program.launch("spin", 1000, stream), program.record(event, stream)), (0, 0));
            assert_eq!((program.synchronize_event(event), program.query(event)), (0, 0), "by itself");
            assert_eq!((program.event_handle(event).err(), program.destroy_event(event)), (Some(400), 0));
            return;
        }
        let (event, flag) = (program.event_with(TO_SHARE).expect("room"), program.flag());
        assert_eq!(program.query(event), 0, "never recorded");
        assert_eq!((program.launch("waiter", flag as u64, stream), program.record(event, stream)), (0, 0));
        let handle = program.event_handle(event).expect("made for it");
        let mut child = importer(name, &to_text(&handle));
        wait_for(&mut child, b'!');
        assert_eq!((program.query(event), program.done(stream)), (600, 600));
        // SAFETY: the word lives as long as the context.
        unsafe { flag.write_volatile(1) };
        assert_eq!(program.synchronize_event(event), 0);
        assert!(child.wait().expect("it is a child").success());
        assert_eq!(program.synchronize_event(event), 0, "the other's record too");
    });
}

#[test]
fn an_event_ends_with_the_process_that_made_it() {
    let name = "event_sharing::an_event_ends_with_the_process_that_made_it";
    in_child(name, || {
        let program = Program::start();
        let stream = program.stream(1);
        if is_importer() {
            let event = opened(&program);
            assert_eq!(program.wait_in(stream, event), 0);
            say('!');
            hear();
            assert_eq!((program.record(event, stream), program.query(event)), (400, 400), "it is gone");
            assert_eq!(program.synchronize(stream), 0, "what waits for it goes on");
            assert_eq!((program.destroy_event(event), program.destroy_event(event)), (0, 400));
            return;
        }
        let (event, flag) = (program.event_with(TO_SHARE).expect("room"), program.flag());
        assert_eq!((program.launch("waiter", flag as u64, stream), program.record(event, stream)), (0, 0));
        let mut child = importer(name, &to_text(&program.event_handle(event).expect("made for it")));
        wait_for(&mut child, b'!');
        assert_eq!(program.destroy_event(event), 0);
        drop(child.stdin.take());
        assert!(child.wait().expect("it is a child").success());
        // SAFETY: the word lives as long as the context.
        unsafe { flag.write_volatile(1) };
    });
}

#[test]
fn an_event_that_cannot_be_shared_says_so() {
    in_child("event_sharing::an_event_that_cannot_be_shared_says_so", || {
        let program = Program::start();
        assert_eq!(program.event_with(4), Err(1), "with timing");
        let (plain, shared) = (program.event(), program.event_with(TO_SHARE).expect("room"));
        assert_eq!(program.event_handle(plain).err(), Some(400), "not made for it");
        let handle = program.event_handle(shared).expect("made for it");
        assert_eq!(program.open_event(handle), Err(201), "in its own process");
        assert_eq!(program.open_event(CUipcEventHandle { reserved: [0; 64] }), Err(1));
        for _ in 0..300 {
            let event = program.event_with(TO_SHARE).expect("a destroyed one makes room");
            assert_eq!(program.destroy_event(event), 0);
        }
    });
}
