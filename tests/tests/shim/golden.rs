//! What `libcuota.so` is made of: exports, imports, dependencies, size. A change is made on purpose, in the golden file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cuota_tests::build;
use object::elf::{
    DF_1_NODELETE, DF_1_NOW, DT_FLAGS_1, DT_NEEDED, DT_SONAME, FileHeader64, PF_X, PT_GNU_STACK, PT_TLS,
};
use object::read::StringTable;
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};

const MOST_BYTES: usize = 128 << 10;
const MOST_IMPORTS: usize = 20;
/// The glibc of CentOS 7: whatever is older has no CUDA 12.
const NEWEST_GLIBC: [u32; 2] = [2, 17];
const LOADER: [&str; 4] = ["dlmopen", "dlopen", "dlsym", "dlvsym"];

fn bytes() -> Vec<u8> {
    fs::read(build::libcuota()).expect("libcuota.so is built")
}

fn parsed(bytes: &[u8]) -> ElfFile64<'_> {
    ElfFile64::parse(bytes).expect("libcuota.so is an ELF file")
}

fn exports(file: &ElfFile64<'_>) -> BTreeSet<String> {
    file.dynamic_symbols()
        .filter(|symbol| symbol.is_definition() && symbol.is_global())
        .map(|symbol| symbol.name().expect("a symbol has a name").to_owned())
        .collect()
}

/// Undefined symbols, as `name` or `name@version`.
fn imports(file: &ElfFile64<'_>) -> BTreeSet<String> {
    let data = file.data();
    let sections = file.elf_section_table();
    let versions =
        sections.versions(Endianness::Little, data).expect("versions are readable").expect("has versions");
    file.dynamic_symbols()
        .filter(|symbol| symbol.is_undefined())
        .map(|symbol| {
            let name = symbol.name().expect("a symbol has a name");
            let index = versions.version_index(Endianness::Little, symbol.index());
            match versions.version(index).expect("the version is known") {
                Some(version) => format!("{name}@{}", String::from_utf8_lossy(version.name())),
                None => name.to_owned(),
            }
        })
        .collect()
}

/// The values of a dynamic tag, as strings.
fn dynamic(file: &ElfFile64<'_>, tag: u32) -> Vec<String> {
    let (entries, strings) = table(file);
    entries
        .iter()
        .filter(|entry| entry.tag32(Endianness::Little) == Some(tag))
        .map(|entry| {
            let name = entry.string(Endianness::Little, strings).expect("the name is in the string table");
            String::from_utf8_lossy(name).into_owned()
        })
        .collect()
}

fn table<'data>(
    file: &ElfFile64<'data>,
) -> (&'data [<FileHeader64<Endianness> as FileHeader>::Dyn], StringTable<'data>) {
    let sections = file.elf_section_table();
    let (entries, link) = sections
        .dynamic(Endianness::Little, file.data())
        .expect("is readable")
        .expect("has a dynamic section");
    let strings = sections.strings(Endianness::Little, file.data(), link).expect("has a string table");
    (entries, strings)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// Compares with the golden file, or with `CUOTA_GOLDEN=write` writes it.
#[track_caller]
fn must_be(name: &str, found: &BTreeSet<String>) {
    let path = golden(name);
    if std::env::var_os("CUOTA_GOLDEN").is_some_and(|value| value == "write") {
        let lines: String = found.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, lines).expect("the golden file can be written");
    }
    let expected: BTreeSet<String> =
        fs::read_to_string(&path).unwrap_or_default().lines().map(str::to_owned).collect();
    let more: Vec<_> = found.difference(&expected).collect();
    let fewer: Vec<_> = expected.difference(found).collect();
    assert!(
        more.is_empty() && fewer.is_empty(),
        "libcuota.so has {more:?} more and {fewer:?} fewer than {}; if that is meant, run this test with CUOTA_GOLDEN=write",
        path.display()
    );
}

