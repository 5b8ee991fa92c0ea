//! The table's rows: each API that can take device memory, and tricks to have memory that the quota has forgotten.

mod arrays;
mod code;
mod contexts;
mod externals;
mod graphs;
mod handles;
mod imports;
mod launches;
mod overheads;
mod plain;
mod pools;
mod siblings;
mod tricks;
mod updates;

use crate::attempt::{Attempt, Ended};

pub(crate) use imports::{POOL_ALONE, POOL_POINTER};

/// What a row is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It tries to take half a GiB at once: refused where the quota is full, granted where there is room.
    Take,
    /// It has memory that lives on though it was freed, or seems to have been; then as much again is tried.
    Trick,
}

/// One row.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// The API, and how it is used.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Tries, or plays the trick; the status of the call that failed.
    pub(crate) attempt: fn(&mut Attempt<'_>) -> Ended,
}

const fn take(name: &'static str, attempt: fn(&mut Attempt<'_>) -> Ended) -> Row {
    Row { name, kind: Kind::Take, attempt }
}

const fn trick(name: &'static str, attempt: fn(&mut Attempt<'_>) -> Ended) -> Row {
    Row { name, kind: Kind::Trick, attempt }
}

/// Every row.
pub(crate) fn all() -> Vec<Row> {
    [
        plain::ROWS,
        pools::ROWS,
        handles::ROWS,
        arrays::ROWS,
        graphs::ROWS,
        code::ROWS,
        launches::ROWS,
        updates::ROWS,
        contexts::ROWS,
        overheads::ROWS,
        imports::ROWS,
        externals::ROWS,
        siblings::ROWS,
        tricks::ROWS,
    ]
    .concat()
}
