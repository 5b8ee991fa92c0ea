//! Green contexts: a share of a device's multiprocessors beside its primary context. Each takes 4 MiB, as measured on an
//! H100. The model remembers the share and does not hold kernels to it.

use super::Driver;
use super::handle::{Kind, fresh};
use crate::engine::SMS;
use crate::error::{Answer, Fault};
use crate::units::MIB;

/// What a green context takes of the device.
pub(super) const GREEN_BYTES: u64 = 4 * MIB;
/// The smallest share of multiprocessors, of which every share is a multiple.
const STEP: u32 = 8;

/// One green context.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Green {
    context: u64,
    device: u32,
    sms: u32,
}

/// So many groups of so many multiprocessors each, and so many left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Groups.
    pub groups: u32,
    /// Multiprocessors of a group.
    pub sms: u32,
    /// Multiprocessors in no group.
    pub left: u32,
}

impl Split {
    /// Splits `sms` multiprocessors into at most `groups` groups of `least` or more (33 gives 40 on an H100).
    ///
    /// # Errors
    /// `InvalidResourceConfiguration` where not even one group fits.
    pub fn new(sms: u32, groups: u32, least: u32) -> Answer<Self> {
        let size = least.max(1).checked_next_multiple_of(STEP).ok_or(Fault::InvalidResourceConfiguration)?;
        let groups = groups.min(sms / size);
        if groups == 0 {
            return Err(Fault::InvalidResourceConfiguration);
        }
        Ok(Self { groups, sms: size, left: sms - groups * size })
    }
}

impl Driver {
    /// Describes `sms` multiprocessors, for [`Self::create_green`].
    ///
    /// # Errors
    /// `InvalidResourceConfiguration` where no device has so many.
    pub fn describe_sms(&self, sms: u32) -> Answer<u64> {
        if !(1..=SMS).contains(&sms) {
            return Err(Fault::InvalidResourceConfiguration);
        }
        let handle = fresh(Kind::Description);
        self.state.lock().descriptions.insert(handle, sms);
        Ok(handle)
    }

    /// Makes a green context, and holds the primary context of `device` as long as it lives.
    ///
    /// # Errors
    /// `InvalidDevice`; `InvalidValue` where the description is none; `OutOfMemory`.
    pub fn create_green(&self, device: i32, description: u64) -> Answer<u64> {
        let ordinal = self.gpu(device)?.ordinal();
        let sms = self.state.lock().descriptions.get(&description).copied().ok_or(Fault::InvalidValue)?;
        self.retain_primary(device)?;
        let mut state = self.state.lock();
        let made = self.new_context(&mut state, device, 0, super::context::Class::Green);
        let Ok(context) = made else {
            drop(state);
            self.release_primary(device)?;
            return made;
        };
        let handle = fresh(Kind::Green);
        state.greens.insert(handle, Green { context, device: ordinal, sms });
        Ok(handle)
    }

    /// Destroys a green context with all that its context holds.
    ///
    /// # Errors
    /// `InvalidContext` where it is none.
    pub fn destroy_green(&self, green: u64) -> Answer<()> {
        let gone = self.state.lock().greens.remove(&green).ok_or(Fault::InvalidContext)?;
        self.end_waited(gone.device, gone.context);
        self.release_primary(i32::try_from(gone.device).unwrap_or(-1))
    }

    /// The context of a green context, which can be made current.
    ///
    /// # Errors
    /// `InvalidContext` where it is none.
    pub fn green_context(&self, green: u64) -> Answer<u64> {
        Ok(self.state.lock().greens.get(&green).ok_or(Fault::InvalidContext)?.context)
    }

    /// The multiprocessors of a green context.
    ///
    /// # Errors
    /// `InvalidContext` where it is none.
    pub fn green_sms(&self, green: u64) -> Answer<u32> {
        Ok(self.state.lock().greens.get(&green).ok_or(Fault::InvalidContext)?.sms)
    }

    /// The green context of a context; 0 where it is of none.
    #[must_use]
    pub fn green_of(&self, context: u64) -> u64 {
        let state = self.state.lock();
        state.greens.iter().find(|(_, g)| g.context == context).map_or(0, |(&handle, _)| handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_multiples_of_eight() {
        assert_eq!(Split::new(132, 1, 33), Ok(Split { groups: 1, sms: 40, left: 92 }));
        assert_eq!(Split::new(132, 9, 16), Ok(Split { groups: 8, sms: 16, left: 4 }));
        assert_eq!(Split::new(40, 1, 41), Err(Fault::InvalidResourceConfiguration));
    }
}
