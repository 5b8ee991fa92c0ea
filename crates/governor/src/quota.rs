//! Whether a reservation of memory is granted.
//!
//! A process first adds what it wants to its own books, then looks at the sum of its tenant's books. Several may do
//! so at once, so a sum over the quota can hold amounts that are about to be taken back. [`judge`] tells the three
//! cases apart.

/// No quota.
pub const UNLIMITED: u64 = u64::MAX;

/// What the tenant's books show to a process that has just added its own wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sum {
    /// Bytes booked by all live processes of the tenant, the asking one and its wish included.
    pub booked: u64,
    /// Of these, bytes that others have added and may still take back.
    pub pending_elsewhere: u64,
}

/// What becomes of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It fits.
    Granted,
    /// It does not fit, whatever the others do.
    Refused,
    /// It fits only if another takes back what is pending: ask again.
    Contended,
}

/// Judges a sum against a quota in bytes.
#[must_use]
pub const fn judge(sum: Sum, quota: u64) -> Verdict {
    if sum.booked <= quota {
        Verdict::Granted
    } else if sum.booked.saturating_sub(sum.pending_elsewhere) > quota {
        Verdict::Refused
    } else {
        Verdict::Contended
    }
}

/// The free bytes that a tenant is shown: what is left of its quota, never more than the device has.
#[must_use]
pub const fn free_to_show(quota: u64, booked: u64, device_free: u64) -> u64 {
    let left = quota.saturating_sub(booked);
    if left < device_free { left } else { device_free }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wish_that_fits_only_without_anothers_pending_one_is_contended() {
        assert_eq!(judge(Sum { booked: 12, pending_elsewhere: 4 }, 8), Verdict::Contended);
        assert_eq!(judge(Sum { booked: 13, pending_elsewhere: 4 }, 8), Verdict::Refused);
        assert_eq!(judge(Sum { booked: 8, pending_elsewhere: 4 }, 8), Verdict::Granted);
    }

    #[test]
    fn a_quota_below_use_shows_nothing_free() {
        assert_eq!(free_to_show(5, 9, 100), 0);
    }

    proptest! {
        #[test]
        fn nothing_over_the_quota_is_ever_granted(booked: u64, pending: u64, quota: u64) {
            let granted = judge(Sum { booked, pending_elsewhere: pending }, quota) == Verdict::Granted;
            prop_assert_eq!(granted, booked <= quota);
        }

        #[test]
        fn what_is_shown_free_can_be_booked(quota: u64, booked: u64, device: u64) {
            let free = free_to_show(quota, booked, device);
            prop_assert!(free <= device);
            prop_assert!(free == 0 || booked.checked_add(free).is_some_and(|sum| sum <= quota));
        }
    }
}
