//! The evasion table: each API that can take device memory, in each way to find it, at a quota that is full to the brim.
//!
//! In each cell a tenant tries to take half a GiB more. What counts is what the device has for the tenant, as a process
//! outside of any quota sees it. Then the tenant makes room and tries again: a row that takes nothing then either proves
//! nothing. Where the same attempt ends with the same status outside of any quota, this driver does not have it; else the cell says
//! that it proves nothing.

mod attempt;
mod binding;
mod children;
mod rows;
mod runtime;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::env;

use cuota_tests::build;
use cuota_tests::console::{Arg, Console};
use cuota_tests::driver::{NOT_SUPPORTED, OUT_OF_MEMORY};
use cuota_tests::machine::{GIB, MIB, Machine, has_real_gpu};

use attempt::Attempt;
use binding::{COLUMNS, Column};
use rows::{Kind, POOL_ALONE, POOL_POINTER, Row};
use table::{Cell, Table};

const QUOTA: &str = "4GiB";
const QUOTA_BYTES: u64 = 4 * GIB;

/// What an attempt tries to take, bytes.
const TAKE: u64 = 512 * MIB;

/// What an attempt that is granted takes at least: a context is smaller.
const LEAST: u64 = 400 * MIB;

/// The console's status for a function that is not there.
const NOT_THERE: i64 = -404;

/// Rows that the quota does not hold, and why: none.
const NOT_YET_HELD: &[(&str, &str)] = &[];

/// Rows that the software GPU cannot show, and why.
const NOT_ON_THE_SOFTWARE_GPU: &[(&str, &str)] = &[
    ("cuMemAlloc, 32 bits", "its addresses do not fit 32 bits"),
    ("cuMemAllocPitch, 32 bits", "its addresses do not fit 32 bits"),
    ("graph, cloned", "graphs that allocate cannot be cloned"),
    ("graph, in a child graph", "graphs that allocate cannot be cloned, and a child graph is a clone"),
];

/// Rows that a tenant with a quota is never granted, and why.
const NEVER_GRANTED: &[(&str, &str)] = &[
    (POOL_ALONE, "how much another tenant's pool holds the driver does not say"),
    (POOL_POINTER, "its pool is not granted"),
];

/// One cell: at the brim.
fn cell(attempt: &mut Attempt<'_>, row: Row) -> Cell {
    let _ = attempt.had_twin();
    if row.kind == Kind::Trick {
        attempt.make_room();
    }
    let status = (row.attempt)(attempt).err().unwrap_or(0);
    if attempt.column.per_thread && !attempt.had_twin() {
        return Cell::Same;
    }
    let status = match (row.kind, status) {
        (Kind::Take, status) => status,
        (Kind::Trick, 0) => {
            attempt.keep("cuMemAlloc_v2", &[Arg::Out(8), Arg::Is(TAKE)], "cuMemFree_v2").err().unwrap_or(0)
        }
        // The trick itself failed: nothing is proved.
        (Kind::Trick, OUT_OF_MEMORY) => return Cell::Unproved(OUT_OF_MEMORY),
        (Kind::Trick, other) => other,
    };
    match attempt.beyond_quota() {
        0 => Cell::of(status),
        beyond => Cell::Took(beyond),
    }
}

/// Whether a [`proof`] ended with too little memory taken, not with a status.
fn is_short(ended: i64) -> bool {
    ended <= 0 && ended.unsigned_abs() < LEAST / MIB
}

/// What the same attempt takes where there is room: a status if a call fails, minus the MiB taken if these are too few.
fn proof(attempt: &mut Attempt<'_>, row: Row) -> Result<(), i64> {
    attempt.make_room();
    let before = attempt.taken();
    (row.attempt)(attempt)?;
    let grown = attempt.taken().saturating_sub(before);
    if grown >= LEAST { Ok(()) } else { Err(-i64::try_from(grown / MIB).unwrap_or(i64::MAX)) }
}

/// A process outside of any quota that sees the device as it is.
fn observer(machine: &Machine) -> Console {
    let mut observer = machine.native().start();
    // Enough to ask for the device's UUID; a context would take memory.
    let _ = observer.call("cuInit", &[Arg::Is(0)]).ok();
    observer
}

