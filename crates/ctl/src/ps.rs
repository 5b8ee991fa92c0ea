//! `cuota ps`: the tenants, what each may have, what it has, and what it was refused.

use std::collections::BTreeMap;
use std::path::Path;

use cuota_governor::cap::Cap;
use cuota_governor::entitlement::Entitlement;
use cuota_region::ledger::Usage;
use cuota_region::name::{GpuId, TenantName};
use cuota_region::policy::{Found, Limits, MemoryLimit, Policy};
use cuota_region::sys;
use cuota_region::tenant::{Meter, Tenant};
use serde::Serialize;

use crate::hami::Container;
use crate::home::Home;
use crate::share::show_cap;
use crate::size::{show_bytes, show_limit};
use crate::turns::Turns;
use crate::{lease, output, status};

/// The JSON's version, by the same rule as `doctor`'s.
const SCHEMA: &str = "cuota.ps/1";

#[derive(Serialize)]
struct Listing {
    schema: &'static str,
    directory: String,
    tenants: Vec<Row>,
}

/// A tenant on a GPU; without one, a tenant that has not used any yet.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
struct Row {
    tenant: String,
    gpu: Option<String>,
    /// The quota as it was asked for: `8 GiB`, `50%`, `none`.
    quota: String,
    /// The quota in bytes; `None` for none, and for a share of a GPU not used yet.
    quota_bytes: Option<u64>,
    /// Bytes booked, of contexts and code too.
    booked_bytes: u64,
    /// Of these, contexts and code.
    overhead_bytes: u64,
    /// Allocations refused to the processes that live.
    refused: u64,
    /// The most GPU time that it may take, as it was asked for: `30%`, `off`.
    compute: String,
    /// The same in parts per million.
    compute_cap_ppm: u32,
    /// Never less than this while it has work, parts per million; kept, as the next two, among tenants that take turns.
    guarantee_ppm: u32,
    /// Its part of what nobody is guaranteed.
    weight: u32,
    /// Who goes first: 0 low, 1 normal, 2 high.
    priority: u32,
    /// GPU time that it has used while a cap was in force, ns.
    compute_used_ns: u64,
    /// How long its launches have waited for the cap, ns, summed over threads.
    compute_throttled_ns: u64,
    /// How it stands with turns there: `taken`, `alone`, `off` (a process on the GPU takes none, or MPS is on), or `none`, without a seat.
    turns: &'static str,
    /// How long it has had the turn, ns.
    turns_held_ns: u64,
    /// The ids of the tenant's processes on that GPU, in their own PID namespace.
    processes: Vec<u32>,
    /// Made by `cuota run` for one program.
    ephemeral: bool,
}

/// Lists. Returns the exit status.
pub(crate) fn ps(home: &Home, json: bool) -> u8 {
    let tenants = match rows(home, &lives) {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("cuota: {error:#}");
            return status::PROBLEM;
        }
    };
    let directory = home.path().display().to_string();
    if !json {
        if let (Some(file), true) = (home.monitored(), tenants.is_empty()) {
            let file = file.display();
            return output::show(&format!(
                "No books of the container of {file}: nothing in it has used a GPU, or its processes cannot be seen from here.\n\
                 Run this as root, in the node's process namespace, or in the container.\n"
            ));
        }
        return output::show(&table(&tenants, &directory));
    }
    match serde_json::to_string_pretty(&Listing { schema: SCHEMA, directory, tenants }) {
        Ok(text) => output::show(&(text + "\n")),
        Err(error) => {
            eprintln!("cuota: the list cannot be written as JSON: {error}");
            status::PROBLEM
        }
    }
}

/// Whether the process at `place` of a tenant's file lives: a dead one's books stay open until its tenant next sweeps.
fn lives(home: &Home, name: &TenantName, place: usize) -> bool {
    let live = home.files().live(name).ok().and_then(|path| sys::open(path.as_c_str(), libc::O_RDWR, 0).ok());
    // What cannot be told is shown: only the tenant's own user, and root, can ask for its locks.
    live.is_none_or(|live| sys::byte_is_locked_elsewhere(&live, place as u64).unwrap_or(true))
}

/// Tells whether a process lives, by tenant and place.
type Lives<'a> = &'a dyn Fn(&Home, &TenantName, usize) -> bool;

