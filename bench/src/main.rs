//! The command `cuota-bench`.

use std::process::ExitCode;

use clap::Parser;
use cuota_bench::cli::{Cli, Verb};
use cuota_bench::{compare, import, list, merge, output, run, selftest, worker};

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Run(arguments) => run::main(&arguments),
        Verb::List => list::main(),
        Verb::SelfTest(arguments) => selftest::main(&arguments),
        Verb::Report(arguments) => output::main(&arguments),
        Verb::Merge(arguments) => merge::main(&arguments.results, &arguments.out),
        Verb::Compare(arguments) => compare::main(&arguments.first, &arguments.second, arguments.tolerance.0),
        Verb::Import(arguments) => import::main(&arguments.files, &arguments.out),
        Verb::Worker { request } => worker::main(&request).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("cuota-bench: {error:#}");
        ExitCode::FAILURE
    })
}
