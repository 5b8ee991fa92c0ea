//! The coverage ledger: for every function of the driver API and of NVML, what cuota does about it and why.
//!
//! `scripts/regenerate-abi` writes the rows from NVIDIA's headers; class and reason are decisions of people and kept.
//! Nothing here reaches a library that does not name it.

/// The ledger of the driver API, a tab-separated table under a header line.
pub const CUDA: &str = include_str!("../coverage.tsv");

/// The ledger of NVML, in the same form.
pub const NVML: &str = include_str!("../nvml-coverage.tsv");

/// The columns of both ledgers.
pub const HEADER: &str = "symbol\tpfn\treleases\tclass\twhy";

/// One function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The exported symbol, such as `cuMemAlloc_v2`.
    pub symbol: &'static str,
    /// Its function-pointer type in [`crate::cuda`] or [`crate::nvml`].
    pub pfn: &'static str,
    /// The releases whose headers declare it, comma-separated: `12.0,12.9,13.0`.
    pub releases: &'static str,
    /// `hook`: the shim replaces it; `pass`: the program calls the driver directly; `n/a`: it cannot occur on Linux;
    /// `?`: nobody has decided yet, which fails a test.
    pub class: &'static str,
    /// The reason. In class `pass`, a reason that begins with [`LATER`] says which part of cuota is to hook it.
    pub why: &'static str,
}

/// How the reason of a function begins that is to be hooked but is not yet.
pub const LATER: &str = "later: ";

/// The rows of [`CUDA`] or [`NVML`]; a line without five columns is skipped, which a test rules out.
pub fn rows(ledger: &'static str) -> impl Iterator<Item = Row> {
    ledger.lines().skip(1).filter_map(|line| {
        let mut columns = line.split('\t');
        let row = Row {
            symbol: columns.next()?,
            pfn: columns.next()?,
            releases: columns.next()?,
            class: columns.next()?,
            why: columns.next()?,
        };
        columns.next().is_none().then_some(row)
    })
}
