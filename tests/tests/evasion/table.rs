//! What came out: cells, the table in Markdown, and which rows do not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use cuota_tests::driver::{NOT_SUPPORTED, OUT_OF_MEMORY};
use cuota_tests::machine::MIB;

use crate::NOT_THERE;
use crate::binding::COLUMNS;

/// How one attempt at the brim ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Cell {
    /// `CUDA_ERROR_OUT_OF_MEMORY`, and the device has no more for the tenant than the quota.
    Refused,
    /// The calls succeed, and the device still has no more for the tenant than the quota.
    Within,
    /// The driver lacks the function.
    NotThere,
    /// The same status ends the attempt where there is no quota: the driver does not have it here.
    NotThereNatively(i64),
    /// The attempt succeeds natively, and takes no more than so many MiB: this driver keeps what it is about elsewhere.
    ShortNatively(u64),
    /// Refused where there is room too, while it takes memory natively: a row of [`crate::NEVER_GRANTED`].
    Never,
    /// Another status: the attempt proves nothing.
    Failed(i64),
    /// Refused at the brim, and not granted either where there was room: this status, or this growth.
    Unproved(i64),
    /// The device had so many bytes for the tenant beyond its quota.
    Took(u64),
    /// The column calls what the column without per-thread streams calls.
    Same,
}

impl Cell {
    /// The cell for a call's end, where the device has not gone beyond the quota.
    pub(crate) fn of(status: i64) -> Self {
        match status {
            0 => Cell::Within,
            OUT_OF_MEMORY => Cell::Refused,
            NOT_SUPPORTED | NOT_THERE => Cell::NotThere,
            other => Cell::Failed(other),
        }
    }

    fn text(self) -> String {
        match self {
            Cell::Refused => "refused".into(),
            Cell::Within => "within".into(),
            Cell::NotThere => "not there".into(),
            Cell::NotThereNatively(status) => format!("not there ({status})"),
            Cell::ShortNatively(mib) => format!("not there (natively {mib} MiB)"),
            Cell::Never => "never".into(),
            Cell::Failed(status) => format!("no: {status}"),
            Cell::Unproved(status) => format!("unproved: {status}"),
            Cell::Took(bytes) => format!("**took {} MiB**", bytes / MIB),
            Cell::Same => "–".into(),
        }
    }
}

/// All cells: a row's name, and a cell for each column.
#[derive(Default)]
pub(crate) struct Table {
    cells: BTreeMap<(usize, usize), Cell>,
    rows: Vec<&'static str>,
}

impl Table {
    pub(crate) fn put(&mut self, row: &'static str, column: usize, cell: Cell) {
        let place = self.rows.iter().position(|known| *known == row).unwrap_or_else(|| {
            self.rows.push(row);
            self.rows.len() - 1
        });
        self.cells.insert((place, column), cell);
    }

    /// Whether a row calls in a column for per-thread streams what it calls in the others: one such column says it for all.
    pub(crate) fn is_same(&self, row: &str) -> bool {
        let place = self.rows.iter().position(|known| *known == row);
        self.cells.iter().any(|((of, _), cell)| Some(*of) == place && *cell == Cell::Same)
    }

    /// The rows with a cell that `is_so`.
    pub(crate) fn rows_where(&self, is_so: impl Fn(Cell) -> bool) -> BTreeSet<&'static str> {
        self.cells.iter().filter(|(_, cell)| is_so(**cell)).map(|((row, _), _)| self.rows[*row]).collect()
    }

    /// The table in Markdown, and how often each kind of cell occurs.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("| takes memory by |");
        COLUMNS.iter().for_each(|column| write!(text, " {} |", column.head).expect("a string takes it"));
        text.push_str("\n|---|");
        COLUMNS.iter().for_each(|_| text.push_str("---|"));
        for (place, row) in self.rows.iter().enumerate() {
            write!(text, "\n| {row} |").expect("a string takes it");
            for column in 0..COLUMNS.len() {
                let cell = self.cells.get(&(place, column)).map_or_else(String::new, |cell| cell.text());
                write!(text, " {cell} |").expect("a string takes it");
            }
        }
        let count = |is_so: fn(&Cell) -> bool| self.cells.values().filter(|cell| is_so(cell)).count();
        write!(
            text,
            "\n\n{} cells: {} refused, {} never granted, {} within the quota, {} took memory beyond it, {} not there, {} prove nothing.\n",
            count(|cell| *cell != Cell::Same),
            count(|cell| *cell == Cell::Refused),
            count(|cell| *cell == Cell::Never),
            count(|cell| *cell == Cell::Within),
            count(|cell| matches!(cell, Cell::Took(_))),
            count(|cell| matches!(cell, Cell::NotThere | Cell::NotThereNatively(_) | Cell::ShortNatively(_))),
            count(|cell| matches!(cell, Cell::Failed(_) | Cell::Unproved(_))),
        )
        .expect("a string takes it");
        text
    }
}