/// The symbols of class `hook` in a coverage ledger.
fn hooks_of(ledger: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/abi").join(ledger);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().expect("a ledger has a head line").split('\t').collect();
    let column = |name| head.iter().position(|column| *column == name).expect("a ledger has this column");
    let (symbol, class) = (column("symbol"), column("class"));
    lines
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|fields| fields[class] == "hook")
        .map(|fields| fields[symbol].to_owned())
        .collect()
}

/// Every hooked symbol.
pub(crate) fn hooks() -> BTreeSet<String> {
    hooks_of("coverage.tsv").into_iter().chain(hooks_of("nvml-coverage.tsv")).collect()
}

#[test]
fn exports_are_the_golden_ones() {
    must_be("exports.txt", &exports(&parsed(&bytes())));
}

#[test]
fn exports_are_the_hooks_of_the_ledgers_and_four_functions_of_the_loader() {
    let mut expected = hooks();
    expected.extend(LOADER.map(str::to_owned));
    assert_eq!(exports(&parsed(&bytes())), expected);
}

#[test]
fn imports_are_the_golden_ones_and_few() {
    let imports = imports(&parsed(&bytes()));
    must_be("imports.txt", &imports);
    assert!(imports.len() <= MOST_IMPORTS, "{} imports, at most {MOST_IMPORTS}: {imports:?}", imports.len());
}

#[test]
fn every_import_is_in_glibc_2_17() {
    for import in imports(&parsed(&bytes())) {
        let Some((_, version)) = import.split_once("@GLIBC_") else { continue };
        let numbers: Vec<u32> = version.split('.').map(|number| number.parse().expect("a number")).collect();
        assert!(numbers.as_slice() <= NEWEST_GLIBC.as_slice(), "{import} is newer than glibc 2.17");
    }
}

#[test]
fn nothing_of_nvidia_is_needed() {
    let bytes = bytes();
    let file = parsed(&bytes);
    for needed in dynamic(&file, DT_NEEDED) {
        assert!(needed == "libc.so.6" || needed.starts_with("ld-linux"), "libcuota.so needs {needed}");
    }
    assert_eq!(dynamic(&file, DT_SONAME), ["libcuota.so"]);
}

#[test]
fn library_is_small_and_has_no_thread_local_storage_and_no_executable_stack() {
    let bytes = bytes();
    assert!(bytes.len() <= MOST_BYTES, "{} bytes, at most {MOST_BYTES}", bytes.len());
    let file = parsed(&bytes);
    for header in file.elf_program_headers() {
        assert_ne!(header.p_type(Endianness::Little), PT_TLS, "there is thread-local storage");
        let stack = header.p_type(Endianness::Little) == PT_GNU_STACK;
        assert!(!stack || header.p_flags(Endianness::Little) & PF_X == 0, "the stack is executable");
    }
}

#[test]
fn library_binds_all_symbols_at_once_and_stays() {
    let bytes = bytes();
    let (entries, _) = table(&parsed(&bytes));
    let wanted = u64::from(DF_1_NOW | DF_1_NODELETE);
    let flags = entries.iter().find(|entry| entry.tag32(Endianness::Little) == Some(DT_FLAGS_1));
    assert!(flags.is_some_and(|entry| entry.d_val.get(Endianness::Little) & wanted == wanted));
}

#[test]
fn our_references_to_our_own_exports_cannot_be_interposed() {
    let bytes = bytes();
    let file = parsed(&bytes);
    let exports = exports(&file);
    for (_, relocation) in file.dynamic_relocations().into_iter().flatten() {
        if let object::RelocationTarget::Symbol(index) = relocation.target() {
            let symbols = file.dynamic_symbol_table().expect("has dynamic symbols");
            let symbol =
                object::ObjectSymbolTable::symbol_by_index(&symbols, index).expect("the symbol exists");
            let name = symbol.name().expect("a symbol has a name");
            assert!(!exports.contains(name), "{name} is bound by the loader, perhaps to another interposer");
        }
    }
}

#[test]
fn there_is_no_panic_message_in_the_library() {
    let text = bytes();
    for message in
        ["panicked at", "index out of bounds", "called `Option::unwrap()`", "attempt to add with overflow"]
    {
        assert!(!text.windows(message.len()).any(|window| window == message.as_bytes()), "found {message:?}");
    }
}
