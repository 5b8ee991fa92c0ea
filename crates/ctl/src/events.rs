//! `cuota events`: what happened to a tenant.

use std::fmt::Write as _;

use cuota_region::HELPER_VARIABLE;
use cuota_region::event::{Entry, Event, Problem, Why};
use cuota_region::hami::variables;
use cuota_region::name::TenantName;
use cuota_region::sys;
use cuota_region::tenant::Tenant;
use serde::Serialize;

use crate::home::Home;
use crate::output;
use crate::size::show_bytes;
use crate::status;

/// The JSON's version, by the same rule as `doctor`'s.
const SCHEMA: &str = "cuota.events/1";

#[derive(Serialize)]
struct Listing {
    schema: &'static str,
    tenant: String,
    events: Vec<Row>,
}

/// One event.
#[derive(Serialize, Debug)]
struct Row {
    /// Counts from 0 over the life of the tenant's file, which keeps the last 1,024.
    number: u64,
    /// How long ago, ms.
    age_ms: u64,
    /// The process that it happened to, in its own PID namespace.
    pid: u32,
    #[serde(flatten)]
    what: What,
}

#[derive(Serialize, Debug, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum What {
    Refused { asked_bytes: u64, booked_bytes: u64, quota_bytes: u64 },
    GrewInsideCall { bytes: u64 },
    Reaped { dead_pid: u32, booked_bytes: u64 },
    Rejoined { booked_bytes: u64 },
    NoProcessMemory { nvml_error: u32 },
    NotGranted { why: Reason },
    Setting { variable: String, problem: Trouble, error: u32 },
    Unknown { number_of_kind: u32 },
}

/// Why a variable of another system's is not followed.
#[derive(Serialize, Debug, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Trouble {
    Unreadable,
    NotSupported,
    BadFile,
    Overruled,
    NotInMemory,
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Unreadable => Trouble::Unreadable,
            Problem::NotSupported => Trouble::NotSupported,
            Problem::BadFile => Trouble::BadFile,
            Problem::Overruled => Trouble::Overruled,
            Problem::NotInMemory => Trouble::NotInMemory,
        }
    }
}

impl Trouble {
    /// What is so, and what to do.
    fn text(self, variable: &str, error: u32) -> String {
        match self {
            Trouble::Unreadable if variable.contains("MEMORY_LIMIT") => format!(
                "{variable} cannot be read, so no memory is granted where it counts: write a number of bytes, or with k, m, g or t \
                 (8192m, 8g), or a share (50%)"
            ),
            Trouble::Unreadable if variable.contains("SM_LIMIT") => {
                format!("{variable} cannot be read and limits nothing: write per cent from 0 to 100")
            }
            Trouble::Unreadable => {
                format!(
                    "{variable} cannot be read: what counts without it counts. docs/hami.md says what it can be"
                )
            }
            Trouble::NotSupported => {
                format!(
                    "{variable} is not followed: what it asks for is not done here, or must not be. docs/hami.md says why"
                )
            }
            Trouble::BadFile => {
                let why = match error {
                    0 => "it is not HAMi's, or too short, or its directory cannot be written".to_owned(),
                    number if number < 4096 => format!("system error {number}"),
                    version => format!(
                        "it has layout version {}.{}, this build knows 1.2",
                        version >> 16,
                        version & 0xffff
                    ),
                };
                format!(
                    "the file that {variable} names cannot be used ({why}): the limits of the variables count, HAMi's monitor does not \
                     see this process. Remove the file, and start the container again"
                )
            }
            Trouble::Overruled if error == 1 => format!(
                "{variable} asks for another limit than the container's file has, and the file counts: an earlier process has set it, or \
                 somebody since. `cuota --dir FILE set` changes it"
            ),
            Trouble::Overruled if variable == HELPER_VARIABLE => format!(
                "{variable} does not count: only who may change the policy may keep the helper thread away, to measure without it"
            ),
            Trouble::Overruled => {
                format!("{variable} does not count: there is a policy of cuota's, and it does")
            }
            Trouble::NotInMemory => {
                let (place, harm) = match error {
                    1 => ("in /tmp", "each launch writes to that disk"),
                    _ => (
                        "beside the monitor's file",
                        "the monitors of Volcano, and of HAMi up to 2.9.0, do not take such a container, and each launch writes to \
                         that disk",
                    ),
                };
                format!(
                    "the container's books could not be made in /dev/shm, and lie {place}: {harm}. Give the container a /dev/shm that it \
                     can write, with 4 MiB to spare"
                )
            }
        }
    }
}

/// Why something was refused that may have fitted the quota.
#[derive(Serialize, Debug, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Reason {
    ForeignPool,
    TableFull,
    LibraryEnded,
    UnknownSize,
}

impl From<Why> for Reason {
    fn from(why: Why) -> Self {
        match why {
            Why::ForeignPool => Reason::ForeignPool,
            Why::TableFull => Reason::TableFull,
            Why::LibraryEnded => Reason::LibraryEnded,
            Why::UnknownSize => Reason::UnknownSize,
        }
    }
}

