//! The device's memory that several processes hold, and their events, as this process sees them.

use super::Gpu;
use crate::error::{Answer, Fault};
use crate::memory::Backing;
use crate::shared::{Charge, SharedEvent};
use std::fs::File;

impl Gpu {
    /// Makes memory of this process an object that others can open: its bytes move into a file. Gives its number.
    ///
    /// # Errors
    /// `OutOfMemory` where the device has too many objects; `OperatingSystem` where the file cannot be made.
    pub(crate) fn share(&self, backing: &Backing) -> Answer<u64> {
        let (slot, bytes) = (self.join()?, backing.bytes());
        let id = self.shared.with(|d| {
            d.sweep();
            d.ledger.objects.add(slot, bytes)
        });
        let id = id.ok_or(Fault::OutOfMemory)?;
        let file = self.shared.make_memory_file(id, bytes);
        // The engine is the only one that writes to the bytes; while it is held, they can be moved.
        let moved = file.and_then(|file| self.with_engine(|_| backing.share(&file)));
        moved.inspect_err(|_| {
            self.shared.with(|d| {
                d.ledger.objects.disown(id);
                d.sweep();
            })
        })?;
        Ok(id)
    }

    /// A file descriptor of object `id` for a program: while a copy of it is open, the memory lives.
    ///
    /// # Errors
    /// `OperatingSystem`; `InvalidValue` where the object is gone.
    pub(crate) fn give_out(&self, id: u64) -> Answer<File> {
        let file = self.shared.open_for_program(id)?;
        self.shared.with(|d| d.ledger.objects.give_out(id));
        Ok(file)
    }

    /// Opens object `id` of another process, or of this one where it gave it up.
    ///
    /// # Errors
    /// `InvalidValue` where it is gone; `OutOfMemory` where the host cannot map it.
    pub(crate) fn open_shared(&self, id: u64) -> Answer<Backing> {
        let slot = self.join()?;
        let bytes = {
            let mut opened = self.opened.lock();
            let bytes = self.shared.with(|d| {
                d.sweep();
                d.ledger.objects.open(id, slot)
            });
            let bytes = bytes.ok_or(Fault::InvalidValue)?;
            *opened.entry(id).or_default() += 1;
            bytes
        };
        let file = self.shared.open_memory_file(id);
        file.and_then(|file| Backing::open(&file, bytes)).inspect_err(|_| self.close_shared(id))
    }

    /// Closes an object that [`Self::open_shared`] opened. The process holds it until it has closed it as often.
    pub(crate) fn close_shared(&self, id: u64) {
        let Ok(slot) = self.join() else { return };
        let mut opened = self.opened.lock();
        let times = opened.get(&id).copied().unwrap_or(0).saturating_sub(1);
        if times > 0 {
            opened.insert(id, times);
            return;
        }
        opened.remove(&id);
        self.shared.with(|d| {
            d.ledger.objects.close(id, slot);
            d.sweep();
        });
    }

    /// Gives up memory of this process that is object `id`: it stays taken while another one holds it.
    pub(crate) fn disown(&self, id: u64, bytes: u64) {
        let Ok(slot) = self.join() else { return };
        self.shared.with(|d| {
            d.ledger.give(slot, Charge::Memory, bytes);
            d.ledger.objects.disown(id);
            d.sweep();
        });
    }

    /// Makes a pool of this process one that others can import. Gives its number.
    ///
    /// # Errors
    /// `OutOfMemory` where the device has too many.
    pub(crate) fn share_pool(&self) -> Answer<u64> {
        let slot = self.join()?;
        self.shared
            .with(|d| {
                d.sweep();
                d.ledger.objects.add_pool(slot)
            })
            .ok_or(Fault::OutOfMemory)
    }

    /// Makes object `id` of this process a piece of `pool`.
    pub(crate) fn put_in_pool(&self, id: u64, pool: u64) {
        self.shared.with(|d| d.ledger.objects.put_in_pool(id, pool));
    }

    /// Imports a pool: all that is in it is held until it is closed as often.
    ///
    /// # Errors
    /// `InvalidValue` where it is gone.
    pub(crate) fn open_pool(&self, pool: u64) -> Answer<()> {
        let slot = self.join()?;
        let mut opened = self.opened.lock();
        let is_there = self.shared.with(|d| {
            d.reap();
            d.ledger.objects.open_pool(pool, slot)
        });
        if !is_there {
            return Err(Fault::InvalidValue);
        }
        *opened.entry(pool).or_default() += 1;
        Ok(())
    }

    /// Closes a pool that [`Self::open_pool`] imported.
    pub(crate) fn close_pool(&self, pool: u64) {
        let Ok(slot) = self.join() else { return };
        let mut opened = self.opened.lock();
        let times = opened.remove(&pool).unwrap_or(0).saturating_sub(1);
        if times > 0 {
            opened.insert(pool, times);
            return;
        }
        self.shared.with(|d| {
            d.ledger.objects.close_pool(pool, slot);
            d.sweep();
        });
    }

    /// Gives up a pool of this process: it stays importable while another one has it.
    pub(crate) fn disown_pool(&self, pool: u64) {
        self.shared.with(|d| {
            d.ledger.objects.disown_pool(pool);
            d.sweep();
        });
    }

    /// Makes an event that other processes can open. Gives its number.
    ///
    /// # Errors
    /// `OutOfMemory` where the device has too many.
    pub(crate) fn share_event(&self) -> Answer<u64> {
        let slot = self.join()?;
        self.shared.add_event(slot).ok_or(Fault::OutOfMemory)
    }

    /// Ends an event that [`Self::share_event`] made.
    pub(crate) fn end_shared_event(&self, id: u64) {
        self.shared.end_event(id);
    }

    /// An event of some process.
    ///
    /// # Errors
    /// `InvalidHandle` where it is gone.
    pub(crate) fn shared_event(&self, id: u64) -> Answer<&SharedEvent> {
        self.shared.events().find(id).ok_or(Fault::InvalidHandle)
    }
}
