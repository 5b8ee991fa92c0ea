//! The command `cuota-bench`.

use std::process::ExitCode;

use clap::Parser;
use cuota_bench::cli::{Cli, Verb};
use cuota_bench::{list, run, worker};

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Run(arguments) => run::main(&arguments),
        Verb::List => list::main(),
        Verb::Worker { request } => worker::main(&request).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("cuota-bench: {error:#}");
        ExitCode::FAILURE
    })
}
