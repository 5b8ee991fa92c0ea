//! Contexts: half a GiB each, booked before they are made and checked against NVML later.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

use cuota_abi::cuda::{CUcontext, CUdevice, CUdevice_attribute, CUgreenCtx, CUlimit, CUresult};
use cuota_governor::physical::BLOCK_BYTES;
use cuota_region::sys;

use super::{REFUSED, let_go};
use crate::hooks_table::real;
use crate::interpose::call::Call;
use crate::process::account::{self, Account, Booking};
use crate::process::contexts::{Contexts, Gone};
use crate::process::handles::{Kind, Owner};
use crate::process::{self, Standing, driver};

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// Makes a context on `device`: `call` asks the driver, which writes it where argument 0 says.
#[inline(never)]
fn create(device: CUdevice, primary: bool, call: &Call) -> CUresult {
    let account = match account::on_device(device) {
        Booking::On(account) => account,
        Booking::No => return call.make(),
        Booking::Refuse => return REFUSED,
    };
    let Some(reservation) = account.reserve_context() else { return REFUSED };
    let limiter = &account.process().limiter;
    limiter.arrive(device.cast_unsigned());
    let status = call.make();
    // SAFETY: the driver has written the context, where it made one.
    if status == OK && account.process().contexts.add(unsafe { *call.pointer(0) }, device, primary) {
        account.commit_context(reservation);
        // It may be the first on its GPU.
        limiter.forget_caps();
    } else {
        account.cancel(reservation);
    }
    status
}

/// The turn to make or end a device's primary context.
struct Turn(Option<&'static AtomicU32>);

impl Turn {
    /// Waits for the turn. Not for ever: a signal handler may have come between another and its end, in the same thread.
    fn take(device: CUdevice) -> Self {
        const TRIES: u32 = 1 << 20;
        let Standing::Managed(process) = process::standing() else { return Turn(None) };
        let device = usize::try_from(device).ok().and_then(|device| process.devices.get(device));
        let Some(turn) = device.map(|device| &device.primary_turn) else { return Turn(None) };
        for _ in 0..TRIES {
            if turn.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Turn(Some(turn));
            }
            sys::yield_now();
        }
        Turn(None)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turn) = self.0 {
            turn.store(0, Ordering::Release);
        }
    }
}

/// Gives back what a context that is gone had.
#[inline(never)]
fn ended(gone: Option<Gone>) {
    if let Some(gone) = gone
        && let Booking::On(account) = account::on_device(gone.device)
    {
        // Another context can have the same addresses for other kernels.
        account.process().functions.forget();
        let blocks = account.process().blocks.remove_context(gone.number);
        account.process().handles.remove_context(gone.number, |last| let_go(&last));
        account.end_context(blocks * BLOCK_BYTES);
    }
}

/// Makes the call, which may end the context that `number` finds; `gone` takes it off the list, if it has. Meanwhile nobody of ours
/// touches the context's events.
#[inline(never)]
fn ending(
    call: &Call,
    number: fn(&Contexts, &Call) -> Option<u8>,
    gone: fn(&Contexts, &Call) -> Option<Gone>,
) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    // What has ended is settled by its events as long as there are any.
    process.limiter.reap_all();
    let found = Cell::new(None);
    let status = process.limiter.while_ending(number(&process.contexts, call), &|| {
        let status = call.make();
        found.set(if status == OK { gone(&process.contexts, call) } else { None });
        (status, found.get().is_some())
    });
    ended(found.get());
    status
}

/// `cuCtxCreate` in all versions: on the device in argument `call.note()`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn create_plain(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    create(unsafe { call.argument(call.note()) }, false, call)
}

/// The number of the context in argument 0.
fn first(contexts: &Contexts, call: &Call) -> Option<u8> {
    contexts.number_of(call.pointer(0))
}

/// `cuCtxDestroy` and `cuCtxDestroy_v2`: the driver frees the context's memory with it.
pub(crate) unsafe extern "C" fn destroy(call: &Call) -> CUresult {
    ending(call, first, |contexts, call| contexts.remove(call.pointer(0)))
}

/// `cuDevicePrimaryCtxRetain`: the first one makes the context.
pub(crate) unsafe extern "C" fn retain_primary(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let device: CUdevice = unsafe { call.argument(1) };
    // One at a time, or each of several first retains would be booked. The driver makes them wait for one another too.
    let _turn = Turn::take(device);
    if driver::primary_is_active(device) {
        return call.make();
    }
    create(device, true, call)
}

/// `cuDevicePrimaryCtxRelease` and `cuDevicePrimaryCtxReset`, in both versions: the last release, or a reset, ends the
/// context and frees its memory.
pub(crate) unsafe extern "C" fn release_primary(call: &Call) -> CUresult {
    let _turn = Turn::take(call.int(0).cast_signed());
    ending(
        call,
        |contexts, call| contexts.primary_of(call.int(0).cast_signed()),
        |contexts, call| {
            let device = call.int(0).cast_signed();
            (!driver::primary_is_active(device)).then(|| contexts.remove_primary(device)).flatten()
        },
    )
}

