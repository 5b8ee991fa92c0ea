//! The world of the engine: the process's memory, and its thread for host functions. The only place where modelled copies
//! touch bytes.

use super::Gpu;
use crate::engine::{Effect, HostCall, Word, World};
use crate::memory::Span;
use crate::units::{MIB, index};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes of one copy or fill are really carried: tests check data, and no machine has the memory of a GPU to
/// spare. The rest of a larger one takes its time, but leaves the bytes as they were; the log says so.
pub const CARRIED: u64 = 256 * MIB;

pub(super) struct RealWorld<'a> {
    pub(super) gpu: &'a Gpu,
}

impl World for RealWorld<'_> {
    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Copy { from, to } => copy(&from, &to),
            Effect::Bring { bytes, to } => {
                let from = Span { host: bytes.as_ptr() as u64, bytes: bytes.len() as u64 };
                copy(&[from], &to);
            }
            Effect::Fill { pattern, to } => fill(&pattern, &to),
            Effect::Store { word, value } => store(word, value),
            Effect::Raise { host, value } => raise(host, value),
            Effect::All(effects) => effects.into_iter().for_each(|effect| self.perform(effect)),
        }
    }

    fn load(&mut self, word: Word) -> u64 {
        // SAFETY: the address was device memory or pinned host memory when the unit was submitted; freeing either waits for
        // the device. Volatile, since the other side may be written by the program at any time.
        unsafe {
            if word.is_wide {
                (word.host as *const u64).read_volatile()
            } else {
                u64::from((word.host as *const u32).read_volatile())
            }
        }
    }

    fn call(&mut self, stream: u64, call: HostCall) {
        self.gpu.send_host_call(stream, call);
    }
}

fn copy(from: &[Span], to: &[Span]) {
    let (mut from, mut to) = (from.iter().copied(), to.iter().copied());
    let (mut source, mut target) = (from.next(), to.next());
    let mut left = CARRIED;
    while let (Some(s), Some(t)) = (source, target) {
        let bytes = s.bytes.min(t.bytes).min(left);
        if bytes == 0 {
            crate::log::once("a copy of more than 256 MiB carries only its first 256 MiB");
            return;
        }
        // SAFETY: both spans were checked when the unit was submitted, and freeing them waits for the device. They may
        // overlap, which `copy` allows.
        unsafe { std::ptr::copy(s.host as *const u8, t.host as *mut u8, index(bytes)) };
        left -= bytes;
        source = rest(s, bytes).or_else(|| from.next());
        target = rest(t, bytes).or_else(|| to.next());
    }
}

fn rest(span: Span, done: u64) -> Option<Span> {
    (span.bytes > done).then_some(Span { host: span.host + done, bytes: span.bytes - done })
}

fn fill(pattern: &[u8], to: &[Span]) {
    let mut left = CARRIED;
    for span in to {
        let bytes = span.bytes.min(left);
        if bytes < span.bytes {
            crate::log::once("a memset of more than 256 MiB sets only its first 256 MiB");
        }
        // SAFETY: the span was checked when the unit was submitted, and freeing it waits for the device.
        let target = unsafe { std::slice::from_raw_parts_mut(span.host as *mut u8, index(bytes)) };
        match pattern {
            [byte] => target.fill(*byte),
            _ => target.chunks_mut(pattern.len()).for_each(|c| c.copy_from_slice(&pattern[..c.len()])),
        }
        left -= bytes;
    }
}

fn store(word: Word, value: u64) {
    // SAFETY: as in `load`.
    unsafe {
        if word.is_wide {
            (word.host as *mut u64).write_volatile(value);
        } else {
            (word.host as *mut u32).write_volatile(u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX));
        }
    }
}

fn raise(host: u64, value: u64) {
    // SAFETY: the word is part of the device's shared file, which stays mapped, aligned, and is atomic for every process.
    let word = unsafe { AtomicU64::from_ptr(host as *mut u64) };
    word.fetch_max(value, Ordering::AcqRel);
}
