//! Memory that more than one process holds. It is its owner's, in whose slot it is counted, until the owner gives it up;
//! then it belongs to nobody and stays taken until the last holder closes it or dies (measured on an H100 with IPC: the
//! exporter's figure falls at its free, the device's free memory rises at the importer's close).
//!
//! A pool that was exported is held as a whole: what its owner leaves in it at its death stays taken as long as somebody has
//! imported the pool, whether or not any of its allocations (measured too).

/// The most objects on a device.
const OBJECTS: usize = 256;
/// The most exported pools on a device.
const POOLS: usize = 64;

/// One object. Its number is never used again.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Object {
    id: u64,
    bytes: u64,
    /// The owner's slot + 1; 0 for nobody.
    owner: u32,
    /// Whether file descriptors of it were given out, which hold it too.
    has_descriptors: u32,
    /// The slots of those that opened it, a bit each.
    holders: u64,
    /// The exported pool that it is a piece of, 0 for none.
    pool: u64,
}

/// One exported pool. Its number is no object's and never used again.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct SharedPool {
    id: u64,
    /// The slots of those that imported it, a bit each.
    holders: u64,
    /// The owner's slot + 1; 0 for nobody.
    owner: u32,
    padding: u32,
}

/// The shared memory of one device. Part of the shared file's layout: plain numbers only.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Objects {
    last_id: u64,
    all: [Object; OBJECTS],
    pools: [SharedPool; POOLS],
}

impl Objects {
    #[cfg(test)]
    pub(super) fn new() -> Self {
        Self { last_id: 0, all: [Object::default(); OBJECTS], pools: [SharedPool::default(); POOLS] }
    }

    /// A new object of `slot`; `None` where there are too many.
    pub fn add(&mut self, slot: usize, bytes: u64) -> Option<u64> {
        let free = self.all.iter_mut().find(|o| o.id == 0)?;
        self.last_id += 1;
        *free = Object { id: self.last_id, bytes, owner: owner(slot), ..Object::default() };
        Some(self.last_id)
    }

    /// Notes that file descriptors of `id` exist.
    pub fn give_out(&mut self, id: u64) {
        if let Some(object) = self.find(id) {
            object.has_descriptors = 1;
        }
    }

    /// Opens `id` for `slot`. Its size in bytes; `None` where it is gone.
    pub fn open(&mut self, id: u64, slot: usize) -> Option<u64> {
        let object = self.find(id)?;
        object.holders |= 1 << slot;
        Some(object.bytes)
    }

    /// `slot` closes `id`.
    pub fn close(&mut self, id: u64, slot: usize) {
        if let Some(object) = self.find(id) {
            object.holders &= !(1 << slot);
        }
    }

    /// The owner of `id` gives it up. Who has imported its pool has it no longer (assumed), unless it opened `id` itself.
    pub fn disown(&mut self, id: u64) {
        if let Some(object) = self.find(id) {
            (object.owner, object.pool) = (0, 0);
        }
    }

    /// A pool of `slot` that others may import; `None` where there are too many.
    pub fn add_pool(&mut self, slot: usize) -> Option<u64> {
        let free = self.pools.iter_mut().find(|p| p.id == 0)?;
        self.last_id += 1;
        *free = SharedPool { id: self.last_id, owner: owner(slot), ..SharedPool::default() };
        Some(self.last_id)
    }

    /// Object `id` is a piece of `pool`.
    pub fn put_in_pool(&mut self, id: u64, pool: u64) {
        if let Some(object) = self.find(id) {
            object.pool = pool;
        }
    }

    /// Imports `pool` for `slot`. False where it is gone.
    #[must_use]
    pub fn open_pool(&mut self, pool: u64, slot: usize) -> bool {
        let found = self.find_pool(pool);
        found.is_some_and(|found| {
            found.holders |= 1 << slot;
            true
        })
    }

    /// `slot` destroys what it imported of `pool`.
    pub fn close_pool(&mut self, pool: u64, slot: usize) {
        if let Some(found) = self.find_pool(pool) {
            found.holders &= !(1 << slot);
        }
    }