/// Tenants by name: those with a policy entry, and those without one that have a file.
fn rows(home: &Home, lives: Lives<'_>) -> anyhow::Result<Vec<Row>> {
    let policy = home.policy()?;
    // What is over is not listed. Where the directory is another's, its owner sweeps it.
    if policy.is_some()
        && let Ok(operator) = home.operate()
    {
        lease::sweep(home, &operator);
    }
    let mut names: BTreeMap<String, TenantName> = BTreeMap::new();
    let listed = policy.iter().flat_map(|policy| policy.rows().map(|row| row.tenant));
    for name in listed.chain(with_files(&home.tenants_path())) {
        names.insert(name.to_string(), name);
    }
    Ok(names.values().flat_map(|name| rows_of(home, policy, name, lives)).collect())
}

fn with_files(folder: &Path) -> Vec<TenantName> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        TenantName::parse(name.strip_suffix(".v1")?.as_bytes()).ok()
    };
    entries.filter_map(name).collect()
}

fn rows_of(home: &Home, policy: Option<Policy>, name: &TenantName, lives: Lives<'_>) -> Vec<Row> {
    let tenant = home.files().tenant(name).and_then(|path| Tenant::open(&path)).ok();
    let used = tenant.iter().flat_map(|tenant| tenant.gpus().map(|(index, gpu)| (*tenant, index, gpu)));
    let container = Container::of(home);
    let limits = |gpu| limits(policy, container, name, gpu);
    let rows: Vec<Row> = used
        .map(|(tenant, index, gpu)| {
            let living: Vec<_> =
                tenant.processes(index).filter(|process| lives(home, name, process.place)).collect();
            let sum = |of: fn(&Usage) -> u64| {
                living.iter().map(|process| of(&process.usage)).fold(0, u64::saturating_add)
            };
            let (turns, turns_held_ns) =
                Turns::on(home, gpu).and_then(|turns| turns.of(home, name)).unwrap_or(("none", 0));
            Row {
                turns,
                turns_held_ns,
                gpu: Some(gpu.to_string()),
                booked_bytes: sum(|usage| usage.booked),
                overhead_bytes: sum(|usage| usage.overhead),
                refused: sum(|usage| usage.refused),
                compute_used_ns: tenant.meter(index).map_or(0, Meter::used_ns),
                compute_throttled_ns: tenant.meter(index).map_or(0, Meter::throttled_ns),
                processes: living.iter().map(|process| process.pid).collect(),
                ..blank(name, limits(gpu), tenant.total(index))
            }
        })
        .collect();
    if rows.is_empty() { vec![blank(name, limits(GpuId::ANY), 0)] } else { rows }
}

/// What a tenant may have on a GPU: by the policy, or in a container of HAMi's by its file.
fn limits(
    policy: Option<Policy>,
    container: Option<Container>,
    name: &TenantName,
    gpu: GpuId,
) -> Option<Limits> {
    match policy.map(|policy| policy.look_up(name, gpu)) {
        Some(Found::Limits(limits)) => Some(limits),
        Some(Found::Nothing | Found::Unsettled) => None,
        None => container.and_then(|container| container.limits(gpu)),
    }
}

/// A row with its limits alone. `total`: the GPU's memory in bytes, 0 where it is not known.
fn blank(name: &TenantName, limits: Option<Limits>, total: u64) -> Row {
    let memory = limits.map_or(MemoryLimit::Unlimited, |limits| limits.memory);
    let compute = limits.map_or(Cap::FULL, |limits| limits.compute);
    let entitlement = limits.map_or(Entitlement::USUAL, |limits| limits.entitlement);
    let quota_bytes = match (memory, total) {
        (MemoryLimit::Unlimited, _) | (MemoryLimit::Share(_), 0) => None,
        (MemoryLimit::Bytes(bytes), 0) => Some(bytes),
        (limit, total) => Some(limit.in_bytes(total)),
    };
    Row {
        tenant: name.to_string(),
        gpu: None,
        quota: show_limit(memory),
        quota_bytes,
        booked_bytes: 0,
        overhead_bytes: 0,
        refused: 0,
        compute: show_cap(compute),
        compute_cap_ppm: compute.ppm(),
        guarantee_ppm: entitlement.guarantee_ppm,
        weight: entitlement.weight,
        priority: entitlement.priority as u32,
        compute_used_ns: 0,
        compute_throttled_ns: 0,
        turns: "none",
        turns_held_ns: 0,
        processes: Vec::new(),
        ephemeral: limits.is_some_and(|limits| limits.ephemeral),
    }
}

