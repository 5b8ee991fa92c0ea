//! The driver's functions, as the coverage ledger of `cuota-abi` lists them.

use std::collections::HashMap;
use std::fs;
use std::sync::LazyLock;

/// One exported function.
#[derive(Clone, Debug)]
pub struct Function {
    /// The symbol, such as `cuMemAlloc_v2`.
    pub symbol: String,
    /// The name by which the driver's own look-up knows it, such as `cuMemAlloc`.
    pub name: String,
    /// The CUDA version since which it has this form, as that look-up takes it: 3020 for CUDA 3.2.
    pub since: u32,
}

/// Every function of the driver.
pub fn functions() -> impl Iterator<Item = Function> {
    LEDGER.values().cloned()
}

/// The function with this symbol; `None` where the ledger has none.
pub fn function(symbol: &str) -> Option<&'static Function> {
    LEDGER.get(symbol)
}

static LEDGER: LazyLock<std::collections::BTreeMap<String, Function>> = LazyLock::new(|| {
    let path = crate::build::guests().join("../../crates/abi/coverage.tsv");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let mut lines = text.lines();
    let head: HashMap<&str, usize> =
        lines.next().unwrap_or("").split('\t').enumerate().map(|(place, name)| (name, place)).collect();
    let (symbol, form) = (head["symbol"], head["pfn"]);
    lines
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter_map(|fields| {
            let (name, since) = parse(fields[form])?;
            let symbol = fields[symbol].to_owned();
            Some((symbol.clone(), Function { symbol, name, since }))
        })
        .collect()
});

/// `PFN_cuMemAllocAsync_v11020_ptsz`: `cuMemAllocAsync`, since 11020.
fn parse(form: &str) -> Option<(String, u32)> {
    let plain = form.strip_suffix("_ptsz").or_else(|| form.strip_suffix("_ptds")).unwrap_or(form);
    let (name, since) = plain.strip_prefix("PFN_")?.rsplit_once("_v")?;
    Some((name.to_owned(), since.parse().ok()?))
}
