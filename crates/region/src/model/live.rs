//! The live file of a model: who holds the lock of which place.

use super::model::world::World;
use crate::header::Unusable;
use crate::name::TenantName;
use crate::path::Directory;
use crate::sys;

/// A process's descriptor of the live file.
#[derive(Clone, Copy)]
pub(crate) struct Live {
    pub(crate) world: &'static World,
    pub(crate) process: usize,
}

impl Live {
    pub(crate) fn open(_: &Directory, _: &TenantName) -> Result<Self, Unusable> {
        unreachable!("a model's processes are given their live file")
    }

    pub(crate) fn is_open(self) -> bool {
        self.world.is_open(self.process)
    }

    /// Nobody removes a model's live file.
    #[expect(clippy::unused_self, reason = "as on a machine")]
    pub(crate) fn identity(self) -> u64 {
        0
    }

    #[expect(clippy::unnecessary_wraps, reason = "as on a machine")]
    pub(crate) fn try_lock(self, place: usize) -> sys::Result<bool> {
        Ok(self.world.try_lock(self.process, place))
    }

    pub(crate) fn unlock(self, place: usize) {
        self.world.unlock(self.process, place);
    }

    #[expect(clippy::unnecessary_wraps, reason = "as on a machine")]
    pub(crate) fn is_locked_elsewhere(self, place: usize) -> sys::Result<bool> {
        Ok(self.world.is_locked_elsewhere(self.process, place))
    }
}
