//! The statistics of the benchmark. A sample is one process launch; within it the median of many calls.

mod bootstrap;
mod paired;
mod quantile;
mod random;

pub use bootstrap::{Interval, median_interval};
pub use paired::{Direction, FEWEST_PAIRS, Verdict, paired_difference};
pub use quantile::{median, quantile};
