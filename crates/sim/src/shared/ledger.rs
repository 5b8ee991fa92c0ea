//! Who holds how much of the device's memory. Each process's own slot is the truth; there is no total to repair.

use super::liveness::Identity;
use super::objects::Objects;
use crate::slice::SLOTS;

/// What memory is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// A context and its lazy growth.
    Context,
    /// Loaded modules.
    Module,
    /// Allocations.
    Memory,
    /// Managed memory that the device has touched.
    Managed,
}

/// One process's memory on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessUse {
    /// The process, in its own PID namespace.
    pub pid: u32,
    /// All that it holds, in bytes.
    pub bytes: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot {
    pub(super) pid: u32,
    pub(super) padding: u32,
    pub(super) identity: Identity,
    /// When its death was noticed; 0 while it lives.
    pub(super) died_ns: u64,
    bytes: [u64; 4],
}

impl Slot {
    /// What the process holds, as NVML shows it: managed memory is not counted.
    fn total(&self) -> u64 {
        self.taken() - self.bytes[Charge::Managed as usize]
    }

    /// What the device lost to the process.
    fn taken(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// The memory of one device. Part of the shared file's layout: plain numbers only.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ledger {
    memory_bytes: u64,
    pub(super) slots: [Slot; SLOTS],
    /// What several processes hold.
    pub objects: Objects,
}

impl Ledger {
    #[cfg(test)]
    fn new(memory_bytes: u64) -> Self {
        Self { memory_bytes, slots: [Slot::default(); SLOTS], objects: Objects::new() }
    }

    /// Makes it that of a device with so much memory. No process has a slot.
    pub(super) fn set_memory(&mut self, memory_bytes: u64) {
        self.memory_bytes = memory_bytes;
    }

    /// Takes the first free slot for a process; `None` when all are taken.
    pub(super) fn join(&mut self, pid: u32, identity: Identity) -> Option<usize> {
        let index = self.slots.iter().position(|s| s.pid == 0)?;
        self.slots[index] = Slot { pid, identity, ..Slot::default() };
        Some(index)
    }

    /// Frees a slot and with it all that its process held alone.
    pub(super) fn leave(&mut self, slot: usize) {
        self.objects.leave(slot);
        self.slots[slot] = Slot::default();
    }

    /// Takes `bytes` for `slot`. False, and nothing taken, where the device is too full.
    #[must_use]
    pub fn take(&mut self, slot: usize, charge: Charge, bytes: u64) -> bool {
        if bytes > self.free_bytes() {
            return false;
        }
        self.slots[slot].bytes[charge as usize] += bytes;
        true
    }

    /// Gives back `bytes` that `slot` took before.
    pub fn give(&mut self, slot: usize, charge: Charge, bytes: u64) {
        let held = &mut self.slots[slot].bytes[charge as usize];
        debug_assert!(*held >= bytes, "slot {slot} gives back {bytes} of {held} bytes");
        *held = held.saturating_sub(bytes);
    }

    /// The device's memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// What no process holds.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let taken = self.slots.iter().map(Slot::taken).sum::<u64>() + self.objects.bytes();
        self.memory_bytes.saturating_sub(taken)
    }

    /// The processes that hold memory, as this one sees them.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessUse> {
        let holders = self.slots.iter().filter(|s| s.pid != 0 && s.total() > 0 && s.identity.is_seen_here());
        holders.map(|s| ProcessUse { pid: s.pid, bytes: s.total() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_refuses_whoever_asks() {
        let mut ledger = Ledger::new(100);
        let (a, b) = (
            ledger.join(1, Identity::default()).expect("free"),
            ledger.join(2, Identity::default()).expect("free"),
        );
        assert!(ledger.take(a, Charge::Context, 60));
        assert!(!ledger.take(b, Charge::Memory, 41));
        assert!(ledger.take(b, Charge::Memory, 40));
        assert_eq!(ledger.free_bytes(), 0);
    }

    #[test]
    fn managed_memory_is_the_devices_loss_and_no_process_shows_it() {
        let mut ledger = Ledger::new(100);
        let slot = ledger.join(1, Identity::default()).expect("free");
        assert!(ledger.take(slot, Charge::Managed, 30) && ledger.take(slot, Charge::Memory, 10));
        assert_eq!((ledger.free_bytes(), ledger.processes()[0].bytes), (60, 10));
    }

    #[test]
    fn a_process_that_leaves_gives_everything_back() {
        let mut ledger = Ledger::new(100);
        let slot = ledger.join(1, Identity::default()).expect("free");
        assert!(ledger.take(slot, Charge::Module, 10));
        assert!(ledger.take(slot, Charge::Memory, 10));
        ledger.leave(slot);
        assert_eq!((ledger.free_bytes(), ledger.processes().len()), (100, 0));
    }
}
