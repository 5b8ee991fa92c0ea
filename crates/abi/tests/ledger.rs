//! The ledger is complete, decided and in step with the headers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use cuota_abi::ledger::{self, LATER, Row};

/// (name for messages, the table, the prefix of its lists of functions, the module with its PFN types)
const LEDGERS: [(&str, &str, &str, &str); 2] = [
    ("coverage.tsv", ledger::CUDA, "cuda-", include_str!("../src/cuda.rs")),
    ("nvml-coverage.tsv", ledger::NVML, "nvml-", include_str!("../src/nvml.rs")),
];

fn all_rows() -> impl Iterator<Item = (&'static str, Row)> {
    LEDGERS.into_iter().flat_map(|(name, table, _, _)| ledger::rows(table).map(move |row| (name, row)))
}

/// `cuda-13.10` as [13, 10], so that 13.10 comes after 13.5.
fn release_number(stem: &str) -> Vec<u32> {
    let release = stem.rsplit('-').next().unwrap();
    release.split('.').map(|part| part.parse().unwrap()).collect()
}

/// {symbol: (PFN types, releases)} of the machine-made lists `functions/<prefix><release>.txt`, oldest release first.
fn listed_functions(prefix: &str) -> BTreeMap<String, (BTreeSet<String>, Vec<String>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_by_key(|path| release_number(path.file_stem().unwrap().to_str().unwrap()));
    let mut functions: BTreeMap<String, (BTreeSet<String>, Vec<String>)> = BTreeMap::new();
    for path in files {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let Some(release) = stem.strip_prefix(prefix) else { continue };
        for line in fs::read_to_string(&path).unwrap().lines() {
            let (symbol, pfn) = line.split_once('\t').unwrap();
            let (pfns, releases) = functions.entry(symbol.to_owned()).or_default();
            pfns.extend((pfn != "-").then(|| pfn.to_owned()));
            releases.push(release.to_owned());
        }
    }
    functions
}

#[test]
fn every_line_is_a_row_under_the_known_header() {
    for (name, table, _, _) in LEDGERS {
        assert_eq!(
            table.lines().next(),
            Some(ledger::HEADER),
            "{name}: the header line is not the known one"
        );
        assert_eq!(
            table.lines().count() - 1,
            ledger::rows(table).count(),
            "{name}: a line has not five columns"
        );
    }
}

#[test]
fn every_function_is_classified() {
    for (name, row) in all_rows() {
        assert!(
            ["hook", "pass", "n/a"].contains(&row.class),
            "{name}: {} is `{}`; decide whether it is hook, pass or n/a (docs/adding-a-cuda-version.md)",
            row.symbol,
            row.class
        );
    }
}

#[test]
fn every_decision_has_a_reason() {
    for (name, row) in all_rows() {
        let reason = row.why.strip_prefix(LATER.trim_end()).unwrap_or(row.why);
        assert!(!reason.trim().is_empty(), "{name}: {} is {} without a reason", row.symbol, row.class);
    }
}

#[test]
fn only_a_passed_function_is_put_off() {
    for (name, row) in all_rows().filter(|(_, row)| row.why.starts_with("later")) {
        assert!(
            row.class == "pass" && row.why.starts_with(LATER),
            "{name}: {} is {} with the reason `{}`; only `pass` may begin with `{LATER}`",
            row.symbol,
            row.class,
            row.why
        );
    }
}

#[test]
fn rows_are_sorted_and_unique() {
    for (name, table, _, _) in LEDGERS {
        let symbols: Vec<_> = ledger::rows(table).map(|row| row.symbol).collect();
        let disorder = symbols.windows(2).find(|pair| pair[0] >= pair[1]);
        assert_eq!(disorder, None, "{name}: rows out of order or twice");
    }
}

#[test]
fn ledger_and_headers_name_the_same_functions() {
    for (name, table, prefix, _) in LEDGERS {
        let in_ledger: BTreeSet<_> = ledger::rows(table).map(|row| row.symbol.to_owned()).collect();
        let in_headers: BTreeSet<_> = listed_functions(prefix).into_keys().collect();
        let missing: Vec<_> = in_headers.difference(&in_ledger).collect();
        let unknown: Vec<_> = in_ledger.difference(&in_headers).collect();
        assert!(missing.is_empty(), "{name} has no row for {missing:?}; run scripts/regenerate-abi");
        assert!(unknown.is_empty(), "{name} has rows for {unknown:?}, which no header declares");
    }
}

#[test]
fn rows_say_the_releases_and_pfn_type_of_the_headers() {
    for (name, table, prefix, _) in LEDGERS {
        let functions = listed_functions(prefix);
        for row in ledger::rows(table) {
            let (pfns, releases) = &functions[row.symbol];
            assert_eq!(row.releases, releases.join(","), "{name}: releases of {}", row.symbol);
            assert_eq!(Vec::from_iter(pfns), [row.pfn], "{name}: PFN type of {}", row.symbol);
        }
    }
}

#[test]
fn every_pfn_type_of_the_ledger_exists() {
    for (name, table, _, module) in LEDGERS {
        let types: BTreeSet<_> =
            module.lines().filter_map(|line| line.strip_prefix("pub type ")?.split(' ').next()).collect();
        for row in ledger::rows(table) {
            assert!(types.contains(row.pfn), "{name}: {} is no type of the generated module", row.pfn);
        }
    }
}

/// A per-thread twin does the same work on another default stream, so a difference would be a way around a hook.
#[test]
fn twins_share_one_decision() {
    let decisions: BTreeMap<_, _> = all_rows().map(|(_, row)| (row.symbol, (row.class, row.why))).collect();
    for (symbol, decision) in &decisions {
        let Some(plain) = symbol.strip_suffix("_ptsz").or_else(|| symbol.strip_suffix("_ptds")) else {
            continue;
        };
        assert_eq!(Some(decision), decisions.get(plain), "{symbol} and {plain} are decided differently");
    }
}
