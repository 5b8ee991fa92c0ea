//! Plain memory: `cuMemAlloc`, `cuMemAllocPitch`, `cuMemAllocManaged` and `cuMemFree`, in their 32- and 64-bit forms.

use core::ffi::c_void;
use core::sync::atomic::Ordering;

use cuota_abi::cuda::{CUdeviceptr, CUdeviceptr_v1, CUresult};
use cuota_governor::physical::{self, BLOCK_BYTES};
use cuota_region::ledger::Reservation;

use super::{REFUSED, let_go};
use crate::hooks_table::cuMemFree_v2;
use crate::interpose::call::Call;
use crate::process::account::{self, Account, Booking};
use crate::process::blocks::Extent;
use crate::process::handles::{Kind, Last, Owner};
use crate::process::{self, Process, Standing, driver};

/// The pitch that the driver chooses is a multiple of this (measured; `doctor` checks what the driver takes).
const PITCH_ALIGNMENT: u64 = 512;

const OK: CUresult = CUresult::CUDA_SUCCESS;

/// How an allocation is asked for, and where the driver writes what it has made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// So many bytes.
    Plain,
    /// The same, of 32 bits.
    PlainV1,
    /// The same, on the device or on the host.
    Managed,
    /// Rows, and how far one is from the next.
    Pitch,
    /// The same, of 32 bits.
    PitchV1,
}

impl Form {
    /// Where an allocation is that the driver has made, and how many bytes it has.
    ///
    /// # Safety
    /// It has made it, for these arguments.
    #[inline(always)]
    unsafe fn made(self, call: &Call, asked: u64) -> (u64, u64) {
        // SAFETY: the driver has written them.
        unsafe {
            match self {
                Form::Plain | Form::Managed => (*call.pointer::<CUdeviceptr>(0), asked),
                Form::PlainV1 => (u64::from(*call.pointer::<CUdeviceptr_v1>(0)), asked),
                Form::Pitch => {
                    let pitch = *call.pointer::<u64>(1);
                    (*call.pointer::<CUdeviceptr>(0), pitch.saturating_mul(call.word(3)))
                }
                Form::PitchV1 => {
                    let pitch = u64::from(*call.pointer::<u32>(1));
                    (u64::from(*call.pointer::<CUdeviceptr_v1>(0)), pitch * u64::from(call.int(3)))
                }
            }
        }
    }
}

/// Makes an allocation of at most `asked` bytes: `call` asks the driver.
///
/// # Safety
/// The arguments are the program's, of this form.
#[inline(never)]
unsafe fn allocate(call: &Call, asked: u64, form: Form) -> CUresult {
    let account = match account::on_current_device() {
        Booking::On(account) if asked != 0 => account,
        Booking::Refuse => return REFUSED,
        // Nothing is asked for: the driver says what it thinks of that.
        Booking::On(_) | Booking::No => return call.make(),
    };
    let Some(worst) = physical::worst_case(asked) else { return REFUSED };
    let Some(reservation) = account.reserve(worst) else { return REFUSED };
    let status = call.make();
    if status != OK {
        account.cancel(reservation);
        return status;
    }
    // SAFETY: the caller's contract, and the driver's success.
    let (address, bytes) = unsafe { form.made(call, asked) };
    book(account, reservation, address, bytes, form == Form::Managed)
}

/// Books what the driver has granted. Returns what the program gets.
fn book(account: Account, reservation: Reservation, address: u64, bytes: u64, is_managed: bool) -> CUresult {
    let reserved = reservation.bytes();
    let context = account.process().contexts.current();
    let blocks = account.process().blocks.add(address, bytes, context);
    let taken = blocks.map_or(reserved, |blocks| blocks * BLOCK_BYTES);
    if is_managed {
        let owner = Owner::new(account.ordinal(), context, Kind::Managed);
        if account.process().handles.add(address, taken, owner) {
            account.device.unseen.fetch_add(taken, Ordering::Relaxed);
        }
    }
    if account.commit(reservation, taken) && blocks.is_ok() {
        return OK;
    }
    // More than any rule allows for, and over the quota, or an address that no table covers: not granted.
    undo(account, address, blocks.is_err().then_some(taken));
    REFUSED
}

/// The usual allocation: of at most one block, on the only device, far from the quota. `None`: it is another one, and nothing was done.
///
/// The same as [`allocate`] in a straight line, for it is called often: what a caller pays for are the lines of code and data that it
/// has not in its cache.
///
/// # Safety
/// The arguments are the program's, of [`Form::Plain`].
#[inline(always)]
unsafe fn allocate_at_once(call: &Call, asked: u64) -> Option<CUresult> {
    let process = process::managed_already()?;
    if asked.wrapping_sub(1) >= BLOCK_BYTES {
        return None;
    }
    let account = Account::known(process)?;
    let reservation = account.reserve_at_once(BLOCK_BYTES)?;
    let status = call.make();
    if status != OK {
        account.cancel(reservation);
        return Some(status);
    }
    // SAFETY: the driver has written it.
    let address = unsafe { *call.pointer::<CUdeviceptr>(0) };
    let is_first = process.blocks.add_at_once(address, asked, process.contexts.current_hot());
    match is_first {
        Some(is_first) => account.settle_at_once(reservation, is_first),
        None => return Some(book(account, reservation, address, asked, false)),
    }
    Some(OK)
}

/// Frees an allocation that was not granted after all. `taken`: bytes booked for an address that the table lacks.
#[cold]
fn undo(account: Account, address: u64, taken: Option<u64>) {
    // The driver has just returned this address, and nobody else has seen it.
    let free = Call::new(cuMemFree_v2::REAL.get() as *const c_void, [address, 0, 0]);
    driver::outside_captures(|| freeing(&free, address, Account::release));
    account.release(taken.unwrap_or(0));
}

