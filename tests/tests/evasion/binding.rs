//! The ways in which a program finds the driver's functions, and the stream mode that it asks for: the table's columns.

use cuota_tests::coverage;

use crate::runtime;

/// `CU_GET_PROC_ADDRESS_LEGACY_STREAM` and `..._PER_THREAD_DEFAULT_STREAM`.
const LEGACY: u32 = 1;
const PER_THREAD: u32 = 2;

/// A way to find a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// By name, in one of the ways that the console knows.
    Name(&'static str),
    /// By name in the CUDA runtime, by whose functions for the driver's.
    Runtime,
    /// By `cuGetProcAddress` (`proc`) or `cuGetProcAddress_v2` (`proc2`), with these flags.
    Driver(&'static str, u32),
}

/// One column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Column {
    /// Its head.
    pub(crate) head: &'static str,
    way: Way,
    /// Whether functions that take a stream are asked for in the form for per-thread default streams.
    pub(crate) per_thread: bool,
}

const fn by_name(head: &'static str, way: &'static str, per_thread: bool) -> Column {
    Column { head, way: Way::Name(way), per_thread }
}

const fn by_driver(head: &'static str, way: &'static str, flags: u32) -> Column {
    Column { head, way: Way::Driver(way, flags), per_thread: flags == PER_THREAD }
}

/// Every column.
pub(crate) const COLUMNS: [Column; 17] = [
    by_name("`-lcuda`", "linked", false),
    by_name("`-lcuda` _ptsz", "linked", true),
    by_name("`dlsym`", "dlsym", false),
    by_name("`dlsym` _ptsz", "dlsym", true),
    by_name("`RTLD_DEFAULT`", "default", false),
    by_name("`RTLD_DEFAULT` _ptsz", "default", true),
    by_name("`RTLD_NEXT`", "next", false),
    by_name("`RTLD_NEXT` _ptsz", "next", true),
    by_name("`dlvsym`", "dlvsym", false),
    by_name("`dlvsym` _ptsz", "dlvsym", true),
    by_name("`dlmopen`", "namespace", false),
    by_name("`dlmopen` _ptsz", "namespace", true),
    by_driver("`cuGetProcAddress`", "proc", 0),
    by_driver("`cuGetProcAddress` per thread", "proc", PER_THREAD),
    by_driver("`cuGetProcAddress_v2`", "proc2", LEGACY),
    by_driver("`cuGetProcAddress_v2` per thread", "proc2", PER_THREAD),
    Column { head: "`libcudart`", way: Way::Runtime, per_thread: false },
];

impl Column {
    /// Whether the console must be linked with the driver.
    pub(crate) fn is_linked(self) -> bool {
        self.way == Way::Name("linked")
    }

    /// The column in which a program does natively what a tenant does in this one: `dlmopen` loads a driver of its own, which knows
    /// nothing of the program's, while a tenant is given the one that it has.
    pub(crate) fn natively(self) -> Self {
        let way = if self.way == Way::Name("namespace") { Way::Name("dlsym") } else { self.way };
        Self { way, ..self }
    }

    /// Whether the column calls the CUDA runtime, which a machine need not have, and which the software GPU is not enough for.
    pub(crate) fn is_runtime(self) -> bool {
        self.way == Way::Runtime
    }

    /// The symbol that this column calls for `symbol`, and whether that is another one than without per-thread streams.
    fn symbol(self, symbol: &str) -> (String, bool) {
        let twins = ["_ptsz", "_ptds"].map(|suffix| format!("{symbol}{suffix}"));
        match twins.into_iter().find(|twin| self.per_thread && coverage::function(twin).is_some()) {
            Some(twin) => (twin, true),
            None => (symbol.to_owned(), false),
        }
    }

    /// Whether this column calls a form of `symbol` that the column without per-thread streams does not.
    pub(crate) fn differs_for(self, symbol: &str) -> bool {
        self.symbol(symbol).1
    }

    /// How the console is told to find `symbol`.
    pub(crate) fn spell(self, symbol: &str) -> String {
        let (found, _) = self.symbol(symbol);
        match self.way {
            Way::Name(way) => format!("{way}!{found}"),
            Way::Runtime => format!("runtime!{}", runtime::function(symbol)),
            Way::Driver(way, flags) => {
                let function = coverage::function(&found);
                let function = function.unwrap_or_else(|| panic!("{found} is not in the ledger"));
                format!("{way}!{}!{}!{flags}", function.name, function.since)
            }
        }
    }
}
