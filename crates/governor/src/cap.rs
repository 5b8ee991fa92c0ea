//! The cap: the share of a GPU's time that a tenant may take, and what it earns.

use core::fmt;
use core::num::NonZeroU32;

/// The fixed period, ns. On an H100, periods of 5, 10, 20 and 40 ms held 5 µs kernels at a cap of 25 % to 24.4, 24.6,
/// 24.6 and 24.1 %: 20 ms is long enough that the bubble after a wait does not count, and short enough that a cap
/// changed now is in force before anybody notices.
pub const PERIOD_NS: u64 = 20_000_000;

/// The longest time, ns, that a debt can make a launch wait: ten minutes. What a unit owes beyond that is forgiven;
/// and a horizon that lies further ahead than that is rubbish, since none was ever written.
pub const MAX_WAIT_NS: u64 = 600_000_000_000;

const FULL: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();
const FULL_PPM: u32 = FULL.get();

/// A share of GPU time, in parts per million: 1 to 1,000,000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cap(NonZeroU32);

/// A number that is no cap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadCap {
    /// What was asked for, parts per million.
    pub ppm: u32,
}

impl fmt::Display for BadCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a compute cap of {} ppm was asked for; it can be 1 to {FULL_PPM} ppm (100 %)", self.ppm)
    }
}

impl Cap {
    /// 100 %: it never binds, so nothing is counted.
    pub const FULL: Self = Self(FULL);

    /// A cap of `ppm` parts per million.
    ///
    /// # Errors
    /// [`BadCap`] for 0, under which nothing could ever run, and for more than 1,000,000.
    pub const fn from_ppm(ppm: u32) -> Result<Self, BadCap> {
        match NonZeroU32::new(ppm) {
            Some(share) if ppm <= FULL_PPM => Ok(Self(share)),
            _ => Err(BadCap { ppm }),
        }
    }

    /// Parts per million.
    #[must_use]
    pub const fn ppm(self) -> u32 {
        self.0.get()
    }

    /// Whether it holds anybody back.
    #[must_use]
    pub const fn binds(self) -> bool {
        self.ppm() < FULL_PPM
    }

    /// What a period earns, GPU-ns: cap × period. Exact, since a millionth of the period is a whole 20 ns.
    #[must_use]
    pub const fn quantum_ns(self) -> u64 {
        self.ppm() as u64 * (PERIOD_NS / FULL_PPM as u64)
    }

    /// What `wall_ns` of the clock earn, GPU-ns, rounded down.
    #[must_use]
    pub const fn earned_in(self, wall_ns: u64) -> u64 {
        // Ten minutes × 10^6 needs 60 bits.
        let wall_ns = if wall_ns < MAX_WAIT_NS { wall_ns } else { MAX_WAIT_NS };
        wall_ns * self.ppm() as u64 / FULL_PPM as u64
    }

    /// How long it takes to earn `gpu_ns`, ns of the clock, rounded up: [`MAX_WAIT_NS`] at most.
    #[must_use]
    pub const fn time_to_earn(self, gpu_ns: u64) -> u64 {
        // The same 60 bits: whatever costs more than the longest wait is worth the longest wait under every cap.
        let gpu_ns = if gpu_ns < MAX_WAIT_NS { gpu_ns } else { MAX_WAIT_NS };
        let wall_ns = (gpu_ns * FULL_PPM as u64).div_ceil(self.ppm() as u64);
        if wall_ns < MAX_WAIT_NS { wall_ns } else { MAX_WAIT_NS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_below_one_ppm_and_nothing_above_all_is_a_cap() {
        assert_eq!(Cap::from_ppm(0), Err(BadCap { ppm: 0 }));
        assert_eq!(Cap::from_ppm(1_000_001), Err(BadCap { ppm: 1_000_001 }));
        assert_eq!(Cap::from_ppm(1_000_000), Ok(Cap::FULL));
        assert!(BadCap { ppm: 0 }.to_string().contains("1 to 1000000"));
    }

    #[test]
    fn a_quantum_is_the_cap_of_a_period() {
        assert_eq!(Cap::from_ppm(300_000).map(Cap::quantum_ns), Ok(6_000_000));
        assert_eq!(Cap::FULL.quantum_ns(), PERIOD_NS);
    }

    proptest! {
        #[test]
        fn what_takes_a_time_to_earn_is_earned_in_it(ppm in 1..=FULL_PPM, gpu_ns in 0..600_000u64) {
            let cap = Cap::from_ppm(ppm).expect("a cap");
            prop_assert!(cap.earned_in(cap.time_to_earn(gpu_ns)) >= gpu_ns);
        }

        #[test]
        fn no_cost_and_no_cap_makes_a_wait_longer_than_the_longest(ppm in 1..=FULL_PPM, gpu_ns: u64) {
            prop_assert!(Cap::from_ppm(ppm).expect("a cap").time_to_earn(gpu_ns) <= MAX_WAIT_NS);
        }
    }
}
