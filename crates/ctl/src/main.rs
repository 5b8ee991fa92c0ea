//! The command: run a program as a tenant of the GPU, and show that its quota holds.

mod claim;
mod cli;
mod doctor;
mod events;
mod hami;
mod home;
mod inject;
mod lease;
mod locate;
mod output;
mod probe;
mod ps;
mod run;
mod set;
mod share;
mod size;
mod status;
mod turns;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use home::Home;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Help goes to stdout and is no error; clap knows which it is.
            let _ = message.print();
            return ExitCode::from(if message.use_stderr() { status::USAGE } else { status::OK });
        }
    };
    let dir = cli.dir.filter(|dir| !dir.as_os_str().is_empty());
    let home = match Home::at(&dir.unwrap_or_else(|| PathBuf::from(cuota_region::DEFAULT_DIR))) {
        Ok(home) => home,
        Err(error) => {
            eprintln!("cuota: {error}");
            return ExitCode::from(status::OWN_FAILURE);
        }
    };
    ExitCode::from(match cli.command {
        Command::Run(asked) => run::run(&home, &asked),
        Command::Doctor(asked) => doctor::doctor(&home, &asked),
        Command::Events(asked) => events::events(&home, &asked.tenant, asked.json),
        Command::Ps(asked) => ps::ps(&home, asked.json),
        Command::Set(asked) => set::set(&home, &asked),
        Command::Inject(asked) => inject::inject(&home, &asked),
        Command::ContainerHook(asked) => inject::container_hook(&home, &asked),
        Command::Probe(asked) => probe::probe(asked.quota),
    })
}
