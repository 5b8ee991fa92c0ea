//! Taking all that can be had, to within one 2 MiB block.

use super::error::CudaError;
use super::memory::Taken;
use crate::units::BLOCK_BYTES;

/// What [`fill`] got.
pub struct Filled {
    /// Every allocation, in the order in which it was granted.
    pub taken: Vec<Taken>,
    /// Their sum, in bytes.
    pub granted_bytes: u64,
    /// True when the last request, of one block, was refused; false when the ceiling was reached first.
    pub refused: bool,
    /// A refusal with a code that no driver has: a system's own no.
    pub undefined: Option<CudaError>,
}

/// Takes chunks through `take`, halving the chunk at each refusal, until one block of 2 MiB is refused: so the sum is
/// exact to one block after a few dozen calls. Stops at `ceiling_bytes`, for a system that refuses nothing.
///
/// # Errors
/// The first error of the driver's that is not for want of memory.
pub fn fill(
    limit_bytes: u64,
    ceiling_bytes: u64,
    mut take: impl FnMut(usize) -> Result<Taken, CudaError>,
) -> Result<Filled, CudaError> {
    let mut filled = Filled { taken: Vec::new(), granted_bytes: 0, refused: false, undefined: None };
    let mut chunk_bytes = (limit_bytes / 8).next_power_of_two().max(BLOCK_BYTES);
    while chunk_bytes >= BLOCK_BYTES {
        if filled.granted_bytes + chunk_bytes > ceiling_bytes {
            chunk_bytes /= 2;
            continue;
        }
        match take(usize::try_from(chunk_bytes).unwrap_or(usize::MAX)) {
            Ok(taken) => {
                filled.taken.push(taken);
                filled.granted_bytes += chunk_bytes;
            }
            Err(error) if error.is_out_of_memory() || error.is_undefined() => {
                filled.undefined = filled.undefined.or(Some(error).filter(CudaError::is_undefined));
                filled.refused = chunk_bytes == BLOCK_BYTES;
                chunk_bytes /= 2;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{GIB, MIB};

    const OUT_OF_MEMORY: u32 = 2;
    const INVALID_CONTEXT: u32 = 201;

    /// A system that grants `room_bytes` and refuses what goes beyond with `code`.
    fn grants(mut room_bytes: u64, code: u32) -> impl FnMut(usize) -> Result<Taken, CudaError> {
        move |bytes| match room_bytes.checked_sub(bytes as u64) {
            Some(left_bytes) => {
                room_bytes = left_bytes;
                Ok(Taken { address: 0, bytes, handle: 0 })
            }
            None => Err(CudaError { call: "cuMemAlloc_v2", code }),
        }
    }

    #[test]
    fn a_fill_is_exact_to_one_block() {
        for room_bytes in [7_666 * MIB, 8 * GIB, 7_667 * MIB + 1, 2 * MIB, MIB] {
            let take = grants(room_bytes, OUT_OF_MEMORY);
            let filled = fill(8 * GIB, 10 * GIB, take).unwrap();
            assert!(filled.refused);
            assert_eq!(filled.granted_bytes, room_bytes - room_bytes % BLOCK_BYTES);
        }
    }

    #[test]
    fn a_system_that_refuses_nothing_is_filled_to_the_ceiling_only() {
        let filled = fill(8 * GIB, 10 * GIB, grants(80 * GIB, OUT_OF_MEMORY)).unwrap();
        assert!(!filled.refused);
        assert_eq!(filled.granted_bytes, 10 * GIB);
    }

    #[test]
    fn an_error_that_is_no_refusal_ends_the_fill() {
        let result = fill(8 * GIB, 10 * GIB, grants(0, INVALID_CONTEXT));
        assert_eq!(result.err().unwrap().code, INVALID_CONTEXT);
    }

    #[test]
    fn a_refusal_that_is_no_cuda_error_is_a_refusal_and_is_told() {
        let filled = fill(8 * GIB, 10 * GIB, grants(7 * GIB, u32::MAX)).unwrap();
        assert!(filled.refused && filled.undefined.is_some());
        assert_eq!(filled.granted_bytes, 7 * GIB);
    }
}