/// `cuCtxAttach`: one more end that the context needs.
pub(crate) unsafe extern "C" fn attach(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let context: *mut CUcontext = unsafe { call.argument(0) };
    let status = call.make();
    if status == OK
        && let Standing::Managed(process) = process::standing()
    {
        // SAFETY: the driver has written the context.
        process.contexts.attach(unsafe { *context });
    }
    status
}

/// `cuCtxDetach`: the last one ends the context.
pub(crate) unsafe extern "C" fn detach(call: &Call) -> CUresult {
    ending(call, first, |contexts, call| {
        let context: CUcontext = call.pointer(0);
        contexts.detach(context).then(|| contexts.remove(context)).flatten()
    })
}

/// What a green context takes (measured: 4 MiB).
const GREEN_BYTES: u64 = 2 * BLOCK_BYTES;

/// `cuGreenCtxCreate`: multiprocessors of a device whose primary context is there, or is made by the call.
pub(crate) unsafe extern "C" fn create_green(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let device: CUdevice = unsafe { call.argument(2) };
    let account = match account::on_device(device) {
        Booking::On(account) => account,
        Booking::No => return call.make(),
        Booking::Refuse => return REFUSED,
    };
    // It is a part of the device's primary context, which it makes where there is none.
    let _turn = Turn::take(device);
    let primary = match driver::primary_is_active(device) {
        true => None,
        false => match account.reserve_context() {
            None => return REFUSED,
            reservation => reservation,
        },
    };
    let status = booked_green(account, call);
    if let Some(reservation) = primary {
        match driver::primary_context(device).filter(|_| status == OK) {
            Some(primary) if account.process().contexts.add(primary, device, true) => {
                account.commit_context(reservation)
            }
            _ => account.cancel(reservation),
        }
    }
    status
}

/// Makes a green context and books it.
fn booked_green(account: Account, call: &Call) -> CUresult {
    let Some(reservation) = account.reserve(GREEN_BYTES) else { return REFUSED };
    let status = call.make();
    if status == OK {
        account.commit_overhead(reservation);
        let owner = Owner::new(account.ordinal(), 0, Kind::Green);
        // SAFETY: the driver has written the context.
        account.process().handles.add(
            unsafe { *call.pointer::<CUgreenCtx>(0) }.addr() as u64,
            GREEN_BYTES,
            owner,
        );
    } else {
        account.cancel(reservation);
    }
    status
}

/// `cuCtxSetLimit`: a larger stack is taken at once, for every thread that the device can hold; a larger heap or print buffer when a
/// kernel first needs it, and is promised until then.
pub(crate) unsafe extern "C" fn set_limit(call: &Call) -> CUresult {
    // SAFETY: the argument's type.
    let limit: CUlimit = unsafe { call.argument(0) };
    // SAFETY: the argument's type.
    let value: usize = unsafe { call.argument(1) };
    let is_promise = matches!(limit, CUlimit::CU_LIMIT_MALLOC_HEAP_SIZE | CUlimit::CU_LIMIT_PRINTF_FIFO_SIZE);
    let account = match account::on_current_device() {
        Booking::On(account) if is_promise || limit == CUlimit::CU_LIMIT_STACK_SIZE => account,
        Booking::Refuse => return REFUSED,
        Booking::On(_) | Booking::No => return call.make(),
    };
    let now = self::limit(limit);
    let growth = if is_promise {
        (value as u64).saturating_sub(now).checked_next_multiple_of(BLOCK_BYTES)
    } else {
        // What a kernel's local memory has raised before is there.
        let provided = now.max(account.process().contexts.frame(account.process().contexts.current()));
        for_every_thread(account.ordinal().cast_signed(), (value as u64).saturating_sub(provided))
    };
    let Some(reservation) = growth.and_then(|growth| account.reserve(growth)) else { return REFUSED };
    let status = call.make();
    if status != OK {
        account.cancel(reservation);
        return status;
    }
    if !is_promise {
        account.device.raised.fetch_add(reservation.bytes(), Ordering::Relaxed);
        account.commit_overhead(reservation);
        account.process().contexts.note_stack(account.process().contexts.current(), value as u64);
        if (value as u64) < now {
            // What had room in the stack may take memory at its next launch.
            account.process().functions.forget();
        }
    } else if (value as u64) < now {
        account.cancel(reservation);
        account.unpromise((now - value as u64).next_multiple_of(BLOCK_BYTES));
    } else {
        account.promise(reservation);
    }
    status
}

/// A limit of the current context; 0 where the driver does not say.
pub(super) fn limit(limit: CUlimit) -> u64 {
    let mut now = 0;
    // SAFETY: fills one size.
    driver::outside_captures(|| unsafe { real::cuCtxGetLimit.get()(&raw mut now, limit) });
    now as u64
}

/// What `bytes` more for each thread take (measured, H100, of the stack: × multiprocessors × threads of each). `None`: more than 64
/// bits, or the driver does not say how large the device is.
pub(super) fn for_every_thread(device: CUdevice, bytes: u64) -> Option<u64> {
    let attribute = |attribute| driver::device_attribute(device, attribute);
    let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let threads = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?;
    bytes.checked_mul(multiprocessors)?.checked_mul(threads)?.checked_next_multiple_of(BLOCK_BYTES)
}
