//! `cuota-bench list`.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;

use crate::metrics;
use crate::stats::Direction;
use crate::system::{LibraryNeed, Profile, builtin_names};

/// Prints the metrics and the systems.
pub fn main() -> Result<ExitCode> {
    let mut text = String::from("Metrics\n");
    for metric in metrics::ALL {
        let info = metric.info();
        let better = if info.direction == Direction::Lower { "lower" } else { "higher" };
        text += &format!("  {}  {} ({}, {better} is better)\n", info.id, info.name, info.unit);
        text += &format!("          {}\n          headline: {}\n", info.method, info.headline);
    }
    text += "\nSystems\n";
    for name in builtin_names() {
        let profile = Profile::builtin(name)?;
        let argument = match profile.library {
            LibraryNeed::None => name.to_owned(),
            LibraryNeed::Optional => format!("{name}[=LIB]"),
            LibraryNeed::Required => format!("{name}=LIB"),
        };
        text += &format!("  --system {argument:<14} {}\n", profile.title);
    }
    // A closed pipe, as of `list | head`, is no error of ours.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