/// Tenants under a cap: the tenant, its cap, the GPU time that it has used and that its launches have waited.
pub(crate) fn capped(home: &Home) -> Vec<[String; 4]> {
    let capped = rows(home, &lives).unwrap_or_default().into_iter();
    capped
        .filter(|row| row.compute_cap_ppm < Cap::FULL.ppm())
        .map(|row| {
            [
                row.tenant,
                row.compute,
                show_seconds(row.compute_used_ns),
                show_seconds(row.compute_throttled_ns),
            ]
        })
        .collect()
}

/// A time as people read it.
fn show_seconds(ns: u64) -> String {
    match ns {
        0 => "-".to_owned(),
        1..100_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

fn table(rows: &[Row], directory: &str) -> String {
    if rows.is_empty() {
        return format!("No tenants in {directory}. `cuota run -- COMMAND` makes one.\n");
    }
    let head = [
        "TENANT",
        "GPU",
        "QUOTA",
        "BOOKED",
        "OVERHEAD",
        "REFUSED",
        "CAP",
        "GPU TIME",
        "THROTTLED",
        "TURNS",
        "PROCESSES",
    ]
    .map(str::to_owned);
    let body = rows.iter().map(|row| {
        [
            row.tenant.clone(),
            row.gpu.as_deref().map_or_else(|| "-".to_owned(), |gpu| gpu.chars().take(12).collect()),
            row.quota.clone(),
            show_bytes(row.booked_bytes),
            show_bytes(row.overhead_bytes),
            row.refused.to_string(),
            row.compute.clone(),
            show_seconds(row.compute_used_ns),
            show_seconds(row.compute_throttled_ns),
            match row.turns {
                "none" => "-".to_owned(),
                "taken" => show_seconds(row.turns_held_ns),
                other => other.to_owned(),
            },
            match row.processes.is_empty() {
                true => "-".to_owned(),
                false => row.processes.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
            },
        ]
    });
    let lines: Vec<[String; 11]> = std::iter::once(head).chain(body).collect();
    let widths: [usize; 11] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuota_region::ledger::Books;
    use cuota_region::member::Member;

    const GPU: GpuId = GpuId::from_words([7, 9]);

    #[test]
    fn a_tenant_is_listed_with_what_it_may_have_and_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        let (alice, bob) = (TenantName::parse(b"alice").unwrap(), TenantName::parse(b"bob").unwrap());
        let limits = Limits::of_memory(MemoryLimit::Share(500_000));
        home.operate().unwrap().writer.set(&alice, GpuId::ANY, limits).unwrap();
        assert_eq!(rows(&home, &|_, _, _| true).unwrap()[0].quota_bytes, None);

        for name in [alice, bob] {
            let member = Box::leak(Box::new(Member::join(home.files(), &name).unwrap()));
            let index = member.tenant().gpu_index(GPU).unwrap();
            member.tenant().note_total(index, 16 << 30);
            let books = Books::of(member, index);
            books.book(3 << 20);
            books.note_refusal();
        }
        let dead = rows(&home, &|_, _, _| false).unwrap();
        assert!(dead.iter().all(|row| row.booked_bytes == 0 && row.processes.is_empty()));
        let listed = rows(&home, &|_, _, _| true).unwrap();
        let first = &listed[0];
        assert_eq!((first.quota.as_str(), first.quota_bytes), ("50%", Some(8 << 30)));
        assert_eq!((first.booked_bytes, first.refused), (3 << 20, 1));
        assert_eq!(first.processes, [std::process::id()]);
        assert_eq!((listed[1].tenant.as_str(), listed[1].quota.as_str()), ("bob", "none"));
        let text = table(&listed, "d");
        assert!(text.lines().nth(1).unwrap().starts_with("alice   GPU-00000000  50%    3 MiB"), "{text}");
    }

    #[test]
    fn where_nothing_ran_there_is_nothing_and_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("none")).unwrap();
        assert!(rows(&home, &lives).unwrap().is_empty());
    }
}