    /// The owner of `pool` destroys it.
    pub fn disown_pool(&mut self, pool: u64) {
        if let Some(found) = self.find_pool(pool) {
            found.owner = 0;
        }
    }

    /// The process of `slot` is gone.
    pub(super) fn leave(&mut self, slot: usize) {
        for object in &mut self.all {
            object.holders &= !(1 << slot);
            if object.owner == owner(slot) {
                object.owner = 0;
            }
        }
        for pool in &mut self.pools {
            pool.holders &= !(1 << slot);
            if pool.owner == owner(slot) {
                pool.owner = 0;
            }
        }
    }

    /// Forgets the objects that nobody holds; `has_descriptor` is asked where one was given out. Gives their numbers.
    pub(super) fn sweep(&mut self, has_descriptor: impl Fn(u64) -> bool) -> Vec<u64> {
        for pool in self.pools.iter_mut().filter(|p| p.owner == 0 && p.holders == 0) {
            *pool = SharedPool::default();
        }
        let pools = self.pools;
        let is_held = |pool: u64| pool != 0 && pools.iter().any(|p| p.id == pool && p.holders != 0);
        let is_free = |o: &Object| o.id != 0 && o.owner == 0 && o.holders == 0 && !is_held(o.pool);
        let mut gone = Vec::new();
        for object in self.all.iter_mut().filter(|o| is_free(o)) {
            if object.has_descriptors == 0 || !has_descriptor(object.id) {
                gone.push(object.id);
                *object = Object::default();
            }
        }
        gone
    }

    /// What belongs to nobody and is held.
    pub(super) fn bytes(&self) -> u64 {
        self.all.iter().filter(|o| o.owner == 0).map(|o| o.bytes).sum()
    }

    fn find(&mut self, id: u64) -> Option<&mut Object> {
        self.all.iter_mut().find(|o| o.id == id && id != 0)
    }

    fn find_pool(&mut self, id: u64) -> Option<&mut SharedPool> {
        self.pools.iter_mut().find(|p| p.id == id && id != 0)
    }
}

fn owner(slot: usize) -> u32 {
    u32::try_from(slot + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_belongs_to_nobody_until_its_last_holder_closes_it() {
        let mut objects = Objects::new();
        let id = objects.add(3, 100).expect("room");
        assert_eq!((objects.open(id, 5), objects.bytes()), (Some(100), 0));
        objects.disown(id);
        assert_eq!((objects.sweep(|_| false).len(), objects.bytes()), (0, 100));
        objects.close(id, 5);
        assert_eq!((objects.sweep(|_| false), objects.bytes()), (vec![id], 0));
        assert_eq!(objects.open(id, 5), None);
    }

    #[test]
    fn a_descriptor_holds_an_object() {
        let mut objects = Objects::new();
        let id = objects.add(0, 100).expect("room");
        objects.give_out(id);
        objects.leave(0);
        assert_eq!((objects.sweep(|_| true).len(), objects.bytes()), (0, 100));
        assert_eq!(objects.sweep(|_| false), [id]);
    }

    #[test]
    fn an_imported_pool_holds_what_its_owner_left_in_it() {
        let mut objects = Objects::new();
        let (pool, id) = (objects.add_pool(0).expect("room"), objects.add(0, 100).expect("room"));
        objects.put_in_pool(id, pool);
        assert!(objects.open_pool(pool, 1));
        objects.leave(0);
        assert_eq!((objects.sweep(|_| false).len(), objects.bytes()), (0, 100));
        objects.close_pool(pool, 1);
        assert_eq!((objects.sweep(|_| false), objects.open_pool(pool, 1)), (vec![id], false));
    }

    #[test]
    fn what_its_owner_gives_back_is_no_piece_of_a_pool_any_more() {
        let mut objects = Objects::new();
        let (pool, id) = (objects.add_pool(0).expect("room"), objects.add(0, 100).expect("room"));
        objects.put_in_pool(id, pool);
        assert!(objects.open_pool(pool, 1));
        objects.disown(id);
        assert_eq!(objects.sweep(|_| false), [id]);
    }
}