/// What one column has shown for those of the same stream mode after it: the functions are the same however they are found. A GPU's
/// time is short: what costs a process a cell is shown once.
#[derive(Default)]
struct Shown {
    /// Rows that took memory where there was room, with the help of another process, or so that the tenant was of no more use.
    taken: BTreeSet<(&'static str, bool)>,
    /// How rows ended outside of any quota.
    natively: BTreeMap<(&'static str, bool), Result<(), i64>>,
}

/// One column being filled.
struct Filling<'a> {
    machine: &'a Machine,
    column: Column,
    shown: &'a mut Shown,
}

impl Filling<'_> {
    /// A cell that proves nothing, held against the same attempt by a program outside of any quota.
    fn held_against_native(&mut self, row: Row, found: Cell) -> Cell {
        let (Cell::Failed(status) | Cell::Unproved(status)) = found else { return found };
        let (machine, column) = (self.machine, self.column.natively());
        let known = self.shown.natively.entry((row.name, column.per_thread));
        let theirs = *known.or_insert_with(|| {
            let mut observer = observer(machine);
            let mut native = Attempt::natively(machine, column, &mut observer);
            let theirs = proof(&mut native, row);
            native.kill();
            observer.finish();
            theirs
        });
        let is_never = NEVER_GRANTED.iter().any(|(name, _)| *name == row.name);
        match theirs {
            Err(same) if same == status => Cell::NotThereNatively(status),
            Err(theirs) if is_short(theirs) && is_short(status) => Cell::ShortNatively(theirs.unsigned_abs()),
            Ok(()) if is_never && status == OUT_OF_MEMORY => Cell::Never,
            _ => found,
        }
    }

    /// One cell: at the brim, then where there is room. `false`: the tenant is of no more use.
    fn cell(&mut self, attempt: &mut Attempt<'_>, row: Row) -> (Cell, bool) {
        let mut found = cell(attempt, row);
        let has_company = attempt.had_company();
        let mut is_clean = attempt.clean();
        let (place, needs_proof) = ((row.name, self.column.per_thread), row.kind == Kind::Take);
        if needs_proof && matches!(found, Cell::Refused | Cell::Within) && !self.shown.taken.contains(&place)
        {
            if !is_clean {
                attempt.renew();
            }
            found = match proof(attempt, row) {
                Ok(()) => found,
                Err(status @ (NOT_SUPPORTED | NOT_THERE)) => Cell::of(status),
                Err(status) => Cell::Unproved(status),
            };
            is_clean = attempt.clean();
            if (!is_clean || has_company) && matches!(found, Cell::Refused | Cell::Within) {
                self.shown.taken.insert(place);
            }
        }
        (self.held_against_native(row, found), is_clean)
    }
}

/// All rows in one column.
fn fill(machine: &Machine, table: &mut Table, shown: &mut Shown, place: usize) {
    let (column, mut observer) = (COLUMNS[place], observer(machine));
    let mut filling = Filling { machine, column, shown };
    let mut attempt = Attempt::new(machine, column, &mut observer);
    let is_there = attempt.finds();
    let mut is_clean = true;
    for row in rows::all().into_iter().filter(|row| is_wanted(row.name)) {
        if !is_there || column.per_thread && table.is_same(row.name) {
            table.put(row.name, place, if is_there { Cell::Same } else { Cell::NotThere });
            continue;
        }
        if !is_clean {
            attempt.renew();
        }
        let found;
        (found, is_clean) = filling.cell(&mut attempt, row);
        table.put(row.name, place, found);
    }
    attempt.kill();
    observer.finish();
}

/// Whether a row is asked for: all are, unless `CUOTA_EVASION_ROWS` names a part of some rows' names.
fn is_wanted(row: &str) -> bool {
    env::var("CUOTA_EVASION_ROWS").map_or(true, |part| row.contains(&part))
}

#[test]
fn no_api_takes_memory_past_the_quota_however_it_is_found() {
    let (mut table, mut shown) = (Table::default(), Shown::default());
    let path = build::scratch().join("evasion.md");
    for place in 0..COLUMNS.len() {
        // A machine of its own: what a tenant that is killed had is no matter of the next.
        let machine = Machine::new();
        fill(&machine, &mut table, &mut shown, place);
        // After each column, for one who has no time for all of them.
        std::fs::write(&path, table.markdown()).expect("the target folder is writable");
    }
    let text = table.markdown();
    println!("{text}\nThis table is in {}", path.display());
    let known = |list: &[(&'static str, &str)]| -> BTreeSet<&'static str> {
        list.iter().map(|(row, _)| *row).filter(|row| is_wanted(row)).collect()
    };
    let open = table.rows_where(|cell| matches!(cell, Cell::Took(_)));
    let failed = table.rows_where(|cell| matches!(cell, Cell::Failed(_) | Cell::Unproved(_)));
    let shown =
        table.rows_where(|cell| matches!(cell, Cell::Refused | Cell::Never | Cell::Within | Cell::Took(_)));
    let vague = |row: &&str| failed.contains(row) || !shown.contains(row);
    let vague = rows::all()
        .iter()
        .map(|row| row.name)
        .filter(|row| is_wanted(row))
        .filter(vague)
        .collect::<BTreeSet<_>>();
    if has_real_gpu() {
        assert!(open.is_subset(&known(NOT_YET_HELD)), "past the quota on this GPU: {open:?}");
        assert!(failed.is_empty(), "rows that prove nothing on this GPU: {failed:?}");
        return;
    }
    assert_eq!(open, known(NOT_YET_HELD), "rows past the quota, and the list of those that are known");
    assert_eq!(
        vague,
        known(NOT_ON_THE_SOFTWARE_GPU),
        "rows that prove nothing, and the list of those that are known"
    );
}
