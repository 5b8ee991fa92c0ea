//! Turns on virtual time: up to 64 tenants that keep a GPU busy, come and go, lie, die, overrun.

mod model;

mod entitlements;
mod fairness;
mod faults;
mod priority;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
