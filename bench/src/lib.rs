//! `cuota-bench`: what GPU sharing costs and how well it isolates, system beside system.
//!
//! A run goes [`cli`] → [`run`] → [`runner`] (turns) → [`metrics`] (one file each) → [`system`] (a tenant is started)
//! → [`worker`] (what the tenant does, through [`gpu`]) and back through [`stats`] into [`results`] and [`report`].

pub mod affinity;
pub mod category;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod csv;
pub mod environment;
#[cfg(test)]
mod example;
pub mod gpu;
pub mod html;
pub mod import;
pub mod interrupt;
pub mod judge;
pub mod list;
pub mod merge;
pub mod metrics;
pub mod nvml;
pub mod output;
pub mod prepare;
pub mod process;
pub mod prove;
pub mod published;
pub mod report;
pub mod results;
pub mod resume;
pub mod run;
pub mod runner;
pub mod sampling;
pub mod scorecard;
pub mod selftest;
pub mod shown;
pub mod spawn;
pub mod stats;
pub mod summary;
pub mod system;
pub mod units;
pub mod worker;
