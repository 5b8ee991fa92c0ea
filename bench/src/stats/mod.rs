//! The statistics of the benchmark. A sample is one process launch; within it the median of many calls.

mod bootstrap;
mod paired;
mod quantile;
mod random;
mod student;
mod trimmed;

pub use bootstrap::{Interval, median_interval};
pub use paired::{Direction, FEWEST_PAIRS, Paired, Scale, Verdict, added, paired};
pub use quantile::{median, quantile};
pub(crate) use random::SplitMix64;
pub use trimmed::{POWER_PERCENT, SIGNIFICANCE, about_each_other, correction, holm};