impl Reason {
    /// What was asked, what is so, and what to do.
    fn text(self) -> &'static str {
        match self {
            Reason::ForeignPool => {
                "refused to open another tenant's memory pool: the driver does not say what it holds, so nobody could be charged. \
                 Share single allocations (cuIpcGetMemHandle, cuMemCreate), or run both programs as one tenant"
            }
            Reason::TableFull => {
                "refused an object that could not be followed: a process has at most 256 memory pools and 262,144 allocations by \
                 handle. Free some, or use larger ones"
            }
            Reason::LibraryEnded => {
                "refused the use of a library that did not fit before and was unloaded. Free memory, then unload the library and \
                 load it again"
            }
            Reason::UnknownSize => {
                "refused to import memory whose size could not be found: it must be mapped for that. Free reserved addresses, or \
                 raise the limit of the address space (ulimit -v)"
            }
        }
    }
}

impl From<Event> for What {
    fn from(event: Event) -> Self {
        match event {
            Event::Refused { asked, booked, quota } => {
                What::Refused { asked_bytes: asked, booked_bytes: booked, quota_bytes: quota }
            }
            Event::GrewInsideCall { bytes } => What::GrewInsideCall { bytes },
            Event::Reaped { pid, booked } => What::Reaped { dead_pid: pid, booked_bytes: booked },
            Event::Rejoined { booked } => What::Rejoined { booked_bytes: booked },
            Event::NoProcessMemory { error } => What::NoProcessMemory { nvml_error: error },
            Event::NotGranted { why } => What::NotGranted { why: why.into() },
            Event::Setting { variable, problem, error } => {
                let name = variables::name(variable as usize).unwrap_or("a variable");
                What::Setting { variable: name.to_owned(), problem: problem.into(), error }
            }
            Event::Unknown { what } => What::Unknown { number_of_kind: what },
        }
    }
}

impl What {
    fn text(&self) -> String {
        match self {
            What::Refused { asked_bytes, booked_bytes, quota_bytes } => format!(
                "refused {} ({} booked of {})",
                show_bytes(*asked_bytes),
                show_bytes(*booked_bytes),
                show_bytes(*quota_bytes)
            ),
            What::GrewInsideCall { bytes } => {
                format!("one call took {} more than was reserved for it", show_bytes(*bytes))
            }
            What::Reaped { dead_pid, booked_bytes } => {
                format!("process {dead_pid} is dead, {} of it given back", show_bytes(*booked_bytes))
            }
            What::Rejoined { booked_bytes } => {
                format!("joined again, with {} booked", show_bytes(*booked_bytes))
            }
            What::NoProcessMemory { nvml_error } => format!(
                "NVML does not say what the process takes (error {nvml_error}): contexts and code are an estimate"
            ),
            What::NotGranted { why } => why.text().to_owned(),
            What::Setting { variable, problem, error } => problem.text(variable, *error),
            What::Unknown { number_of_kind } => {
                format!("an event of another version of cuota (number {number_of_kind})")
            }
        }
    }
}

/// Lists. Returns the exit status.
pub(crate) fn events(home: &Home, name: &TenantName, json: bool) -> u8 {
    let opened = home.files().tenant(name).ok().map(|path| (Tenant::open(&path), path));
    let tenant = match opened {
        Some((Ok(tenant), _)) => tenant,
        Some((Err(error), path)) => {
            eprintln!(
                "cuota: tenant {name} has no events that can be read: {}: {error}. It has a file once a program of it has used \
                 the GPU; `cuota ps` lists the tenants",
                path.as_c_str().to_string_lossy()
            );
            return status::PROBLEM;
        }
        None => {
            eprintln!("cuota: the path of {}'s file is too long", name);
            return status::PROBLEM;
        }
    };
    let now_ns = sys::monotonic_ns();
    let events: Vec<Row> = tenant.events().entries().map(|entry| row(entry, now_ns)).collect();
    if !json {
        return output::show(&table(name, &events));
    }
    match serde_json::to_string_pretty(&Listing { schema: SCHEMA, tenant: name.to_string(), events }) {
        Ok(text) => output::show(&(text + "\n")),
        Err(error) => {
            eprintln!("cuota: the events cannot be written as JSON: {error}");
            status::PROBLEM
        }
    }
}

fn row(entry: Entry, now_ns: u64) -> Row {
    let age_ms = now_ns.saturating_sub(entry.time_ns) / 1_000_000;
    Row { number: entry.number, age_ms, pid: entry.pid, what: entry.event.into() }
}

fn table(name: &TenantName, events: &[Row]) -> String {
    if events.is_empty() {
        return format!("Nothing has happened to {name}.\n");
    }
    let mut text = String::new();
    for event in events {
        let seconds = event.age_ms as f64 / 1e3;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{seconds:>9.3} s ago  process {:<8}  {}", event.pid, event.what.text());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_what_happened_and_how_much() {
        let entry = Entry {
            number: 7,
            time_ns: 1_000_000,
            pid: 12,
            event: Event::Refused { asked: 64 << 20, booked: 1 << 30, quota: 1 << 30 },
        };
        let row = row(entry, 251_000_000);
        let name = TenantName::parse(b"alice").unwrap();
        let text = table(&name, &[row]);
        assert_eq!(text, "    0.250 s ago  process 12        refused 64 MiB (1 GiB booked of 1 GiB)\n");
        assert_eq!(table(&name, &[]), "Nothing has happened to alice.\n");
    }
}
