//! Memory under a quota: what allocations take, how much is granted, what is refused.

use cuota_abi::cuda::CUdevice;

use super::driver::{Block, Driver, Failure};
use super::fact::{Ask, Fact, Taken};

/// The driver's unit of plain memory on every card seen so far, and so the precision of the search.
const BLOCK_BYTES: u64 = 2 << 20;

const OUT_OF_MEMORY: u32 = cuota_abi::cuda::CUresult::CUDA_ERROR_OUT_OF_MEMORY.0;

/// Takes one byte, one block and one byte more than a block, one after the other, and looks at what NVML counts.
pub(crate) fn blocks(driver: &Driver, own: impl Fn() -> Option<u64>) -> Result<Vec<Taken>, Failure> {
    let mut rows = Vec::new();
    for asked_bytes in [1, BLOCK_BYTES, BLOCK_BYTES + 1] {
        let before = own();
        let block = driver.allocate(asked_bytes)?;
        let taken = own();
        driver.free(block)?;
        let since = |now: Option<u64>| Some(now?.saturating_sub(before?));
        rows.push(Taken { asked_bytes, taken_bytes: since(taken), left_bytes: since(own()) });
    }
    Ok(rows)
}

/// Takes memory in ever smaller pieces until not even a block is granted, then frees a piece and takes it again.
pub(crate) fn fill(
    driver: &Driver,
    quota_bytes: u64,
    own: impl Fn() -> Option<u64>,
) -> Result<Fact, Failure> {
    let own_before_bytes = own();
    let (mut held, mut refused): (Vec<Block>, _) = (Vec::new(), None);
    let mut piece = quota_bytes.next_multiple_of(BLOCK_BYTES);
    // Twice the quota granted is proof enough that there is none.
    while piece >= BLOCK_BYTES && granted(&held) < quota_bytes.saturating_mul(2) {
        match driver.allocate(piece) {
            Ok(block) => held.push(block),
            Err(failure) if failure.status == OUT_OF_MEMORY => {
                refused = Some(failure.status);
                piece = (piece / 2).next_multiple_of(BLOCK_BYTES).min(piece - BLOCK_BYTES);
            }
            Err(failure) => return Err(failure),
        }
    }
    let (granted_bytes, own_full_bytes) = (granted(&held), own());
    let again = match held.pop() {
        Some(block) => {
            let bytes = block.bytes;
            driver.free(block)?;
            status(driver.allocate(bytes).and_then(|block| driver.free(block)))
        }
        None => OUT_OF_MEMORY,
    };
    held.into_iter().try_for_each(|block| driver.free(block))?;
    Ok(Fact::Fill { granted_bytes, refused, own_before_bytes, own_full_bytes, again })
}

fn granted(held: &[Block]) -> u64 {
    held.iter().map(|block| block.bytes).sum()
}

/// Asks for more than the whole quota in every way there is, and gives back what is granted all the same.
pub(crate) fn refusals(driver: &Driver, device: CUdevice, quota_bytes: u64) -> Vec<Ask> {
    let asked_bytes = quota_bytes.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES;
    let freed = |block: Result<Block, Failure>| block.and_then(|block| driver.free(block));
    let answers = [
        ("cuMemAlloc", freed(driver.allocate(asked_bytes))),
        ("cuMemAllocPitch", freed(driver.allocate_pitch(asked_bytes))),
        ("cuMemAllocManaged", freed(driver.allocate_managed(asked_bytes))),
        ("cuMemAllocAsync", freed(driver.allocate_async(asked_bytes))),
        ("cuMemCreate", driver.create(device, asked_bytes)),
    ];
    let row = |(call, answer): (&str, _)| Ask { call: call.to_owned(), asked_bytes, status: status(answer) };
    answers.into_iter().map(row).collect()
}

fn status(answer: Result<(), Failure>) -> u32 {
    answer.map_or_else(|failure| failure.status, |()| 0)
}
