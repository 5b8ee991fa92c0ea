//! Every way to look a hooked function up, for every hooked function: where does it lead?

use std::ffi::{CString, c_void};
use std::ptr::NonNull;

use cuota_abi::cuda::{
    CUdriverProcAddressQueryResult, PFN_cuGetProcAddress_v11030, PFN_cuGetProcAddress_v12000,
};
use cuota_abi::ledger::{self, Row};

use super::fact::Lookup;
use super::library::{Library, Way};
use super::maps::{Maps, file_name};
use crate::locate::LIBRARY;

const WAYS: [(Way, &str); 4] = [
    (Way::Default, "the exported symbol (RTLD_DEFAULT)"),
    (Way::Handle, "dlsym on the library's handle"),
    (Way::Next, "dlsym(RTLD_NEXT)"),
    (Way::Version, "dlvsym on the library's handle"),
];

/// The stream modes of `cuGetProcAddress` (`CUdriverProcAddress_flags`).
const MODES: [(u64, &str); 3] = [(0, "default"), (1, "legacy stream"), (2, "per-thread stream")];

/// What a look-up gave.
type Found = Option<NonNull<c_void>>;

fn hooked(ledger: &'static str) -> impl Iterator<Item = Row> {
    ledger::rows(ledger).filter(|row| row.class == "hook")
}

/// Tries every way. `version` is the driver's.
pub(crate) fn all(cuda: &Library, nvml: Option<&Library>, version: i32) -> Vec<Lookup> {
    let mut all = Vec::new();
    for (way, name) in WAYS {
        all.push(by_symbol(cuda, way, &format!("CUDA: {name}"), ledger::CUDA));
    }
    for (flags, mode) in MODES {
        all.push(by_address(cuda, "cuGetProcAddress", flags, mode, version));
        all.push(by_address(cuda, "cuGetProcAddress_v2", flags, mode, version));
    }
    for (way, name) in nvml.into_iter().flat_map(|_| WAYS) {
        all.extend(nvml.map(|nvml| by_symbol(nvml, way, &format!("NVML: {name}"), ledger::NVML)));
    }
    all
}

fn by_symbol(library: &Library, way: Way, name: &str, ledger: &'static str) -> Lookup {
    let found = hooked(ledger).filter_map(|row| {
        let symbol = CString::new(row.symbol).ok()?;
        Some((row.symbol.to_owned(), library.look_up(way, &symbol)))
    });
    sort(name.to_owned(), found)
}

/// Asks the driver itself, for the version that brought each function and for the driver's own.
fn by_address(cuda: &Library, function: &str, flags: u64, mode: &str, driver: i32) -> Lookup {
    let found = hooked(ledger::CUDA).filter_map(|row| Question::of(&row)).flat_map(|question| {
        [question.version, driver].map(|version| {
            let name = format!("{} of CUDA {}.{}", question.name, version / 1000, version % 1000 / 10);
            (name, ask(cuda, function, &question.name, version, flags))
        })
    });
    sort(format!("{function}, {mode}"), found)
}

/// How a hooked function is asked for by `cuGetProcAddress`.
#[derive(PartialEq, Eq, Debug)]
struct Question {
    name: String,
    version: i32,
}

impl Question {
    /// `PFN_cuMemAlloc_v3020` says: `cuMemAlloc` of version 3020. The twins (`_ptsz`) are reached by a flag.
    fn of(row: &Row) -> Option<Self> {
        let text = row.pfn.strip_prefix("PFN_")?;
        let text = text.strip_suffix("_ptsz").or_else(|| text.strip_suffix("_ptds")).unwrap_or(text);
        let (name, version) = text.rsplit_once("_v")?;
        Some(Question { name: name.to_owned(), version: version.parse().ok()? })
    }
}

fn ask(cuda: &Library, function: &str, name: &str, version: i32, flags: u64) -> Found {
    let name = CString::new(name).ok()?;
    let mut address = std::ptr::null_mut();
    if function == "cuGetProcAddress" {
        // SAFETY: the type of that function.
        let call = unsafe { cuda.function::<PFN_cuGetProcAddress_v11030>(c"cuGetProcAddress") }?;
        // SAFETY: a C string, and a pointer that the driver fills.
        unsafe { call(name.as_ptr(), &raw mut address, version, flags) };
    } else {
        // SAFETY: the type of that function.
        let call = unsafe { cuda.function::<PFN_cuGetProcAddress_v12000>(c"cuGetProcAddress_v2") }?;
        let mut status = CUdriverProcAddressQueryResult(0);
        // SAFETY: as above, and a status that the driver fills.
        unsafe { call(name.as_ptr(), &raw mut address, version, flags, &raw mut status) };
    }
    NonNull::new(address)
}

fn sort(way: String, found: impl Iterator<Item = (String, Found)>) -> Lookup {
    let mut lookup = Lookup { way, hooked: 0, absent: 0, around: Vec::new() };
    let maps = Maps::read();
    for (name, address) in found {
        match address.map(|address| maps.file_at(address.as_ptr() as usize).unwrap_or("no file")) {
            None => lookup.absent += 1,
            // The map shows the file behind a link: libcuota.so.0.1.0.
            Some(file) if file_name(file).starts_with(LIBRARY) => lookup.hooked += 1,
            Some(file) => {
                let entry = format!("{name} in {file}");
                if !lookup.around.contains(&entry) {
                    lookup.around.push(entry);
                }
            }
        }
    }
    lookup
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hooked_function_can_be_asked_for_by_name_and_version() {
        assert!(hooked(ledger::CUDA).all(|row| Question::of(&row).is_some()));
        let row = hooked(ledger::CUDA).find(|row| row.symbol == "cuMemAllocAsync_ptsz").unwrap();
        assert_eq!(Question::of(&row), Some(Question { name: "cuMemAllocAsync".into(), version: 11020 }));
    }

    #[test]
    fn what_lies_elsewhere_is_told_with_its_place() {
        let here = NonNull::new(what_lies_elsewhere_is_told_with_its_place as *mut c_void);
        let lookup = sort("w".into(), [("a".to_owned(), here), ("b".to_owned(), None)].into_iter());
        assert_eq!((lookup.hooked, lookup.absent, lookup.around.len()), (0, 1, 1));
        assert!(lookup.around[0].starts_with("a in /"));
    }
}