/// Frees the allocation at `address`: `call` asks the driver, `give` gives back what it had.
#[inline(never)]
fn freeing(call: &Call, address: u64, give: fn(Account, u64)) -> CUresult {
    let Standing::Managed(process) = process::standing() else { return call.make() };
    // Managed memory, and what others may hold too, before the driver forgets the address.
    let mark = if process.handles.has_marks() { process.handles.take_mark(address) } else { None };
    let extent = process.blocks.take(address);
    if mark.is_none() && extent.is_none() {
        return call.make();
    }
    let status = call.make();
    if status != OK {
        if let Some(extent) = extent {
            process.blocks.put_back(address, extent);
        }
        if let Some(mark) = mark {
            process.handles.put_back(&mark);
        }
        return status;
    }
    match mark {
        None => {
            let blocks = extent.map_or(0, |extent| process.blocks.remove(extent));
            give_back(process, extent.map_or(0, |extent| extent.context), blocks, give);
        }
        Some(mark) => give_back_marked(process, extent, &mark, give),
    }
    status
}

/// The usual free: of plain memory that lies in one block. `None`: it is another one, and nothing was done.
#[inline(always)]
fn free_at_once(call: &Call, address: u64) -> Option<CUresult> {
    let process = process::managed_already()?;
    if process.handles.has_marks() {
        return None;
    }
    // Before the driver is asked: once it has freed the memory, a mapping can begin there.
    let block = process.blocks.sole(address)?;
    let status = call.make();
    if status == OK
        && let Some(context) = block.remove()
    {
        give_block_back(process, context);
    }
    Some(status)
}

/// Gives one block back.
#[inline(never)]
fn give_block_back(process: &'static Process, context: u8) {
    give_back(process, context, 1, Account::release);
}

#[cold]
fn give_back_marked(process: &'static Process, extent: Option<Extent>, mark: &Last, give: fn(Account, u64)) {
    let is_managed = mark.owner.kind() == Kind::Managed;
    if !is_managed {
        let_go(mark);
    }
    let Some(extent) = extent else { return };
    let (context, blocks) = (extent.context, process.blocks.remove(extent));
    let booking = if blocks == 0 { Booking::No } else { made_in(process, context) };
    let Booking::On(account) = booking else { return };
    let bytes = blocks * BLOCK_BYTES;
    match mark.exported {
        _ if is_managed => {
            account.device.unseen.fetch_sub(bytes, Ordering::Relaxed);
            give(account, bytes);
        }
        Some(exported) => account.release_unless_open(bytes, Some(exported), false),
        None => give(account, bytes),
    }
}

/// The account of the device that memory lies on that was made in `context`, whichever is current now.
#[inline(never)]
fn made_in(process: &'static Process, context: u8) -> Booking {
    match process.contexts.device_of(context) {
        Some(device) => account::on_device(device),
        None => account::on_current_device(),
    }
}

/// Gives the blocks back that nothing is left in.
fn give_back(process: &'static Process, context: u8, blocks: u64, give: fn(Account, u64)) {
    if blocks != 0
        && let Booking::On(account) = made_in(process, context)
    {
        give(account, blocks * BLOCK_BYTES);
    }
}

/// `cuMemAlloc_v2`.
///
/// # Safety
/// The program's arguments; so for each hook below.
pub(crate) unsafe extern "C" fn alloc(call: &Call) -> CUresult {
    let bytes = call.word(1);
    // SAFETY: the program's arguments.
    unsafe { allocate_at_once(call, bytes).unwrap_or_else(|| allocate(call, bytes, Form::Plain)) }
}

/// `cuMemAlloc`, the 32-bit form.
pub(crate) unsafe extern "C" fn alloc_v1(call: &Call) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { allocate(call, u64::from(call.int(1)), Form::PlainV1) }
}

/// `cuMemAllocManaged`: booked as if it were all on the device, where it can be at any time.
pub(crate) unsafe extern "C" fn alloc_managed(call: &Call) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { allocate(call, call.word(1), Form::Managed) }
}

fn pitched(width: u64, height: u64) -> u64 {
    let pitch = width.checked_next_multiple_of(PITCH_ALIGNMENT);
    pitch.and_then(|pitch| pitch.checked_mul(height)).unwrap_or(u64::MAX)
}

/// `cuMemAllocPitch_v2`.
pub(crate) unsafe extern "C" fn alloc_pitch(call: &Call) -> CUresult {
    // SAFETY: the program's arguments.
    unsafe { allocate(call, pitched(call.word(2), call.word(3)), Form::Pitch) }
}

/// `cuMemAllocPitch`, the 32-bit form.
pub(crate) unsafe extern "C" fn alloc_pitch_v1(call: &Call) -> CUresult {
    let asked = pitched(u64::from(call.int(2)), u64::from(call.int(3)));
    // SAFETY: the program's arguments.
    unsafe { allocate(call, asked, Form::PitchV1) }
}

/// `cuMemFree_v2`.
pub(crate) unsafe extern "C" fn free(call: &Call) -> CUresult {
    let address = call.word(0);
    free_at_once(call, address).unwrap_or_else(|| freeing(call, address, Account::release))
}

/// `cuMemFreeAsync`, which frees plain memory too: the driver keeps it until the stream is synchronised (measured), so it stays
/// booked, as overhead, until NVML's figure says that it is gone. What a pool gets back, the pool still holds.
pub(crate) unsafe extern "C" fn free_async(call: &Call) -> CUresult {
    freeing(call, call.word(0), Account::release_later)
}

/// `cuMemFree`, the 32-bit form.
pub(crate) unsafe extern "C" fn free_v1(call: &Call) -> CUresult {
    freeing(call, u64::from(call.int(0)), Account::release)
}
