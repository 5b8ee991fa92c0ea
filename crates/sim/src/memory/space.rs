//! The unified address space of one process: which address is device memory, and where its bytes lie on the host.
//! Device addresses are reserved without access: a program that follows one on the CPU dies of SIGSEGV, as it does on a GPU.

use super::backing::{Access, Backing};
use super::gaps::Gaps;
use crate::error::{Answer, Fault};
use crate::units::{BLOCK, GIB};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How much address space a process reserves for device memory.
const SPACE_BYTES: u64 = 1024 * GIB;

/// A run of host bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First host address.
    pub host: u64,
    /// Length in bytes.
    pub bytes: u64,
}

#[derive(Debug, Clone)]
struct Piece {
    bytes: u64,
    device: u32,
    backing: Arc<Backing>,
    offset: u64,
}

/// The device addresses of one process.
#[derive(Debug)]
pub struct Space {
    reservation: Backing,
    free: Gaps,
    pieces: BTreeMap<u64, Piece>,
}

impl Space {
    /// Reserves the address space.
    ///
    /// # Errors
    /// `OutOfMemory` where the host does not give that much address space (`ulimit -v`).
    pub fn new() -> Answer<Self> {
        let reservation = Backing::map(SPACE_BYTES, Access::None)?;
        let free = Gaps::new(reservation.address(), SPACE_BYTES);
        Ok(Self { reservation, free, pieces: BTreeMap::new() })
    }

    /// Takes `bytes` of addresses, at `fixed` where that is free, else anywhere.
    ///
    /// # Errors
    /// `OutOfMemory` where no range is free.
    pub fn reserve(&mut self, bytes: u64, alignment: u64, fixed: u64) -> Answer<u64> {
        if fixed != 0 && fixed.is_multiple_of(BLOCK) && self.free.take_at(fixed, bytes) {
            return Ok(fixed);
        }
        self.free.take(bytes, alignment.max(BLOCK)).ok_or(Fault::OutOfMemory)
    }

    /// Gives addresses back.
    pub fn unreserve(&mut self, address: u64, bytes: u64) {
        self.free.give(address, bytes);
    }

    /// Puts host memory behind addresses.
    pub fn attach(&mut self, address: u64, bytes: u64, device: u32, backing: Arc<Backing>, offset: u64) {
        self.pieces.insert(address, Piece { bytes, device, backing, offset });
    }

    /// Takes the host memory away from the piece that begins at `address`, and gives it.
    pub fn detach(&mut self, address: u64) -> Option<Arc<Backing>> {
        self.pieces.remove(&address).map(|piece| piece.backing)
    }

    /// Whether `address` lies in the range kept for device memory, backed or not.
    #[must_use]
    pub fn is_reserved(&self, address: u64) -> bool {
        (self.reservation.address()..self.reservation.address() + self.reservation.bytes()).contains(&address)
    }

    /// Where the memory at `address` begins, and the host memory behind it.
    #[must_use]
    pub fn piece_at(&self, address: u64) -> Option<(u64, Arc<Backing>)> {
        let (&start, piece) = self.pieces.range(..=address).next_back()?;
        (address - start < piece.bytes).then(|| (start, piece.backing.clone()))
    }

    /// The device whose memory lies at `address`.
    #[must_use]
    pub fn device_of(&self, address: u64) -> Option<u32> {
        let (&start, piece) = self.pieces.range(..=address).next_back()?;
        (address - start < piece.bytes).then_some(piece.device)
    }

    /// The host bytes behind `bytes` at `address`, in order; one span for each physical piece.
    ///
    /// # Errors
    /// `InvalidValue` where part of the range is not device memory.
    pub fn translate(&self, address: u64, bytes: u64) -> Answer<Vec<Span>> {
        let (mut at, mut left, mut spans) = (address, bytes, Vec::new());
        while left > 0 {
            let (&start, piece) = self.pieces.range(..=at).next_back().ok_or(Fault::InvalidValue)?;
            let inside = at - start;
            let here =
                piece.bytes.checked_sub(inside).filter(|&n| n > 0).ok_or(Fault::InvalidValue)?.min(left);
            spans.push(Span { host: piece.backing.address() + piece.offset + inside, bytes: here });
            at += here;
            left -= here;
        }
        Ok(spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_over_two_pieces_translates_to_two_spans() {
        let mut space = Space::new().expect("address space");
        let address = space.reserve(2 * BLOCK, BLOCK, 0).expect("free");
        for part in 0..2 {
            let backing = Arc::new(Backing::map(BLOCK, Access::ReadWrite).expect("host memory"));
            space.attach(address + part * BLOCK, BLOCK, 0, backing, 0);
        }
        let spans = space.translate(address + BLOCK - 8, 16).expect("mapped");
        assert_eq!(spans.iter().map(|s| s.bytes).collect::<Vec<_>>(), [8, 8]);
        assert_eq!(space.translate(address + BLOCK, BLOCK + 1), Err(Fault::InvalidValue));
    }

    #[test]
    fn an_unbacked_address_is_no_device_memory() {
        let mut space = Space::new().expect("address space");
        let address = space.reserve(BLOCK, BLOCK, 0).expect("free");
        assert!(space.is_reserved(address));
        assert_eq!(space.device_of(address), None);
    }
}
